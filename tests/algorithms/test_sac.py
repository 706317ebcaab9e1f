"""SAC against closed forms and NumPy; and what every algorithm here must do: jit, scan, vmap, devices."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rljax
from rljax.algorithms import sac
from rljax.algorithms.core.learner import Learner
from rljax.envs import Environment, initial_state
from rljax.nn.precision import bfloat16_dot_general
from rljax.spaces import Box
from rljax.training import evaluate
from rljax.training.devices import make_mesh, shard_environments
from tests.datasets import batch_of, hyper_of
from tests.toys import ContinuousClock, Drift, limited, spaces

TINY = sac.Config(
    num_envs=4, rollout_length=2, num_updates=2, batch_size=16, replay_size=400, learning_starts=40, hidden=(8,)
)


def run(algorithm, iterations, seed=0):
    """Trains; returns the last state and the metrics of every iteration."""

    def body(state, _):
        return algorithm.step(state)

    train = jax.jit(lambda key: jax.lax.scan(body, algorithm.init(key), None, iterations))
    return train(jax.random.key(seed))


DRIFT = sac.make(limited(Drift(), 7), TINY)


@pytest.fixture(scope="module")
def drifting():
    """`init`, and `run` for 8 iterations, of a tiny agent: compiled once for all tests of this file."""
    return jax.jit(DRIFT.init), jax.jit(lambda state: jax.lax.scan(lambda s, _: DRIFT.step(s), state, None, 8))


class Bandit(Environment):
    """One step of an episode: an action in [-1, 1] costs its distance from `best`, squared and times `scale`."""

    name = "bandit"
    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Box(-1.0, 1.0, (1,))

    def __init__(self, best, scale):
        self.best, self.scale = best, scale

    def reset(self, key):
        return initial_state(jnp.int32(0), jnp.zeros(1))

    def step(self, state, action):
        reward = -self.scale * jnp.square(action[0] - self.best)
        return state.replace(reward=reward, terminated=jnp.array(True))


def critic_values(algorithm, state, obs, action):
    """Of both critics at one observation and action."""
    critic = algorithm.agent.critic
    return jax.vmap(lambda params: critic.apply(params, obs, action))(state.params["critic"])


@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.99)), (True, (1 - 0.99**5) / (1 - 0.99))])
def test_value_bootstraps_through_a_time_limit_but_not_through_termination(terminates, expected):
    """A reward of 1 for 5 steps: worth 1 / (1 - γ) where only the clock ended, the sum of 5 where the task did."""
    config = dataclasses.replace(
        TINY,
        hidden=(32,),
        discount=0.99,
        learn_temperature=False,
        initial_temperature=1e-6,
        batch_size=64,
        critic_learning_rate=1e-2,
        target_rate=0.5,
        num_updates=16,
        policy_delay=16,
        learning_starts=200,
    )
    env = limited(ContinuousClock(5, terminates), 5)
    algorithm = sac.make(env, config)
    state, _ = run(algorithm, 1200)
    # Before the truncated step (the last of the five), and at the start.
    for time, value in ((4, 1.0 if terminates else expected), (0, expected)):
        values = critic_values(algorithm, state, jnp.eye(5)[time], jnp.zeros(1))
        np.testing.assert_allclose(values, value, rtol=0.05, atol=0.15)


def test_policy_of_a_bandit_is_the_boltzmann_distribution_of_its_rewards():
    """With fixed α the best policy is π(a) ∝ exp(r(a) / α) (2018a, eq. 4), here nearly a normal distribution."""
    best, scale, temperature = 0.3, 5.0, 0.2
    config = dataclasses.replace(
        TINY,
        hidden=(64,),
        batch_size=128,
        learn_temperature=False,
        initial_temperature=temperature,
        learning_rate=3e-3,
        critic_learning_rate=1e-2,
        num_updates=4,
        replay_size=2000,
    )
    algorithm = sac.make(limited(Bandit(best, scale), 1), config)
    state, _ = run(algorithm, 400)
    policy = algorithm.policy(state)
    keys = jax.random.split(jax.random.key(1), 4000)
    actions = jax.vmap(lambda key: policy(key, jnp.zeros(1), deterministic=False))(keys)
    np.testing.assert_allclose(actions.mean(), best, atol=0.05)
    np.testing.assert_allclose(actions.std(), np.sqrt(temperature / (2 * scale)), atol=0.03)


def test_temperature_brings_the_entropy_to_its_target():
    """With rewards all alike entropy is free, and the temperature falls until it stops paying for it."""
    config = dataclasses.replace(
        TINY,
        hidden=(16,),
        learning_rate=1e-2,
        critic_learning_rate=1e-2,
        temperature_learning_rate=1e-2,
        num_updates=4,
        initial_temperature=0.1,
        target_entropy_per_dim=-1.0,
    )
    _, metrics = run(sac.make(limited(Bandit(0.0, 2.0), 1), config), 1000)
    np.testing.assert_allclose(metrics["policy/entropy"].value[-100:].mean(), -1.0, atol=0.15)
    # The Boltzmann policy of that entropy: log sqrt(2πe) + log σ = -1 with σ² = α / (2 * scale).
    deviation = np.exp(-1.0) / np.sqrt(2 * np.pi * np.e)
    np.testing.assert_allclose(metrics["policy/temperature"].value[-100:].mean(), 4.0 * deviation**2, rtol=0.4)


def test_target_is_the_minimum_of_the_critics_less_the_entropy_term():
    """One update of the critics by hand, with NumPy's arithmetic for the target."""
    config = dataclasses.replace(TINY, num_updates=1, learning_starts=0, rollout_length=1, policy_delay=1)
    algorithm = sac.make(limited(Drift(), 7), config)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    for _ in range(3):
        state, _ = jax.jit(algorithm.step)(state)
    after, metrics = jax.jit(algorithm.step)(state)
    # What the step draws, drawn again from the same keys.
    _, _, sample_key, learn_key = jax.random.split(state.key, 4)
    replay = rljax.data.Replay(*_replay_arguments(algorithm))
    batch = replay.sample(after.experience.replay, sample_key, config.batch_size, config.discount)
    critic_key, _ = jax.random.split(jax.random.split(learn_key, 1)[0])
    action_key = jax.random.split(jax.random.split(critic_key, 1)[0], 4)[0]
    distribution = algorithm.agent.actor.apply(state.params["policy"], batch.next_obs)
    next_action, log_prob = distribution.sample_and_log_prob(action_key)
    critic = algorithm.agent.critic

    def values(params, obs, action):
        return np.stack([np.asarray(critic.apply(jax.tree.map(lambda x: x[i], params), obs, action)) for i in range(2)])  # noqa: B023

    next_value = values(state.learner.targets["critic"], batch.next_obs, next_action).min(0)
    alpha = 1.0 * np.exp(np.float32(state.params["log_temperature"]))
    target = np.asarray(batch.reward) + np.asarray(batch.discount) * (next_value - alpha * np.asarray(log_prob))
    error = 0.5 * np.square(values(state.params["critic"], batch.obs, batch.action) - target).mean(-1).sum()
    np.testing.assert_allclose(metrics["loss/critic"].value, error, rtol=1e-3)


def test_targets_may_do_without_the_entropy_and_critics_may_have_widths_of_their_own():
    """RLPD's backup_entropy=False, and Cal-QL's deeper critics."""
    batch, keys = batch_of(), [jax.random.key(seed) for seed in (3, 4, 5)]
    config = dataclasses.replace(TINY, hidden=(8,), critic_hidden=(4, 4, 4))

    @jax.jit
    def targets(key):
        both = [dataclasses.replace(config, entropy_in_target=on) for on in (True, False)]
        with_it, without = (sac.Agent(each, *spaces(3, 2)) for each in both)
        learner, hyper = with_it.init(key), hyper_of(sac, config)
        _, log_prob = with_it.policy(learner.params["policy"], batch.next_obs).sample_and_log_prob(keys[0])
        found = [agent.target(learner, batch, keys, hyper) for agent in (with_it, without)]
        return *found, hyper.initial_temperature * log_prob, learner.params

    with_it, without, cost, params = targets(jax.random.key(0))
    np.testing.assert_allclose(with_it, without - batch.discount * cost, rtol=1e-4, atol=1e-5)
    assert np.abs(with_it - without).max() > 0.1
    widths = {part: max(x.shape[-1] for x in jax.tree.leaves(params[part])) for part in ("policy", "critic")}
    assert widths == {"policy": 8, "critic": 4}


def _replay_arguments(algorithm):
    scalar, flag = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), bool)
    obs, action = jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    c = algorithm.config
    return rljax.types.Transition(obs, action, scalar, flag, flag, obs), c.replay_size, c.num_envs


def test_nothing_is_learned_before_learning_starts_and_actions_are_uniform(drifting):
    init, run = drifting
    first = init(jax.random.key(0))
    state, metrics = run(first)
    # 8 steps an iteration: the fifth fills the 40.
    np.testing.assert_array_equal(metrics["updates"], [0, 0, 0, 0, 2, 2, 2, 2])
    assert not metrics["loss/critic"].count[:4].any()
    assert np.isfinite(metrics["loss/critic"].value[4:]).all()
    actions = np.asarray(state.experience.replay.data.action[:, :10]).ravel()
    assert actions.min() < -0.7
    assert actions.max() > 0.7
    # Starting two iterations further back, there are 8 iterations without an update.
    untouched, metrics = run(first.replace(iteration=jnp.int32(-4)))
    np.testing.assert_array_equal(metrics["updates"], np.zeros(8))
    chex.assert_trees_all_equal(untouched.learner, first.learner)


def test_every_update_moves_the_targets(drifting):
    """Not once per iteration, whatever the number of gradient steps."""
    init, run = drifting
    state = init(jax.random.key(0))
    learner = state.learner.replace(targets=jax.tree.map(jnp.zeros_like, state.learner.targets))
    frozen = state.hyper.replace(critic_learning_rate=jnp.float32(0.0), target_rate=jnp.float32(0.1))
    state, _ = run(state.replace(learner=learner, hyper=frozen))  # four iterations of two updates
    kernel = lambda tree: tree["critic"]["params"]["MLP_0"]["output"]["kernel"]  # noqa: E731
    np.testing.assert_allclose(kernel(state.learner.targets) / kernel(state.params), 1 - 0.9**8, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"num_critics": 4, "policy_value": "mean", "policy_delay": 2},  # REDQ
        {"layer_norm": True, "dropout": 0.1, "num_updates": 4, "policy_delay": 4},  # DroQ
        {"precision": "bfloat16", "normalize_observation": True},
        {"n_step": 3, "storage": "bfloat16", "reset_policy": "full"},
    ],
    ids=["redq", "droq", "bfloat16", "n_step"],
)
def test_options_train(options):
    algorithm = sac.make(limited(Drift(), 7), dataclasses.replace(TINY, **options))
    state, metrics = run(algorithm, 8)
    assert np.isfinite(metrics["loss/critic"].value[-1])
    action = algorithm.policy(state)(jax.random.key(0), jnp.array([100.0, 700.0]))
    assert action.shape == (1,)
    assert -2.0 <= action[0] <= 4.0


def test_learning_rates_fall_over_the_run_and_nothing_else_does():
    config = dataclasses.replace(TINY, anneal_steps=32)
    agent = sac.Agent(config, *spaces(2, 1))
    hyper = agent.hyper()
    after = agent.now(hyper, jnp.float32(8.0))
    for name, value in vars(after).items():
        share = 0.75 if name.endswith("learning_rate") else 1.0
        np.testing.assert_allclose(value, share * getattr(hyper, name), rtol=1e-6)
    # Learning starts after 40 steps, when nothing is left.
    algorithm = sac.make(limited(Drift(), 7), config)
    state, metrics = run(algorithm, 8)
    assert metrics["updates"][-1] == 2
    chex.assert_trees_all_equal(state.params, jax.jit(algorithm.init)(jax.random.key(0)).params)


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices")
@pytest.mark.parametrize("devices", [2, 4])
def test_over_devices_each_has_its_own_experience_and_all_learn_the_same(devices):
    algorithm = sac.make(limited(Drift(), 7), dataclasses.replace(TINY, normalize_observation=True))
    sharded = shard_environments(algorithm, make_mesh(jax.devices()[:devices]))
    state = jax.jit(sharded.init)(jax.random.key(0))
    state, metrics = jax.jit(lambda s: jax.lax.scan(lambda s, _: sharded.step(s), s, None, 7))(state)
    reward = state.experience.replay.data.reward
    assert reward.shape == (4, 100)
    assert [shard.data.shape for shard in reward.addressable_shards] == [(4 // devices, 100)] * devices
    assert len(np.unique(np.asarray(reward[:, :14]).round(5))) > 50
    for leaf in jax.tree.leaves((state.learner, state.experience.obs_statistics)):
        replicas = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        for replica in replicas[1:]:
            np.testing.assert_array_equal(replica, replicas[0])
    assert float(state.experience.obs_statistics.count) == 7 * 8
    assert np.isfinite(metrics["loss/critic"].value[-1])


def test_a_batch_that_does_not_divide_over_devices_is_refused():
    algorithm = sac.make(limited(Drift(), 7), dataclasses.replace(TINY, batch_size=15))
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    sharded = shard_environments(algorithm, make_mesh(jax.devices()[:2]))
    with pytest.raises(ValueError, match="batch_size = 15 does not divide over 2 devices"):
        jax.eval_shape(sharded.step, jax.eval_shape(sharded.init, jax.random.key(0)))


def test_a_compiled_step_holds_one_copy_of_the_buffer():
    config = dataclasses.replace(TINY, replay_size=400_000)
    algorithm = sac.make(limited(Drift(), 7), config)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.experience.replay))

    def steps(state):
        return jax.lax.fori_loop(0, 100, lambda _, s: algorithm.step(s)[0], state)

    memory = jax.jit(steps, donate_argnums=0).lower(state).compile().memory_analysis()
    assert memory.alias_size_in_bytes > size
    assert memory.temp_size_in_bytes < size / 20


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("num_updates", 0, "at least 1"),
        ("replay_size", 3, "at least 12, for num_envs and n_step"),
        ("policy_delay", 3, "a divisor of num_updates = 2"),
        ("num_target_critics", 3, "from 1 to num_critics = 2"),
        ("target_rate", 0.0, r"in \(0, 1\]"),
        ("precision", "float16", "one of"),
        ("storage", "int4", "one of bfloat16, uint8, or None"),
        ("dropout", 1.0, r"in \[0, 1\)"),
        ("initial_temperature", 0.0, "positive"),
    ],
)
def test_bad_settings_are_refused(field, value, allowed):
    with pytest.raises(ValueError, match=f"{field} = .* is not allowed; it must be {allowed}"):
        dataclasses.replace(TINY, **{field: value})


def test_environments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="sac needs a one-dimensional Box of actions with bounds"):
        sac.make(rljax.make("cartpole"))


def test_bfloat16_products_are_near_and_so_are_their_gradients():
    x, w = jax.random.normal(jax.random.key(0), (3, 5, 32)), jax.random.normal(jax.random.key(1), (32, 16))
    layer, exact = nn.Dense(16, dot_general=bfloat16_dot_general), nn.Dense(16)
    params = {"params": {"kernel": w, "bias": jnp.zeros(16)}}
    results = [
        jax.value_and_grad(lambda p, x, layer=layer: jnp.square(layer.apply(p, x)).mean(), (0, 1))(params, x)
        for layer in (layer, exact)
    ]
    for low, high in zip(*map(jax.tree.leaves, results), strict=True):
        assert low.dtype == jnp.float32
        scale = jnp.abs(high).max()
        assert 0 < jnp.abs(low - high).max() < 0.02 * scale or low.size == 1
    with pytest.raises(ValueError, match="a product of a dense layer"):
        bfloat16_dot_general(x, w, (((0,), (0,)), ((), ())))


def test_adam_of_a_learner_is_optax_adam():
    params, gradient = {"a": jnp.array([1.0, 2.0])}, jnp.array([0.5, -1.0])
    learner = Learner.init(params, {"a": optax.adam(0.1)}, targets=("a",))
    learner = learner.descend("a", gradient, optax.adam(0.1)).move_target("a", 0.25)
    updates, _ = optax.adam(0.1).update(gradient, optax.adam(0.1).init(params["a"]))
    expected = optax.apply_updates(params["a"], updates)
    np.testing.assert_allclose(learner.params["a"], expected)
    np.testing.assert_allclose(learner.targets["a"], 0.75 * params["a"] + 0.25 * expected)


@pytest.mark.slow
def test_learns_pendulum():
    config = sac.Config(learning_starts=1_000, replay_size=20_000)
    env = rljax.make("pendulum")
    algorithm = sac.make(env, config)
    state, _ = run(algorithm, 20_000)
    episodes = jax.jit(lambda policy, key: evaluate(env, policy, key, 100))(algorithm.policy(state), jax.random.key(9))
    assert episodes.returns.mean() > -160
