"""CQL's penalty against NumPy and finite differences, its lower bound against the truth, and Cal-QL's floor."""

import dataclasses
from math import log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from rljax.algorithms import cql
from rljax.data import Dataset, OfflineBatch
from rljax.data.prepared import lowest_to_come, prepare
from rljax.envs import Environment, initial_state
from rljax.spaces import Box
from rljax.training import evaluate
from rljax.types import Transition
from tests.datasets import dataset_of
from tests.runs import train
from tests.toys import limited, spaces

OBS, ACTION, BATCH = 3, 2, 16
TINY = cql.Config(hidden=(8,), batch_size=BATCH, num_actions=4, initial_log_std=0.0)


def batch_of(seed=0):
    """A batch in which s and s' are far apart."""
    rng = np.random.default_rng(seed)
    arrays = {
        "obs": rng.normal(size=(BATCH, OBS)),
        "action": rng.uniform(-1, 1, (BATCH, ACTION)),
        "reward": rng.normal(size=BATCH),
        "next_obs": 5.0 + rng.normal(size=(BATCH, OBS)),
        "discount": np.full(BATCH, 0.99),
        "weight": np.ones(BATCH),
        "next_action": rng.uniform(-1, 1, (BATCH, ACTION)),
        "return_to_go": rng.normal(size=BATCH),
    }
    return OfflineBatch(index=jnp.arange(BATCH), **{name: jnp.float32(x) for name, x in arrays.items()})


def agent_of(**settings):
    agent = cql.Agent(dataclasses.replace(TINY, **settings), *spaces(OBS, ACTION))
    return agent, agent.init(jax.random.key(1))


def hyper_of(agent):
    return cql.Hyper(**{name: jnp.float32(getattr(agent.config, name)) for name in cql.Hyper.__dataclass_fields__})


def test_candidates_are_uniform_over_the_whole_range_and_the_policys_at_both_states():
    agent, learner = agent_of(num_actions=500)
    batch = batch_of()
    action, log_prob = jax.jit(agent.candidates)(learner, batch, jax.random.key(0))
    assert action.shape == (1500, BATCH, ACTION)
    uniform = np.asarray(action[:500])
    np.testing.assert_allclose([uniform.min(), uniform.mean(), uniform.max()], [-1.0, 0.0, 1.0], atol=0.02)
    np.testing.assert_allclose(log_prob[:500], ACTION * log(0.5), rtol=1e-6)
    for part, obs in ((slice(500, 1000), batch.obs), (slice(1000, 1500), batch.next_obs)):
        distribution = agent.policy(learner.params["policy"], obs)
        np.testing.assert_allclose(
            np.arctanh(np.clip(action[part], -0.999999, 0.999999)).mean(0), distribution.mean, atol=0.25
        )
        np.testing.assert_allclose(log_prob[part], distribution.log_prob(action[part]), atol=0.05)


def by_hand(agent, learner, batch, key):
    """log Σ exp(Q(s, a) - log-density), [2, batch], with NumPy; every candidate at s."""
    candidate_key, _, _ = jax.random.split(key, 3)
    action, log_prob = agent.candidates(learner, batch, candidate_key)
    critic = agent.critic
    results = []
    for i in range(2):
        params = jax.tree.map(lambda x: x[i], learner.params["critic"])  # noqa: B023
        values = np.stack([np.asarray(critic.apply(params, batch.obs, a)) for a in action])
        results.append(logsumexp(values - np.asarray(log_prob), axis=0))
    return np.stack(results)


@pytest.mark.parametrize("draws", [0, 2])
def test_soft_maximum_and_values_are_those_worked_out_by_hand(draws):
    agent, learner = agent_of(penalty_draws=draws)
    batch, key = batch_of(), jax.random.key(3)
    value, soft_maximum = jax.jit(agent.values_and_soft_maximum)(learner.params["critic"], learner, batch, key)
    np.testing.assert_allclose(soft_maximum, by_hand(agent, learner, batch, key), rtol=1e-4)
    expected = agent.values(learner.params["critic"], batch.obs, batch.action, key)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def gap_of(agent, learner, batch):
    def gap(critics, key):
        value, soft_maximum = agent.values_and_soft_maximum(critics, learner, batch, key)
        return (soft_maximum - value).mean()

    return gap


def test_the_penalty_has_the_gradient_of_the_log_sum_exp():
    """Against finite differences: a detached log-sum-exp would leave only the pull on the data's actions."""
    agent, learner = agent_of(activation="tanh")
    gap, key, critics = gap_of(agent, learner, batch_of()), jax.random.key(3), learner.params["critic"]
    gradient = jax.jit(jax.grad(gap))(critics, key)
    direction = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), critics)
    along = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))

    @jax.jit
    def at(step):
        return gap(jax.tree.map(lambda x, d: x + step * d, critics, direction), key)

    np.testing.assert_allclose((at(3e-3) - at(-3e-3)) / 6e-3, along, rtol=0.02)


def test_drawn_candidates_give_the_same_gradient_on_average():
    batch, keys = batch_of(), jax.random.split(jax.random.key(5), 3000)
    gradients = {}
    for draws in (0, 1, 3):
        agent, learner = agent_of(penalty_draws=draws)
        each = jax.jit(jax.vmap(jax.grad(gap_of(agent, learner, batch)), (None, 0)))(learner.params["critic"], keys)
        gradients[draws] = np.concatenate([x.reshape(len(keys), -1) for x in jax.tree.leaves(each)], axis=1)
    for draws in (1, 3):
        difference = gradients[draws] - gradients[0]
        error = difference.std(0) / np.sqrt(len(keys)) + 1e-7
        z = difference.mean(0) / error
        assert np.abs(z).max() < 5.0
        np.testing.assert_allclose(np.square(z).mean(), 1.0, atol=0.5)  # as of noise, and nothing else
    spread = {draws: np.linalg.norm(gradients[draws].std(0)) for draws in gradients}
    assert spread[0] < spread[3] < spread[1]


def test_the_policys_values_are_not_pushed_below_the_returns_of_the_data_by_cal_ql():
    """With a return above all values the candidates of the policy have no gradient, and the uniform ones have."""
    batch = batch_of()
    high = batch.replace(return_to_go=jnp.full(BATCH, 50.0))
    for draws in (0, 1):
        agent, learner = agent_of(calibrated=True, penalty_draws=draws)
        critics, key = learner.params["critic"], jax.random.key(3)
        _, soft_maximum = agent.values_and_soft_maximum(critics, learner, high, key)
        _, log_prob = agent.candidates(learner, high, jax.random.split(key, 3)[0])
        np.testing.assert_allclose(soft_maximum[0], logsumexp(50.0 - np.asarray(log_prob)[4:], axis=0), rtol=1e-4)

        def push(critics, batch, agent=agent, learner=learner, key=key):
            return agent.values_and_soft_maximum(critics, learner, batch, key)[1].mean()

        def size(tree):
            return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))

        assert size(jax.grad(push)(critics, high)) < 1e-6
        low = batch.replace(return_to_go=jnp.full(BATCH, -50.0))
        plain, _ = agent_of(penalty_draws=draws)
        expected = plain.values_and_soft_maximum(critics, learner, low, key)[1]
        np.testing.assert_allclose(agent.values_and_soft_maximum(critics, learner, low, key)[1], expected, rtol=1e-5)
        assert size(jax.grad(push)(critics, low)) > 1e-2


def test_target_has_no_entropy_unless_asked_for_and_can_take_the_best_of_several_actions():
    batch, keys = batch_of(), jax.random.split(jax.random.key(7), 3)

    def target(**settings):
        agent, learner = agent_of(**settings)
        distribution = agent.policy(learner.params["policy"], batch.next_obs)
        draws = jax.random.split(keys[0], 4 if agent.config.max_target else 1)
        action, log_prob = jax.vmap(distribution.sample_and_log_prob)(draws)
        value = np.stack([agent.values(learner.targets["critic"], batch.next_obs, a, keys[2]).min(0) for a in action])
        return agent.target(learner, batch, keys, hyper_of(agent)), value, np.asarray(log_prob)

    found, value, log_prob = target()
    np.testing.assert_allclose(found, batch.reward + 0.99 * value[0], rtol=1e-4, atol=1e-5)
    found, value, _ = target(max_target=True)
    np.testing.assert_allclose(found, batch.reward + 0.99 * value.max(0), rtol=1e-4, atol=1e-5)
    found, value, log_prob = target(entropy_in_target=True)
    np.testing.assert_allclose(found, batch.reward + 0.99 * (value - log_prob)[0], rtol=1e-4, atol=1e-4)


def test_the_factor_of_the_penalty_grows_while_the_gap_is_above_its_target():
    for gap, grows in ((-100.0, True), (100.0, False)):
        agent, learner = agent_of(lagrange=True, target_gap=gap)
        after, metrics = jax.jit(agent.update_critic)(learner, batch_of(), jax.random.key(0), hyper_of(agent))
        assert (after.params["log_penalty_weight"] > 1) == grows  # it starts at 1, as in the source
        np.testing.assert_allclose(metrics["value/penalty_weight"], 10.0 * np.e, rtol=1e-6)


def test_without_penalty_the_update_is_that_of_a_squared_error():
    agent, learner = agent_of(penalty_weight=0.0)
    batch, key = batch_of(), jax.random.key(0)
    _, metrics = jax.jit(agent.update_critic)(learner, batch, key, hyper_of(agent))
    *keys, _ = jax.random.split(key, 4)
    target = agent.target(learner, batch, keys, hyper_of(agent))
    values = agent.values(learner.params["critic"], batch.obs, batch.action, key)
    np.testing.assert_allclose(metrics["loss/critic"], np.square(values - target).mean(-1).sum(), rtol=1e-4)


class Line(Environment):
    """A point on a line that should stay at 0: what an action does is known, so values can be worked out by acting."""

    name = "line"
    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Box(-1.0, 1.0, (1,))

    def reset(self, key):
        position = jax.random.uniform(key, minval=-1.0)
        return initial_state(position, position[None])

    def step(self, state, action):
        position = jnp.clip(state.physics + 0.3 * action[0], -1.0, 1.0)
        return state.replace(physics=position, obs=position[None], reward=1.0 - jnp.square(position))


DISCOUNT = 0.9


def narrow_data(size=600, seed=0):
    """One-step episodes from anywhere, of a behaviour that moves little: large actions are not in the data."""
    rng = np.random.default_rng(seed)
    position, action = rng.uniform(-1, 1, size), np.clip(0.15 * rng.normal(size=size), -1, 1)
    after = np.clip(position + 0.3 * action, -1, 1)
    reward = 1 - after**2 + 0.3 * rng.normal(size=size)  # noise, which a maximum over actions believes in
    none, all_ = np.zeros(size, bool), np.ones(size, bool)
    return Dataset.of(Transition(position[:, None], action[:, None], reward, none, all_, after[:, None]))


def values_and_truth(penalty_weight):
    """E Q(s, a) over the learned policy at 64 starts, and its true discounted return from there, both averaged."""
    config = cql.Config(
        hidden=(32, 32),
        batch_size=64,
        penalty_weight=penalty_weight,
        discount=DISCOUNT,
        learning_rate=1e-3,
        critic_learning_rate=1e-3,
        target_rate=0.02,
        num_actions=4,
        temperature_learning_rate=1e-3,
    )
    env = limited(Line(), 60)
    algorithm = cql.make(env, config, narrow_data())

    @jax.jit
    def train(data):
        state = algorithm.init(jax.random.key(0))
        return jax.lax.scan(lambda s, _: (algorithm.step(s, data)[0], None), state, None, 2500)[0]

    state = train(algorithm.data)
    agent, policy = cql.Agent(config, *spaces(1, 1)), algorithm.policy(state)

    @jax.jit
    def measure(key):
        start = jax.vmap(env.reset)(jax.random.split(key, 64))
        obs = (start.obs - state.obs_statistics.mean) / jnp.sqrt(state.obs_statistics.m2 / state.obs_statistics.count)
        variables = agent.acting(state.learner, state.hyper)
        action = jax.vmap(lambda k: agent.act(variables, obs, (), k, False)[0])(jax.random.split(key, 32))
        value = agent.values(state.params["critic"], jnp.broadcast_to(obs, (32, 64, 1)), action, key).min(0).mean()

        def step(carry, t):
            after = jax.vmap(env.step)(carry, policy(jax.random.fold_in(key, t), carry.obs, deterministic=False))
            return after, DISCOUNT**t * after.reward

        return value, jax.lax.scan(step, start, jnp.arange(60))[1].sum(0).mean()

    return tuple(float(x) for x in measure(jax.random.key(9)))


@pytest.mark.slow
def test_learned_value_is_a_lower_bound_of_the_policys_true_value_and_without_the_penalty_is_not():
    """Theorem 3.2: in expectation over the policy's actions; noisy rewards make plain Q-learning believe in luck."""
    value, truth = values_and_truth(penalty_weight=1.0)
    assert value < truth
    value, truth = values_and_truth(penalty_weight=0.0)
    assert value > truth


def test_values_of_actions_that_are_not_in_the_data_are_below_those_that_are():
    config = dataclasses.replace(TINY, hidden=(32,), critic_learning_rate=3e-3, penalty_weight=5.0, discount=DISCOUNT)
    algorithm = cql.make(limited(Line(), 60), config, narrow_data())

    @jax.jit
    def train(data):
        state = algorithm.init(jax.random.key(0))
        return jax.lax.scan(lambda s, _: algorithm.step(s, data), state, None, 600)

    state, metrics = train(algorithm.data)
    agent = cql.Agent(config, *spaces(1, 1))
    obs = jnp.zeros((3, 1))
    near, *far = agent.values(state.params["critic"], obs, jnp.array([[0.0], [0.9], [-0.9]]), jax.random.key(0)).min(0)
    assert near > max(far)
    assert metrics["value/gap"][-1] < metrics["value/gap"][0]
    returns = evaluate(algorithm.env, algorithm.policy(state), jax.random.key(1), 4).returns
    assert np.isfinite(returns).all()


def test_config_is_checked():
    for name, value in (("num_actions", 0), ("penalty_weight", -1.0), ("penalty_draws", -1), ("offline_share", 1.0)):
        with pytest.raises(ValueError, match=rf"cql.Config: {name} = .* is not allowed"):
            cql.Config(**{name: value})


def test_the_floor_of_a_failed_episode_is_that_of_cal_qls_code_and_a_time_limit_ends_nothing():
    """nakamotoo/Cal-QL, calc_return_to_go: r / (1 - γ) at every step of an episode that fails a sparse task."""
    reward, discount = np.zeros(1005), 0.99
    reward[-1] = 1.0  # a failure of 1000 steps, cut by its time limit, and a success of five
    ends = {"truncated": np.arange(1005) == 999, "terminated": np.arange(1005) == 1004}
    data = dataset_of(np.zeros((1005, 1)), np.zeros((1005, 1)), reward, **ends)
    config = dataclasses.replace(TINY, calibrated=True, reward_scale=10.0, reward_bias=-5.0, discount=discount)
    env = limited(Line(), 8)
    prepared = prepare(data, env.observation_space, env.action_space, config)
    found = prepared.dataset.return_to_go
    np.testing.assert_allclose(found[:1000], -5.0 / (1 - discount), rtol=1e-5)
    after = [sum(discount**k * (5.0 if t + k == 4 else -5.0) for k in range(5 - t)) for t in range(5)]
    np.testing.assert_allclose(found[1000:], after, rtol=1e-5)
    assert (prepared.scale, prepared.bias) == (10.0, -5.0)
    # Whatever an episode paid before it was cut, the worst may follow; it is nothing where nothing costs.
    assert lowest_to_come(np.array([3.0, -2.0]), 0.5) == -4.0
    assert lowest_to_come(np.array([3.0, 2.0]), 0.5) == 0.0
    assert lowest_to_come(np.array([3.0, -2.0]), 1.0) == -np.inf
    # Others' returns end with the episode.
    plain = prepare(data, env.observation_space, env.action_space, dataclasses.replace(config, calibrated=False))
    np.testing.assert_allclose(plain.dataset.return_to_go[[990, 999]], [-5 * (1 - 0.99**10) / 0.01, -5.0], rtol=1e-5)


def test_a_discount_that_the_returns_of_the_data_do_not_share_is_not_swept():
    algorithm = cql.make(limited(Line(), 8), dataclasses.replace(TINY, calibrated=True), narrow_data())
    with pytest.raises(ValueError, match="cql cannot sweep 'discount' under this config") as error:
        train(algorithm, 2, hyper={"discount": [0.9, 0.99]})
    assert "\n" not in str(error.value)


def test_cal_ql_online_takes_returns_of_its_own_finished_episodes():
    """Eight-step episodes are over within the buffer, so that online batches have a floor too."""
    settings = {"num_envs": 2, "rollout_length": 8, "num_updates": 2, "replay_size": 400, "learning_starts": 32}
    config = dataclasses.replace(TINY, calibrated=True, penalty_draws=1, **settings)
    algorithm = cql.make(limited(Line(), 8), config, narrow_data(), online=True)

    @jax.jit
    def run(data):
        return jax.lax.scan(lambda s, _: algorithm.step(s, data), algorithm.init(jax.random.key(0)), None, 6)

    state, metrics = run(algorithm.data)
    assert np.isfinite(metrics["loss/critic"].value[-3:]).all()
    assert metrics["updates"].tolist() == [0.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert int(state.experience.replay.count) == 48
