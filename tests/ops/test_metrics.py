"""Diagnostics: by hand, at their bounds, and unbiased."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from rljax.devices import AXIS
from rljax.ops.metrics import approximate_kl, explained_variance

explained_variance_jit = jax.jit(explained_variance)


def test_explained_variance_by_hand():
    target = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_allclose(explained_variance(target, target), 1.0)
    np.testing.assert_allclose(explained_variance(target + 100.0, target), 1.0, atol=1e-6)  # an offset is not variance
    np.testing.assert_allclose(explained_variance(jnp.zeros((2, 2)), target), 0.0, atol=1e-6)
    np.testing.assert_allclose(explained_variance(-target, target), -3.0, rtol=1e-6)  # (2 x)^2 against x^2
    np.testing.assert_allclose(explained_variance(0.5 * target, target), 0.75, rtol=1e-6)


def test_explained_variance_of_a_constant_target_is_zero_however_long():
    target = jnp.full(100_003, 0.1)
    assert float(explained_variance_jit(target, target)) == 0.0
    assert float(explained_variance_jit(jnp.arange(100_003.0), target)) == 0.0
    assert float(explained_variance(jnp.zeros(1), jnp.ones(1))) == 0.0


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=4),
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=4),
)
def test_explained_variance_is_finite_and_at_most_one(prediction, target):
    value = float(explained_variance_jit(jnp.array(prediction, jnp.float32), jnp.array(target, jnp.float32)))
    assert np.isfinite(value)
    assert value <= 1.0


def test_explained_variance_is_right_where_squares_would_vanish_or_overflow():
    rng = np.random.default_rng(0)
    target = rng.normal(size=500)
    prediction = target + 0.5 * rng.normal(size=500)
    expected = 1 - np.var(target - prediction) / np.var(target)
    for scale in (1e-25, 1.0, 1e25):
        value = explained_variance_jit(
            jnp.asarray(scale * prediction, jnp.float32), jnp.asarray(scale * target, jnp.float32)
        )
        np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_approximate_kl_by_hand():
    assert float(approximate_kl(jnp.zeros((2, 3)))) == 0.0
    # Ratios 2 and 1/2: ((2 - 1 - log 2) + (1/2 - 1 + log 2)) / 2 = 1/4.
    np.testing.assert_allclose(approximate_kl(jnp.log(jnp.array([2.0, 0.5]))), 0.25, rtol=1e-6)
    # x^2 / 2 near 0, which exp(x) - 1 - x in f32 would lose.
    np.testing.assert_allclose(approximate_kl(jnp.full(4, 1e-2)), 5.0167e-5, rtol=1e-3)


def test_approximate_kl_is_unbiased_and_never_negative():
    # From N(0, 1) to N(1/2, 1) the divergence is 1/8, and log_ratio = x / 2 - 1/8.
    x = jax.random.normal(jax.random.key(0), (200_000,))
    np.testing.assert_allclose(approximate_kl(x / 2 - 1 / 8), 1 / 8, rtol=0.02)
    samples = jax.vmap(approximate_kl)(jnp.linspace(-5, 5, 1001)[:, None])
    assert float(samples.min()) >= 0.0


def test_explained_variance_over_devices_is_that_of_all_their_elements():
    """Each device's own says nothing of the difference between them, which here is nearly all there is."""
    target = jnp.array([[0.0, 1.0, 2.0], [100.0, 101.0, 102.0]])
    prediction = jnp.array([[1.0, 1.0, 1.0], [101.0, 101.0, 101.0]])
    over = jax.vmap(explained_variance, axis_name=AXIS)(prediction, target)
    np.testing.assert_allclose(over, explained_variance(prediction, target), rtol=1e-6)
    assert over[0] > 0.99
    np.testing.assert_allclose(jax.vmap(explained_variance)(prediction, target), 0.0, atol=1e-6)
