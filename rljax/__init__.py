"""Reinforcement learning in JAX, from exact dynamic programming to fine-tuning robot policies.

`rljax.make("cartpole")` makes an environment, `ppo.make(env, ppo.Config())` an algorithm,
`training.train(algorithm, key, total_steps)` trains it, `rljax.load(run_folder)` gives its policy, and
`rljax.export(run_folder, path)` writes it as a file that needs no rljax.
"""

from typing import TYPE_CHECKING

from rljax.version import __version__

if TYPE_CHECKING:
    from rljax.deploy import export
    from rljax.envs import make
    from rljax.training import load

__all__ = ["__version__", "export", "load", "make"]

_HOMES = {"export": "rljax.deploy", "load": "rljax.training", "make": "rljax.envs"}
"""The modules of the names above, which are imported when they are used: JAX takes seconds, and `rljax --help` none."""

if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        import importlib

        if name in _HOMES:
            globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
            return globals()[name]
        if name.startswith("__") or not name.isidentifier():  # no module of ours
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return importlib.import_module(f"{__name__}.{name}")  # rljax.envs, after `import rljax` alone
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
