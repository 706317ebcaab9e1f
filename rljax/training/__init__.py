"""The runner: training, evaluation, checkpoints, logs, devices, sweeps."""

from rljax.training.cache import enable_compilation_cache
from rljax.training.devices import expect_accelerator, use_cpu_cores
from rljax.training.evaluate import Episodes, evaluate
from rljax.training.load import load
from rljax.training.runner import Diverged, Result, train

__all__ = [
    "Diverged",
    "Episodes",
    "Result",
    "enable_compilation_cache",
    "evaluate",
    "expect_accelerator",
    "load",
    "train",
    "use_cpu_cores",
]
