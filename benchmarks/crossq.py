"""Benchmark of CrossQ: returns of many seeds, and speed, with the defaults of experiments/crossq.py.

python -m benchmarks.crossq
"""

import dataclasses

import tyro

from benchmarks import off_policy

TARGETS = {"pendulum": -151.0}  # SAC's


@dataclasses.dataclass(frozen=True)
class Settings(off_policy.Settings):
    """Settings of the measurements."""

    tasks: tuple[str, ...] = tuple(TARGETS)
    """Tasks, with the defaults of experiments/crossq.py."""


if __name__ == "__main__":
    off_policy.main("crossq", TARGETS, tyro.cli(Settings))
