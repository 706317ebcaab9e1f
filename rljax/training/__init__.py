"""The runner: training, evaluation, checkpoints, logs, devices, sweeps."""

from rljax.training.cache import enable_compilation_cache
from rljax.training.callbacks import Callback, StopAtReturn
from rljax.training.devices import expect_accelerator, use_cpu_cores
from rljax.training.evaluate import Episodes, evaluate
from rljax.training.loading import load
from rljax.training.options import Options
from rljax.training.population import PopulationBased, SuccessiveHalving
from rljax.training.result import Diverged, Result
from rljax.training.runner import train
from rljax.training.sebulba import with_actors
from rljax.training.start import StartFrom

__all__ = [
    "Callback",
    "Diverged",
    "Episodes",
    "Options",
    "PopulationBased",
    "Result",
    "StartFrom",
    "StopAtReturn",
    "SuccessiveHalving",
    "enable_compilation_cache",
    "evaluate",
    "expect_accelerator",
    "load",
    "train",
    "use_cpu_cores",
    "with_actors",
]
