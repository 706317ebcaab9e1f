"""Networks that predict the velocity of a noisy action chunk."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def time_features(time: jax.Array, size: int) -> jax.Array:
    """[...] in [0, 1] to sines and cosines [..., size] of periods from 1/1000 to 10 (Vaswani et al. 2017)."""
    frequency = 1000.0 * 1e-4 ** (jnp.arange(size // 2, dtype=jnp.float32) / (size // 2 - 1))
    angle = time[..., None] * frequency.reshape(*(1,) * time.ndim, -1)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class MLPDenoiser(nn.Module):
    """A perceptron with residual blocks: chunk [..., horizon, d], time [...] and condition [..., n] to a chunk."""

    width: int = 512
    blocks: int = 3
    dot_general: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, chunk: jax.Array, time: jax.Array, condition: jax.Array) -> jax.Array:
        dense = lambda size: nn.Dense(size, dot_general=self.dot_general)  # noqa: E731
        flat = chunk.reshape(*chunk.shape[:-2], -1)
        x = nn.Dense(self.width)(jnp.concatenate([flat, time_features(time, 64), condition], axis=-1))
        for _ in range(self.blocks):
            x = x + dense(self.width)(nn.silu(dense(self.width)(nn.silu(nn.LayerNorm()(x)))))
        # Zero at first: the untrained policy does not depend on what it sees.
        return nn.Dense(flat.shape[-1], kernel_init=nn.initializers.zeros)(nn.silu(x)).reshape(chunk.shape)


class TransformerDenoiser(nn.Module):
    """A transformer over the steps of the chunk, which attend to each other; time and condition are tokens before them.

    After Chi et al. 2023 (arXiv 2303.04137, section 4.1), with one token for all observations.
    """

    width: int = 128
    blocks: int = 3
    heads: int = 4

    @nn.compact
    def __call__(self, chunk: jax.Array, time: jax.Array, condition: jax.Array) -> jax.Array:
        steps, size = chunk.shape[-2:]
        tokens = [
            nn.Dense(self.width)(time_features(time, 64))[..., None, :],
            nn.Dense(self.width)(condition)[..., None, :],
            nn.Dense(self.width)(chunk),
        ]
        x = jnp.concatenate(tokens, axis=-2)
        place = self.param("place", nn.initializers.normal(0.02), (steps + 2, self.width), jnp.float32)
        x = x + jnp.broadcast_to(place, x.shape)
        for _ in range(self.blocks):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(size, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(x[..., 2:, :]))


DENOISERS: dict[str, Any] = {"mlp": MLPDenoiser, "transformer": TransformerDenoiser}
