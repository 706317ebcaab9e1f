"""Primitives of JAX in terms of others, so that a writer of files needs to know few."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _product(a: jax.Array, b: jax.Array, *, dimension_numbers: Any, **params: Any) -> jax.Array:
    """A product of matrices [m, k] x [k, n], or of batches of them, between reshapes."""
    (sum_a, sum_b), (batch_a, batch_b) = dimension_numbers
    free_a, free_b = (
        [i for i in range(x.ndim) if i not in (*summed, *batch)]
        for x, summed, batch in ((a, sum_a, batch_a), (b, sum_b, batch_b))
    )
    shape = [a.shape[i] for i in (*batch_a, *free_a)] + [b.shape[i] for i in free_b]
    batch, k = [math.prod(a.shape[i] for i in batch_a)] if len(batch_a) else [], math.prod(a.shape[i] for i in sum_a)
    m, n = (math.prod(x.shape[i] for i in free) for x, free in ((a, free_a), (b, free_b)))
    a = _permuted(a, [*batch_a, *free_a, *sum_a]).reshape(*batch, m, k)
    b = _permuted(b, [*batch_b, *sum_b, *free_b]).reshape(*batch, k, n)
    axes = tuple(range(len(batch)))
    numbers = (((a.ndim - 1,), (b.ndim - 2,)), (axes, axes))
    return lax.dot_general(a, b, numbers, preferred_element_type=params.get("preferred_element_type")).reshape(shape)


def _permuted(x: jax.Array, axes: list[int]) -> jax.Array:
    return x if axes == sorted(axes) else lax.transpose(x, axes)


def is_product(a: Any, b: Any, *, dimension_numbers: Any, **_: Any) -> bool:
    """Whether a `dot_general` is one of matrices [m, k] x [k, n], or of batches [b, m, k] x [b, k, n], as it is."""
    rank, numbers = len(a.shape), [[int(i) for i in axes] for pair in dimension_numbers for axes in pair]
    batch = list(range(rank - 2))
    return rank in (2, 3) and len(b.shape) == rank and numbers == [[rank - 1], [rank - 2], batch, batch]


def _parts(x: jax.Array, *, sizes: Sequence[int], axis: int) -> list[jax.Array]:
    ends = np.cumsum(sizes).tolist()
    return [lax.slice_in_dim(x, end - int(size), end, axis=axis) for size, end in zip(sizes, ends, strict=True)]


def _tiled(x: jax.Array, *, reps: Sequence[int]) -> jax.Array:
    for axis, count in enumerate(reps):
        x = lax.concatenate([x] * count, axis) if count > 1 else x
    return x


def _power(x: jax.Array, *, y: int) -> jax.Array:
    power = functools.reduce(lax.mul, [x] * abs(y))
    return 1 / power if y < 0 else power


def _alike(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x, jnp.broadcast_to(y, x.shape)


REDUCED: dict[str, Callable[..., Any]] = {
    "clamp": lambda low, x, high, **_: lax.min(lax.max(*_alike(x, low)), _alike(x, high)[1]),
    "dot_general": _product,
    "erfc": lambda x, **_: 1 - lax.erf(x),
    "integer_pow": _power,
    "is_finite": lambda x, **_: jnp.abs(x) < jnp.inf,
    "ne": lambda x, y, **_: ~lax.eq(x, y),
    "split": _parts,
    "square": lambda x, **_: x * x,
    "stack": lambda *x, axis: lax.concatenate([jnp.expand_dims(y, axis) for y in x], axis),
    "tile": _tiled,
}
"""The functions by the name of the primitive; their arguments are its inputs and its parameters."""
