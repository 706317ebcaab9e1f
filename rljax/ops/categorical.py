"""Distributions of returns over fixed values, the atoms (C51: Bellemare et al. 2017, arXiv:1707.06887).

A network gives logits [..., n] over a support [n]. Shifted and discounted atoms do not lie on the support any more;
`project` splits the mass of each between its two neighbours there. A target that is a single value is spread over the
bins around it by `gaussian` (HL-Gauss: Farebrother et al. 2024, arXiv:2403.03950).
"""

import chex
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from rljax.types import Refused


def support(value_min: float, value_max: float, num_atoms: int) -> jax.Array:
    """The atoms [num_atoms], evenly spaced from value_min to value_max, both included.

    Raises:
      ValueError: fewer than two atoms, or an empty range.
    """
    if num_atoms < 2 or not value_min < value_max:
        raise Refused(f"categorical.support: {num_atoms} atoms from {value_min} to {value_max} are no range of values")
    return jnp.linspace(value_min, value_max, num_atoms, dtype=jnp.float32)


def project(support: jax.Array, target_atoms: jax.Array, target_probs: jax.Array) -> jax.Array:
    """The probabilities [..., n] on an increasing support [n] nearest to those of atoms anywhere (algorithm 1).

    Mass is conserved, and so is the mean of what lies within the support; atoms beyond its ends count as the ends.

    Args:
      target_atoms: values [..., m], in any order.
      target_probs: their probabilities [..., m].
    """
    chex.assert_equal_shape([target_atoms, target_probs])
    places = jnp.arange(support.shape[0], dtype=support.dtype)
    position = jnp.interp(target_atoms, support, places)  # between whole numbers; the ends hold what is beyond them
    # Dense, [..., m, n], which XLA fuses into one loop. A scatter is faster on CPUs, and at its worst on accelerators:
    # one mass after the other on TPUs, sums in another order every time on GPUs.
    places = places.reshape(*(1,) * position.ndim, -1)
    share = jnp.maximum(1.0 - jnp.abs(position[..., None] - places), 0.0)
    return jnp.sum(share * target_probs[..., None], axis=-2)


def bootstrapped(support: jax.Array, reward: jax.Array, discount: jax.Array, probs: jax.Array) -> jax.Array:
    """The distribution of r + γ Z on the support, [..., n], for rewards and discounts [...] and probabilities [..., n].

    Where the discount is 0 all mass lies at r, whatever the probabilities (they may be NaN).
    """
    certain = jnp.zeros_like(probs).at[..., 0].set(1.0)
    probs = jnp.where(discount[..., None] == 0, certain, probs)
    axes = (1,) * reward.ndim
    return project(support, reward[..., None] + discount[..., None] * support.reshape(*axes, -1), probs)


def gaussian(support: jax.Array, value: jax.Array, deviation: float = 0.75) -> jax.Array:
    """Probabilities [..., n] of the bins of a support [n] under a normal distribution around each value [...].

    Every atom is the middle of its bin (Farebrother et al. 2024, section 3.1). Values beyond the ends count as the
    ends, and what lies outside of all bins is shared out, so that the sum is 1.

    Args:
      support: evenly spaced, as `support` makes it.
      deviation: standard deviation in widths of a bin.
    """
    width = (support[-1] - support[0]) / (support.shape[0] - 1)
    edges = jnp.append(support - width / 2, support[-1] + width / 2)
    value = jnp.clip(value, support[0], support[-1])[..., None]
    below = norm.cdf((edges.reshape(*(1,) * (value.ndim - 1), -1) - value) / (deviation * width))
    return jnp.diff(below) / (below[..., -1:] - below[..., :1])


def smallest(support: jax.Array, logits: jax.Array) -> jax.Array:
    """Probabilities [..., n] of the distribution with the smallest mean, of logits [members, ..., n]."""
    least = mean(support, logits).argmin(0)[None, ..., None]
    return jax.nn.softmax(jnp.take_along_axis(logits, least, axis=0)[0])


def saturation(probs: jax.Array) -> jax.Array:
    """The share of the mass, f32 [], at the two ends of the support; near 1, the support is too narrow for the task."""
    return (probs[..., 0] + probs[..., -1]).mean()


def cross_entropy(logits: jax.Array, target_probs: jax.Array) -> jax.Array:
    """-Σ p log q [...] in nats, of logits [..., n] and target probabilities [..., n]; the loss of C51."""
    chex.assert_equal_shape([logits, target_probs])
    return -jnp.sum(target_probs * jax.nn.log_softmax(logits), axis=-1)


def mean(support: jax.Array, logits: jax.Array) -> jax.Array:
    """Expected value [...] of logits [..., n] over a support [n]."""
    return jnp.sum(jax.nn.softmax(logits) * support.reshape(*(1,) * (logits.ndim - 1), -1), axis=-1)
