"""Whole episodes of whatever acts, side by side in one compiled program: the data of demonstrators and of policies."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import Environment, State
from rljax.envs.wrappers import Guard
from rljax.types import Key, PyTree, Refused, Transition


def _nothing(memory: PyTree) -> PyTree:
    return ()


def play(
    env: Environment, act: Callable, memory: PyTree, key: Key, episodes: int, noted: Callable = _nothing
) -> tuple[Transition, Any, np.ndarray]:
    """Plays episodes from their beginning, each cut at its own end.

    Args:
      act: `(key, obs, memory, deterministic=False) -> (action, memory)`, for observations [episodes, n]; a
        `jax.tree_util.Partial`, so that its parameters are arguments of the program.
      memory: of one episode, before its first step.
      noted: what is kept of each step's memory.

    Returns:
      The steps [N, …] of one episode after the other, as NumPy arrays; what was noted of them, [N, …]; and where each
      episode ends, exclusive, [episodes].

    Raises:
      ValueError: `env` has no time limit.
    """
    limit = env.max_episode_steps
    if limit is None:
        raise Refused(f"whole episodes need a time limit: TimeLimit(env, max_steps), {env!r} has none")
    played = jax.tree.map(np.asarray, _play(env, noted, episodes, act, memory, key))
    steps = played[0]
    length = (steps.terminated | steps.truncated).argmax(1) + 1
    kept = np.arange(limit) < length[:, None]
    return *jax.tree.map(lambda x: x[kept], played), np.cumsum(length)


@functools.partial(jax.jit, static_argnames=("env", "noted", "episodes"))
def _play(env: Environment, noted: Callable, episodes: int, act: Callable, memory: PyTree, key: Key) -> Any:
    """Steps and what was noted, [episodes, limit, …]; after its end an episode goes on."""
    guarded = Guard.around(env)

    def step(carry: tuple[State, PyTree], key: Key) -> tuple[tuple[State, PyTree], Any]:
        state, memory = carry
        action, memory = act(key, state.obs, memory, deterministic=False)
        after = jax.vmap(guarded.step)(state, action)
        row = Transition(state.obs, action, after.reward, after.terminated, after.truncated, after.obs)
        return (after, memory), (row, noted(memory))

    reset_key, act_key = jax.random.split(key)
    state = jax.vmap(guarded.reset)(jax.random.split(reset_key, episodes))
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (episodes, *x.shape)), memory)
    _, steps = jax.lax.scan(step, (state, memory), jax.random.split(act_key, env.max_episode_steps or 0))
    return jax.tree.map(lambda x: x.swapaxes(0, 1), steps)
