"""Behaviour cloning of behaviours that are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import bc
from rljax.envs.identity import describe
from rljax.envs.spaces_only import SpacesOnly
from tests.datasets import dataset_of

ENV = SpacesOnly(3, [-2.0, -10.0], [4.0, 10.0])
CONFIG = bc.Config(hidden=(32,), batch_size=128, num_updates=20, learning_rate=5e-3)
MAP = np.array([[0.8, -2.0], [-0.5, 1.0], [0.3, 3.0]])
"""The behaviour's, to actions in the environment's units, whose middle is (1, 0)."""


def linear_data(noise=0.0, size=2000):
    rng = np.random.default_rng(0)
    obs = 50.0 + rng.uniform(-1.0, 1.0, (size, 3)) * [1.0, 10.0, 0.1]
    unit = (obs - 50.0) / [1.0, 10.0, 0.1]
    action = np.array([1.0, 0.0]) + unit @ MAP + noise * rng.normal(size=(size, 2)) * [3.0, 10.0]
    return dataset_of(obs, np.clip(action, [-2, -10], [4, 10]), np.zeros(size)), unit, obs


def train(algorithm, iterations):
    @jax.jit
    def run(key, data):
        return jax.lax.scan(lambda s, _: algorithm.step(s, data), algorithm.init(key), None, iterations)

    return run(jax.random.key(0), algorithm.data)


def test_it_finds_the_linear_map_that_made_the_actions():
    data, unit, obs = linear_data()
    algorithm = bc.make(ENV, CONFIG, data)
    state, metrics = train(algorithm, 50)
    actions = algorithm.policy(state)(jax.random.key(0), jnp.float32(obs[:500]))
    error = (actions - (np.array([1.0, 0.0]) + unit[:500] @ MAP)) / np.array([3.0, 10.0])
    assert np.sqrt(np.square(error).mean()) < 0.02
    assert metrics["loss/policy"][-1] < 1e-3 < metrics["loss/policy"][0]
    assert algorithm.per_iteration == 20


def test_a_policy_that_is_loaded_is_known_for_the_one_that_was_trained():
    """An evaluation of it (fqe) that was begun with the one is resumed with the other."""
    trained, loaded, other = (
        algorithm.policy(jax.eval_shape(algorithm.init, jax.random.key(0))).function
        for algorithm in (
            bc.make(ENV, CONFIG, linear_data()[0]),
            bc.make(ENV, CONFIG),
            bc.make(ENV, dataclasses.replace(CONFIG, activation="tanh")),
        )
    )
    assert describe(trained) == describe(loaded) != describe(other)


def test_a_gaussians_deviation_is_that_of_the_data():
    data, _, _ = linear_data(noise=0.15)
    config = dataclasses.replace(CONFIG, policy="gaussian", action_normalization="bounds")  # whose units 0.15 is in
    algorithm = bc.make(ENV, config, data)
    state, metrics = train(algorithm, 50)
    np.testing.assert_allclose(np.exp(state.params["policy"]["params"]["log_std"]), 0.15, rtol=0.15)
    # The likelihood of such data under the truth, and the squared distance of two dimensions.
    np.testing.assert_allclose(
        metrics["loss/policy"][-1], 2 * (0.5 * np.log(2 * np.pi * np.e) + np.log(0.15)), atol=0.3
    )
    np.testing.assert_allclose(metrics["policy/squared_distance"][-1], 2 * 0.15**2, rtol=0.25)
    keys = jax.random.split(jax.random.key(0), 1000)
    draw = jax.vmap(lambda key: algorithm.policy(state)(key, jnp.full(3, 50.0), deterministic=False))
    np.testing.assert_allclose(draw(keys).std(0), [0.15 * 3.0, 0.15 * 10.0], rtol=0.2)


def test_the_top_share_is_of_episodes_and_only_they_are_imitated():
    """One episode of five returns 6 with actions of 2.5, the others 5 with -1; steps of them pay more."""
    episodes, length = 50, 6
    good = np.repeat(np.arange(episodes) % 5 == 3, length)
    reward = np.where(good, 1.0, np.where(np.tile(np.arange(length), episodes) == 2, 5.0, 0.0))
    action = np.where(good, 2.5, -1.0)[:, None] * [1.0, 0.0]
    last = np.tile(np.arange(length) == length - 1, episodes)
    data = dataset_of(np.full((len(good), 3), 7.0), action, reward, truncated=last)
    algorithm = bc.make(ENV, dataclasses.replace(CONFIG, top=0.2, hidden=(8,)), data)
    assert algorithm.data.size == data.size / 5
    state, _ = train(algorithm, 25)
    found = algorithm.policy(state)(jax.random.key(0), jnp.full(3, 7.0))
    np.testing.assert_allclose(found, [2.5, 0.0], atol=0.15)
    # Made again, it is not filtered again.
    assert algorithm.remake(algorithm.config).data.size == algorithm.data.size


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("policy", "categorical", "one of deterministic, gaussian"),
        ("top", 0.0, r"in \(0, 1\]"),
        ("learning_rate", 0.0, "positive"),
        ("discount", -0.1, r"in \[0, 1\]"),
        ("hidden", (0,), "at least 1 in each layer"),
        ("dropout", 1.0, r"in \[0, 1\)"),
        ("precision", "float16", "one of"),
    ],
)
def test_bad_settings_are_refused(field, value, allowed):
    with pytest.raises(ValueError, match=rf"^bc\.Config: {field} = .* is not allowed; it must be {allowed}"):
        dataclasses.replace(CONFIG, **{field: value})
