"""Demonstrations of PushT by humans (Chi et al. 2023, arXiv 2303.04137), as transitions of our task."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from rljax.data import files
from rljax.envs.manipulation import push_t
from rljax.envs.manipulation.task import reward_of
from rljax.types import Refused, Transition

PushTReward = Literal["human", "sparse", "dense", "staged"]
HUMAN = "ends as a human judged them"
"""The version in the metadata of demonstrations that are read to imitate."""


def is_push_t(arrays: Any) -> bool:
    """Whether an npz has the arrays of the demonstrations."""
    return {"state", "action", "episode_ends"} <= set(arrays)


def read_push_t(
    where: str, arrays: Any, reward: PushTReward = "human"
) -> tuple[Transition, dict[str, str], np.ndarray | None]:
    """Reads poses `state` [N, 5] before each `action` [N, 2], with `episode_ends` [episodes], exclusive.

    No demonstration reaches the coverage at which the task is done: in the mean they end at 0.85. So there are two ways
    to read them, one to imitate and one to learn values from.

    Args:
      reward: human: each demonstration ends in success, as the human who ended it judged; rewards are -1, and 0 at the
        end. sparse, dense or staged: rewards and ends are the task's, with its reward of this name. A demonstration is
        then truncated one step before its end, since the result of its last action is not known.

    Returns:
      The transitions; their metadata; and for the task's rewards the actions that followed.

    Raises:
      ValueError: shapes or ends that do not fit, or another reward.
    """
    allowed = get_args(PushTReward)
    if reward not in allowed:
        raise Refused(f"{where}: push_t = {reward!r} is not allowed; it must be one of {', '.join(allowed)}")
    state, action, ends = (files.array(where, arrays, name) for name in ("state", "action", "episode_ends"))
    if state.shape[1:] != (5,) or action.shape != (len(state), 2):
        raise Refused(f"{where}: state must be [N, 5] and action [N, 2], and are {state.shape} and {action.shape}")
    rising = ends.ndim == 1 and len(ends) and ends.dtype.kind in "iu" and (np.diff(ends, prepend=0) > 0).all()
    if not rising or ends[-1] != len(state):
        raise Refused(f"{where}: episode_ends must rise to the number of steps, {len(state)}, and are {ends}")
    pose = jnp.asarray(state, jnp.float32)
    obs = np.asarray(push_t.observation_of(pose))
    last = np.zeros(len(state), bool)
    last[ends - 1] = True
    about = {"task": "push_t", "policy": "humans", "version": HUMAN if reward == "human" else f"{reward} rewards"}
    if reward == "human":
        # Nothing follows a termination: its own observation stands in.
        following = obs[np.arange(len(obs)) + ~last]
        rewards = np.where(last, 0.0, -1.0).astype(np.float32)
        rows: Any = (obs, action, rewards, last, np.zeros_like(last), following)
        return Transition(*rows), about, None
    progress = jax.jit(jax.vmap(push_t.progress_of))(pose)
    after = np.flatnonzero(~last) + 1
    rewards, done = (np.asarray(x)[after] for x in (reward_of(progress, reward), progress.success))
    rows = (obs[~last], action[~last], rewards, done, last[after] & ~done, obs[after])
    return Transition(*rows), about, action[after]
