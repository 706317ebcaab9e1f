"""The scale of rewards for critics whose values are bounded, from the discounted returns of the episodes so far."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rljax import devices
from rljax.ops import running_statistics
from rljax.ops.returns import accumulated_returns
from rljax.types import sharded_field


class RewardScale(struct.PyTreeNode):
    """What is known of the discounted returns R_t = γ R_{t-1} + r_t, each episode beginning with 0.

    Fields:
      statistics: of all R_t.
      greatest: f32 [], the largest |R_t|.
      running: f32 [num_envs], R_t of the episodes that go on.
    """

    statistics: running_statistics.Statistics
    greatest: jax.Array
    running: jax.Array = sharded_field()


def init(num_envs: int) -> RewardScale:
    """The scale before any reward, for this many environments."""
    return RewardScale(
        running_statistics.init(jnp.float32(0.0)), jnp.zeros((), jnp.float32), jnp.zeros(num_envs, jnp.float32)
    )


def update(scale: RewardScale, reward: jax.Array, done: jax.Array, discount: Any) -> RewardScale:
    """Takes in rewards f32 [T, num_envs] and ends of episodes, bool [T, num_envs].

    The last reward of an episode belongs to it, and none of its return to the next (the public code of FlashSAC and of
    XQC begins anew one step too early). What is not finite counts as 0.
    """
    reward = jnp.where(jnp.isfinite(reward), reward, 0.0)
    returns, running = accumulated_returns(reward, done, discount, scale.running)
    greatest = devices.largest(jnp.maximum(scale.greatest, jnp.abs(returns).max()))
    return RewardScale(running_statistics.update(scale.statistics, returns), greatest, running)


def divisor(scale: RewardScale, bound: float) -> jax.Array:
    """The number, f32 [], by which rewards are divided: the deviation of R, or max |R| / bound where that is larger.

    So divided, no return of the past exceeds the bound (FlashSAC's code; its bound is 5). 1 before any reward.
    """
    deviation = jnp.sqrt(running_statistics.variance(scale.statistics) + 1e-8)
    return jnp.maximum(deviation, scale.greatest / bound)
