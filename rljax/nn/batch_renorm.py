"""Normalisation over a batch by statistics that training and acting share."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax import devices


class BatchRenorm(nn.Module):
    """Batch renormalisation of [batch, d] (Ioffe 2017, arXiv 1702.03275, algorithm 1).

    In training the batch's own mean and deviation normalise, corrected towards the running ones within bounds that keep
    a bad batch from doing harm; otherwise the running ones alone, on [..., d]. They are variables of "batch_stats",
    which a training call returns anew (`mutable=["batch_stats"]`), and take no gradient. For the first `warm_up`
    training calls, or always where that is None, there is no correction: plain batch normalisation (Ioffe and Szegedy
    2015, arXiv 1502.03167).

    Where a run is split over devices, a batch is all of their parts together.
    """

    momentum: float = 0.99
    warm_up: int | None = 100_000
    r_max: float = 3.0  # of the correction of the scale, and
    d_max: float = 5.0  # of that of the mean, in running deviations
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:
        size = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, size, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, size, jnp.float32)
        calls = self.variable("batch_stats", "calls", jnp.zeros, (), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, size, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, size, jnp.float32)
        running_std = jnp.sqrt(running_var.value + self.epsilon)
        if not training or self.is_initializing():
            mean, std, scale, bias = (
                jnp.broadcast_to(y, x.shape) for y in (running_mean.value, running_std, scale, bias)
            )
            return (x - mean) / std * scale + bias

        moments = x.mean(0), jnp.square(x).mean(0)
        mean, square = devices.mean(moments)
        var = jnp.maximum(square - jnp.square(mean), 0.0)
        std = jnp.sqrt(var + self.epsilon)
        corrected = calls.value >= (jnp.inf if self.warm_up is None else self.warm_up)
        r = jnp.where(corrected, jnp.clip(std / running_std, 1 / self.r_max, self.r_max), 1.0)
        d = jnp.where(corrected, jnp.clip((mean - running_mean.value) / running_std, -self.d_max, self.d_max), 0.0)
        r, d = jax.lax.stop_gradient((r, d))

        running_mean.value = jax.lax.stop_gradient(self.momentum * running_mean.value + (1 - self.momentum) * mean)
        running_var.value = jax.lax.stop_gradient(self.momentum * running_var.value + (1 - self.momentum) * var)
        calls.value = calls.value + 1.0
        mean, std, r, d, scale, bias = (y[None] for y in (mean, std, r, d, scale, bias))
        return ((x - mean) / std * r + d) * scale + bias
