"""ε-greedy actions by their counts, schedules by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.ops.exploration import epsilon_greedy, linear_schedule


def test_epsilon_greedy_by_counts():
    values = jnp.broadcast_to(jnp.array([0.0, 2.0, 1.0]), (30_000, 3))
    actions = epsilon_greedy(jax.random.key(0), values, 0.3)
    np.testing.assert_allclose(jnp.bincount(actions) / 30_000, [0.1, 0.8, 0.1], atol=0.01)
    assert (epsilon_greedy(jax.random.key(0), values, 0.0) == 1).all()


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (25, 0.775), (100, 0.1), (101, 0.1), (10**9, 0.1)])
def test_linear_schedule_goes_to_its_end_and_stays(step, expected):
    np.testing.assert_allclose(linear_schedule(1.0, 0.1, jnp.int32(step), 100), expected, rtol=1e-6)
    np.testing.assert_allclose(linear_schedule(1.0, 0.1, jnp.int32(step), 0), 0.1, rtol=1e-6)
    # A number of steps that int32 cannot hold.
    np.testing.assert_allclose(linear_schedule(1.0, 0.0, jnp.float32(3e9), 6 * 10**9), 0.5, rtol=1e-6)
