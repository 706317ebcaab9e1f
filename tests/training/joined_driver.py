"""A process that trains as `experiments/ppo.py` does: `joined_driver.py slow|fast ARGUMENTS …`.

A slow one waits at every log, for a signal from outside. At its end it prints a digest of its part of the state.
"""

import hashlib
import runpy
import sys
import time
from pathlib import Path

import jax
import numpy as np

from rljax import training
from rljax.training import runner


def digest(state):
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        leaf = jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for shard in leaf.addressable_shards:
            sha.update(np.asarray(shard.data).tobytes())
    return sha.hexdigest()


train, log = training.train, runner._Runner.log


def digested(*arguments, **options):
    result = train(*arguments, **options)
    print("finished" if result.interrupted is None else "interrupted", result.steps, digest(result.state), flush=True)
    return result


def slowly(self, *arguments):
    time.sleep(0.2)
    return log(self, *arguments)


training.train = digested
if sys.argv[1] == "slow":
    runner._Runner.log = slowly
script = str(Path(__file__).parents[2] / "experiments" / "ppo.py")
sys.argv = [script, *sys.argv[2:]]
runpy.run_path(script, run_name="__main__")
