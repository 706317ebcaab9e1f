"""Benchmark of TD3: returns of many seeds, with the defaults of experiments/td3.py.

python -m benchmarks.td3
python -m benchmarks.td3 --tasks half_cheetah --seeds 3
"""

import functools

from benchmarks import campaign, off_policy

# rl-zoo's rows for the classic tasks; CleanRL's at 1M steps (Gymnasium v4) for MuJoCo.
TARGETS = {
    "pendulum": -160.0,
    "mountain_car_continuous": 92.0,
    "inverted_pendulum": 909.0,
    "half_cheetah": 9583.0,
    "hopper": 3135.0,
    "walker2d": 4058.0,
}

if __name__ == "__main__":
    main = functools.partial(off_policy.main, "td3", TARGETS)
    campaign.main(main, off_policy.Settings(tasks=tuple(TARGETS)))
