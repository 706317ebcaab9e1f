"""Benchmark of REPPO: returns of many seeds, and speed, with the defaults of experiments/reppo.py.

python -m benchmarks.reppo
python -m benchmarks.reppo --tasks half_cheetah --no-speed
"""

import functools

from benchmarks import campaign, off_policy

# What solves the small tasks; twice the return of PPO after as many steps on the robot (benchmarks/results).
TARGETS = {"cartpole": 488.0, "pendulum": -160.0, "inverted_pendulum": 960.0, "half_cheetah": 4722.0}

if __name__ == "__main__":
    main = functools.partial(off_policy.main, "reppo", TARGETS)
    campaign.main(main, off_policy.Settings(tasks=tuple(TARGETS)))
