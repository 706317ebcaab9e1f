"""PQN against hand-computed cases; and what every algorithm here must do: jit, scan, vmap."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rljax
from rljax.algorithms import pqn
from rljax.nn.networks import CNN
from rljax.ops.exploration import epsilon_greedy
from rljax.spaces import Box
from rljax.training import evaluate
from tests.toys import Clock, Drift, Pixels, limited

TINY = pqn.Config(num_envs=4, rollout_length=8, num_minibatches=2, hidden=(8,), exploration_steps=64)


def run(algorithm, iterations, seed=0):
    """Trains; returns the last state and the metrics of every iteration."""

    def body(state, _):
        return algorithm.step(state)

    train = jax.jit(lambda key: jax.lax.scan(body, algorithm.init(key), None, iterations))
    return train(jax.random.key(seed))


def values_of(algorithm, params, obs):
    return algorithm.agent.network.apply(params["value"], obs)


def test_one_update_by_hand():
    """Q(λ) returns of the rollout by a plain loop, one gradient step of rectified Adam, clipped by its global norm."""
    config = dataclasses.replace(TINY, num_epochs=1, num_minibatches=1, exploration_end=1.0, max_grad_norm=0.5)
    algorithm = pqn.make(limited(Clock(3, False), 5), config)  # the time limit falls into the rollout
    before = algorithm.init(jax.random.key(0))
    after, metrics = jax.jit(algorithm.step)(before)

    # Whatever is done, each environment sees the times 0 1 2 0 1, each modulo 3, and is truncated at 5.
    times = np.arange(9) % 5
    observation, successor = np.eye(3)[times[:-1] % 3], np.eye(3)[(times[:-1] + 1) % 3]
    best = np.asarray(values_of(algorithm, before.params, successor).max(-1))
    returns, following = np.zeros(8), None
    for t in reversed(range(8)):
        own = following if following is not None and times[t] != 4 else best[t]
        returns[t] = following = 1.0 + 0.99 * (0.35 * best[t] + 0.65 * own)

    # The actions, as the environments were led.
    _, act_key, _ = jax.random.split(before.key, 3)
    keys = jax.random.split(act_key, 8)
    values = values_of(algorithm, before.params, observation)
    actions = np.stack([epsilon_greedy(k, jnp.broadcast_to(v, (4, 2)), 1.0) for k, v in zip(keys, values, strict=True)])

    def loss(params):
        chosen = jnp.take_along_axis(values_of(algorithm, params, observation)[:, None], actions[..., None], 2)
        return 0.5 * jnp.square(chosen[..., 0] - returns[:, None]).mean()

    gradient = jax.grad(loss)(before.params)
    np.testing.assert_allclose(metrics["loss/value"], loss(before.params), rtol=1e-4)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    assert metrics["gradient_norm"] > 0.5
    # The first steps of rectified Adam are plain momentum (Liu et al. 2020, algorithm 2): m / (1 - β1) = g.
    scale = 0.5 / optax.tree.norm(gradient)
    expected = jax.tree.map(lambda p, g: p - 5e-4 * scale * g, before.params, gradient)
    chex.assert_trees_all_close(after.params, expected, atol=1e-6)


@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.9)), (True, (1 - 0.9**5) / (1 - 0.9))])
def test_value_bootstraps_through_a_time_limit_but_not_through_termination(terminates, expected):
    """A reward of 1 for 5 steps: worth 1 / (1 - γ) where only the clock ended, the sum of 5 where the task did."""
    config = dataclasses.replace(TINY, learning_rate=1e-2, discount=0.9, exploration_end=1.0)
    algorithm = pqn.make(limited(Clock(5, terminates), 5), config)
    state, _ = run(algorithm, 150)
    np.testing.assert_allclose(values_of(algorithm, state.params, jnp.eye(5)[0]), expected, rtol=0.05)


def test_exploration_and_learning_rate_fall_linearly():
    config = dataclasses.replace(TINY, exploration_end=0.2, anneal_steps=96, learning_rate=0.3)
    state, metrics = run(pqn.make(rljax.make("cartpole"), config), 4)
    np.testing.assert_allclose(metrics["policy/exploration"], [1.0, 0.6, 0.2, 0.2], atol=1e-6)
    np.testing.assert_allclose(metrics["learning_rate"], [0.3, 0.2, 0.1, 0.0], atol=1e-6)
    chex.assert_tree_all_finite(state.params)


def test_layer_normalisation_follows_every_hidden_layer():
    network = pqn.Network(dataclasses.replace(TINY, hidden=(8, 8)), 2, Box(0.0, 1.0, (6, 6, 1)))
    params = network.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))["params"]
    assert {"LayerNorm_0", "LayerNorm_1"} <= set(params["CNN_0"])
    assert params["CNN_0"]["LayerNorm_0"]["scale"].shape == (16,)  # over channels, as published
    assert "LayerNorm_0" in params["MLP_0"]
    without = CNN((4,), (3,), (1,), 8).init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))["params"]
    assert set(without) == {"Conv_0", "Dense_0"}


def test_learns_from_images():
    config = dataclasses.replace(
        TINY, num_envs=8, learning_rate=5e-3, discount=0.0, cnn_channels=(4,), hidden=(16, 8), exploration_steps=1
    )
    env = limited(Pixels(), 10)
    algorithm = pqn.make(env, config)
    state, _ = run(algorithm, 120)
    chex.assert_tree_all_finite(state.params)
    policy = algorithm.policy(state)
    assert evaluate(env, policy, jax.random.key(9), 20).returns.mean() > 9.5
    assert policy(jax.random.key(0), jnp.zeros((2, 3, 6, 6, 1), jnp.uint8)).shape == (2, 3)


def test_evaluation_is_greedy_or_as_random_as_training_ends():
    config = dataclasses.replace(TINY, exploration_end=0.5, normalize_observation=True)
    algorithm = pqn.make(rljax.make("cartpole"), config)
    state, _ = run(algorithm, 2)
    policy = algorithm.policy(state)
    obs = jnp.full((4000, 4), 0.1)
    greedy = policy(jax.random.key(0), obs)
    assert len(np.unique(greedy)) == 1
    assert state.obs_statistics.count > 32
    np.testing.assert_allclose((policy(jax.random.key(0), obs, deterministic=False) != greedy).mean(), 0.25, atol=0.03)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("q_lambda", -0.1, r"in \[0, 1\]"),
        ("learning_rate", 0.0, "positive"),
        ("num_minibatches", 7, "divisor of num_envs . rollout_length = 4096"),
        ("num_envs", 0, "at least 1"),
        ("exploration_steps", -1, "0 or more"),
        ("hidden", (64, 0), "at least 1 in each layer"),
        ("activation", "sine", "one of .*tanh"),
        ("cnn_kernels", (3, 3), "of one length with cnn_channels, 1"),
        ("reset_policy", "never", "one of .*pool"),
    ],
)
def test_bad_settings_are_refused_with_field_value_and_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError, match=rf"^pqn\.Config: {field} = .*{allowed}"):
        pqn.Config(**{field: value})


def test_environments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"pqn needs a Discrete action space"):
        pqn.make(limited(Drift(), 5))
    with pytest.raises(ValueError, match=r"hidden = \(\) is not allowed for images"):
        pqn.make(limited(Pixels(), 5), dataclasses.replace(TINY, hidden=()))
