"""Algorithms, one file each: `from rljax.algorithms import ppo`."""

import importlib
from types import ModuleType

from rljax.types import Refused

NAMES = (
    "a2c",
    "bc",
    "cql",
    "crossq",
    "diffusion",
    "dqn",
    "flash_sac",
    "impala",
    "iql",
    "ppo",
    "pqn",
    "progress",
    "recap",
    "reppo",
    "rlpd",
    "sac",
    "steering",
    "td3",
    "td3_bc",
    "trpo",
)


def get(name: str) -> ModuleType:
    """The module of an algorithm by its name."""
    if name not in NAMES:
        raise Refused(f"unknown algorithm {name!r}; known: {', '.join(NAMES)}")
    return importlib.import_module(f"rljax.algorithms.{name}")
