"""Benchmark of DQN: returns of many seeds, and speed, with the defaults of experiments/dqn.py.

python -m benchmarks.dqn
python -m benchmarks.dqn --tasks cartpole --seeds 10
"""

import functools

from benchmarks import campaign, off_policy

# The published rows of DQN on the classic tasks; none of them has MinAtar's Breakout at these steps.
TARGETS = {"cartpole": 488.0, "acrobot": -89.0, "gymnax:Breakout-MinAtar": None}

if __name__ == "__main__":
    main = functools.partial(off_policy.main, "dqn", TARGETS)
    campaign.main(main, off_policy.Settings(tasks=("cartpole", "acrobot")))
