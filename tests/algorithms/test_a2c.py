"""A2C against one update by hand, and values that are known."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rljax
from rljax.algorithms import a2c
from rljax.training import evaluate
from rljax.types import Refused
from tests.toys import Clock, ContinuousClock, Drift, Pixels, limited

TINY = a2c.Config(num_envs=4, rollout_length=8, hidden=(8,))


def run(algorithm, iterations, seed=0):
    """Trains; returns the last state and the metrics of every iteration."""
    train = jax.jit(lambda key: jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, iterations))
    return train(jax.random.key(seed))


def test_one_update_by_hand():
    """n-step advantages of the rollout by a plain loop, and one step of RMSProp, clipped by its global norm."""
    algorithm = a2c.make(limited(Clock(3, False), 5), TINY)  # the time limit falls into the rollout
    before = algorithm.init(jax.random.key(0))
    after, metrics = jax.jit(algorithm.step)(before)
    apply = lambda params, obs: algorithm.agent.network.apply(params["policy"], obs)  # noqa: E731

    # Whatever is done, each environment sees the times 0 1 2 0 1, each modulo 3, and is truncated at 5.
    times = np.arange(9) % 5
    observation, successor = np.eye(3)[times[:-1] % 3], np.eye(3)[(times[:-1] + 1) % 3]
    distribution, value = apply(before.params, observation)
    next_value = np.asarray(apply(before.params, successor)[1])
    returns = np.zeros(8)
    for t in reversed(range(8)):
        returns[t] = 1.0 + 0.99 * (next_value[t] if t in (4, 7) else returns[t + 1])

    # The actions, as the environments were led.
    keys = jax.random.split(jax.random.split(before.key, 3)[1], 8)
    logits = jnp.broadcast_to(distribution.logits[:, None], (8, 4, 2))
    actions = jnp.stack([jax.random.categorical(key, x) for key, x in zip(keys, logits, strict=True)])

    def loss(params):
        log_probs = jax.nn.log_softmax(apply(params, observation)[0].logits)
        chosen = jnp.take_along_axis(log_probs[:, None], actions[..., None], 2)[..., 0]
        policy = -(chosen * (returns - value)[:, None]).mean()
        entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
        return policy + 0.5 * jnp.square(returns - apply(params, observation)[1]).mean() - 0.01 * entropy

    gradient = jax.grad(loss)(before.params)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    assert metrics["gradient_norm"] > 0.5
    clipped = jax.tree.map(lambda g: 0.5 / optax.tree.norm(gradient) * g, gradient)
    expected = jax.tree.map(lambda p, g: p - 7e-4 * g / jnp.sqrt(0.01 * g**2 + 1e-5), before.params, clipped)
    chex.assert_trees_all_close(after.params, expected, atol=1e-6)


@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.9)), (True, (1 - 0.9**5) / (1 - 0.9))])
def test_value_bootstraps_through_a_time_limit_but_not_through_termination(terminates, expected):
    """A reward of 1 for 5 steps: worth 1 / (1 - γ) where only the clock ended, the sum of 5 where the task did."""
    config = dataclasses.replace(TINY, learning_rate=1e-2, discount=0.9, max_grad_norm=10.0, anneal_steps=400 * 32)
    algorithm = a2c.make(limited(Clock(5, terminates), 5), config)
    state, _ = run(algorithm, 400)
    value = algorithm.agent.network.apply(state.params["policy"], jnp.eye(5)[0])[1]
    np.testing.assert_allclose(value, expected, rtol=0.05)


@pytest.mark.slow
def test_learns_from_images():
    env = limited(Pixels(), 10)
    config = dataclasses.replace(TINY, num_envs=8, learning_rate=3e-3, discount=0.0, cnn_channels=(4,), hidden=(16, 8))
    algorithm = a2c.make(env, config)
    state, _ = run(algorithm, 200)
    assert evaluate(env, algorithm.policy(state), jax.random.key(9), 20).returns.mean() > 9.5


def test_policy_acts_in_the_units_of_the_environment():
    algorithm = a2c.make(limited(Drift(), 5), TINY)
    policy = algorithm.policy(algorithm.init(jax.random.key(0)))
    actions = policy(jax.random.key(0), jnp.zeros((1000, 2)), deterministic=False)
    # A Gaussian of deviation 3 about 1, clipped to the bounds -2 and 4.
    assert actions.min() == -2.0
    assert actions.max() == 4.0
    np.testing.assert_allclose(policy(jax.random.key(0), jnp.zeros(2)), 1.0, atol=1e-6)


def test_settings_and_environments_that_do_not_fit_are_refused():
    with pytest.raises(Refused, match=r"^a2c\.Config: entropy_coefficient = -0\.1 is not allowed; .* 0 or more"):
        a2c.Config(entropy_coefficient=-0.1)
    env = ContinuousClock(3, False)
    env.action_space = rljax.spaces.Box(-jnp.inf, jnp.inf, (1,))
    with pytest.raises(Refused, match="a2c needs a one-dimensional Box of actions with bounds"):
        a2c.make(env)
