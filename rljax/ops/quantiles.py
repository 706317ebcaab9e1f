"""Distributions of returns as quantiles."""

import jax
import jax.numpy as jnp
import optax


def quantile_loss(quantiles: jax.Array, samples: jax.Array) -> jax.Array:
    """Huber quantile regression (Dabney et al. 2018, eq. 10, κ = 1) of quantiles [..., n] to samples [..., m]: [...].

    The n quantiles are the midpoints of n equal shares of the distribution (lemma 2).
    """
    n = quantiles.shape[-1]
    probability = ((jnp.arange(n, dtype=jnp.float32) + 0.5) / n).reshape(*(1,) * (quantiles.ndim - 1), n, 1)
    error = samples[..., None, :] - quantiles[..., :, None]
    weight = jnp.abs(probability - (error < 0))
    return (weight * optax.losses.huber_loss(error)).mean(-1).sum(-1)
