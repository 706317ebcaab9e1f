"""Diffusion and flow policies: samplers against closed forms, small data learned, chunks executed in order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.algorithms import diffusion
from rljax.algorithms.diffusion import Agent, Config, cosine_schedule
from rljax.data.chunks import ChunkBatch, Chunks
from rljax.training.evaluate import evaluate
from tests.algorithms.test_offline import plain
from tests.datasets import dataset_of, gates_data, hyper_of
from tests.runs import train
from tests.toys import Drift, Gates, limited, spaces

OBJECTIVES = ("diffusion", "flow")
SMALL = {"width": 32, "blocks": 1, "horizon": 2, "executed": 2, "history": 1, "normalize_observation": False}


def agent_of(**options):
    return Agent(Config(**SMALL | options), *spaces(3, 1))


def test_the_schedule_is_that_of_the_paper():
    alpha, sigma = cosine_schedule(100)
    t = np.arange(101) / 100
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2  # eq. 17
    np.testing.assert_allclose(alpha**2, f / f[0], atol=1e-12)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-12)
    assert (alpha[0], sigma[0]) == (1.0, 0.0)
    assert alpha[-1] < 1e-8


def exact_velocity(config, mean, deviation):
    """The best that a network could say where all actions are normal: by Bayes' rule, linear in the noisy chunk."""

    def velocity(params, chunk, time, obs, label=None):
        t = jnp.asarray(time)[..., None, None]
        if config.objective == "flow":
            alpha, sigma, signs = t, 1.0 - t, (1.0, -1.0)  # action - noise
        else:
            schedule = cosine_schedule(config.denoising_steps)
            at = jnp.round(t * config.denoising_steps).astype(int)
            alpha, sigma = (jnp.float32(x)[at] for x in schedule)
            signs = (-sigma, alpha)  # alpha noise - sigma action
        gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
        action = mean + gain * (chunk - alpha * mean)
        noise = (chunk - alpha * action) / jnp.maximum(sigma, 1e-6)
        return signs[0] * action + signs[1] * noise

    return velocity


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("deviation", "steps", "tolerance"), [(0.0, 3, 1e-4), (0.2, 100, 0.02)])
def test_the_sampler_carries_noise_to_the_data(objective, deviation, steps, tolerance):
    """Normal actions: its path from w ends in mean + deviation w. A single action is reached in any number of steps."""
    agent = agent_of(objective=objective, sampler_steps=steps)
    agent.velocity = exact_velocity(agent.config, 0.3, deviation)
    noise = jnp.linspace(-2.0, 2.0, 10).reshape(5, 2, 1)
    chunk = agent.sample_chunk({}, jnp.zeros((5, 3)), noise)
    np.testing.assert_allclose(chunk, 0.3 + deviation * noise, atol=tolerance)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_is_least_for_the_exact_velocity(objective):
    agent = agent_of(objective=objective)
    batch = ChunkBatch(jnp.zeros((4096, 3)), jnp.full((4096, 2, 1), 0.3), jnp.zeros(4096, int), jnp.ones(4096))
    learner, hyper = agent.init(jax.random.key(0)), hyper_of(diffusion, agent.config)
    untrained = agent.update(learner, batch, jax.random.key(2), hyper)[1]["loss/policy"]
    exact, network = exact_velocity(agent.config, 0.3, 0.0), agent.velocity
    agent.velocity = lambda params, *x: exact(params, *x) + 0.0 * network(params, *x)
    assert agent.update(learner, batch, jax.random.key(2), hyper)[1]["loss/policy"] < 1e-6
    assert untrained > 0.3


@settings(max_examples=20, deadline=None)
@given(st.floats(0.0, 1e4), st.integers(0, 2**31 - 1))
def test_actions_are_in_bounds_and_no_chance_is_left_for_any_noise(scale, seed):
    for agent, params in LEARNERS:
        obs_key, noise_key = jax.random.split(jax.random.key(seed))
        obs, noise = jax.random.normal(obs_key, (4, 3)), scale * jax.random.normal(noise_key, (4, 2, 1))
        chunk = agent.sample_chunk(params, obs, noise)
        assert jnp.abs(chunk).max() <= 1.0
        np.testing.assert_array_equal(chunk, agent.sample_chunk(params, obs, noise))


def random_params(agent):
    params = agent.init(jax.random.key(0)).params["policy"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(tree, [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)])


LEARNERS = [(agent, random_params(agent)) for agent in (agent_of(objective=o, sampler_steps=2) for o in OBJECTIVES)]


def two_ways(length=60):
    """One observation, and two things that are done in it, chunk by chunk: -0.5, -0.5 and 0.5, 0.5 (in units)."""
    side = np.repeat(np.random.default_rng(0).choice([-1.0, 1.0], length), 2)
    action = 1.0 + 1.5 * side  # of [-2, 4]
    return dataset_of(
        np.zeros((2 * length, 2)), action[:, None], np.zeros(2 * length), truncated=np.arange(2 * length) % 2
    )


@pytest.mark.parametrize(
    "options", [{"objective": "diffusion"}, {"objective": "flow"}, {"network": "transformer", "width": 16}]
)
def test_it_learns_both_of_two_ways_and_nothing_between(options):
    config = Config(**SMALL | {"learning_rate": 3e-3, "average_rate": 0.02, "sampler_steps": 10} | options)
    algorithm = diffusion.make(limited(Drift(), 4), config, two_ways())
    state = jax.jit(algorithm.init)(jax.random.key(0))
    data = jax.tree.map(jnp.asarray, algorithm.data)
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: algorithm.step(s, data), s, None, 800))(state)
    policy = algorithm.policy(state)
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (200, *x.shape)), policy.initial_memory)
    first, memory, _ = policy.apply(jax.random.key(1), jnp.zeros((200, 2)), memory, False)
    second, _, _ = policy.apply(jax.random.key(2), jnp.zeros((200, 2)), memory, False)
    near = [np.abs(np.asarray(first) - way)[:, 0] < 0.6 for way in (-0.5, 2.5)]
    assert (near[0] | near[1]).mean() > 0.9
    assert 0.25 < near[0].mean() < 0.75
    # A chunk is all of one way.
    assert (np.sign(first - 1.0) == np.sign(second - 1.0)).mean() > 0.95


def test_what_weighs_nothing_is_not_learned_and_labels_tell_apart():
    """Label 0 does -1, label 1 does 1; a third of all, of label 1, does -0.8 and weighs nothing."""
    label = np.tile([0, 1, 1], 40)
    action, weight = np.tile([-1.0, 1.0, -0.8], 40), np.tile([1.0, 1.0, 0.0], 40)
    data = dataset_of(np.zeros((120, 3)), action[:, None], np.zeros(120))
    config = Config(**SMALL | {"labels": 2, "learning_rate": 3e-3, "average_rate": 0.05, "horizon": 1, "executed": 1})
    agent = Agent(config, *spaces(3, 1))
    chunks = jax.tree.map(jnp.asarray, Chunks.of(data, 1, 1, label, weight))
    hyper = hyper_of(diffusion, config)

    @jax.jit
    def learn(learner, key):
        def update(learner, key):
            sample_key, update_key = jax.random.split(key)
            return agent.update(learner, chunks.sample(sample_key, 64), update_key, hyper)

        return jax.lax.scan(update, learner, jax.random.split(key, 600))[0]

    params = learn(agent.init(jax.random.key(0)), jax.random.key(2)).targets["policy"]
    noise, obs = jax.random.normal(jax.random.key(3), (100, 1, 1)), jnp.zeros((100, 3))
    for told, expected in ((0, -1.0), (1, 1.0)):
        chunk = agent.sample_chunk(params, obs, noise, jnp.full(100, told))
        assert np.abs(chunk - expected).mean() < 0.2
    free = np.asarray(agent.sample_chunk(params, obs, noise)).ravel()
    assert 0.2 < (free > 0).mean() < 0.8


def test_guidance_goes_beyond_the_label():
    agent = agent_of(labels=1, guidance=2.0, objective="flow", sampler_steps=1)
    agent.velocity = lambda params, chunk, time, obs, label=None: jnp.full(chunk.shape, 0.1 if label is None else 0.3)
    noise = jnp.zeros((1, 2, 1))
    np.testing.assert_allclose(agent.sample_chunk({}, jnp.zeros((1, 3)), noise, jnp.zeros(1, int)), 0.5, rtol=1e-6)
    np.testing.assert_allclose(agent.sample_chunk({}, jnp.zeros((1, 3)), noise), 0.1, rtol=1e-6)


def test_chunks_are_done_in_order_then_sampled_anew_from_the_last_observations():
    config = Config(**SMALL | {"history": 2, "horizon": 4, "executed": 3})
    env = limited(Drift(), 10)
    agent = Agent(config, *spaces(2, 1))
    seen = []

    def sample(params, obs, noise, label=None):
        jax.debug.callback(lambda obs: seen.append(np.asarray(obs).tolist()), obs)
        return obs[..., -1:, None] + jnp.arange(4.0)[:, None] / 10

    agent.sample_chunk = sample
    units = (np.float32([-2.0]), np.float32([4.0]))
    policy = diffusion.chunked_policy(agent, env, {"params": {}, "action_range": units})
    memory, actions = policy.initial_memory, []
    for time in range(5):
        action, memory, _ = policy.apply(jax.random.key(0), jnp.array([0.0, time / 10]), memory)
        actions.append((float(action[0]) - 1.0) / 3.0)  # in units
    jax.effects_barrier()
    np.testing.assert_allclose(actions, [0.0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)
    np.testing.assert_allclose(seen, [[0, 0, 0, 0], [0, 0.2, 0, 0.3]], atol=1e-6)


def test_its_policy_is_evaluated_with_its_memory():
    env = limited(Drift(), 5)
    algorithm = diffusion.make(env, Config(**SMALL, sampler_steps=2), two_ways())
    policy = algorithm.policy(jax.jit(algorithm.init)(jax.random.key(0)))
    for deterministic in (True, False):
        episodes = jax.jit(lambda key, d=deterministic: evaluate(env, policy, key, 4, d))(jax.random.key(1))
        assert episodes.lengths.tolist() == [5] * 4
        assert (np.ptp(plain(episodes.returns)) > 0) == (not deterministic) or deterministic


def test_declared_bounds_that_the_data_do_not_use_change_nothing():
    """Data in ±1, bounds of ±50: the agent learns the same, and its policy acts within what was shown."""
    rng = np.random.default_rng(0)
    action = np.stack([rng.uniform(-1, 1, 60), np.full(60, 0.3)], axis=1)  # of which one never varies
    data = dataset_of(rng.normal(size=(60, 2)), action, np.zeros(60), truncated=np.arange(60) % 10 == 9)
    config = Config(**SMALL, sampler_steps=2)
    learned = {bound: diffusion.make(limited(Gates(bound), 4), config, data) for bound in (1.0, 50.0)}
    np.testing.assert_array_equal(*(np.asarray(algorithm.data.action) for algorithm in learned.values()))
    varying, constant = np.asarray(learned[50.0].data.action).T
    assert (varying.min(), varying.max()) == (-1.0, 1.0)
    assert (constant == 0.0).all()
    acted = []
    for algorithm in learned.values():
        policy = algorithm.policy(algorithm.init(jax.random.key(0)))
        memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (100, *x.shape)), policy.initial_memory)
        acted.append(policy.apply(jax.random.key(1), jnp.zeros((100, 2)), memory, False)[0])
    np.testing.assert_allclose(*acted, atol=1e-6)
    assert action[:, 0].min() <= acted[0][:, 0].min() < -0.9
    assert 0.9 < acted[0][:, 0].max() <= action[:, 0].max()
    np.testing.assert_array_equal(acted[0][:, 1], np.float32(0.3))


@pytest.mark.slow
@pytest.mark.parametrize("bound", [1.0, 2.0, 4.0, 10.0, 50.0])
def test_gates_are_passed_whatever_bounds_are_declared(bound):
    env = limited(Gates(bound), 10)
    config = Config(history=1, horizon=1, executed=1, width=64, blocks=2, average_rate=5e-3, anneal_steps=3000)
    algorithm = diffusion.make(env, config, gates_data())
    policy = train(algorithm, 3000).policy
    episodes = jax.jit(lambda policy: evaluate(env, policy, jax.random.key(9), 300, deterministic=False))(policy)
    assert episodes.highest["success"].mean() >= 0.95


def test_bad_settings_are_refused():
    for options, message in (
        ({"executed": 9}, r"executed = 9 is not allowed; it must be in \[1, horizon\]"),
        ({"sampler_steps": 101}, "sampler_steps = 101 is not allowed; it must be at most denoising_steps"),
        ({"objective": "score"}, "objective = 'score' is not allowed; it must be one of diffusion, flow"),
        (
            {"action_normalization": "max"},
            "action_normalization = 'max' is not allowed; it must be one of minmax, quant",
        ),
        ({"network": "unet"}, "network = 'unet' is not allowed; it must be one of mlp, transformer"),
    ):
        with pytest.raises(ValueError, match=message):
            Config(**options)
