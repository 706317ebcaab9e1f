"""Which action to try: ε-greedy, and schedules of ε."""

import jax
import jax.numpy as jnp

from rljax.types import Key


def epsilon_greedy(key: Key, values: jax.Array, epsilon: jax.Array | float) -> jax.Array:
    """The action of the largest value, [..., actions] to int32 [...]; with probability ε a uniformly random one."""
    explore_key, action_key = jax.random.split(key)
    batch = values.shape[:-1]
    explore = jax.random.uniform(explore_key, batch, jnp.float32) < epsilon
    return jnp.where(explore, jax.random.randint(action_key, batch, 0, values.shape[-1]), jnp.argmax(values, -1))


def linear_schedule(
    start: jax.Array | float, end: jax.Array | float, step: jax.Array, steps: jax.Array | float
) -> jax.Array:
    """A straight line from start to end over `steps` steps, and the end from there on; for 0 steps, the end at once."""
    if isinstance(steps, int):
        steps = float(steps)  # an int32 cannot hold the steps of a long run
    share = jnp.where(jnp.asarray(steps) > 0, step / jnp.maximum(steps, 1.0), 1.0)
    return start + (end - start) * jnp.clip(share, 0.0, 1.0)


def truncated_zeta(key: Key, exponent: float, largest: int, shape: tuple[int, ...]) -> jax.Array:
    """Draws whole numbers k from 1 to `largest`, int32 of a shape, with P(k) ∝ k^-exponent."""
    log_probs = -exponent * jnp.log(jnp.arange(1, largest + 1, dtype=jnp.float32))
    return 1 + jax.random.categorical(key, log_probs, shape=shape).astype(jnp.int32)
