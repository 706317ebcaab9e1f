"""Diagnostics of training, as scalars."""

import chex
import jax
import jax.numpy as jnp

from rljax import devices


def explained_variance(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """1 - Var(target - prediction) / Var(target), over all elements: f32 [], at most 1, and finite.

    1 is perfect, 0 is no better than a constant, and 0 is also returned where the target is constant. The elements are
    all devices', as many of each.
    """
    chex.assert_equal_shape([prediction, target])

    def mean(x: jax.Array) -> jax.Array:
        return devices.mean(x.mean())

    def centered(x: jax.Array) -> jax.Array:
        # Relative to one element, so that equal numbers have a variance of exactly 0 however many there are.
        return x - devices.smallest(x[0])

    def variance(x: jax.Array) -> jax.Array:
        return mean(jnp.square(x - mean(x)))

    target, residual = centered(jnp.ravel(target)), centered(jnp.ravel(target - prediction))
    # Scaled, so that no square overflows or vanishes.
    scale = devices.largest(jnp.max(jnp.abs(target)))
    constant = scale == 0
    scale = jnp.where(constant, 1.0, scale)
    ratio = variance(jnp.clip(residual / scale, -1e18, 1e18)) / jnp.where(constant, 1.0, variance(target / scale))
    return jnp.where(constant, 0.0, jnp.maximum(1.0 - ratio, jnp.finfo(ratio.dtype).min))


def approximate_kl(log_ratio: jax.Array) -> jax.Array:
    """Estimates KL(old ‖ new), f32 [], from log_ratio = log new - log old at actions drawn from old, of any shape.

    The estimator k3 = (r - 1) - log r of Schulman (2020, http://joschu.net/blog/kl-approx.html): unbiased, and never
    negative, sample by sample.
    """
    return jnp.mean(jnp.expm1(log_ratio) - log_ratio)
