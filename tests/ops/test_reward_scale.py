"""The scale of rewards, against episodes worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from rljax.ops import reward_scale


def test_an_episode_keeps_its_last_reward_and_leaves_nothing_to_the_next():
    """The public code of FlashSAC and of XQC clears the sum one step early: it would find 4, 6 and a largest of 6."""
    scale = reward_scale.init(1)
    reward, done = jnp.array([[2.0], [4.0], [1.0]]), jnp.array([[False], [True], [False]])
    scale = reward_scale.update(scale, reward, done, 0.5)
    # 2; then 0.5 * 2 + 4, with which the episode ends; then a new one.
    np.testing.assert_allclose(scale.running, [1.0])
    np.testing.assert_allclose(scale.greatest, 5.0)
    np.testing.assert_allclose(scale.statistics.mean, np.mean([2.0, 5.0, 1.0]), rtol=1e-6)
    np.testing.assert_allclose(scale.statistics.m2, 3 * np.var([2.0, 5.0, 1.0]), rtol=1e-6)


def test_a_sum_goes_on_over_rollouts_and_environments_are_apart():
    scale = reward_scale.init(2)
    never = jnp.zeros((1, 2), bool)
    for _ in range(3):
        scale = reward_scale.update(scale, jnp.array([[1.0, -2.0]]), never, 0.5)
    np.testing.assert_allclose(scale.running, [1.75, -3.5])
    np.testing.assert_allclose(scale.greatest, 3.5)


@pytest.mark.parametrize(("bound", "expected"), [(5.0, np.std([3.0, -5.0])), (1.0, 5.0)])
def test_divisor_is_the_deviation_or_what_keeps_all_returns_within_the_bound(bound, expected):
    scale = reward_scale.update(reward_scale.init(2), jnp.array([[3.0, -5.0]]), jnp.ones((1, 2), bool), 0.9)
    np.testing.assert_allclose(reward_scale.divisor(scale, bound), expected, rtol=1e-6)


def test_rewards_are_unchanged_before_any_is_known_and_nan_is_none():
    scale = reward_scale.init(1)
    np.testing.assert_allclose(reward_scale.divisor(scale, 5.0), 1.0)
    scale = reward_scale.update(scale, jnp.array([[jnp.nan], [1.0]]), jnp.zeros((2, 1), bool), 0.5)
    np.testing.assert_allclose(scale.running, [1.0])
    assert np.isfinite(reward_scale.divisor(scale, 5.0))
