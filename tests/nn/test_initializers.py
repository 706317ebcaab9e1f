"""Orthogonal initialisation equals the sign-corrected QR decomposition, and makes no call to LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.nn.initializers import orthogonal, orthonormal_rows


def _gram(kernel):
    matrix = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
    return matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 7), (7, 1), (17, 6), (64, 64), (4, 300), (257, 300), (3, 3, 4, 16), (2, 2, 2, 33)],
)
def test_kernels_are_orthogonal_in_every_shape(shape):
    kernel = jax.jit(orthogonal(1.5), static_argnums=1)(jax.random.key(3), shape)
    assert kernel.shape == shape
    assert kernel.dtype == jnp.float32
    gram = _gram(kernel)
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(len(gram)), atol=3e-6)


@pytest.mark.parametrize("shape", [(12, 40), (100, 100), (300, 310)])
def test_rows_equal_the_sign_corrected_qr_decomposition(shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    q, r = np.linalg.qr(matrix.T)
    expected = (q * np.sign(np.diag(r))).T
    rows = orthonormal_rows(jnp.asarray(matrix, jnp.float32))
    # Either method amplifies the f32 rounding of the input by the condition number (about n for a square Gaussian).
    np.testing.assert_allclose(rows, expected, atol=1e-3)
    q, r = jnp.linalg.qr(jnp.asarray(matrix.T, jnp.float32))
    np.testing.assert_allclose(rows, (q * jnp.sign(jnp.diag(r))).T, atol=1e-3)


def test_orthogonal_rows_survive_nearly_parallel_input():
    rng = np.random.default_rng(1)
    matrix = jnp.asarray(rng.normal(size=(1, 50)) + 1e-3 * rng.normal(size=(20, 50)), jnp.float32)
    rows = np.asarray(orthonormal_rows(matrix), np.float64)
    np.testing.assert_allclose(rows @ rows.T, np.eye(20), atol=1e-6)


def test_one_by_one_kernels_take_both_signs():
    kernels = jax.vmap(lambda key: orthogonal()(key, (1, 1)))(jax.random.split(jax.random.key(0), 64))
    assert set(np.unique(kernels)) == {-1.0, 1.0}


def test_square_kernels_are_uniform_over_rotations():
    # Under the Haar measure each element of an n x n orthogonal matrix has mean 0 and variance 1/n.
    kernels = jax.jit(jax.vmap(lambda key: orthogonal()(key, (4, 4))))(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(kernels.mean(0), 0.0, atol=0.02)
    np.testing.assert_allclose((kernels**2).mean(0), 0.25, atol=0.02)
    assert abs(np.mean(np.linalg.det(np.asarray(kernels)))) < 0.05  # rotations and reflections alike


@pytest.mark.parametrize("shape", [(64, 64), (300, 300)])
def test_trap_orthogonal_initialisation_makes_no_qr_call_under_vmap(shape):
    keys = jax.random.split(jax.random.key(0), 3)
    lowered = jax.jit(jax.vmap(lambda key: orthogonal()(key, shape))).lower(keys)
    compiled, lowered = lowered.compile().as_text().lower(), lowered.as_text().lower()
    for name in ("geqrf", "orgqr", "householder", "lapack", "qr("):
        assert name not in lowered + compiled, name
    if jax.default_backend() == "cpu":  # other backends call cuBLAS for the products
        assert "stablehlo.custom_call" not in lowered


def test_members_of_a_vmap_get_the_kernels_that_they_would_get_alone():
    keys = jax.random.split(jax.random.key(0), 3)
    init = jax.jit(orthogonal(), static_argnums=1)
    batched = jax.jit(jax.vmap(lambda key: orthogonal()(key, (20, 10))))(keys)
    for i in range(3):
        np.testing.assert_allclose(batched[i], init(keys[i], (20, 10)), atol=1e-5)


def test_half_precision_kernels_are_rounded_after_the_orthogonalisation():
    key = jax.random.key(0)
    kernel = orthogonal(dtype=jnp.bfloat16)(key, (16, 16))
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kernel, orthogonal()(key, (16, 16)).astype(jnp.bfloat16))


def test_vectors_and_impossible_rows_are_refused():
    with pytest.raises(ValueError, match="two axes"):
        orthogonal()(jax.random.key(0), (3,))
    with pytest.raises(ValueError, match="transpose"):
        orthonormal_rows(jnp.ones((3, 2)))
