"""The sum tree against NumPy's cumulative sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.data import sum_tree

find, update = jax.jit(sum_tree.find), jax.jit(sum_tree.update)
CAPACITY = 5000  # three levels, the last of them not full


@pytest.mark.parametrize("capacity", [1, 64, 65, 4096, 5000])
def test_total_and_leaves_after_updates(capacity):
    rng = np.random.default_rng(0)
    tree, weights = sum_tree.init(capacity), np.zeros(capacity, np.float32)
    for _ in range(3):
        index = rng.choice(capacity, min(capacity, 200), replace=False)
        new = rng.uniform(0, 10, len(index)).astype(np.float32)
        weights[index] = new
        tree = sum_tree.update(tree, jnp.asarray(index), jnp.asarray(new))
    np.testing.assert_allclose(sum_tree.total(tree), weights.sum(), rtol=1e-5)
    np.testing.assert_array_equal(sum_tree.get(tree, jnp.arange(capacity)), weights)
    assert [level.shape[1] for level in tree] == [sum_tree.FAN_OUT] * len(tree)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, CAPACITY - 1), min_size=1, max_size=40), st.integers(0, 2**31 - 1))
def test_finds_what_numpy_finds_and_never_a_leaf_without_weight(indices, seed):
    rng = np.random.default_rng(seed)
    weights = np.zeros(CAPACITY, np.float32)
    weights[indices] = rng.integers(1, 1000, len(indices))
    index = jnp.asarray(np.pad(indices, (0, 40 - len(indices)), mode="edge"))
    tree = update(sum_tree.init(CAPACITY), index, jnp.asarray(weights)[index])
    # In the middle of each leaf's share of the weight, where rounding cannot decide.
    present = np.flatnonzero(weights)
    ends = np.cumsum(weights[present], dtype=np.float64)
    middle = (ends - weights[present] / 2) / ends[-1]
    found = find(tree, jnp.asarray(np.resize(middle, 64), jnp.float32))
    np.testing.assert_array_equal(found[: min(64, len(present))], present[:64])
    extremes = np.asarray(find(tree, jnp.resize(jnp.array([0.0, 1.0 - 1e-7]), 64)))
    assert (weights[extremes] > 0).all()


def test_draws_in_proportion():
    tree = sum_tree.update(sum_tree.init(100), jnp.array([3, 70, 99]), jnp.array([1.0, 2.0, 5.0]))
    found = find(tree, jax.random.uniform(jax.random.key(0), (8000,)))
    share = np.bincount(found, minlength=100)[[3, 70, 99]] / 8000
    np.testing.assert_allclose(share, [1 / 8, 2 / 8, 5 / 8], atol=0.02)


def test_an_empty_tree_gives_the_first_leaf():
    np.testing.assert_array_equal(find(sum_tree.init(100), jnp.array([0.0, 0.5])), [0, 0])
