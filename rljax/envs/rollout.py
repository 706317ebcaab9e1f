"""The one loop in which a policy acts: evaluation, episodes, films and the collection of data use it."""

import jax
import jax.numpy as jnp
from flax import struct

from rljax.envs.auto_reset import AutoReset
from rljax.envs.environment import Environment, State
from rljax.ops.trees import chosen
from rljax.policy import Policy
from rljax.types import Key, PyTree


class Acting(struct.PyTreeNode):
    """Environments side by side, and a policy's memory of each; leaves are [n, …]."""

    state: State
    memory: PyTree


def begin(env: Environment, policy: Policy, key: Key, count: int) -> Acting:
    """`count` environments after their reset, and a policy's initial memory.

    Args:
      env: one environment, or an `AutoReset` of `count`.
    """
    state = env.reset(key) if isinstance(env, AutoReset) else jax.vmap(env.reset)(jax.random.split(key, count))
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), policy.initial_memory)
    return Acting(state, memory)


def advance(
    env: Environment, policy: Policy, acting: Acting, key: Key, deterministic: bool = True
) -> tuple[Acting, jax.Array, PyTree]:
    """One step of all environments: their new states, the actions [n, …], and the policy's extras.

    Under `AutoReset` a policy begins anew where an episode has ended.
    """
    action, memory, extras = policy.apply(key, acting.state.obs, acting.memory, deterministic)
    if not isinstance(env, AutoReset):
        return Acting(jax.vmap(env.step)(acting.state, action), memory), action, extras
    after = env.step(acting.state, action)
    return Acting(after, chosen(after.done, policy.initial_memory, memory)), action, extras
