"""One of several processes that train: `distributed_driver.py ADDRESS PROCESSES RANK DEVICES FOLDER [STEPS|members]`.

With STEPS it trains for that many alone, and prints how many were made, and the signal that stopped it; with the word
members it trains eight of them, is interrupted, and goes on.
"""

import sys

import jax
import numpy as np

address, processes, rank, devices = sys.argv[1], *map(int, sys.argv[2:5])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", devices)
if processes > 1:
    jax.distributed.initialize(address, processes, rank)

import rljax
from rljax import training
from rljax.algorithms import ppo

config = ppo.Config(num_envs=8, rollout_length=8, num_minibatches=2, hidden=(8,), normalize_observation=True)
algorithm = ppo.make(rljax.make("cartpole"), config)
folder = sys.argv[5]
options = training.Options(
    evaluate_every=64, evaluation_episodes=2, final_episodes=2, progress=False, log_every=64, devices=4
)
if sys.argv[6:] == ["members"]:
    keys, rates = jax.random.split(jax.random.key(0), 8), np.geomspace(1e-4, 1e-2, 8)
    options = training.Options(evaluate_every=64, evaluation_episodes=2, final_episodes=2, log_every=64, progress=False)
    for steps, resume in ((128, False), (256, True)):
        result = training.train(
            algorithm, keys, steps, options, folder=folder, resume=resume, hyper={"learning_rate": rates}
        )
    assert result.placement == "members over 4 devices", result.placement
    loaded = [rljax.load(folder, which="best", member=member) for member in (0, 7)]
    print(*(float(policy(keys[0], np.ones(4, np.float32))) for policy in loaded))
    sys.exit()
if len(sys.argv) > 6:
    options = training.Options(evaluate_every=0, log_every=64, checkpoint_every=0, devices=4, progress=False)
    result = training.train(algorithm, jax.random.key(0), int(sys.argv[6]), options, folder=folder)
    print(result.steps, result.interrupted, result.evaluation)
    sys.exit()
training.train(algorithm, jax.random.key(0), 128, options, folder=folder)
result = training.train(algorithm, jax.random.key(0), 192, options, folder=folder, resume=True)
assert result.steps == 192
assert rljax.load(folder)(jax.random.key(0), np.ones(4, np.float32)) in (0, 1)
assert result.placement == "environments over 4 devices", result.placement
norms = [float(np.square(np.asarray(leaf)).sum()) for leaf in jax.tree.leaves(result.state.params)]
print(*norms[:5])
