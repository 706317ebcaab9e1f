"""TRPO against the explicit Fisher matrix, steps in closed form, and what a trust region promises."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import rljax
from rljax import devices
from rljax.algorithms import trpo
from rljax.config import config_from_dict
from rljax.spaces import Box, Discrete, MultiDiscrete
from rljax.training import evaluate
from rljax.types import Refused
from tests.toys import Clock, Drift, limited

OBS = jax.random.normal(jax.random.key(1), (32, 3), jnp.float32)
NOTHING = jnp.zeros((32, 3), jnp.float32)
VECTOR = Box(-np.inf, np.inf, (3,))
BOX = Box(-1.0, 1.0, (2,))


def agent(actions=BOX, **settings):
    """An agent whose policy has about thirty parameters, and values that are not used."""
    return trpo.Agent(trpo.Config(**{"hidden": (4,), "damping": 0.0} | settings), VECTOR, actions)


def policy_of(agent, seed=0):
    """Parameters of a policy that is not nearly uniform, as a fresh one is."""
    params = agent.init(jax.random.key(seed)).params["policy"]
    params["params"]["MLP_0"]["output"]["kernel"] *= 50.0
    return params


def steps(agent, params, seed=2, obs=OBS):
    """A batch of steps that the policy made, with advantages at random."""
    action_key, advantage_key = jax.random.split(jax.random.key(seed))
    action = agent.distribution(params, obs).sample(action_key)
    advantage = jax.random.normal(advantage_key, (len(obs),), jnp.float32)
    return trpo.Steps(obs, action, advantage, advantage)


def improve(agent, params, batch, **hyper):
    hyper = agent.hyper().replace(**{name: jnp.float32(value) for name, value in hyper.items()})
    return jax.jit(agent.improve)(params, batch, hyper)


def gaussian(agent, params, obs=OBS):
    """Mean and deviation of each action, NumPy's."""
    distribution = agent.distribution(params, obs)
    return np.asarray(distribution.mean, np.float64), np.exp(np.asarray(distribution.log_std, np.float64))


def kl(old, new):
    """KL(old ‖ new) of normal distributions, (mean, deviation) each, averaged over the batch."""
    (m, s), (n, t) = old, new
    return (np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum(-1).mean()


@pytest.mark.parametrize("actions", [BOX, Discrete(3), MultiDiscrete((3, 2))], ids=str)
def test_the_fisher_product_is_that_of_the_explicit_matrix(actions):
    """The second derivative of KL(old ‖ new) by JAX, of a policy of about thirty parameters."""
    a = agent(actions)
    params = policy_of(a)
    flat, unravel = ravel_pytree(params)
    assert 25 <= flat.size <= 45

    def divergence(x):
        return a.distribution(params, OBS).kl(a.distribution(unravel(x), OBS)).mean()

    explicit = jax.jit(jax.hessian(divergence))(flat)

    def product(v):
        linearized = trpo.linearized(lambda p: a.distribution(p, OBS), params, len(OBS))
        return ravel_pytree(linearized.fisher_product(unravel(v)))[0]

    found = jax.jit(jax.vmap(product))(jnp.eye(flat.size))
    np.testing.assert_allclose(found, explicit, atol=1e-4 * np.abs(explicit).max())
    np.testing.assert_allclose(found, found.T, atol=1e-5 * np.abs(explicit).max())
    assert np.linalg.eigvalsh(found).min() > -1e-5 * np.abs(explicit).max()


def test_an_accepted_step_stays_within_the_trust_region_and_is_better():
    a = agent(damping=0.1)
    old = policy_of(a)
    batch = steps(a, old)
    new, metrics = improve(a, old, batch)
    assert metrics["line_search/accepted"]
    before, after = gaussian(a, old), gaussian(a, new)
    np.testing.assert_allclose(metrics["policy/kl"], kl(before, after), rtol=1e-3)
    assert 0.001 < kl(before, after) <= 0.01

    def log_prob(mean, deviation):
        return (-0.5 * ((batch.action - mean) / deviation) ** 2 - np.log(deviation)).sum(-1)

    advantage = (batch.advantage - batch.advantage.mean()) / batch.advantage.std()
    surrogate = (np.exp(log_prob(*after) - log_prob(*before)) * advantage).mean() - advantage.mean()
    np.testing.assert_allclose(-metrics["loss/policy"], surrogate, rtol=1e-3)
    assert surrogate > 0.01


def test_a_rejected_step_leaves_the_parameters_bit_for_bit():
    a = agent(line_search_steps=3)
    old = policy_of(a)
    batch = steps(a, old)
    new, metrics = improve(a, old, batch, max_kl=50.0)
    assert not metrics["line_search/accepted"]
    assert metrics["line_search/tried"] == 3
    assert metrics["policy/kl"] == metrics["loss/policy"] == 0.0
    chex.assert_trees_all_equal(new, old)
    nothing, _ = improve(a, old, batch._replace(advantage=jnp.ones(32)))  # no gradient either
    chex.assert_trees_all_equal(nothing, old)
    broken, _ = improve(a, old, batch._replace(advantage=jnp.full(32, jnp.nan)))
    chex.assert_trees_all_equal(broken, old)


def test_the_natural_gradient_is_the_step_before_any_search():
    """The search takes it whole where it may, and else shortens it by 0.8 until it may."""
    searching, npg = agent(damping=0.1), agent(damping=0.1, npg=True)
    old = policy_of(searching)
    batch = steps(searching, old)
    for max_kl in (0.0001, 1.0):
        (found, metrics), (whole, unchecked) = (improve(a, old, batch, max_kl=max_kl) for a in (searching, npg))
        tried = int(metrics["line_search/tried"])
        assert tried == 1 if max_kl < 0.01 else 1 < tried < 10
        expected = jax.tree.map(lambda old, new, n=tried: old + 0.8 ** (n - 1) * (new - old), old, whole)
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
        assert unchecked["policy/kl"] <= max_kl if tried == 1 else unchecked["policy/kl"] > max_kl


def bandit(agent, deviation):
    """A bandit's policy, whose mean is a bias and whose observation is nothing, and a batch that it drew."""
    params = agent.init(jax.random.key(0)).params["policy"]
    params["params"]["log_std"] = jnp.log(jnp.array(deviation, jnp.float32))
    return params, steps(agent, params, obs=NOTHING)


def test_the_step_of_a_gaussian_bandit_in_closed_form():
    """x = F⁻¹ g with F = diag(1 / σ², 2), scaled so that ½ xᵀ F x = δ."""
    a = agent(hidden=(), npg=True)
    deviation = np.array([0.5, 2.0])
    old, batch = bandit(a, deviation)
    new, _ = improve(a, old, batch)
    action, advantage = (np.asarray(x, np.float64) for x in (batch.action, batch.advantage))
    advantage = (advantage - advantage.mean()) / advantage.std()
    of_mean = (advantage[:, None] * action / deviation**2).mean(0)
    of_log_std = (advantage[:, None] * ((action / deviation) ** 2 - 1)).mean(0)
    natural_mean, natural_log_std = deviation**2 * of_mean, of_log_std / 2
    length = np.sqrt(2 * 0.01 / (of_mean @ natural_mean + of_log_std @ natural_log_std))
    moved = jax.tree.map(lambda new, old: new - old, new, old)["params"]
    np.testing.assert_allclose(moved["MLP_0"]["output"]["bias"], length * natural_mean, rtol=1e-3)
    np.testing.assert_allclose(moved["log_std"], length * natural_log_std, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(moved["MLP_0"]["output"]["kernel"], 0.0)  # of an observation that is nothing


def test_the_divergence_is_of_the_new_policy_from_the_old_and_not_reversed():
    """KL(old ‖ new) ≤ δ, as in the paper: public implementations bound KL(new ‖ old), which is not the same."""
    a = agent(hidden=(), npg=True)
    old, batch = bandit(a, [1.0, 1.0])
    # What is near the mean is better, so that deviations shrink, and KL(old ‖ new) is the larger one.
    batch = batch._replace(advantage=-jnp.square(batch.action).sum(-1))
    whole, _ = improve(a, old, batch, max_kl=0.3)

    def first_within(divergence):
        for tried in range(10):
            shorter = jax.tree.map(lambda old, new, n=tried: old + 0.8**n * (new - old), old, whole)
            if divergence(gaussian(a, old, NOTHING), gaussian(a, shorter, NOTHING)) <= 0.3:
                return tried + 1, shorter
        raise AssertionError

    tried, expected = first_within(kl)
    assert tried > first_within(lambda old, new: kl(new, old))[0]
    searching = agent(hidden=())
    found, metrics = improve(searching, old, batch, max_kl=0.3)
    assert metrics["line_search/tried"] == tried
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
    forward, backward = (kl(gaussian(a, x, NOTHING), gaussian(a, y, NOTHING)) for x, y in ((old, found), (found, old)))
    np.testing.assert_allclose(metrics["policy/kl"], forward, rtol=1e-3)
    assert abs(backward - forward) > 0.05


def rescaled(params, factor):
    """The same policy with other parameters: its hidden layer, of ReLU, is larger, and the next undoes it."""
    layers = params["params"]["MLP_0"]
    hidden = jax.tree.map(lambda x: factor * x, layers["Dense_0"])
    output = layers["output"] | {"kernel": layers["output"]["kernel"] / factor}
    return {"params": params["params"] | {"MLP_0": {"Dense_0": hidden, "output": output}}}


def test_the_step_does_not_depend_on_how_the_policy_is_parametrised_and_adams_does():
    a = agent(activation="relu", cg_iterations=120, npg=True)
    params = policy_of(a)
    batch = steps(a, params)
    same = rescaled(params, 4.0)
    old = gaussian(a, params)[0]
    np.testing.assert_allclose(gaussian(a, same)[0], old, rtol=1e-5, atol=1e-5)

    def natural(params):
        return gaussian(a, improve(a, params, batch, max_kl=1e-5)[0])[0] - old

    def adam(params):
        def loss(params):
            return -(a.distribution(params, OBS).log_prob(batch.action) * batch.advantage).mean()

        optimizer = optax.adam(1e-3)
        updates, _ = optimizer.update(jax.jit(jax.grad(loss))(params), optimizer.init(params))
        return gaussian(a, optax.apply_updates(params, updates))[0] - old

    def apart(step):
        one, other = step(params), step(same)
        return np.abs(one - other).max() / np.abs(one).max()

    assert apart(natural) < 0.01
    assert apart(adam) > 0.5


def test_a_batch_split_over_devices_gives_the_step_of_the_whole():
    a = agent(damping=0.1)
    params = policy_of(a)
    batch = steps(a, params)
    expected, metrics = improve(a, params, batch)
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
    split = jax.vmap(lambda half: a.improve(params, half, a.hyper()), axis_name=devices.AXIS)
    found, of_halves = jax.jit(split)(halves)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], found), expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[0], found), jax.tree.map(lambda x: x[1], found))
    np.testing.assert_allclose(of_halves["policy/kl"], metrics["policy/kl"], rtol=1e-3)


TINY = trpo.Config(num_envs=4, rollout_length=8, hidden=(8,), cg_iterations=3)


@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.9)), (True, (1 - 0.9**5) / (1 - 0.9))])
def test_value_bootstraps_through_a_time_limit_but_not_through_termination(terminates, expected):
    """A reward of 1 for 5 steps: worth 1 / (1 - γ) where only the clock ended, the sum of 5 where the task did."""
    config = dataclasses.replace(TINY, learning_rate=1e-2, discount=0.9, max_grad_norm=10.0, anneal_steps=100 * 32)
    algorithm = trpo.make(limited(Clock(5, terminates), 5), config)
    train = jax.jit(lambda key: jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, 100)[0])
    value = algorithm.agent.value(train(jax.random.key(0)).params["value"], jnp.eye(5)[0])
    np.testing.assert_allclose(value, expected, rtol=0.05)


def test_policy_acts_in_the_units_of_the_environment():
    algorithm = trpo.make(limited(Drift(), 5), dataclasses.replace(TINY, initial_log_std=0.0))
    policy = algorithm.policy(algorithm.init(jax.random.key(0)))
    actions = policy(jax.random.key(0), jnp.zeros((1000, 2)), deterministic=False)
    # A Gaussian of deviation 3 about 1, clipped to the bounds -2 and 4.
    assert actions.min() == -2.0
    assert actions.max() == 4.0
    np.testing.assert_allclose(policy(jax.random.key(0), jnp.zeros(2)), 1.0, atol=1e-6)


def test_settings_and_environments_that_do_not_fit_are_refused():
    with pytest.raises(Refused, match=r"^trpo\.Config: max_kl = 0 is not allowed; it must be positive"):
        trpo.Config(max_kl=0)
    with pytest.raises(Refused, match=r"num_minibatches = 3 is not allowed; it must be a divisor of 1024"):
        trpo.Config(num_minibatches=3)
    env = Drift()
    env.action_space = Box(-1.0, 1.0, (2, 2))
    with pytest.raises(Refused, match="trpo needs a Discrete, MultiDiscrete or one-dimensional Box action space"):
        trpo.make(env)
    # A step of the value's would leave the trust region.
    with pytest.raises(Refused, match="has no field shared_torso"):
        config_from_dict(trpo.Config, {"shared_torso": True})


@pytest.mark.slow
def test_learns_cartpole():
    env = rljax.make("cartpole")
    algorithm = trpo.make(env, trpo.Config(normalize_reward=True))
    train = jax.jit(lambda key: jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, 60)[0])
    policy = algorithm.policy(train(jax.random.key(0)))
    assert evaluate(env, policy, jax.random.key(9), 20).returns.mean() > 450
