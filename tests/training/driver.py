"""Trains a tiny agent in a run folder, and may die while it does: `driver.py FOLDER AGENT [MODE]`.

Agents: `ppo`, `recurrent` and `sac`, whose state holds a replay buffer.

Modes: `train`; `slow`, which waits after every slice, for a signal from outside; `die-training`, `die-writing` and
`die-summing`, which end by SIGKILL between two saves, while Orbax writes, and while the sums are computed.
Prints a digest of the final state.
"""

import hashlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np

import rljax
from rljax import training
from rljax.algorithms import ppo, sac
from rljax.training import checkpoint, runner


def digest(state):
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        sha.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    return sha.hexdigest()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_when(condition):
    def watch():
        while not condition():
            time.sleep(0.0005)
        die()

    threading.Thread(target=watch, daemon=True).start()


def make(agent):
    env = rljax.make("pendulum")
    if agent == "sac":
        config = sac.Config(
            num_envs=4, rollout_length=8, num_updates=2, batch_size=16, replay_size=320, learning_starts=64, hidden=(8,)
        )
        return sac.make(env, config)
    config = ppo.Config(
        num_envs=4,
        rollout_length=8,
        num_minibatches=2,
        hidden=(8,),
        memory=4 if agent == "recurrent" else 0,
        normalize_observation=True,
        normalize_reward=True,
    )
    return ppo.make(env, config)


def main(folder, agent, mode="train"):
    folder = Path(folder)
    runner.SLICE_SECONDS = 1e-6  # one iteration a slice
    run = runner._Runner.log
    if mode == "slow":

        def log(self, *args):
            print(f"at {self.iteration}", flush=True)
            time.sleep(0.2)
            return run(self, *args)

        runner._Runner.log = log
    if mode == "die-training":

        def log(self, *args):
            if self.iteration == 11:
                self.checkpointer.wait()
                die()
            return run(self, *args)

        runner._Runner.log = log
    if mode == "die-writing":
        die_when(lambda: any(folder.glob("checkpoints/8.orbax-checkpoint-tmp*/*")))
    if mode == "die-summing":
        sums, original = [], checkpoint._sha256

        def sha256(path):
            if path.parts[path.parts.index("checkpoints") + 1] == "8":
                sums.append(path)
                if len(sums) == 4:
                    die()
            return original(path)

        checkpoint._sha256 = sha256
    options = training.Options(
        log_every=32, evaluate_every=0, final_episodes=0, checkpoint_every=4 * 32, tensorboard=False
    )
    result = training.train(make(agent), jax.random.key(5), 20 * 32, options, folder=folder, resume=True)
    print("interrupted" if result.interrupted else "finished", result.steps, digest(result.state), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
