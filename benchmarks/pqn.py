"""Benchmark of PQN: returns of many seeds, and speed, with the defaults of experiments/pqn.py.

python -m benchmarks.pqn
python -m benchmarks.pqn --tasks gymnax:Breakout-MinAtar --seeds 2
"""

import dataclasses

import tyro

from benchmarks import off_policy

# What solves the classic tasks; the level of PPO on MinAtar's Breakout that gymnax publishes.
TARGETS = {"cartpole": 488.0, "acrobot": -89.0, "gymnax:Breakout-MinAtar": 28.0}


@dataclasses.dataclass(frozen=True)
class Settings(off_policy.Settings):
    """Settings of the measurements."""

    tasks: tuple[str, ...] = tuple(TARGETS)
    """Tasks, with the defaults of experiments/pqn.py."""


if __name__ == "__main__":
    off_policy.main("pqn", TARGETS, tyro.cli(Settings))
