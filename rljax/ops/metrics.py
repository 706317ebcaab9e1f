"""Diagnostics of training, as scalars."""

import chex
import jax
import jax.numpy as jnp


def explained_variance(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """1 - Var(target - prediction) / Var(target), over all elements: f32 [], at most 1, and finite.

    1 is perfect, 0 is no better than a constant, and 0 is also returned where the target is constant.
    """
    chex.assert_equal_shape([prediction, target])
    info = jnp.finfo(jnp.result_type(float))
    scale = jnp.maximum(jnp.max(jnp.abs(target)), info.tiny)  # squares must neither overflow nor vanish
    target, prediction = target / scale, prediction / scale
    variance = jnp.var(target)
    # The mean of equal numbers is off by rounding, which must not count as variance.
    constant = variance <= (4 * info.eps) ** 2
    ratio = jnp.var(target - prediction) / jnp.where(constant, 1.0, variance)
    return jnp.where(constant, 0.0, jnp.maximum(1.0 - ratio, info.min))


def approximate_kl(log_ratio: jax.Array) -> jax.Array:
    """Estimates KL(old ‖ new), f32 [], from log_ratio = log new - log old at actions drawn from old, of any shape.

    The estimator k3 = (r - 1) - log r of Schulman (2020, http://joschu.net/blog/kl-approx.html): unbiased, and never
    negative, sample by sample.
    """
    return jnp.mean(jnp.expm1(log_ratio) - log_ratio)
