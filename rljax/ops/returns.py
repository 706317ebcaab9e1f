"""Returns and advantages over time-major sequences [T, ...].

Everywhere `next_value[t]` is the value of the TRUE successor of step t, from before any reset. Termination makes the
future worth 0; truncation makes it worth `next_value[t]`, as does the end of the sequence. Nothing leaks from one
episode into the one before it. `discount` and `lambda` may be traced scalars.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from rljax.types import Refused


def bootstrapped(reward: jax.Array, discount: jax.Array, next_value: jax.Array) -> jax.Array:
    """r + γ v of any shape, and r alone where the discount is 0, whatever the value (it may be NaN).

    The discount is a replay batch's: 0 after a termination, and γ to the number of steps elsewhere.
    """
    # A choice and not a product, for 0 times infinity is NaN; the inner one keeps gradients finite.
    return reward + discount * jnp.where(discount == 0, 0.0, next_value)


def _continuation(next_value: jax.Array, terminated: jax.Array, discount: Any) -> jax.Array:
    # A choice and not a product: the value of a terminal observation is arbitrary, and may even be infinite.
    return discount * jnp.where(terminated, 0.0, next_value)


def _reverse_linear_recurrence(offset: jax.Array, factor: jax.Array, last: jax.Array) -> jax.Array:
    """Solves y_t = offset_t + factor_t y_{t+1} with y_T = last."""

    def step(following: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        offset, factor = inputs
        current = offset + factor * jnp.where(factor == 0, 0.0, following)
        return current, current

    return lax.scan(step, last, (offset, factor), reverse=True)[1]


def accumulated_returns(
    reward: jax.Array, done: jax.Array, discount: Any, start: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums [T, ...] of each episode's rewards up to a step, earlier ones discounted: R_t = γ R_{t-1} + r_t.

    Args:
      reward: [T, ...].
      done: bool [T, ...], where an episode ends; after it the sum begins anew.
      start: sums [...] before the first step.

    Returns:
      The sums, and the sums [...] to go on from.
    """

    def step(total: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reward, done = inputs
        total = discount * total + reward
        return jnp.where(done, 0.0, total), total

    last, totals = lax.scan(step, start, (reward, done))
    return totals, last


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: Any,
    gae_lambda: Any,
) -> jax.Array:
    """Generalised advantage estimates [T, ...] (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    All arrays are [T, ...]. Add `value` for the targets of the value function (TD(lambda) returns).
    """
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    delta = reward + _continuation(next_value, terminated, discount) - value
    decay = discount * gae_lambda * jnp.where(terminated | truncated, 0.0, jnp.ones_like(delta))
    return _reverse_linear_recurrence(delta, decay, jnp.zeros_like(delta[0]))


def lambda_returns(
    reward: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: Any,
    lambda_: Any,
) -> jax.Array:
    """Returns [T, ...] that average the n-step returns with weights (1 - lambda) lambda^(n - 1).

    Sutton and Barto (2018), equation 12.18.

    All arrays are [T, ...]; lambda = 0 gives one-step targets and lambda = 1 discounted returns.
    """
    chex.assert_equal_shape([reward, next_value, terminated, truncated])
    mixing = jnp.where(truncated, 0.0, lambda_ * jnp.ones_like(next_value))
    mixing = mixing.at[-1].set(0.0)
    future = _continuation(next_value, terminated, discount)
    factor = discount * jnp.where(terminated, 0.0, mixing)
    return _reverse_linear_recurrence(reward + (1 - mixing) * future, factor, jnp.zeros_like(future[0]))


def discounted_returns(
    reward: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: Any,
) -> jax.Array:
    """Sums [T, ...] of discounted rewards to the end of the episode, or bootstrapped where it is cut off."""
    return lambda_returns(reward, next_value, terminated, truncated, discount, 1.0)


def n_step_returns(
    reward: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: Any,
    n: int,
) -> jax.Array:
    """Returns [T, ...] of up to `n` rewards and then the value; `n` is static.

    Sutton and Barto (2018), equation 7.1. Fewer rewards are summed where the episode or the sequence ends first.
    """
    if n < 1:
        raise Refused(f"n_step_returns: n must be at least 1, got {n}")
    chex.assert_equal_shape([reward, next_value, terminated, truncated])
    last = jnp.zeros_like(truncated).at[-1].set(True)

    def one_reward_more(future: jax.Array, _: None) -> tuple[jax.Array, None]:
        following = jnp.roll(reward + _continuation(future, terminated, discount), -1, axis=0)
        return jnp.where(truncated | last, next_value, following), None

    future, _ = lax.scan(one_reward_more, next_value, length=n - 1)
    return reward + _continuation(future, terminated, discount)


def vtrace(
    log_ratio: jax.Array,
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: Any,
    lambda_: Any = 1.0,
    clip_rho: Any = 1.0,
    clip_c: Any = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """V-trace: value targets and advantages [T, ...] of a policy, from the actions of another one.

    Espeholt et al. (2018, arXiv:1802.01561), equation 1 and section 4.2; with λ as in its remark 2. On-policy and with
    λ = 1 the targets are discounted returns, and advantages what they add to the values. The advantage of a step is not
    weighted by its ρ yet, as the policy gradient of that section is.

    Args:
      log_ratio: log-probabilities of the actions under the policy, less those under the one that acted.
      clip_rho: largest importance weight ρ of a step, which decides of which policy values are learned.
      clip_c: largest weight c by which what comes later is traced back, which decides how fast.

    All arrays are [T, ...].
    """
    chex.assert_equal_shape([log_ratio, reward, value, next_value, terminated, truncated])
    ratio = jnp.exp(log_ratio)
    rho, trace = jnp.minimum(clip_rho, ratio), lambda_ * jnp.minimum(clip_c, ratio)
    # Of the last step before a cut no later one is known: its successor is worth what the value says.
    cut = (terminated | truncated).at[-1].set(True)
    delta = rho * (reward + _continuation(next_value, terminated, discount) - value)
    factor = discount * jnp.where(cut, 0.0, trace)
    correction = _reverse_linear_recurrence(delta, factor, jnp.zeros_like(delta[0]))
    target = value + correction
    later = lambda_ * jnp.roll(target, -1, axis=0) + (1 - lambda_) * next_value
    following = jnp.where(cut, next_value, later)
    return target, reward + _continuation(following, terminated, discount) - value
