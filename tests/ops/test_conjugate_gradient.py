"""Conjugate gradient against NumPy's direct solution, and where it must stop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rljax.ops.conjugate_gradient import conjugate_gradient

ROOT = np.random.default_rng(0).normal(size=(12, 12)).astype(np.float32)
MATRIX = ROOT @ ROOT.T + 3.0 * np.eye(12, dtype=np.float32)
TARGET = np.random.default_rng(1).normal(size=12).astype(np.float32)


def solve(target, iterations, matrix=MATRIX):
    return conjugate_gradient(lambda v: matrix @ v, target, iterations)


def test_it_solves_the_system_as_numpy_does():
    np.testing.assert_allclose(solve(TARGET, 20), np.linalg.solve(MATRIX, TARGET), rtol=1e-3, atol=1e-4)


def test_each_iteration_comes_nearer_in_the_norm_of_the_matrix():
    exact = np.linalg.solve(MATRIX, TARGET)
    errors = [np.asarray(solve(TARGET, n)) - exact for n in range(8)]
    assert (np.diff([error @ MATRIX @ error for error in errors]) < 0).all()


def test_a_tree_is_solved_as_the_vector_of_its_leaves():
    def product(v):
        whole = MATRIX @ jnp.concatenate([v["a"], v["b"].ravel()])
        return {"a": whole[:4], "b": whole[4:].reshape(2, 4)}

    found = conjugate_gradient(product, {"a": TARGET[:4], "b": TARGET[4:].reshape(2, 4)}, 20)
    expected = np.linalg.solve(MATRIX, TARGET)
    chex.assert_trees_all_close(found, {"a": expected[:4], "b": expected[4:].reshape(2, 4)}, rtol=1e-3, atol=1e-4)


def test_iterations_after_the_solution_change_nothing():
    """The residual is 0 then, and 0 / 0 is NaN: a defect of implementations that go on."""
    identity = np.eye(12, dtype=np.float32)
    np.testing.assert_array_equal(solve(TARGET, 50, identity), TARGET)
    np.testing.assert_array_equal(solve(np.zeros(12, np.float32), 50), 0.0)
    np.testing.assert_array_equal(solve(TARGET, 60), solve(TARGET, 90))


def test_the_solution_scales_with_the_target_however_small_that_is():
    """A stop at a residual of an absolute size would leave a small gradient unsolved."""
    np.testing.assert_allclose(solve(1e-9 * TARGET, 20), 1e-9 * solve(TARGET, 20), rtol=1e-3, atol=1e-13)


def test_members_by_vmap_stop_each_for_itself():
    together = jax.vmap(lambda matrix: solve(TARGET, 20, matrix))(jnp.stack([np.eye(12), MATRIX]))
    np.testing.assert_allclose(together[0], TARGET)
    np.testing.assert_allclose(together[1], np.linalg.solve(MATRIX, TARGET), rtol=1e-3, atol=1e-4)
