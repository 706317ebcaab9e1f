"""Datasets small enough to know everything about, and batches of them."""

import jax
import numpy as np

from rljax.data import Dataset, Metadata, OfflineBatch
from rljax.types import Transition


def dataset_of(obs, action, reward, next_obs=None, terminated=None, truncated=None, **about):
    """Of plain arrays; without ends every step is an episode that terminates."""
    size = len(reward)
    terminated = np.full(size, truncated is None) if terminated is None else np.asarray(terminated, bool)
    truncated = np.zeros(size, bool) if truncated is None else np.asarray(truncated, bool)
    obs, action, reward = (np.asarray(x, np.float32) for x in (obs, action, reward))
    next_obs = obs if next_obs is None else np.asarray(next_obs, np.float32)
    return Dataset.of(Transition(obs, action, reward, terminated, truncated, next_obs), Metadata(**about))


def drift_data(episodes=20, length=7, seed=0, **about):
    """Uniformly random actions on `toys.Drift`, in episodes that a time limit ends."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-2.0, 4.0, (episodes, length))
    position = 100.0 + rng.normal(size=(episodes, 1)) + np.cumsum(np.pad(action, ((0, 0), (1, 0))), axis=1)
    obs = np.stack([position, 7.0 * position], axis=-1)
    reward = -np.abs(position[:, 1:] - 100.0)
    truncated = np.broadcast_to(np.arange(length) == length - 1, (episodes, length)).ravel()
    before, after = (x.reshape(-1, 2) for x in (obs[:, :-1], obs[:, 1:]))
    return dataset_of(before, action.reshape(-1, 1), reward.ravel(), after, truncated=truncated, **about)


def looking_data(**about):
    """`drift_data` as `toys.Looking` shows it: a camera's brightness, words, and numbers that are privileged."""
    data = drift_data(**about)

    def look(obs):
        light = np.clip(obs[:, 0], 0, 255).astype(np.uint8)
        camera = np.broadcast_to(light[:, None, None, None], (len(obs), 6, 6, 1))
        return {"camera": camera, "words": np.int32(light % 3), "privileged_state": obs}

    return data.replace(obs=look(data.obs), next_obs=look(data.next_obs))


def clock_data(length, terminates, episodes=10, seed=0):
    """`toys.ContinuousClock(length, terminates)` with random actions, where nothing else ends an episode than a limit
    of `length` steps."""
    time = np.tile(np.arange(length), episodes)
    last = time == length - 1
    action = np.random.default_rng(seed).uniform(-2.0, 4.0, (len(time), 1))
    ends = {"terminated" if terminates else "truncated": last}
    return dataset_of(np.eye(length)[time], action, np.ones(len(time)), np.eye(length)[(time + 1) % length], **ends)


def gates_data(episodes=300, seed=0):
    """Ways through both gates of `toys.Gates`, with velocities in [-1, 1]."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(episodes):
        at, side = np.array([rng.uniform(-0.1, 0.1), 0.0]), 0.5 * rng.choice([-1, 1])
        while at[1] < 1.0:
            aim = np.array([side, 0.4 if abs(at[0] - side) > 0.05 else at[1] + 0.2]) - at
            action = np.clip(4 * np.clip(aim, -0.2, 0.2) + 0.05 * rng.normal(size=2), -1, 1)
            after = np.clip(at + 0.25 * action, -1.5, 1.5)
            rows.append((at, action, float(after[1] >= 1) - 1, after, after[1] >= 1))
            at = after
    return dataset_of(*map(np.array, zip(*rows)))


def batch_of(size=16, obs=3, action=2, seed=0, discount=0.9):
    """A batch of noise, in which every third step terminates."""
    rng = np.random.default_rng(seed)
    arrays = {
        "obs": rng.normal(size=(size, obs)),
        "action": rng.uniform(-1, 1, (size, action)),
        "reward": rng.normal(size=size),
        "next_obs": rng.normal(size=(size, obs)),
        "discount": np.where(np.arange(size) % 3 == 0, 0.0, discount),
        "weight": np.ones(size),
        "next_action": rng.uniform(-1, 1, (size, action)),
        "return_to_go": rng.normal(size=size),
    }
    arrays = {name: jax.numpy.float32(x) for name, x in arrays.items()}
    return OfflineBatch(index=jax.numpy.arange(size), **arrays)


def hyper_of(module, config):
    """The `Hyper` of a config."""
    fields = module.Hyper.__dataclass_fields__
    return module.Hyper(**{name: jax.numpy.float32(getattr(config, name)) for name in fields})


def first_gradient(learner, part):
    """The gradient of a part's only update so far, as Adam keeps it: a tenth of it is the first moment."""
    return jax.tree.map(lambda m: m / 0.1, learner.optimizer_state[part][0].mu)
