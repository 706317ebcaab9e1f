"""Whole episodes of any policy, side by side in one compiled program: the data of demonstrators and of policies."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rljax.envs.environment import Environment
from rljax.envs.rollout import Acting, advance, begin
from rljax.envs.wrappers import Guard
from rljax.policy import Policy
from rljax.types import Key, PyTree, Refused, Transition


def _nothing(memory: PyTree) -> PyTree:
    return ()


def play(
    env: Environment, policy: Policy, key: Key, episodes: int, noted: Callable[[PyTree], PyTree] = _nothing
) -> tuple[Transition, Any, np.ndarray]:
    """Plays episodes from their beginning, each cut at its own end.

    Args:
      policy: the policy, which acts stochastically.
      noted: function of each step's memory, whose result is kept.

    Returns:
      The steps [N, …] of one episode after the other, as NumPy arrays; the results of `noted`, [N, …]; and where each
      episode ends, exclusive, [episodes].

    Raises:
      ValueError: `env` has no time limit.
    """
    limit = env.max_episode_steps
    if limit is None:
        raise Refused(f"whole episodes need a time limit: TimeLimit(env, max_steps), {env!r} has none")
    played = jax.tree.map(np.asarray, _play(env, noted, episodes, policy, key))
    steps = played[0]
    length = (steps.terminated | steps.truncated).argmax(1) + 1
    kept = np.arange(limit) < length[:, None]
    return *jax.tree.map(lambda x: x[kept], played), np.cumsum(length)


@functools.partial(jax.jit, static_argnames=("env", "noted", "episodes"))
def _play(env: Environment, noted: Callable, episodes: int, policy: Policy, key: Key) -> Any:
    """Steps and results of `noted`, [episodes, limit, …]; after its end an episode goes on."""
    guarded = Guard.around(env)

    def step(acting: Acting, key: Key) -> tuple[Acting, Any]:
        now, action, _ = advance(guarded, policy, acting, key, deterministic=False)
        after = now.state
        row = Transition(acting.state.obs, action, after.reward, after.terminated, after.truncated, after.obs)
        return now, (row, noted(now.memory))

    reset_key, act_key = jax.random.split(key)
    acting = begin(guarded, policy, reset_key, episodes)
    _, steps = jax.lax.scan(step, acting, jax.random.split(act_key, env.max_episode_steps or 0))
    return jax.tree.map(lambda x: x.swapaxes(0, 1), steps)
