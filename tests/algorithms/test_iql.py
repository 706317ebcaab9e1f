"""IQL against NumPy, scipy and closed forms."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.stats

from rljax.algorithms import iql
from rljax.envs.spaces_only import SpacesOnly
from rljax.nn.networks import MLP
from tests.datasets import batch_of, clock_data, dataset_of, first_gradient, hyper_of
from tests.toys import ContinuousClock, limited, spaces

TINY = iql.Config(hidden=(8,), batch_size=16)
ONE_ACTION = SpacesOnly(1, [-1.0], [1.0])


def run(algorithm, iterations, seed=0):
    """Trains; returns the last state and the metrics of every iteration."""

    @jax.jit
    def train(key, data):
        return jax.lax.scan(lambda s, _: algorithm.step(s, data), algorithm.init(key), None, iterations)

    return train(jax.random.key(seed), algorithm.data)


def agent_of(config, obs=3, action=2):
    """An agent, its learner with targets other than its critics, and its hyperparameters."""
    agent = iql.Agent(config, *spaces(obs, action))
    init = jax.jit(agent.init)
    learner = init(jax.random.key(1))
    targets = init(jax.random.key(5)).targets
    learner.params["value"]["params"]["MLP_0"]["output"]["bias"] -= 0.8  # so that some advantages are positive
    return agent, learner.replace(targets=targets), hyper_of(iql, config)


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.95])
def test_the_loss_is_smallest_at_the_expectile(expectile):
    """The τ-expectile e balances what lies above and below: τ E[(x - e)+] = (1 - τ) E[(e - x)+]."""
    x = np.random.default_rng(0).gamma(2.0, size=1000)

    def balance(e):
        return expectile * np.maximum(x - e, 0).mean() - (1 - expectile) * np.maximum(e - x, 0).mean()

    root = scipy.optimize.brentq(balance, x.min(), x.max())
    slope = jax.grad(lambda value: iql.expectile_loss(jnp.float32(x) - value, expectile).mean())
    np.testing.assert_allclose(slope(root), 0.0, atol=1e-5)
    assert slope(root - 0.01) < -1e-3
    assert slope(root + 0.01) > 1e-3


def test_one_update_by_hand():
    """V by the target critics, the policy and Q by the V before that, then the targets."""
    config = dataclasses.replace(TINY, expectile=0.8, advantage_weight=8.0, target_rate=0.1, critic_learning_rate=0.05)
    agent, learner, hyper = agent_of(config)
    batch = batch_of()
    after, metrics = jax.jit(agent.update)(learner, batch, jax.random.key(0), hyper)

    def critics(params):
        each = [jax.tree.map(lambda x: x[i], params) for i in (0, 1)]  # noqa: B023
        return jnp.stack([agent.value.apply(p, batch.obs, batch.action) for p in each])

    @jax.jit
    def outputs(learner):
        return (
            critics(learner.targets["critic"]),
            agent.value.apply(learner.params["value"], batch.obs),
            agent.actor.apply(learner.params["policy"], batch.obs).mean,
            agent.value.apply(learner.params["value"], batch.next_obs),
            critics(learner.params["critic"]),
        )

    both, value, mean, next_value, q = map(np.asarray, outputs(learner))
    action, reward = np.asarray(batch.action), np.asarray(batch.reward)
    # V: eq. 5, with the smaller of both targets.
    assert 0 < both.argmin(0).sum() < 16
    advantage = both.min(0) - value
    assert 0 < (advantage > 0).sum() < 16
    side = np.where(advantage > 0, 0.8, 0.2)
    np.testing.assert_allclose(metrics["loss/value"], (side * advantage**2).mean(), rtol=1e-5)
    # The policy: eq. 7; the first deviation is 1.
    weight = np.minimum(np.exp(8.0 * advantage), 100.0)
    assert 0 < (weight == 100.0).sum() < 16
    np.testing.assert_allclose(metrics["policy/weight"], weight.mean(), rtol=1e-4)
    log_prob = scipy.stats.norm.logpdf(action, mean, 1.0).sum(-1)
    np.testing.assert_allclose(metrics["loss/policy"], -(weight * log_prob).mean(), rtol=1e-4)
    # Q: eq. 6, with the V of before its update; nothing follows a termination.
    target = reward + np.where(np.arange(16) % 3 == 0, 0.0, 0.9) * next_value
    np.testing.assert_allclose(metrics["loss/critic"], ((q - target) ** 2).mean(), rtol=1e-4)

    @jax.jit
    def gradients(params):
        def of_value(p):
            return (side * (both.min(0) - agent.value.apply(p, batch.obs)) ** 2).mean()

        def of_policy(p):
            return (weight * 0.5 * ((agent.actor.apply(p, batch.obs).mean - action) ** 2).sum(-1)).mean()

        def of_critic(p):
            return ((critics(p) - target) ** 2).mean()

        losses = {"value": of_value, "policy": of_policy, "critic": of_critic}
        return {name: jax.grad(loss)(params[name])["params"] for name, loss in losses.items()}

    expected = gradients(learner.params)
    # By hand, as -log N is z² / 2 + log σ.
    expected["policy"]["log_std"] = (weight[:, None] * (1 - (action - mean) ** 2)).mean(0)
    for part, gradient in expected.items():
        chex.assert_trees_all_close(first_gradient(after, part)["params"], gradient, rtol=1e-3, atol=1e-4)
    # The targets move last: towards the critics of after the update.
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, learner.targets["critic"], after.params["critic"])
    chex.assert_trees_all_close(after.targets["critic"], expected, atol=1e-6)


def test_no_critic_is_ever_asked_for_an_action_that_is_not_in_the_batch():
    agent, learner, hyper = agent_of(TINY)
    batch, asked = batch_of(), []
    original = agent.critics

    def critics(params, obs, action):
        asked.append((obs is batch.obs, action is batch.action))
        return original(params, obs, action)

    agent.critics = critics
    jax.eval_shape(lambda learner: agent.update(learner, batch, jax.random.key(0), hyper), learner)
    assert asked == [(True, True)] * 2


def test_the_policy_is_normal_about_a_bounded_mean_with_one_deviation_and_no_correction():
    """Also for actions on the bound, where a squashed normal's density would not be finite."""
    agent, learner, _ = agent_of(TINY)
    params = jax.tree.map(lambda x: 5.0 * x, learner.params["policy"])  # far from 0
    params["params"]["log_std"] = jnp.array([-0.5, 0.3])
    obs = 3.0 * jax.random.normal(jax.random.key(0), (50, 3))
    action = jax.random.uniform(jax.random.key(1), (50, 2), minval=-1.0).at[:3].set([[1.0, -1.0], [1.0, 1.0], [-1, 0]])
    distribution = agent.actor.apply(params, obs)
    raw = MLP((8,), "relu", 2, 0.01).apply({"params": params["params"]["MLP_0"]}, obs)
    np.testing.assert_allclose(distribution.mean, np.tanh(raw), rtol=1e-5)
    expected = scipy.stats.norm.logpdf(np.asarray(action), np.tanh(np.asarray(raw)), np.exp([-0.5, 0.3])).sum(-1)
    np.testing.assert_allclose(distribution.log_prob(action), expected, rtol=1e-4)
    assert np.isfinite(expected).all()
    # What is done is clipped, and on average the mean.
    keys = jax.random.split(jax.random.key(2), 2000)
    variables = {"params": params}
    drawn = jax.vmap(lambda key: agent.act(variables, obs[:1], (), key, False)[0])(keys)
    np.testing.assert_allclose(np.abs(drawn).max(), 1.0)
    np.testing.assert_array_equal(agent.act(variables, obs, (), keys[0], True)[0], distribution.mean)


def test_a_deterministic_policy_has_the_squared_distance_for_its_loss():
    agent, learner, hyper = agent_of(dataclasses.replace(TINY, deterministic_policy=True))
    batch, advantage = batch_of(), jnp.linspace(-1.0, 1.0, 16)
    after, metrics = agent.update_policy(learner, batch, advantage, jax.random.key(0), hyper)
    variables = agent.acting(learner, hyper)
    action = np.asarray(agent.act(variables, batch.obs, (), jax.random.key(5), False)[0])
    np.testing.assert_array_equal(action, agent.act(variables, batch.obs, (), jax.random.key(6), True)[0])
    distance = np.square(action - np.asarray(batch.action)).sum(-1)
    np.testing.assert_allclose(
        metrics["loss/policy"], (np.exp(3.0 * np.asarray(advantage)) * distance).mean(), rtol=1e-5
    )
    np.testing.assert_array_equal(first_gradient(after, "policy")["params"]["log_std"], 0.0)


def test_the_policys_rate_falls_along_a_cosine_to_nothing():
    """The same update with and without the schedule, after a number of others: the ratio is that of the rates."""
    plain, falling = agent_of(TINY), agent_of(dataclasses.replace(TINY, policy_decay_steps=40))
    batch, advantage = batch_of(), jnp.linspace(-1.0, 1.0, 16)

    def moved(made, count):
        agent, learner, hyper = made
        adam = optax.tree.set(learner.optimizer_state["policy"], count=jnp.int32(count))
        before = learner.replace(optimizer_state=learner.optimizer_state | {"policy": adam})
        after, _ = jax.jit(agent.update_policy)(before, batch, advantage, jax.random.key(0), hyper)
        kernel = lambda learner: learner.params["policy"]["params"]["MLP_0"]["output"]["kernel"]  # noqa: E731
        return np.linalg.norm(kernel(after) - kernel(before))

    for count, share in ((0, 1.0), (10, 0.5 + 0.5**1.5), (20, 0.5), (40, 0.0), (50, 0.0)):
        np.testing.assert_allclose(moved(falling, count) / moved(plain, count), share, atol=1e-3)


def test_a_rate_that_falls_is_refused_online_where_it_would_be_0():
    env = limited(ContinuousClock(3, True), 3)
    config = dataclasses.replace(TINY, policy_decay_steps=50)
    with pytest.raises(ValueError, match=r"^iql: policy_decay_steps = 50 is not allowed online.*; it must be 0$"):
        iql.make(env, config, clock_data(3, True), online=True)
    assert iql.make(env, config, clock_data(3, True)).config == config


def test_of_two_actions_it_takes_the_better_one_by_as_much_as_its_weight_says():
    """One state, an action of -0.5 that pays 0 and one of 0.5 that pays 1, as often.

    V is the τ-expectile of {0, 1}, which is τ; the weights are exp(β (1 - τ)) and exp(-β τ), so the likeliest mean is
    0.5 tanh(β / 2), and never beyond the better action.
    """
    data = dataset_of(np.zeros((64, 1)), np.tile([[-0.5], [0.5]], (32, 1)), np.tile([0.0, 1.0], 32))
    config = iql.Config(
        hidden=(8,), batch_size=64, target_rate=0.1, learning_rate=3e-3, critic_learning_rate=3e-3, num_updates=5
    )
    algorithm = iql.make(ONE_ACTION, config, data)
    expectile, weight = np.array([0.7, 0.9]), np.array([3.0, 1.0])

    @jax.jit
    def train(expectile, weight, data):
        state = algorithm.init(jax.random.key(0))
        state = state.replace(hyper=state.hyper.replace(expectile=expectile, advantage_weight=weight))
        state, metrics = jax.lax.scan(lambda s, _: algorithm.step(s, data), state, None, 120)
        return algorithm.policy(state)(jax.random.key(0), jnp.zeros(1)), metrics["value/mean"]

    action, value = jax.vmap(train, (0, 0, None))(expectile, weight, algorithm.data)
    np.testing.assert_allclose(value[:, -40:].mean(1), expectile, atol=0.02)
    np.testing.assert_allclose(action[:, 0], 0.5 * np.tanh(weight / 2), atol=0.05)


@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.8)), (True, (1 - 0.8**5) / (1 - 0.8))])
def test_value_bootstraps_through_a_time_limit_but_not_through_termination(terminates, expected):
    """A reward of 1 for 5 steps: worth 1 / (1 - γ) where only the clock ended, the sum of 5 where the task did."""
    config = iql.Config(
        hidden=(32,),
        batch_size=64,
        discount=0.8,
        critic_learning_rate=1e-2,
        target_rate=0.5,
        num_updates=8,
        normalize_observation=False,
        expectile=0.5,
        anneal_steps=1000,
    )
    env = limited(ContinuousClock(5, terminates), 5)
    algorithm = iql.make(env, config, clock_data(5, terminates))
    state, _ = run(algorithm, 125)
    # Before the last of the five steps, and at the start.
    for time, value in ((4, 1.0 if terminates else expected), (0, expected)):
        found = algorithm.agent.value.apply(state.params["value"], jnp.eye(5)[time])
        np.testing.assert_allclose(found, value, rtol=0.05)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("expectile", 1.0, r"in \(0, 1\)"),
        ("advantage_weight", -1.0, "0 or more"),
        ("policy_decay_steps", -1, "0 or more"),
        ("max_weight", 0.0, "positive"),
        ("learning_rate", 0.0, "positive"),
        ("discount", 1.5, r"in \[0, 1\]"),
        ("target_rate", 0.0, r"in \(0, 1\]"),
        ("dropout", 1.0, r"in \[0, 1\)"),
        ("hidden", (8, 0), "at least 1 in each layer"),
        ("activation", "sine", "one of .*tanh"),
        ("initialization", "zeros", "one of orthogonal, uniform"),
        ("precision", "float16", "one of"),
        ("reward_scale", "unit", "one of none, returns"),
        ("offline_share", 1.0, r"in \[0, 1\)"),
        ("batch_size", 0, "at least 1"),
    ],
)
def test_bad_settings_are_refused(field, value, allowed):
    with pytest.raises(ValueError, match=rf"^iql\.Config: {field} = .* is not allowed; it must be {allowed}"):
        dataclasses.replace(TINY, **{field: value})


def test_all_networks_start_as_told():
    """Biases differ from 0 only where they are drawn."""
    for initialization, drawn in (("orthogonal", False), ("uniform", True)):
        agent = iql.Agent(dataclasses.replace(TINY, initialization=initialization), *spaces(3, 2))
        params = jax.jit(agent.init)(jax.random.key(1)).params
        for part in ("policy", "value", "critic"):
            assert bool(params[part]["params"]["MLP_0"]["Dense_0"]["bias"].any()) == drawn
