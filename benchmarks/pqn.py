"""Benchmark of PQN: returns of many seeds, and speed, with the defaults of experiments/pqn.py.

python -m benchmarks.pqn
python -m benchmarks.pqn --tasks gymnax:Breakout-MinAtar --seeds 2
"""

import functools

from benchmarks import campaign, off_policy

# What solves the classic tasks; the level of PPO on MinAtar's Breakout that gymnax publishes.
TARGETS = {"cartpole": 488.0, "acrobot": -89.0, "gymnax:Breakout-MinAtar": 28.0}

if __name__ == "__main__":
    main = functools.partial(off_policy.main, "pqn", TARGETS)
    campaign.main(main, off_policy.Settings(tasks=tuple(TARGETS)))
