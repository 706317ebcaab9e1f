"""Fitted Q evaluation against closed forms, one update by hand, and many policies at once."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import fqe
from rljax.data import Dataset, Metadata
from rljax.data.prepared import prepare
from rljax.envs import Environment, initial_state
from rljax.policy import Policy
from rljax.spaces import Box
from rljax.training.devices import make_mesh, shard_environments
from rljax.types import Transition
from tests.runs import train
from tests.toys import ContinuousClock

TINY = fqe.Config(batch_size=16, members=3, hidden=(8,), discount=0.9)


class Linear(Environment):
    """x' = 0.9 x + 0.5 u, paid -(x² + u² / 2); seen as 10 x + 50, so that observations need normalisation."""

    name = "linear"
    observation_space = Box(-jnp.inf, jnp.inf, (1,))
    action_space = Box(-4.0, 6.0, (1,))
    max_episode_steps = 10

    def reset(self, key):
        x = jax.random.uniform(key, (), minval=-2.0, maxval=2.0)
        return initial_state(x, (10 * x + 50)[None])

    def step(self, state, action):
        x, u = 0.9 * state.physics + 0.5 * action[0], action[0]
        reward = -(state.physics**2) - 0.5 * u**2
        return state.replace(physics=x, obs=(10 * x + 50)[None], reward=reward)


def feedback(gain, noise=0.0):
    """The policy u = -gain x, with noise where it samples."""
    return Policy({"gain": jnp.float32(gain), "noise": jnp.float32(noise)}, (), proportional)


def proportional(variables, key, obs, memory, deterministic):
    noise = 0.0 if deterministic else variables["noise"] * jax.random.normal(key, obs.shape)
    return -variables["gain"] * (obs - 50) / 10 + noise, memory, ()


def closed_form(gain, discount, noise=0.0):
    """V(x) = -p x² - q: p = 1 + gain²/2 + γ c² p with c = 0.9 - gain/2; the noise σ pays σ²/2 + γ p σ²/4 each step."""
    p = (1 + 0.5 * gain**2) / (1 - discount * (0.9 - 0.5 * gain) ** 2)
    q = noise**2 * (0.5 + discount * p * 0.25) / (1 - discount)
    return lambda x: -p * x**2 - q


def play(env, policy, episodes, steps, seed=0):
    """A dataset of episodes [episodes × steps] that are all cut."""

    def one(key):
        reset_key, key = jax.random.split(key)

        def step(state, key):
            action = policy(key, state.obs, False)
            after = env.step(state, action)
            return after, Transition(state.obs, action, after.reward, after.terminated, after.truncated, after.obs)

        return jax.lax.scan(step, env.reset(reset_key), jax.random.split(key, steps))[1]

    steps_of = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), episodes))
    steps_of = steps_of.replace(truncated=steps_of.truncated.at[:, -1].set(True))
    flat = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), steps_of)
    return Dataset.of(flat, Metadata("played"))


def first(dataset):
    return dataset.obs[dataset.starts]


def evaluated(algorithm, policies, iterations, obs, seed=0):
    """Values [policies, members, n]."""

    def one(policy, data, obs):
        state = fqe.of(algorithm.init(jax.random.key(seed)), policy)
        return fqe.values(algorithm, fqe.fit(algorithm, state, data, iterations), obs, jax.random.key(1))

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *policies)
    return np.asarray(jax.jit(jax.vmap(one, (0, None, None)))(stacked, algorithm.data, obs))


@pytest.fixture(scope="module")
def data():
    return play(Linear(), feedback(0.6, 0.7), 150, 10)


GAINS = [0.0, 0.8, 1.8]
SMALL = fqe.Config(
    num_updates=4,
    batch_size=128,
    members=4,
    learning_rate=3e-3,
    anneal_steps=4000,
    target_rate=0.02,
    discount=0.9,
    hidden=(32, 32),
)


def test_values_of_linear_policies_are_those_of_the_closed_form_and_in_their_order(data):
    """All episodes are cut after 10 steps, while γ = 0.9 looks 10 steps ahead."""
    algorithm = fqe.make(Linear(), SMALL, data, feedback(0.0))
    assert data.truncated.sum() == 150
    values = evaluated(algorithm, [feedback(gain) for gain in GAINS], 1000, first(data))
    x = (first(data)[:, 0] - 50) / 10
    truth = np.stack([closed_form(gain, 0.9)(x) for gain in GAINS])
    estimate = values.mean((1, 2))
    np.testing.assert_allclose(estimate, truth.mean(1), rtol=0.05)
    assert list(np.argsort(estimate)) == [0, 2, 1]
    assert np.corrcoef(values.mean(1).ravel(), truth.ravel())[0, 1] > 0.99  # state by state


def test_a_policy_that_samples_is_worth_what_its_noise_costs(data):
    config = dataclasses.replace(SMALL, deterministic=False, bootstrap=False, members=2)
    policies = [feedback(0.8, noise) for noise in (0.0, 0.5)]
    values = evaluated(fqe.make(Linear(), config, data, policies[0]), policies, 1000, first(data)).mean((1, 2))
    x = (first(data)[:, 0] - 50) / 10
    truth = [closed_form(0.8, 0.9, noise)(x).mean() for noise in (0.0, 0.5)]
    np.testing.assert_allclose(values, truth, rtol=0.08)


@pytest.mark.parametrize("terminates", [True, False])
def test_truncation_is_bootstrapped_and_termination_is_not(terminates):
    """A clock of 5 steps that pays 1 each: 1 + γ + … + γ⁴, or 1/(1-γ) where it goes on, from episodes as short."""
    env, count = ContinuousClock(5, terminates), 20
    time = np.tile(np.arange(5), count)
    see = np.eye(5, dtype=np.float32)
    action = np.random.default_rng(0).uniform(-2, 4, (5 * count, 1)).astype(np.float32)
    over, never = time == 4, np.zeros(5 * count, bool)
    terminated, truncated = (over, never) if terminates else (never, over)
    steps = Transition(see[time], action, np.ones(5 * count, np.float32), terminated, truncated, see[(time + 1) % 5])
    config = dataclasses.replace(SMALL, hidden=(), learning_rate=1e-2, target_rate=0.1, members=2, num_updates=1)
    idle = Policy({}, (), lambda variables, key, obs, memory, _: (jnp.zeros((*obs.shape[:-1], 1)), memory, ()))
    algorithm = fqe.make(env, config, Dataset.of(steps), idle)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    state = jax.jit(lambda state, data: fqe.fit(algorithm, state, data, 4000))(state, algorithm.data)
    values = fqe.values(algorithm, state, see, jax.random.key(0))
    left = 5 - np.arange(5)
    expected = (1 - 0.9**left) / 0.1 if terminates else np.full(5, 10.0)
    np.testing.assert_allclose(values, np.broadcast_to(expected, (2, 5)), rtol=0.01)


@pytest.fixture(scope="module")
def tiny(data):
    """An algorithm, and its functions compiled."""
    algorithm = fqe.make(Linear(), TINY, data, feedback(0.8))
    return algorithm, jax.jit(algorithm.init), jax.jit(algorithm.step)


def test_one_update_by_hand(data, tiny):
    """The loss and the means of one update in NumPy, in units of the rewards."""
    algorithm, init, step = tiny
    state = init(jax.random.key(0))
    for _ in range(3):
        state, _ = step(state, algorithm.data)
    after, metrics = step(state, algorithm.data)

    sample_key = jax.random.split(jax.random.split(state.key, 3)[1])[0]
    index = np.asarray(jax.random.randint(sample_key, (16,), 0, data.size))  # of the data as they were read

    def scaled(obs, action):
        return (obs - data.obs.mean(0)) / data.obs.std(0), (action - 1.0) / 5.0

    def q(params, obs, action):
        to_go, each = data.discounted(0.9).return_to_go, [jax.tree.map(lambda x: x[i], params) for i in range(3)]  # noqa: B023
        critics = [algorithm.agent.value.apply(own, *scaled(obs, action)) for own in each]
        return to_go.mean() + to_go.std() * np.stack(critics), to_go.std()

    obs, next_obs = data.obs[index], data.next_obs[index]
    next_action = -0.8 * (next_obs - 50) / 10
    target = data.reward[index] + 0.9 * q(state.learner.targets["critic"], next_obs, next_action)[0]
    value, spread = q(state.params["critic"], obs, data.action[index])
    weight = np.asarray(state.learner.frozen["episode_weight"])[:, index // 10]
    np.testing.assert_allclose(metrics["loss/critic"], (weight * (value - target) ** 2).mean() / spread**2, rtol=1e-4)
    np.testing.assert_allclose(metrics["value/mean"], target.mean(), rtol=1e-4)
    moved = jax.tree.map(lambda x, y: 0.995 * x + 0.005 * y, state.learner.targets, after.params)
    chex.assert_trees_all_close(after.learner.targets, moved, rtol=1e-5, atol=1e-6)
    expected = q(state.params["critic"], obs, -0.8 * (obs - 50) / 10)[0]
    np.testing.assert_allclose(fqe.values(algorithm, state, obs, jax.random.key(0)), expected, rtol=1e-4)


def test_many_policies_at_once_are_as_one_by_one(data, tiny):
    algorithm, init, step = tiny
    together = evaluated(algorithm, [feedback(gain) for gain in GAINS], 100, first(data))
    for gain, of_policy in zip(GAINS, together):
        state = fqe.of(init(jax.random.key(0)), feedback(gain))
        for _ in range(100):
            state, _ = step(state, algorithm.data)
        alone = fqe.values(algorithm, state, first(data), jax.random.key(1))
        np.testing.assert_allclose(of_policy, alone, rtol=2e-3, atol=1e-3)


def test_policy_and_data_are_arguments_of_the_program(data, tiny):
    algorithm, init, step = tiny
    state = init(jax.random.key(0))
    assert all(np.size(x) < 10 for x in jax.make_jaxpr(algorithm.step)(state, algorithm.data).consts)
    _, metrics = step(state, algorithm.data)
    _, on_other = step(state, algorithm.data.replace(reward=algorithm.data.reward + 1))
    state = fqe.of(state, feedback(2.0))
    _, of_other = step(state, algorithm.data)
    before = step._cache_size()
    step(fqe.of(state, feedback(3.0)), algorithm.data)
    assert step._cache_size() == before
    assert len({float(m["value/mean"]) for m in (metrics, of_other, on_other)}) == 3


def test_each_critic_learns_from_episodes_of_its_own(data, tiny):
    algorithm, init, step = tiny
    state = init(jax.random.key(0))
    weight = np.asarray(state.learner.frozen["episode_weight"])
    np.testing.assert_array_equal(weight.sum(1), 150)
    assert (weight[0] != weight[1]).any()
    np.testing.assert_allclose((weight == 0).mean(), np.exp(-1), atol=0.05)
    np.testing.assert_array_equal(algorithm.data.episode, np.repeat(np.arange(150), 10))
    alike = fqe.make(Linear(), dataclasses.replace(TINY, bootstrap=False), data, feedback(0.0))
    np.testing.assert_array_equal(jax.jit(alike.init)(jax.random.key(0)).learner.frozen["episode_weight"], 1)
    # A critic whose resample has no episode of a batch stands still, and the others do not know.
    frozen = state.learner.frozen | {"episode_weight": jnp.asarray(weight).at[1].set(0.0)}
    without = state.replace(learner=state.learner.replace(frozen=frozen))
    states = (state, step(without, algorithm.data)[0], step(state, algorithm.data)[0])
    of_member = [[jax.tree.map(lambda x: x[i], s.params) for s in states] for i in range(3)]  # noqa: B023
    chex.assert_trees_all_equal(*of_member[1][:2])
    for i in (0, 2):
        chex.assert_trees_all_close(*of_member[i][1:], rtol=1e-6)


def test_units_of_rewards_do_not_matter(data, tiny):
    """Rewards times 1000: the same fit, a thousand times the value."""
    algorithm, _, step = tiny
    scaled = fqe.make(Linear(), TINY, data.replace(reward=1000 * data.reward), feedback(0.8))
    values = []
    for a in (algorithm, scaled):
        state = jax.jit(a.init)(jax.random.key(0))
        for _ in range(20):
            state, _ = step(state, a.data)
        values.append(fqe.values(a, state, first(data), jax.random.key(0)))
    np.testing.assert_allclose(values[1], 1000 * values[0], rtol=2e-3)


def test_the_runner_trains_it_and_gives_the_policy_back(tiny, data):
    algorithm = tiny[0]
    result = train(algorithm, 20, hyper={"discount": [0.0, 0.9]}, evaluate_every=20)
    for member, row in enumerate(result.rows[-2:]):
        state = jax.tree.map(lambda x, m=member: x[m], result.state)
        estimate = fqe.values(algorithm, state, first(data), jax.random.key(0)).mean()
        assert row["evaluation/value"] == pytest.approx(float(estimate), rel=1e-4)
    assert all(row["evaluation/value_deviation"] > 0 for row in result.rows[-2:])
    assert result.state.learner.frozen["episode_weight"].shape == (2, 3, 150)
    chex.assert_trees_all_equal(algorithm.policy(result.state).variables["gain"], jnp.full(2, 0.8))


def test_on_many_devices(tiny):
    """Each draws from its own share of the episodes, numbered as in the whole."""
    algorithm = shard_environments(tiny[0], make_mesh(jax.devices()[:2]))
    state = tiny[1](jax.random.key(0))
    after, metrics = jax.jit(algorithm.step)(state, jax.tree.map(jnp.asarray, algorithm.data))
    assert np.isfinite(metrics["loss/critic"])
    chex.assert_tree_all_finite(after.params)


def test_what_does_not_fit_is_refused_in_one_line(data):
    env, policy = Linear(), feedback(0.0)
    ready = prepare(data, env.observation_space, env.action_space, rljax.algorithms.get("iql").Config())
    recurrent = Policy({}, jnp.zeros(3), proportional)
    for arguments, message in [
        ((env, TINY, None, policy), "needs a dataset"),
        ((env, TINY, data), "the policy that is to be evaluated"),
        ((env, TINY, ready, policy), "this one was prepared"),
        ((env, TINY, ready.dataset, policy), "this one was prepared"),
        ((env, TINY, data, recurrent), "without memory"),
        ((rljax.make("cartpole"), TINY, data, policy), "fqe needs a one-dimensional Box"),
        ((rljax.make("pendulum"), TINY, data, policy), "observations have the shape"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            fqe.make(*arguments)
        assert "\n" not in str(error.value)
    for field, value in {"members": 0, "discount": 1.1, "target_rate": 0.0, "hidden": (0,), "precision": "f8"}.items():
        with pytest.raises(ValueError, match=rf"fqe\.Config: {field} = .* is not allowed"):
            fqe.Config(**{field: value})


def test_the_policy_is_part_of_what_a_run_is(data):
    """Its arrays, and what is done with them: a run was resumed with another in its place."""

    def scaled(scale):
        return feedback(0.8).replace(function=functools.partial(proportional_by, scale))

    def proportional_by(scale, variables, key, obs, memory, deterministic):
        return scale * proportional(variables, key, obs, memory, deterministic)[0], memory

    def told(policy):
        identity = fqe.make(Linear(), TINY, data, policy).identity
        assert identity is not None
        return identity()["policy_sha256"]

    same, again, *others = map(told, [feedback(0.8), feedback(0.8), feedback(0.7), scaled(1.0), scaled(2.0)])
    assert same == again
    assert len({same, *others}) == 4
