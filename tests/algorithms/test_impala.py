"""IMPALA against rlax and A2C, and values that are known."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

import rljax
from rljax.algorithms import a2c, impala
from rljax.types import Refused, Transition
from tests.toys import Clock, ContinuousClock, limited

TINY = impala.Config(num_envs=4, rollout_length=8, hidden=(8,))


def rollout_of(key, steps=6, batch=3):
    """Trajectories of noise, with an end in the middle, by a policy that is not the agent's."""
    keys = jax.random.split(key, 6)
    obs = jax.random.normal(keys[0], (steps + 1, batch, 3))
    return Transition(
        obs=obs[:-1],
        next_obs=obs[1:],
        action=jax.random.randint(keys[1], (steps, batch), 0, 2),
        reward=jax.random.normal(keys[2], (steps, batch)),
        terminated=jnp.zeros((steps, batch), bool).at[2, 1].set(True),
        truncated=jnp.zeros((steps, batch), bool),
        extras={"log_prob": jnp.log(jax.random.uniform(keys[3], (steps, batch), minval=0.2, maxval=0.8))},
    )


def test_the_loss_is_that_of_rlax():
    algorithm = impala.make(limited(Clock(3, False), 5), TINY)
    params = algorithm.agent.init(jax.random.key(0)).params["policy"]
    rollout, hyper = rollout_of(jax.random.key(1)), algorithm.agent.hyper()
    batch = jax.jit(algorithm.agent.batch_of)(params, rollout, hyper)
    loss, metrics = jax.jit(algorithm.agent.loss)(params, batch, hyper)

    @jax.jit
    def reference(params, rollout):
        distribution, value = algorithm.agent.network.apply(params, rollout.obs)
        following = jnp.concatenate([value[1:], algorithm.agent.network.apply(params, rollout.next_obs[-1:])[1]])
        log_probs = jax.nn.log_softmax(distribution.logits)
        log_prob = jnp.take_along_axis(log_probs, rollout.action[..., None], -1)[..., 0]
        ratio, discount = jnp.exp(log_prob - rollout.extras["log_prob"]), 0.99 * (1.0 - rollout.terminated)
        traced = jax.vmap(rlax.vtrace_td_error_and_advantage, 1, 1)(value, following, rollout.reward, discount, ratio)
        policy = jax.vmap(rlax.policy_gradient_loss, (1, 1, 1, None))(
            distribution.logits, rollout.action, traced.pg_advantage, jnp.ones(6)
        ).mean()
        entropy = jax.vmap(rlax.entropy_loss, (1, None))(distribution.logits, jnp.ones(6)).mean()
        return policy + 0.5 * 0.5 * jnp.square(traced.errors).mean() + 0.01 * entropy, ratio

    expected, ratio = reference(params, rollout)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["importance/weight"], jnp.minimum(ratio, 1.0).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["importance/clipped"], (ratio > 1.0).mean(), rtol=1e-6)


def test_on_policy_its_gradient_is_that_of_a2c():
    env = limited(Clock(3, False), 5)
    one = impala.make(env, dataclasses.replace(TINY, value_coefficient=1.0)).agent
    other = a2c.make(env, a2c.Config(num_envs=4, rollout_length=8, hidden=(8,))).agent
    params, rollout = one.init(jax.random.key(0)).params["policy"], rollout_of(jax.random.key(1))
    # A2C reads each successor anew, and V-trace the value of the next step; here they are the same.
    distribution, _ = one.network.apply(params, rollout.obs)
    rollout = rollout.replace(extras={"log_prob": distribution.log_prob(rollout.action)})
    inputs = (jax.jit(one.batch_of)(params, rollout, one.hyper()), rollout)
    gradients = [
        jax.jit(jax.grad(agent.loss, has_aux=True))(params, x, agent.hyper())[0]
        for agent, x in zip((one, other), inputs, strict=True)
    ]
    chex.assert_trees_all_close(*gradients, atol=1e-6)
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(gradients[0])) > 1e-2


@pytest.mark.parametrize(
    ("terminates", "expected"),
    [(False, 1 / (1 - 0.9)), pytest.param(True, (1 - 0.9**5) / (1 - 0.9), marks=pytest.mark.slow)],
)
def test_value_bootstraps_through_a_time_limit_but_not_through_termination(terminates, expected):
    """A reward of 1 for 5 steps: worth 1 / (1 - γ) where only the clock ended, the sum of 5 where the task did."""
    config = dataclasses.replace(
        TINY, learning_rate=1e-2, discount=0.9, max_grad_norm=10.0, anneal_steps=400 * 32, num_minibatches=2
    )
    algorithm = impala.make(limited(Clock(5, terminates), 5), config)
    train = jax.jit(lambda key: jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, 400))
    state, _ = train(jax.random.key(0))
    value = algorithm.agent.network.apply(state.params["policy"], jnp.eye(5)[0])[1]
    np.testing.assert_allclose(value, expected, rtol=0.05)


def test_settings_and_environments_that_do_not_fit_are_refused():
    with pytest.raises(
        Refused, match=r"impala\.Config: num_minibatches = 3 is not allowed; .* divisor of 80, a rollout's steps"
    ):
        impala.Config(num_envs=4, num_minibatches=3)
    env = ContinuousClock(3, False)
    env.action_space = rljax.spaces.Box(-jnp.inf, jnp.inf, (1,))
    with pytest.raises(Refused, match="impala needs a one-dimensional Box of actions with bounds"):
        impala.make(env)
