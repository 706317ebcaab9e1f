"""Demonstrations of PushT by humans (Chi et al. 2023, arXiv 2303.04137), as transitions of our task."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from rljax.data import files
from rljax.envs.manipulation import push_t
from rljax.types import Refused, Transition


def is_push_t(arrays: Any) -> bool:
    """Whether an npz has the arrays of the demonstrations."""
    return {"state", "action", "episode_ends"} <= set(arrays)


def read_push_t(where: str, arrays: Any) -> tuple[Transition, dict[str, str]]:
    """Poses `state` [N, 5] of agent and block before each `action` [N, 2], with `episode_ends` [episodes], exclusive.

    A human ended a demonstration when it was done to his eye, so that each ends in success, whatever its coverage:
    rewards are -1 but for the last, 0, as those of the task where they are sparse.

    Raises:
      ValueError: shapes or ends that do not fit.
    """
    state, action, ends = (files.array(where, arrays, name) for name in ("state", "action", "episode_ends"))
    if state.shape[1:] != (5,) or action.shape != (len(state), 2):
        raise Refused(f"{where}: state must be [N, 5] and action [N, 2], and are {state.shape} and {action.shape}")
    rising = ends.ndim == 1 and len(ends) and ends.dtype.kind in "iu" and (np.diff(ends, prepend=0) > 0).all()
    if not rising or ends[-1] != len(state):
        raise Refused(f"{where}: episode_ends must rise to the number of steps, {len(state)}, and are {ends}")
    obs = np.asarray(push_t.observation_of(jnp.asarray(state, jnp.float32)))
    last = np.zeros(len(state), bool)
    last[ends - 1] = True
    # Nothing follows a termination: its own observation stands in.
    following = obs[np.arange(len(obs)) + ~last]
    reward = np.where(last, 0.0, -1.0).astype(np.float32)
    rows: Any = (obs, action, reward, last, np.zeros_like(last), following)
    return Transition(*rows), {"task": "push_t", "policy": "humans"}
