"""Benchmark of CrossQ: returns of many seeds, and speed, with the defaults of experiments/crossq.py.

python -m benchmarks.crossq
"""

import functools

from benchmarks import campaign, off_policy

TARGETS = {"pendulum": -151.0}  # SAC's

if __name__ == "__main__":
    main = functools.partial(off_policy.main, "crossq", TARGETS)
    campaign.main(main, off_policy.Settings(tasks=tuple(TARGETS)))
