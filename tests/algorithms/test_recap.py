"""Recap's value against the returns of a chain, its advantages and labels by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import recap
from rljax.algorithms.recap import NEGATIVE, POSITIVE, Config, advantages, contrastive, costed, failures, indicator
from tests.datasets import dataset_of
from tests.toys import Drift, limited

ENDS = np.array([0, 0, 0, 1, 0, 1], bool)


def two_episodes():
    """Four steps that succeed, and two that fail."""
    first = np.arange(6) < 4
    obs = np.stack([np.arange(6.0), np.zeros(6)], -1)
    return dataset_of(obs, np.zeros((6, 1)), np.zeros(6), obs + [1, 0], ENDS & first, ENDS & ~first)


def test_rewards_and_returns_by_hand():
    found = costed(two_episodes(), Config(failure_cost=0.5))
    np.testing.assert_allclose(found.reward, [-0.25, -0.25, -0.25, 0, -0.25, -0.5])
    np.testing.assert_allclose(found.return_to_go, [-0.75, -0.5, -0.25, 0, -0.75, -0.5])
    clipped = costed(two_episodes(), Config(failure_cost=2.0, longest=8))
    np.testing.assert_allclose(clipped.return_to_go, [-0.375, -0.25, -0.125, 0, -1, -1])


def test_an_end_is_a_success_where_the_task_says_so():
    """Both episodes terminate; the second has failed, and its value cannot be below -1."""
    data = two_episodes().replace(terminated=ENDS, truncated=np.zeros(6, bool))
    found = costed(data, Config(failure_cost=2.0), [True, False])
    np.testing.assert_allclose(found.return_to_go, [-0.75, -0.5, -0.25, 0, -1, -1])
    with pytest.raises(ValueError, match=r"an episode of .* that terminates may have failed; succeeded="):
        recap.make(limited(Drift(), 5), Config(), data)


def test_an_expected_failure_has_no_advantage():
    """A value that knows of a failure, -1, is neither better nor worse than what follows."""
    data = costed(two_episodes(), Config(failure_cost=1.0))
    found = advantages(data, np.where(np.arange(6) < 4, data.return_to_go, -1.0), np.full(6, -1.0), steps=1)
    np.testing.assert_allclose(found[4:], 0.0, atol=1e-7)


def test_advantages_by_hand():
    data = costed(two_episodes(), Config(failure_cost=0.5))
    values, following = np.array([-0.8, -0.4, -0.2, -0.1, -0.6, -0.5]), np.array([-0.4, -0.2, -0.1, 9.0, -0.5, 9.0])
    one = advantages(data, values, following, steps=1)
    np.testing.assert_allclose(one, [0.15, -0.05, -0.15, 0.1, -0.15, 0.0], atol=1e-7)
    two = advantages(data, values, following, steps=2)
    np.testing.assert_allclose(two, [0.1, -0.2, -0.05, 0.1, -0.15, 0.0], atol=1e-7)
    whole = advantages(data, values, following, steps=50)
    np.testing.assert_allclose(whole, data.return_to_go - values, atol=1e-7)


def test_the_best_share_is_positive():
    found = indicator([0.1, 0.5, -0.2, 0.3, 0.0, 0.2, -0.1, 0.4, 0.9, -0.4], 0.3)
    assert np.flatnonzero(found == POSITIVE).tolist() == [1, 7, 8]
    assert (found[found != POSITIVE] == NEGATIVE).all()
    np.testing.assert_allclose(contrastive(found, 0.2)[:3], [-0.2, 1.0, -0.2])
    with pytest.raises(ValueError, match=r"positive_share = 0 is not allowed; it must be in \(0, 1\)"):
        indicator([1.0], 0)
    with pytest.raises(ValueError, match="negative_weight = -1 is not allowed"):
        contrastive([1], -1)


def test_failures_show_where_the_value_falls():
    values = [-0.5, -0.4, -0.9, -0.8, -0.1, -0.6]
    found = failures(values, [4, 6], 0.3, within=2)
    np.testing.assert_array_equal(found, [0, 0, 1, 1, 0, 1])
    assert not failures(values, [1, 2, 3, 4, 5, 6], 0.3, within=2).any()


def test_the_value_is_the_return_that_followed_on_average():
    """Two ways from each place of a chain, of which one fails: the mean of both returns."""
    length = 10
    obs = np.tile(np.stack([np.arange(length) / length, np.zeros(length)], -1), (20, 1))
    last = np.tile(np.arange(length) == length - 1, 20)
    good = np.repeat(np.arange(20) % 2 == 0, length)
    data = dataset_of(obs, np.zeros((200, 1)), np.zeros(200), obs, last & good, last & ~good)
    config = Config(failure_cost=0.4, hidden=(32, 32), batch_size=64, learning_rate=3e-3, num_atoms=51)
    algorithm = recap.make(limited(Drift(), 5), config, data, succeeded=np.arange(20) % 2 == 0)
    state, device = jax.jit(algorithm.init)(jax.random.key(0)), jax.tree.map(jnp.asarray, algorithm.data)
    run = jax.jit(lambda s, d: jax.lax.scan(lambda s, _: algorithm.step(s, d), s, None, 1500))
    state, _ = run(state, device)
    left = np.arange(length - 1, -1, -1) / length
    expected = -(left + np.minimum(left + 0.4, 1.0)) / 2
    np.testing.assert_allclose(recap.values(algorithm, state, obs[:length], batch_size=4), expected, atol=0.06)


def test_bad_settings_are_refused():
    for options, message in (
        ({"num_atoms": 1}, "num_atoms = 1 is not allowed; it must be at least 2"),
        ({"failure_cost": -1.0}, "failure_cost = -1.0 is not allowed; it must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            Config(**options)
