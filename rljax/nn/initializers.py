"""Orthogonal initialisation without a QR decomposition, and the uniform one of PyTorch.

jaxlib 0.10 deadlocks on CPUs with two cores when two batched QR decompositions (LAPACK custom calls) run in one
program, which is what `jax.nn.initializers.orthogonal` becomes under `jit(vmap(train))`. Here the same matrix is made
from matrix products alone, which is also quicker to compile and runs on every backend.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rljax.types import Key, Refused

_BLOCK = 32  # rows orthogonalised together in a large matrix: products of matrices, and a block fits in the cache
_SMALL = 256  # up to this many rows one block is as quick to run, and compiles in half the time


def _project_out(rows: jax.Array, basis: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    # Full precision: the default is TF32 or bf16 on accelerators, which would be visible in the orthogonality.
    overlap = jnp.matmul(rows, basis.T, precision=lax.Precision.HIGHEST)
    if mask is not None:
        overlap = jnp.where(mask, overlap, 0.0)
    return rows - jnp.matmul(overlap, basis, precision=lax.Precision.HIGHEST)


def _gram_schmidt(rows: jax.Array) -> jax.Array:
    """Orthonormalises the rows of [n, m] one after the other; rows of zeros stay zeros."""
    index = jnp.arange(rows.shape[0])

    def orthonormalize(i: jax.Array, rows: jax.Array) -> jax.Array:
        # "Twice is enough" for orthogonality to rounding error (Giraud et al. 2005).
        row = lax.fori_loop(0, 2, lambda _, row: _project_out(row, rows, index < i), rows[i])
        norm = jnp.sqrt(jnp.sum(row**2))
        return rows.at[i].set(row / jnp.maximum(norm, jnp.finfo(row.dtype).tiny))

    return lax.fori_loop(0, rows.shape[0], orthonormalize, rows)


@jax.jit  # so that an eager `module.init` compiles it once for each shape
def orthonormal_rows(matrix: jax.Array) -> jax.Array:
    """Orthonormalises the rows of a matrix [n, m], n <= m, by twice-iterated (block) Gram-Schmidt.

    The result is Q^T of the QR decomposition of the transposed matrix whose R has a positive diagonal. That
    decomposition is unique, and for a Gaussian matrix its Q is uniform (Haar) on the orthonormal frames (Mezzadri 2007,
    section 5).
    """
    n, m = matrix.shape
    if n > m:
        raise Refused(f"orthonormal_rows: {n} rows of length {m} cannot be orthogonal; transpose the matrix")
    if n <= _SMALL:
        return _gram_schmidt(matrix)
    count = -(-n // _BLOCK)
    matrix = jnp.pad(matrix, ((0, count * _BLOCK - n), (0, 0)))

    def orthonormalize(i: jax.Array, done: jax.Array) -> jax.Array:
        # Rows of `done` that are not made yet are zeros and project to nothing.
        rows = lax.dynamic_slice_in_dim(matrix, i * _BLOCK, _BLOCK)
        rows = lax.fori_loop(0, 2, lambda _, rows: _gram_schmidt(_project_out(rows, done)), rows)
        return lax.dynamic_update_slice_in_dim(done, rows, i * _BLOCK, axis=0)

    return lax.fori_loop(0, count, orthonormalize, jnp.zeros_like(matrix))[:n]


def uniform(inputs: int) -> jax.nn.initializers.Initializer:
    """Makes an initializer uniform in ±1 / √inputs: of kernels and of biases, PyTorch's default for linear layers."""
    bound = inputs**-0.5

    def init(key: Key, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        del out_sharding  # as in `orthogonal`
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def orthogonal(scale: Any = 1.0, dtype: Any = jnp.float32) -> jax.nn.initializers.Initializer:
    """Makes an initializer of (semi-)orthogonal kernels (Saxe et al. 2014, arXiv:1312.6120).

    The kernel [..., inputs, outputs] is seen as a matrix [prod(inputs), outputs]: its columns are orthogonal where it
    is tall and its rows where it is wide, each of norm `scale`. No LAPACK call is made: see the module's docstring.
    """

    def init(key: Key, shape: Sequence[int], dtype: Any = dtype, out_sharding: Any = None) -> jax.Array:
        del out_sharding  # part of the protocol in jax 0.11; kernels are sharded by whoever owns the parameters
        if len(shape) < 2:
            raise Refused(f"orthogonal: a kernel needs at least two axes, got the shape {tuple(shape)}")
        outputs = shape[-1]
        inputs = 1
        for size in shape[:-1]:
            inputs *= size
        wide = (min(inputs, outputs), max(inputs, outputs))
        precise = jnp.promote_types(dtype, jnp.float32)  # half precision would lose orthogonality
        rows = orthonormal_rows(jax.random.normal(key, wide, precise))
        kernel = rows if inputs < outputs else rows.T
        return (scale * kernel).reshape(shape).astype(dtype)

    return init
