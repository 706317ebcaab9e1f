"""FlashSAC against NumPy; what every algorithm must do is in test_contract.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy

import rljax
from rljax.algorithms import flash_sac
from rljax.algorithms.core.contract import for_each
from rljax.ops.exploration import truncated_zeta
from tests.toys import Drift, limited, spaces

TINY = flash_sac.Config(
    num_envs=4,
    batch_size=16,
    replay_size=400,
    learning_starts=40,
    width=4,
    critic_width=6,
    blocks=1,
    expansion=2,
    num_atoms=11,
)


def run(algorithm, iterations, seed=0):
    """Trains; returns the last state and the metrics of every iteration."""
    train = jax.jit(lambda key: jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, iterations))
    return train(jax.random.key(seed))


@pytest.fixture(scope="module")
def drifted():
    algorithm = flash_sac.make(limited(Drift(), 7), TINY)
    return algorithm, *run(algorithm, 12)


@pytest.fixture
def batch():
    draw = np.random.default_rng(0)
    return rljax.data.Batch(
        obs=np.float32(draw.normal(size=(16, 2)) * [1, 7] + [3, 7]),
        action=np.float32(draw.uniform(-1, 1, (16, 1))),
        reward=np.float32(draw.normal(size=16)),
        next_obs=np.float32(draw.normal(size=(16, 2)) * [1, 7] + [3, 7]),
        discount=np.where(np.arange(16) < 3, 0, 0.9).astype(np.float32),
        index=np.zeros(16, np.int32),
        weight=np.ones(16, np.float32),
    )


def test_weights_have_norm_1_after_every_step_and_statistics_follow(drifted):
    algorithm, state, metrics = drifted
    np.testing.assert_array_equal(metrics["updates"], 4 * [0] + 8 * [2])
    assert np.isfinite(metrics["loss/critic"].value[4:]).all()
    first = jax.jit(algorithm.init)(jax.random.key(0))
    for part in ("policy", "critic"):
        for torso in (first.params[part]["params"]["Torso_0"], state.params[part]["params"]["Torso_0"]):
            for name, layer in torso.items():
                if "kernel" in layer:
                    np.testing.assert_allclose(np.linalg.norm(layer["kernel"], axis=-2), 1.0, rtol=1e-5, err_msg=name)
                else:
                    own = np.concatenate([layer[x] for x in ("scale", "bias") if x in layer], axis=-1)
                    root = np.sqrt(layer["scale"].shape[-1])
                    np.testing.assert_allclose(np.linalg.norm(own, axis=-1), root, rtol=1e-5, err_msg=name)
        moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), first.params[part], state.params[part])
        assert max(jax.tree.leaves(moved)) > 1e-4


def test_two_batches_share_their_statistics(batch):
    """A critic's logits by NumPy: the moments are those of (s, a) and (s', a') together."""
    agent = flash_sac.Agent(TINY, *spaces(2, 1))
    variables = jax.jit(agent.init)(jax.random.key(1)).params["critic"]
    next_action = np.linspace(-1, 1, 16, dtype=np.float32)[:, None]
    logits, next_logits, _ = jax.jit(agent.both_logits)(variables, batch, next_action)
    apart = dataclasses.replace(TINY, cross_batch=False)
    alone, _, _ = jax.jit(flash_sac.Agent(apart, *spaces(2, 1)).both_logits)(variables, batch, next_action)
    params = jax.tree.map(lambda x: np.float64(np.asarray(x)[0]), variables["params"])
    torso = params["Torso_0"]

    def normalized(x, layer):
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * layer["scale"] + layer["bias"]

    def expected(x):
        x = normalized(x, torso["BatchRenorm_0"]) @ torso["Dense_0"]["kernel"]
        inner = np.maximum(normalized(x @ torso["Dense_1"]["kernel"], torso["BatchRenorm_1"]), 0)
        x = x + np.maximum(normalized(inner @ torso["Dense_2"]["kernel"], torso["BatchRenorm_2"]), 0)
        x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * torso["RMSNorm_0"]["scale"]
        return x @ params["output"]["kernel"] + params["output"]["bias"]

    before = np.hstack([batch.obs, batch.action]).astype(float)
    both = np.vstack([before, np.hstack([batch.next_obs, next_action])])
    np.testing.assert_allclose(
        np.concatenate([np.asarray(logits)[0], np.asarray(next_logits)[0]]), expected(both), rtol=2e-3, atol=2e-4
    )
    logits, alone = np.asarray(logits), np.asarray(alone)
    np.testing.assert_allclose(alone[0], expected(before), rtol=2e-3, atol=2e-4)
    assert np.abs(alone[0] - logits[0]).max() > 0.01


def test_target_is_the_pessimistic_critics_distribution_moved_by_reward_and_entropy(batch):
    agent = flash_sac.Agent(TINY, *spaces(2, 1))
    learner = jax.jit(agent.init)(jax.random.key(2))
    next_action, bonus = np.zeros((16, 1), np.float32), np.linspace(-0.3, 0.3, 16, dtype=np.float32)
    bonus[0] = np.nan
    target = np.asarray(jax.jit(agent.target)(learner, batch, next_action, bonus))
    _, logits, _ = jax.jit(agent.both_logits)(learner.targets["critic"], batch, next_action)
    probs, atoms = scipy.special.softmax(np.asarray(logits, float), axis=-1), np.linspace(-5, 5, 11)
    smaller = np.where((probs @ atoms)[0] <= (probs @ atoms)[1], 0, 1)
    np.testing.assert_allclose(target.sum(-1), 1.0, rtol=1e-5)
    for i in range(16):
        if batch.discount[i] == 0:
            mean = np.clip(batch.reward[i], -5, 5)  # whatever the entropy of what follows an end
        else:
            moved = np.clip(batch.reward[i] + 0.9 * (atoms + bonus[i]), -5, 5)
            mean = probs[smaller[i], i] @ moved
        np.testing.assert_allclose(target[i] @ atoms, mean, rtol=1e-4, atol=1e-5)


def test_temperature_follows_the_entropy_of_a_gaussian_of_the_target_deviation(batch):
    """H = ln(2πe 0.15²) / 2 = -0.478 for each of two dimensions; above it the temperature falls, below it rises."""
    agent = flash_sac.Agent(TINY, *spaces(2, 2))
    learner, hyper, update = jax.jit(agent.init)(jax.random.key(3)), agent.hyper(), jax.jit(agent.update_policy)
    batch = batch.replace(action=np.zeros((16, 2), np.float32))
    _, metrics = update(learner, batch, jax.random.key(4), hyper)
    at = np.exp((float(metrics["policy/entropy"]) / 2) - 0.5 * np.log(2 * np.pi * np.e))  # the deviation of its entropy
    np.testing.assert_allclose(2 * 0.5 * np.log(2 * np.pi * np.e * 0.15**2), 2 * -0.478, atol=1e-3)
    for deviation, sign in ((at * 1.1, 1), (at * 0.9, -1)):
        after, _ = update(learner, batch, jax.random.key(4), hyper.replace(target_deviation=jnp.float32(deviation)))
        assert np.sign(after.params["log_temperature"]) == sign


def test_noise_is_held_for_as_long_as_was_drawn_and_environments_are_apart():
    agent = flash_sac.Agent(TINY, *spaces(2, 1))
    hyper = agent.hyper()

    @jax.jit
    def act(key):
        variables = agent.acting(agent.init(key), hyper)
        obs, memory = jnp.ones((64, 2)), for_each(agent.exploring_memory, 64)

        def step(memory, key):
            action, memory, _ = agent.explore(variables, obs, memory, key, hyper)
            return memory, (action, memory)

        _, (action, memory) = jax.lax.scan(step, memory, jax.random.split(jax.random.fold_in(key, 1), 40))
        return action, memory, agent.policy(variables["params"], obs)

    action, memory, distribution = jax.tree.map(np.asarray, act(jax.random.key(5)))
    noises, left = memory["noise"][..., 0], memory["left"]
    expected = np.tanh(distribution.mean + np.exp(distribution.log_std) * memory["noise"])
    np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)
    held = noises[1:] == noises[:-1]
    np.testing.assert_array_equal(held, left[:-1] > 0)
    assert 0.2 < held.mean() < 0.8
    assert left.max() < 16
    assert len(np.unique(noises[0])) == 64


def test_lengths_of_noise_have_the_truncated_zeta_distribution():
    drawn = np.asarray(truncated_zeta(jax.random.key(6), 2.0, 16, (200_000,)))
    weights = np.arange(1, 17) ** -2.0
    shares = np.bincount(drawn, minlength=17)[1:] / drawn.size
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.004)


def test_rewards_of_batches_are_scaled_and_those_in_the_replay_are_not(drifted):
    algorithm, state, _ = drifted
    scale = state.experience.reward_scale
    assert float(scale.greatest) > 0
    batches = jax.jit(algorithm.loop.draw)(state.learner, state.experience, jax.random.key(7), state.hyper)
    raw = np.asarray(state.experience.replay.data.reward).ravel()
    divisor = max(float(scale.greatest) / 5, float(np.sqrt(scale.statistics.m2 / scale.statistics.count)))
    drawn = np.asarray(batches.reward).ravel() * divisor
    assert np.abs(drawn[:, None] - raw[None]).min(1).max() < 1e-3 * np.abs(raw).max()


def test_learning_rate_falls_to_its_half_by_half_a_cosine():
    config = dataclasses.replace(TINY, anneal_steps=100, also_annealed=("target_rate",))
    agent = flash_sac.Agent(config, *spaces(2, 1))
    later = [agent.now(agent.hyper(), jnp.float32(step)) for step in (0, 50, 100, 1000)]
    np.testing.assert_allclose([x.learning_rate for x in later], np.array([1, 0.75, 0.5, 0.5]) * 3e-4, rtol=1e-6)
    np.testing.assert_allclose([x.target_rate for x in later], np.array([1, 0.5, 0, 0]) * 0.01, rtol=1e-6)


def test_acts_by_running_statistics_whatever_else_is_in_the_batch(drifted):
    algorithm, state, _ = drifted
    policy = algorithm.policy(state)
    obs, act = jnp.array([[100.0, 700.0], [90.0, 650.0]]), jax.jit(policy.apply, static_argnums=3)
    both = act(jax.random.key(0), obs, policy.initial_memory, True)[0]
    one = act(jax.random.key(0), obs[:1], policy.initial_memory, True)[0]
    np.testing.assert_allclose(both[:1], one, rtol=1e-5)
