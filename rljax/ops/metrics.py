"""Diagnostics of training, as scalars."""

import chex
import jax
import jax.numpy as jnp


def explained_variance(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """1 - Var(target - prediction) / Var(target), over all elements: f32 [], at most 1, and finite.

    1 is perfect, 0 is no better than a constant, and 0 is also returned where the target is constant.
    """
    chex.assert_equal_shape([prediction, target])
    target, residual = jnp.ravel(target), jnp.ravel(target - prediction)
    # Relative to one element, so that equal numbers have a variance of exactly 0 however many there are; and scaled,
    # so that no square overflows or vanishes.
    target, residual = target - target[0], residual - residual[0]
    scale = jnp.max(jnp.abs(target))
    constant = scale == 0
    scale = jnp.where(constant, 1.0, scale)
    ratio = jnp.var(jnp.clip(residual / scale, -1e18, 1e18)) / jnp.where(constant, 1.0, jnp.var(target / scale))
    return jnp.where(constant, 0.0, jnp.maximum(1.0 - ratio, jnp.finfo(ratio.dtype).min))


def approximate_kl(log_ratio: jax.Array) -> jax.Array:
    """Estimates KL(old ‖ new), f32 [], from log_ratio = log new - log old at actions drawn from old, of any shape.

    The estimator k3 = (r - 1) - log r of Schulman (2020, http://joschu.net/blog/kl-approx.html): unbiased, and never
    negative, sample by sample.
    """
    return jnp.mean(jnp.expm1(log_ratio) - log_ratio)
