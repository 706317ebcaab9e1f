"""Categorical distributions of returns: worked out by hand, against rlax, and by what a projection must keep."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import strategies as st
from scipy.stats import norm

from rljax.ops import categorical

N = 5
SUPPORT = categorical.support(-2.0, 2.0, N)  # -2, -1, 0, 1, 2
project = jax.jit(categorical.project)


def test_support_includes_both_ends():
    np.testing.assert_array_equal(SUPPORT, [-2.0, -1.0, 0.0, 1.0, 2.0])
    uneven = categorical.support(-0.1, 0.7, 51)
    assert uneven[0] == np.float32(-0.1)
    assert uneven[-1] == np.float32(0.7)


@pytest.mark.parametrize(("low", "high", "atoms"), [(0.0, 1.0, 1), (1.0, 1.0, 5), (2.0, 1.0, 5)])
def test_a_support_without_a_range_is_refused(low, high, atoms):
    with pytest.raises(ValueError, match="are no range"):
        categorical.support(low, high, atoms)


def test_projection_by_hand():
    # 0.25 lies between 0 and 1: three quarters to 0, a quarter to 1. -1.5 halfway between -2 and -1. 7 and -3 lie
    # beyond the ends. 1 is an atom.
    atoms = jnp.array([0.25, -1.5, 7.0, -3.0, 1.0])
    probs = jnp.array([0.4, 0.2, 0.1, 0.1, 0.2])
    expected = [0.1 + 0.1, 0.1, 0.3, 0.1 + 0.2, 0.1]
    np.testing.assert_allclose(project(SUPPORT, atoms, probs), expected, atol=1e-7)


def test_a_terminal_step_puts_all_mass_at_its_reward():
    """All target atoms are equal there: r + 0 z."""
    probs = project(SUPPORT, jnp.full(N, 0.5), jnp.array([0.1, 0.2, 0.3, 0.3, 0.1]))
    np.testing.assert_allclose(probs, [0, 0, 0.5, 0.5, 0], atol=1e-7)


def test_a_gaussian_histogram_by_hand():
    """Between the edges -2.5, -1.5, … 2.5, with a deviation of 0.75: Φ(2) - Φ(2/3) = 0.22974 beside the middle."""
    phi = [0.02275, 0.25249, 0.74751, 0.97725]  # Φ(-2), Φ(-2/3), Φ(2/3), Φ(2)
    far = 0.00043  # Φ(-10/3)
    whole = 1 - 2 * far
    expected = np.array([phi[0] - far, phi[1] - phi[0], phi[2] - phi[1], phi[3] - phi[2], phi[0] - far]) / whole
    np.testing.assert_allclose(categorical.gaussian(SUPPORT, jnp.float32(0.0)), expected, atol=2e-5)


def test_a_gaussian_histogram_is_scipys_and_keeps_what_lies_beyond_the_ends():
    support, value = np.linspace(-3.0, 11.0, 29), np.array([[0.0, 5.13], [-2.9, 10.9], [-50.0, 1e6]])
    found = categorical.gaussian(jnp.float32(support), jnp.float32(value), deviation=1.5)
    edges = np.append(support - 0.25, 11.25)
    below = norm.cdf(edges, loc=np.clip(value, -3.0, 11.0)[..., None], scale=0.75)
    np.testing.assert_allclose(found, np.diff(below) / (below[..., -1:] - below[..., :1]), atol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose((found * jnp.float32(support)).sum(-1)[0], value[0], atol=1e-3)  # far from the ends
    assert np.isfinite(jax.grad(lambda v: categorical.gaussian(jnp.float32(support), v)[3])(-1e6))


@pytest.mark.parametrize(("low", "high", "atoms"), [(-2.0, 2.0, 5), (-10.0, 10.0, 51), (-0.1, 0.7, 101)])
def test_the_support_itself_is_left_as_it_is_to_the_last_bit(low, high, atoms):
    support = categorical.support(low, high, atoms)
    probs = jax.nn.softmax(jax.random.normal(jax.random.key(0), (3, atoms)))
    np.testing.assert_array_equal(project(support, jnp.broadcast_to(support, (3, atoms)), probs), probs)


def test_agrees_with_rlax_over_a_batch():
    support = categorical.support(-10.0, 10.0, 51)
    keys = jax.random.split(jax.random.key(0), 3)
    reward = 3 * jax.random.normal(keys[0], (16, 2, 1))
    probs = jax.nn.softmax(jax.random.normal(keys[1], (16, 2, 51)))
    atoms = reward + jax.random.uniform(keys[2], (16, 2, 1)) * support
    expected = jax.vmap(jax.vmap(lambda z, p: rlax.categorical_l2_project(z, p, support)))(atoms, probs)
    np.testing.assert_allclose(project(support, atoms, probs), expected, atol=1e-6)


def test_an_uneven_support_agrees_with_rlax():
    support = jnp.array([-3.0, -1.0, -0.5, 0.0, 4.0])
    atoms, probs = jnp.array([-2.5, -0.6, 0.0, 3.0, 9.0]), jnp.array([0.1, 0.2, 0.3, 0.3, 0.1])
    expected = rlax.categorical_l2_project(atoms, probs, support)
    np.testing.assert_allclose(project(support, atoms, probs), expected, atol=1e-6)


def test_the_target_may_have_another_number_of_atoms():
    np.testing.assert_allclose(project(SUPPORT, jnp.array([0.5]), jnp.array([1.0])), [0, 0, 0.5, 0.5, 0])


values = st.lists(st.floats(-30.0, 30.0, width=32), min_size=N, max_size=N)
weights = st.lists(st.floats(0.0625, 1.0, width=32), min_size=N, max_size=N)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(values, weights)
def test_mass_is_conserved_and_within_the_ends_the_mean(atoms, weights):
    probs = np.array(weights) / np.sum(weights)
    projected = np.asarray(project(SUPPORT, jnp.array(atoms), jnp.asarray(probs, jnp.float32)), np.float64)
    assert (projected >= 0).all()
    np.testing.assert_allclose(projected.sum(), 1.0, atol=1e-5)
    np.testing.assert_allclose(projected @ SUPPORT, np.clip(atoms, -2.0, 2.0) @ probs, atol=1e-5)


def test_mean_and_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.1, 0.2, 0.4, 0.2, 0.1], [0.0625, 0.0625, 0.125, 0.25, 0.5]]))
    np.testing.assert_allclose(categorical.mean(SUPPORT, logits), [0.0, -0.125 - 0.0625 + 0.25 + 1.0], atol=1e-6)
    target = jnp.array([[0.0, 0.0, 0.5, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0, 1.0]])
    expected = [-0.5 * np.log(0.4) - 0.5 * np.log(0.1), np.log(2)]
    np.testing.assert_allclose(categorical.cross_entropy(logits, target), expected, rtol=1e-6)
    np.testing.assert_allclose(categorical.cross_entropy(logits + 3.0, target), expected, rtol=1e-5)


def test_cross_entropy_is_least_at_the_target_and_its_gradient_is_the_difference_of_probabilities():
    logits, target = jax.random.normal(jax.random.key(0), (N,)), jax.nn.softmax(jnp.arange(5.0))
    gradient = jax.grad(categorical.cross_entropy)(logits, target)
    np.testing.assert_allclose(gradient, jax.nn.softmax(logits) - target, atol=1e-6)
    np.testing.assert_allclose(jax.grad(categorical.cross_entropy)(jnp.log(target), target), 0.0, atol=1e-6)


def test_wrong_shapes_are_refused():
    with pytest.raises(AssertionError):
        categorical.project(SUPPORT, jnp.zeros((2, N)), jnp.zeros(N))
    with pytest.raises(AssertionError):
        categorical.cross_entropy(jnp.zeros((2, N)), jnp.zeros(N))


def test_a_return_after_which_nothing_follows_is_certain_whatever_the_probabilities():
    support = categorical.support(0.0, 2.0, 3)
    probs = jnp.array([[jnp.nan] * 3, [0.0, 0.5, 0.5]])
    found = categorical.bootstrapped(support, jnp.array([1.5, 0.0]), jnp.array([0.0, 0.5]), probs)
    np.testing.assert_allclose(found, [[0.0, 0.5, 0.5], [0.25, 0.75, 0.0]])


def test_saturation_is_the_mass_at_the_ends():
    np.testing.assert_allclose(categorical.saturation(jnp.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])), 0.375)
