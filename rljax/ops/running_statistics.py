"""Mean and variance of a stream of arrays, for the normalisation of observations.

Batches are merged by Chan et al. (1983), "Algorithms for Computing the Sample Variance", equation 2.1: nothing of the
size of the squared mean is ever formed, and devices can merge what they have seen.

The count is f32, which stops counting at 2^24 steps of one. Before that, the weight of the past is capped at 2^17
times that of the newest batch: the statistics are those of the whole run for the first 131 072 updates and from then
on forget exponentially with that horizon, and rounding errors cannot pile up.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from rljax import devices
from rljax.spaces import Dict, MultiDiscrete, Space
from rljax.types import PyTree, Refused

_HORIZON = 2.0**17  # updates; an increment keeps 7 of the 24 bits of the mantissa in the worst case


class Statistics(struct.PyTreeNode):
    """Statistics of a pytree of arrays; leaves that hold no numbers (`counts`) have a scalar 0 that is never used."""

    count: jax.Array  # f32 []
    mean: PyTree  # as the example
    m2: PyTree  # as the example: the sum of squared deviations from the mean


def counts(leaf: Any) -> bool:
    """Whether an element of a batch is numbers: floating point, or a vector of any type.

    A vector of whole numbers, or of zeros and ones, is a measurement. A single whole number is a category, and what
    has more axes is an image.
    """
    return _is_float(leaf) or jnp.ndim(leaf) == 1


def numbers(example: PyTree, space: Space | None) -> PyTree:
    """The example, with a category in place of each vector that its space says to be several choices."""
    if isinstance(space, Dict):
        return {name: numbers(part, space[name]) for name, part in example.items()}
    return 0 if isinstance(space, MultiDiscrete) else example


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _kept(leaf: Any, mean: Any) -> bool:
    """Whether a batch's leaf has statistics, told by their mean's shape: `init` has asked `counts`."""
    return _is_float(leaf) or jnp.ndim(mean) == 1


def init(example: PyTree, space: Space | None = None) -> Statistics:
    """Statistics of nothing yet, for arrays shaped as `example` (one element of a batch, without batch axes).

    Args:
      space: space of the example, if it has one: a `MultiDiscrete` in it is a vector of categories, and not of numbers.
    """

    def zeros(leaf: Any) -> jax.Array:
        if not counts(leaf):
            return jnp.zeros((), jnp.float32)
        return jnp.zeros(jnp.shape(leaf), jnp.promote_types(jnp.result_type(leaf), jnp.float32))

    # Two calls: a donated state must not hold one buffer twice.
    example = numbers(example, space)
    return Statistics(jnp.zeros((), jnp.float32), jax.tree.map(zeros, example), jax.tree.map(zeros, example))


def update(statistics: Statistics, batch: PyTree) -> Statistics:
    """Takes in a batch, whose leaves have any number of leading batch axes (the same for all).

    An element that is not finite counts as the mean so far. The batches of all devices are taken in, and all end with
    the same statistics, provided that they began so.
    """
    chex.assert_trees_all_equal_structs(statistics.mean, batch)
    means, structure = jax.tree.flatten(statistics.mean)
    m2s, leaves = jax.tree.leaves(statistics.m2), jax.tree.leaves(batch)
    kept_leaves = [i for i, leaf in enumerate(leaves) if _kept(leaf, means[i])]
    if not kept_leaves:
        return statistics
    batch_shapes = set()
    for i in kept_leaves:
        shape, element = jnp.shape(leaves[i]), jnp.shape(means[i])
        batch_ndim = len(shape) - len(element)
        if batch_ndim < 0 or shape[batch_ndim:] != element:
            raise Refused(f"running_statistics.update: a leaf must be of shape [..., *{element}], got {shape}")
        batch_shapes.add(shape[:batch_ndim])
    if len(batch_shapes) > 1:
        raise Refused(f"running_statistics.update: leaves must share their batch axes, got {batch_shapes}")
    size = 1
    for axis in batch_shapes.pop():
        size *= axis
    if size == 0:
        return statistics

    added = devices.total(jnp.asarray(size, statistics.count.dtype))
    past = jnp.minimum(statistics.count, (_HORIZON - 1) * added)
    kept = past / jnp.maximum(statistics.count, 1.0)
    count = past + added
    for i in kept_leaves:
        mean, m2 = means[i], m2s[i]
        x = jnp.asarray(leaves[i], mean.dtype).reshape(size, *mean.shape)
        # Relative to the old mean, so that the difference of two large means is not rounded; and then relative to the
        # batch's own mean, whose rounding error is measured and taken off. What is not finite counts as the old mean:
        # a single NaN would stay for ever.
        x = jnp.where(jnp.isfinite(x), x - mean[None], 0.0)
        shift = devices.total(x.sum(0)) / added
        x = x - shift[None]
        error, batch_m2 = devices.total((x.sum(0), (x**2).sum(0)))
        error = error / added
        batch_m2 = jnp.maximum(batch_m2 - added * error**2, 0.0)
        shift = shift + error
        means[i] = mean + shift * (added / count)
        m2s[i] = m2 * kept + batch_m2 + shift**2 * (past * added / count)
    return Statistics(count, jax.tree.unflatten(structure, means), jax.tree.unflatten(structure, m2s))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of all that `a` and `b` have seen, in any order up to rounding."""
    chex.assert_trees_all_equal_shapes(a, b)
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1.0)
    mean = jax.tree.map(lambda x, y: x + (y - x) * share, a.mean, b.mean)
    m2 = jax.tree.map(
        lambda x, y, mean_x, mean_y: x + y + (mean_y - mean_x) ** 2 * (a.count * share), a.m2, b.m2, a.mean, b.mean
    )
    return Statistics(count, mean, m2)


def variance(statistics: Statistics) -> PyTree:
    """Population variance, as the example; 1 before anything has been seen."""
    seen = statistics.count > 0
    return jax.tree.map(lambda m2: jnp.where(seen, m2 / jnp.maximum(statistics.count, 1.0), 1.0), statistics.m2)


def mean_and_deviation(statistics: Statistics, epsilon: float = 1e-8) -> tuple[PyTree, PyTree]:
    """The mean that `normalize` subtracts, and its divisor sqrt(variance + epsilon), limited for constant dimensions.

    A dimension that is constant, up to 1e-4 and to the rounding of float32, is not scaled up: a difference of a
    millimetre would become ten deviations where no deviation was ever seen.
    """

    def deviation(mean: jax.Array, variance: jax.Array) -> jax.Array:
        scale = jnp.sqrt(variance + epsilon)
        nothing = jnp.sqrt(variance) <= 1e-4 + 4 * jnp.finfo(jnp.float32).eps * jnp.abs(mean)
        return jnp.where(nothing, jnp.maximum(scale, 1.0), scale)

    mean = jax.tree.map(lax.stop_gradient, statistics.mean)
    return mean, jax.tree.map(lambda m, v: lax.stop_gradient(deviation(m, v)), mean, variance(statistics))


def normalize(
    statistics: Statistics, x: PyTree, clip: float = 10.0, epsilon: float = 1e-8, on_host: bool = False
) -> PyTree:
    """Maps x (any leading axes) to (x - mean) / deviation (`mean_and_deviation`), clipped to [-clip, clip].

    Whole numbers that have statistics become float32; categories and images pass through. Statistics carry no gradient.

    Args:
      on_host: NumPy arrays in and out, for data that do not fit on the device.
    """
    xp: Any = np if on_host else jnp
    means, deviations = jax.tree.map(xp.asarray, mean_and_deviation(statistics, epsilon))

    def normalize_leaf(x: Any, mean: Any, deviation: Any) -> Any:
        if not _kept(x, mean):
            return x
        dtype = jnp.result_type(x) if _is_float(x) else jnp.float32
        mean, deviation = (xp.broadcast_to(y, jnp.shape(x)) for y in (mean, deviation))
        return xp.clip((x - mean) / deviation, -clip, clip).astype(dtype)

    return jax.tree.map(normalize_leaf, x, means, deviations)
