"""Evaluation: whole episodes on fresh environments, apart from those that train."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.algorithms.base import Policy
from rljax.envs.environment import Environment, State
from rljax.types import Key, PyTree


class Episodes(NamedTuple):
    """The sum of rewards and the number of steps of the underlying task, each [num_episodes]."""

    returns: jax.Array
    lengths: jax.Array


def evaluate(
    env: Environment, policy: Policy, key: Key, num_episodes: int = 100, deterministic: bool = True
) -> Episodes:
    """Plays `num_episodes` episodes side by side, each to its own end; pure, so it may be jitted and vmapped.

    Raises:
      ValueError: `env` has no time limit, so an episode might never end.
    """
    limit = env.max_episode_steps
    if limit is None:
        raise ValueError(f"evaluation needs a time limit: TimeLimit(env, max_steps), {env!r} has none")
    reset_key, act_key = jax.random.split(key)
    state = jax.vmap(env.reset)(jax.random.split(reset_key, num_episodes))
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_episodes, *x.shape)), policy.initial_memory)

    Carry = tuple[jax.Array, State, PyTree, jax.Array, Episodes]

    def unfinished(carry: Carry) -> jax.Array:
        count, _, _, finished, _ = carry
        return (count < limit) & ~finished.all()

    def step(carry: Carry) -> Carry:
        count, state, memory, finished, episodes = carry
        action, memory = policy.apply(jax.random.fold_in(act_key, count), state.obs, memory, deterministic)
        state = jax.vmap(env.step)(state, action)
        returns = episodes.returns + jnp.where(finished, 0.0, state.reward)
        steps = state.info["elapsed"] if "elapsed" in state.info else episodes.lengths + 1
        lengths = jnp.where(finished, episodes.lengths, steps)
        return count + 1, state, memory, finished | state.done, Episodes(returns, lengths)

    nothing = Episodes(jnp.zeros(num_episodes), jnp.zeros(num_episodes, jnp.int32))
    carry = (jnp.int32(0), state, memory, jnp.zeros(num_episodes, bool), nothing)
    return jax.lax.while_loop(unfinished, step, carry)[-1]
