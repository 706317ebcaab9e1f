"""REPPO against cases by hand: soft returns, the branches of the objective, multipliers, and both losses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from experiments import reppo as experiment
from rljax.algorithms import reppo
from rljax.nn.distributions import Categorical
from rljax.spaces import Box, Discrete
from rljax.training import evaluate
from rljax.types import Refused, Transition
from tests.toys import Clock, ContinuousClock, Drift, Pixels, limited, spaces

TINY = reppo.Config(
    num_envs=4,
    rollout_length=8,
    num_epochs=2,
    num_minibatches=2,
    hidden=(8,),
    critic_hidden=(8,),
    value_min=-5.0,
    value_max=15.0,
    num_atoms=21,
)


def run(algorithm, iterations, seed=0):
    """Trains; returns the last state and the metrics of every iteration."""
    train = jax.jit(lambda key: jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, iterations))
    return train(jax.random.key(seed))


def rollout_of(reward, terminated=(), truncated=()):
    """A rollout of one environment with these rewards, terminated and truncated at these steps."""
    steps = np.arange(len(reward))[:, None]
    terminated, truncated = (jnp.asarray(np.isin(steps, list(ends))) for ends in (terminated, truncated))
    nothing = jnp.zeros_like(steps)
    return Transition(nothing, nothing, jnp.float32(reward)[:, None], terminated, truncated, nothing, ())


def soft_returns(rollout, value, entropy, discount=0.9, td_lambda=0.5):
    value, entropy = (jnp.float32(x)[:, None] for x in (value, entropy))
    return np.asarray(reppo.soft_returns(rollout, value, entropy, discount, td_lambda)[:, 0])


def test_soft_returns_by_hand():
    """G = r + γ (αH + (1 - λ) Q + λ G'), but r alone after a termination, and no G' at a time limit nor at the end."""
    reward, value, entropy = [1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, np.inf, 40.0, 50.0], [0.1, 0.2, np.nan, 0.4, 0.5]
    rollout = rollout_of(reward, terminated=[2], truncated=[3])
    last = 5 + 0.9 * (0.5 + 50)
    limit = 4 + 0.9 * (0.4 + 40)
    second = 2 + 0.9 * (0.2 + 0.5 * 20 + 0.5 * 3)
    first = 1 + 0.9 * (0.1 + 0.5 * 10 + 0.5 * second)
    np.testing.assert_allclose(soft_returns(rollout, value, entropy), [first, second, 3, limit, last], rtol=1e-6)


def test_trap_the_flag_of_a_time_limit_belongs_to_its_own_step():
    """Carried to the step before, it would cut that one's return, and let the next episode into the truncated one's."""
    value, entropy, discount = [1.0, 2.0, 3.0, 4.0], [0.0] * 4, 0.9
    ends, starts = (
        soft_returns(rollout_of([0.0, 0.0, 1.0, next_reward], truncated=[2]), value, entropy, discount, 1.0)
        for next_reward in (0.0, 1e6)
    )
    np.testing.assert_array_equal(ends[:3], starts[:3])  # whatever the next episode pays
    np.testing.assert_allclose(ends[2], 1 + discount * 3)  # from its own successor
    np.testing.assert_allclose(ends[1], discount * ends[2])  # λ = 1: the reward of the last step arrives
    np.testing.assert_allclose(ends[0], discount**2 * ends[2])


def test_the_policys_objective_has_two_branches_and_one_gradient_each():
    cost, kl = jnp.array([3.0, 3.0, 3.0]), jnp.array([0.05, 0.1, 0.4])
    objective = lambda cost, kl: reppo.policy_objective(cost, kl, 2.0, 0.1)  # noqa: E731
    np.testing.assert_allclose(objective(cost, kl), [3.0, 0.2, 0.8])
    of_cost, of_kl = jax.grad(lambda *x: objective(*x).sum(), argnums=(0, 1))(cost, kl)
    np.testing.assert_array_equal(of_cost, [1, 0, 0])
    np.testing.assert_array_equal(of_kl, [0, 2, 2])


@functools.cache  # every agent compiles its programs once for all tests
def made(actions=2, size=64, config=TINY):
    """An agent of so many discrete actions, or of as many dimensions where negative; its learner, and a batch."""
    obs_space, box = spaces(3, abs(actions))
    agent = reppo.Agent(config, obs_space, box if actions < 0 else Discrete(actions))

    @jax.jit
    def draw(key):
        learner, keys = agent.init(key), jax.random.split(key, 5)
        obs, embedding = (jax.random.normal(key, (size, d)) for key, d in zip(keys[:2], (3, 8), strict=True))
        action = agent.as_vectors(agent.any_action(keys[2], (size,)))
        reward, target = jax.random.normal(keys[3], (2, size))
        old = agent.policy(learner.params["policy"], obs)
        return learner, reppo.Batch(obs, action, reward, target, old, embedding, jnp.arange(size) % 4 == 0)

    return agent, *draw(jax.random.key(0))


def test_critic_loss_by_numpy_and_nothing_follows_a_termination():
    agent, learner, batch = made(-2)
    loss = jax.jit(jax.value_and_grad(lambda params, batch: agent.critic_loss(params, batch, agent.hyper())[0]))
    found, gradient = loss(learner.params["critic"], batch)
    estimate = jax.jit(agent.estimate)(learner.params["critic"], batch.obs, batch.action)
    logits, _, predicted = map(np.asarray, estimate)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    edges = norm.cdf(np.linspace(-5.5, 15.5, 22), loc=np.asarray(batch.target)[:, None], scale=0.75)
    histogram = np.diff(edges) / (edges[:, -1:] - edges[:, :1])
    error = np.square(predicted - np.hstack([batch.next_embedding, batch.reward[:, None]]))
    error[::4, :-1] = 0.0
    np.testing.assert_allclose(found, -(histogram * log_probs).sum(-1).mean() + error.mean(), rtol=1e-4)
    poisoned = np.array(batch.next_embedding)
    poisoned[::4] = np.nan
    same, unmoved = loss(learner.params["critic"], batch._replace(next_embedding=jnp.asarray(poisoned)))
    assert same == found
    jax.tree.map(np.testing.assert_array_equal, unmoved, gradient)
    # An untrained critic says 0.
    np.testing.assert_allclose(jax.nn.softmax(logits) @ np.linspace(-5, 15, 21), 0.0, atol=0.1)


@pytest.mark.parametrize("actions", [-2, 3])
def test_multipliers_move_against_their_excess(actions):
    agent, learner, batch = made(actions)
    hyper = agent.hyper()
    update = jax.jit(agent.update)
    # A new policy is near uniform, above its target of entropy; and it is the old one.
    after, metrics = update(learner, batch, jax.random.key(0), hyper)
    np.testing.assert_allclose(after.params["log_temperature"], -3e-4, rtol=1e-3)
    np.testing.assert_allclose(metrics["policy/kl"], 0.0, atol=1e-6)
    np.testing.assert_allclose(after.params["log_kl_weight"], -3e-4, rtol=1e-3)
    # The old one was another, and the target of entropy is higher.
    old = Categorical(batch.old.logits + jnp.arange(3.0)) if actions > 0 else batch.old.replace(mean=batch.old.mean + 2)
    hyper = hyper.replace(target_entropy_per_dim=jnp.float32(2.0), target_entropy_share=jnp.float32(1.1))
    after, metrics = update(learner, batch._replace(old=old), jax.random.key(0), hyper)
    assert metrics["policy/kl"] > 0.2
    assert metrics["policy/within_bound"] == 0.0
    np.testing.assert_allclose(metrics["loss/policy"], 0.01 * metrics["policy/kl"], rtol=1e-5)
    np.testing.assert_allclose(after.params["log_temperature"], 3e-4, rtol=1e-3)
    np.testing.assert_allclose(after.params["log_kl_weight"], 3e-4, rtol=1e-3)


def test_discrete_expectations_are_sums_over_all_actions():
    agent, learner, batch = made(3)
    distribution = Categorical(jax.random.normal(jax.random.key(3), (64, 3)))
    found = jax.jit(agent.expected)(distribution, learner.params["critic"], batch.obs, jax.random.key(0))
    probs = np.asarray(jax.nn.softmax(distribution.logits))
    one = jax.jit(agent.estimate)
    each = [
        one(learner.params["critic"], batch.obs, np.tile(np.eye(3, dtype=np.float32)[a], (64, 1))) for a in range(3)
    ]
    value = [np.asarray(jax.nn.softmax(estimate.logits)) @ np.linspace(-5, 15, 21) for estimate in each]
    np.testing.assert_allclose(found[0], sum(probs[:, a] * value[a] for a in range(3)), atol=1e-5)
    np.testing.assert_allclose(found[1], -(probs * np.log(probs)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(found[2], sum(probs[:, [a]] * each[a].embedding for a in range(3)), atol=1e-5)


def test_the_policy_climbs_q_through_the_action_and_stops_at_the_bound():
    """Of Q = -(a - 0.9)², with the critic replaced: the best is far, and one iteration goes as far as the bound."""
    config = dataclasses.replace(TINY, learning_rate=1e-2, initial_kl_weight=10.0, initial_temperature=1e-6)
    agent, learner, batch = made.__wrapped__(-2, config=config)
    agent.estimate = lambda params, obs, action: reppo.Estimate(-jnp.square(action - 0.9).sum(-1), action, action)
    agent.value = lambda estimate: estimate.logits

    def step(learner, key):
        gradient, (metrics, *_) = jax.grad(agent.policy_loss, has_aux=True)(
            learner.params["policy"], learner, batch, key, agent.hyper()
        )
        return learner.descend("policy", gradient, agent.optimizers(agent.hyper())["policy"]), metrics

    @jax.jit
    def climb(learner, key):
        after, metrics = jax.lax.scan(step, learner, jax.random.split(key, 200))
        return agent.policy(after.params["policy"], batch.obs).mode(), metrics["policy/kl"]

    now, kl = climb(learner, jax.random.key(5))
    before = np.tanh(batch.old.mean)
    assert (now > before).all()
    assert 0.05 < kl[-50:].mean() < 0.15
    assert now.mean() < 0.7


@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.9)), (True, (1 - 0.9**5) / (1 - 0.9))])
def test_value_bootstraps_through_a_time_limit_but_not_through_termination(terminates, expected):
    """A reward of 1 for 5 steps: worth 1 / (1 - γ) where only the clock ended, the sum of 5 where the task did."""
    config = dataclasses.replace(
        TINY,
        num_epochs=4,
        learning_rate=1e-2,
        discount=0.9,
        normalize_observation=False,
        initial_temperature=1e-6,
        learn_temperature=False,
    )
    algorithm = reppo.make(limited(Clock(5, terminates), 5), config)
    state, _ = run(algorithm, 60)
    value = lambda params: algorithm.agent.value(algorithm.agent.estimate(params, jnp.eye(5)[:1], jnp.eye(2)[:1]))  # noqa: E731
    np.testing.assert_allclose(jax.jit(value)(state.params["critic"])[0], expected, rtol=0.05)


@pytest.mark.slow
def test_learns_from_images():
    env = limited(Pixels(), 10)
    config = dataclasses.replace(TINY, learning_rate=3e-3, discount=0.0, cnn_channels=(4,), normalize_observation=False)
    algorithm = reppo.make(env, config)
    state, _ = run(algorithm, 200)
    assert evaluate(env, algorithm.policy(state), jax.random.key(9), 20).returns.mean() > 9.5


@pytest.mark.slow
@pytest.mark.parametrize(("task", "least"), [("cartpole", 450.0), ("pendulum", -200.0)])
def test_solves(task, least):
    settings = dataclasses.replace(experiment.TASKS[task], env=task)
    algorithm = experiment.make(settings)
    state, _ = run(algorithm, settings.total_steps // algorithm.per_iteration)
    assert evaluate(algorithm.env, algorithm.policy(state), jax.random.key(9), 20).returns.mean() > least


def test_policy_acts_in_the_units_of_the_environment():
    algorithm = reppo.make(limited(Drift(), 5), TINY)
    policy = algorithm.policy(jax.jit(algorithm.init)(jax.random.key(0)))
    actions = jax.jit(lambda obs: policy(jax.random.key(0), obs, deterministic=False))(jnp.zeros((1000, 2)))
    # The tanh of a Gaussian of deviation 1, stretched from [-1, 1] to [-2, 4].
    np.testing.assert_allclose(np.quantile(actions, [0.1587, 0.8413]), 1 + 3 * np.tanh([-1, 1]), atol=0.3)
    np.testing.assert_allclose(policy(jax.random.key(0), jnp.zeros(2)), 1.0, atol=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_minibatches": 3},
            r"num_minibatches = 3 is not allowed; .* a divisor of num_envs \* rollout_length = 32",
        ),
        ({"num_atoms": 1}, "num_atoms = 1 is not allowed; it must be at least 2"),
        ({"value_max": -5.0}, r"value_max = -5\.0 is not allowed; it must be above value_min = -5\.0"),
        ({"critic_hidden": ()}, r"critic_hidden = \(\) is not allowed; it must be one width or more"),
        ({"activation": "sin"}, "activation = 'sin' is not allowed"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(Refused, match=rf"^reppo\.Config: {message}"):
        dataclasses.replace(TINY, **settings)


def test_actions_without_bounds_are_refused():
    env = ContinuousClock(3, False)
    env.action_space = Box(-jnp.inf, jnp.inf, (1,))
    with pytest.raises(Refused, match="reppo needs a one-dimensional Box of actions with bounds"):
        reppo.make(env)
