"""Reinforcement learning in JAX, from exact dynamic programming to fine-tuning robot policies.

`rljax.make("cartpole")` makes an environment, `ppo.make(env, ppo.Config())` an algorithm,
`training.train(algorithm, key, total_steps)` trains it, `rljax.load(run_folder)` gives its policy, and
`rljax.export(run_folder, path)` writes it as a file that needs no rljax.
"""

from rljax.deploy import export
from rljax.envs import make
from rljax.training import load
from rljax.version import __version__

__all__ = ["__version__", "export", "load", "make"]
