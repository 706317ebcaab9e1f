"""Reinforcement learning in JAX, from exact dynamic programming to fine-tuning robot policies.

`rljax.make("cartpole")` makes an environment, `ppo.make(env, ppo.Config())` an algorithm,
`training.train(algorithm, key, total_steps)` trains it, and `rljax.load(run_folder)` gives its policy.
"""

from rljax.envs import make
from rljax.training import load
from rljax.version import __version__

__all__ = ["__version__", "load", "make"]
