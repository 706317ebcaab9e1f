"""Benchmark of DQN: returns of many seeds, and speed, with the defaults of experiments/dqn.py.

python -m benchmarks.dqn
python -m benchmarks.dqn --tasks cartpole --seeds 10
"""

import dataclasses

import tyro

from benchmarks import off_policy

# The published rows of DQN on the classic tasks; none of them has MinAtar's Breakout at these steps.
TARGETS = {"cartpole": 488.0, "acrobot": -89.0, "gymnax:Breakout-MinAtar": None}


@dataclasses.dataclass(frozen=True)
class Settings(off_policy.Settings):
    """Settings of the measurements."""

    tasks: tuple[str, ...] = ("cartpole", "acrobot")
    """Tasks, with the defaults of experiments/dqn.py."""


if __name__ == "__main__":
    off_policy.main("dqn", TARGETS, tyro.cli(Settings))
