"""Benchmark of TRPO: returns of many seeds, and speed, with the defaults of experiments/trpo.py.

python -m benchmarks.trpo
python -m benchmarks.trpo --tasks half_cheetah
"""

import functools

from benchmarks import campaign, off_policy

# rl-baselines3-zoo's of the classic tasks; on MuJoCo Tianshou's at 1M steps, of Gymnasium's v3.
TARGETS = {
    "cartpole": 500.0,
    "acrobot": -83.1,
    "pendulum": -174.6,
    "half_cheetah": 4471.0,
    "hopper": 2046.0,
    "walker2d": 3827.0,
}

if __name__ == "__main__":
    main = functools.partial(off_policy.main, "trpo", TARGETS)
    campaign.main(main, off_policy.Settings(tasks=tuple(TARGETS)))
