"""Short trainings, for tests of whatever is left by one."""

import csv
import dataclasses

import jax

from rljax import training

QUIET = training.Options(progress=False, devices=1, final_episodes=0, evaluate_every=0, tensorboard=False)


def train(algorithm, steps, key=None, **how):
    """`training.train`, quietly; names of `Options` are taken among the other arguments."""
    names = {field.name for field in dataclasses.fields(training.Options)}
    options = dataclasses.replace(QUIET, **{name: how.pop(name) for name in names & set(how)})
    return training.train(algorithm, jax.random.key(0) if key is None else key, steps, options, **how)


def read(folder):
    """The rows of metrics.csv."""
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))
