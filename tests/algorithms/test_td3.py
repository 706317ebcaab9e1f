"""TD3 against NumPy and closed forms; and what every algorithm here must do: jit, scan, vmap, devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import td3
from rljax.ops import categorical
from rljax.spaces import vector
from rljax.training import evaluate
from rljax.training.devices import make_mesh, shard_environments
from tests.toys import ContinuousClock, Drift, limited

TINY = td3.Config(num_envs=4, batch_size=16, replay_size=400, learning_starts=40, hidden=(8,))
# One episode is of 7 steps, which no rollout of 2 divides.
FAST = dataclasses.replace(
    TINY,
    num_atoms=11,
    value_min=-50.0,
    value_max=10.0,
    noise_min=0.1,
    noise_max=0.4,
    policy_value="min",
    n_step=3,
    normalize_observation=True,
    layer_norm=True,
    critic_hidden=(16,),
)

BFLOAT16 = dataclasses.replace(TINY, precision="bfloat16", reset_policy="full", normalize_observation=True)


def run(algorithm, iterations, seed=0):
    """Trains; returns the last state and the metrics of every iteration."""

    def body(state, _):
        return algorithm.step(state)

    train = jax.jit(lambda key: jax.lax.scan(body, algorithm.init(key), None, iterations))
    return train(jax.random.key(seed))


def outputs(config, params, obs, action):
    """Of both critics, one by one."""
    critic = td3.Critic(config, vector(obs.shape[-1]))
    return np.stack([np.asarray(critic.apply(jax.tree.map(lambda x: x[i], params), obs, action)) for i in range(2)])  # noqa: B023


def test_smoothing_noise_is_clipped_and_so_is_what_it_leads_to():
    action = jnp.broadcast_to(jnp.array([0.0, 0.9]), (4000, 2))
    moved = td3.perturbed(action, jax.random.key(0), 0.2, 0.3)
    free, edge = moved[:, 0], moved[:, 1]
    np.testing.assert_allclose([free.min(), free.max()], [-0.3, 0.3], rtol=1e-6)
    np.testing.assert_allclose((jnp.abs(free) < 0.2).mean(), 0.683, atol=0.03)  # within one deviation
    np.testing.assert_allclose([edge.min(), edge.max()], [0.6, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(td3.perturbed(action, jax.random.key(0), 0.0), action)


@pytest.mark.parametrize("num_atoms", [0, 11], ids=["values", "distributions"])
def test_target_takes_the_smaller_critic_at_the_smoothed_target_action(num_atoms):
    """The loss of one update, by hand: what the step draws is drawn again from its keys, the rest is NumPy."""
    config = dataclasses.replace(
        TINY,
        num_updates=1,
        policy_delay=1,
        learning_starts=0,
        target_noise=0.5,
        num_atoms=num_atoms,
        value_min=-60.0,
        value_max=20.0,
        discount=0.9,
        critic_learning_rate=1e-2,
    )
    algorithm = td3.make(rljax.make("pendulum"), config)
    step = jax.jit(algorithm.step)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    for _ in range(3):
        state, _ = step(state)
    after, metrics = step(state)

    _, _, sample_key, learn_key = jax.random.split(state.key, 4)
    obs, scalar, flag = (jax.ShapeDtypeStruct(*x) for x in (((3,), jnp.float32), ((), jnp.float32), ((), bool)))
    example = rljax.types.Transition(obs, jax.ShapeDtypeStruct((1,), jnp.float32), scalar, flag, flag, obs)
    replay = rljax.data.Replay(example, config.replay_size, config.num_envs)
    batch = replay.sample(after.experience.replay, sample_key, config.batch_size, config.discount)
    noise_key = jax.random.split(jax.random.split(jax.random.split(learn_key, 1)[0])[0], 1)[0]

    targets = state.learner.targets
    action = td3.Actor(config, 1, vector(3)).apply(targets["policy"], batch.next_obs)
    noise = np.clip(0.5 * jax.random.normal(noise_key, action.shape), -0.5, 0.5)
    next_output = outputs(config, targets["critic"], batch.next_obs, np.clip(action + noise, -1, 1))
    output = outputs(config, state.params["critic"], batch.obs, batch.action)
    reward, discount = np.asarray(batch.reward), np.asarray(batch.discount)
    if num_atoms:
        atoms = np.linspace(-60.0, 20.0, num_atoms, dtype=np.float32)
        probs = np.asarray(jax.nn.softmax(next_output))
        means = probs @ atoms
        assert 0 < means.argmin(0).sum() < config.batch_size  # sometimes one, sometimes the other
        smaller = np.where((means[0] <= means[1])[:, None], probs[0], probs[1])
        target = np.stack(
            [categorical.project(jnp.asarray(atoms), r + d * atoms, p) for r, d, p in zip(reward, discount, smaller)]
        )
        error = -(target * np.asarray(jax.nn.log_softmax(output))).sum(-1).mean(-1).sum()
        value = (np.asarray(jax.nn.softmax(output)) @ atoms).mean()
    else:
        assert 0 < next_output.argmin(0).sum() < config.batch_size
        error = np.square(output - (reward + discount * next_output.min(0))).mean(-1).sum()
        value = output.mean()
    np.testing.assert_allclose(metrics["loss/critic"].value, error, rtol=1e-4)
    np.testing.assert_allclose(metrics["value/mean"].value, value, rtol=1e-4)


def test_policy_and_targets_move_only_with_the_delayed_update():
    """With policies that hardly learn, targets at 0 move 1 - 0.9^k of the way in k delayed updates."""
    kernel = lambda tree: tree["params"]["MLP_0"]["output"]["kernel"]  # noqa: E731
    for updates, delay in ((2, 1), (4, 2)):
        config = dataclasses.replace(
            TINY,
            num_updates=updates,
            policy_delay=delay,
            learning_rate=1e-6,
            critic_learning_rate=1e-12,
            target_rate=0.1,
            learning_starts=0,
        )
        algorithm = td3.make(limited(Drift(), 7), config)
        state = jax.jit(algorithm.init)(jax.random.key(0))
        before = state.params["policy"]
        learner = state.learner.replace(targets=jax.tree.map(jnp.zeros_like, state.learner.targets))
        state, _ = jax.jit(algorithm.step)(state.replace(learner=learner))
        delayed = updates // delay
        for part in ("policy", "critic"):
            share = kernel(state.learner.targets[part]) / kernel(state.params[part])
            np.testing.assert_allclose(share, 1 - 0.9**delayed, rtol=1e-2)
        # Adam's first steps are as long as the learning rate, and the optimiser counts them.
        assert int(state.learner.optimizer_state["policy"][0].count) == delayed
        assert int(state.learner.optimizer_state["critic"][0].count) == updates
        moved = jnp.abs(kernel(state.params["policy"]) - kernel(before)).max()
        np.testing.assert_allclose(moved, delayed * 1e-6, rtol=0.1)


@pytest.mark.parametrize(
    ("num_atoms", "terminates", "expected"),
    [(0, False, 1 / (1 - 0.9)), (0, True, (1 - 0.9**5) / (1 - 0.9)), (21, False, 1 / (1 - 0.9))],
)
def test_value_bootstraps_through_a_time_limit_but_not_through_termination(num_atoms, terminates, expected):
    """A reward of 1 for 5 steps: worth 1 / (1 - γ) where only the clock ended, the sum of 5 where the task did."""
    config = dataclasses.replace(
        TINY,
        hidden=(32,),
        discount=0.9,
        batch_size=64,
        critic_learning_rate=1e-2,
        target_rate=0.5,
        num_updates=8,
        num_atoms=num_atoms,
        value_min=0.0,
        value_max=12.0,
    )
    algorithm = td3.make(limited(ContinuousClock(5, terminates), 5), config)
    state, _ = run(algorithm, 300)
    # Before the last of the five steps, and at the start.
    for time, value in ((4, 1.0 if terminates else expected), (0, expected)):
        output = outputs(config, state.params["critic"], jnp.eye(5)[time], jnp.zeros(1))
        if num_atoms:
            output = categorical.mean(categorical.support(0.0, 12.0, num_atoms), output)
        np.testing.assert_allclose(output, value, rtol=0.05)


def test_nothing_is_learned_before_learning_starts_and_actions_are_uniform():
    algorithm = td3.make(rljax.make("pendulum"), dataclasses.replace(TINY, exploration_noise=0.01))
    assert algorithm.config.first_learning_iteration == 4
    state, metrics = run(algorithm, 7)
    # 8 steps an iteration: the fifth fills the 40.
    np.testing.assert_array_equal(metrics["updates"], [0, 0, 0, 0, 2, 2, 2])
    assert not metrics["loss/critic"].count[:4].any()
    assert np.isfinite(metrics["loss/critic"].value[4:]).all()
    actions = np.asarray(state.experience.replay.data.action[..., 0])
    assert actions[:, :10].min() < -0.7
    assert actions[:, :10].max() > 0.7
    # Then it acts by the policy: nearly the same everywhere, but for the noise.
    assert 0 < actions[:, 10:14].std() < 0.2


def test_noise_has_a_scale_of_its_own_in_each_environment_and_a_new_one_in_each_episode():
    """Episodes of 7 steps in rollouts of 2: ends are seen wherever in a rollout they are."""
    config = dataclasses.replace(FAST, learning_rate=1e-12, learning_starts=0)
    algorithm = td3.make(limited(Drift(), 7), config)

    def body(state, _):
        state, _ = algorithm.step(state)
        return state, state.experience.memory

    # A policy that answers 0, so that actions are the noise.
    state = jax.jit(algorithm.init)(jax.random.key(0))
    params = state.params | {"policy": jax.tree.map(jnp.zeros_like, state.params["policy"])}
    state = state.replace(learner=state.learner.replace(params=params))
    state, level = jax.jit(lambda state: jax.lax.scan(body, state, None, 45))(state)
    level, episode = np.asarray(level), np.arange(90) // 7
    # That of the last step of each rollout.
    changed = level[1:] != level[:-1]
    np.testing.assert_array_equal(changed, (np.diff(episode[1::2]) > 0)[:, None] & np.ones(4, bool))
    assert len(np.unique(level[0])) == 4
    assert 0.0 <= level.min() < 0.2
    assert 0.8 < level.max() < 1.0
    # A rollout whose second step begins an episode has the scale of before it at its first step.
    of_steps = np.repeat(level, 2, axis=0)
    begins = np.flatnonzero(episode[1::2] != episode[::2])
    of_steps[2 * begins] = level[begins - 1]
    # The first actions are uniform.
    start = 2 * config.first_learning_iteration + 2
    actions = np.asarray(state.experience.replay.data.action[:, start:90, 0])
    scale = 0.1 + 0.3 * of_steps[start:].T
    np.testing.assert_allclose((actions / scale).std(), 1.0, atol=0.12)
    assert np.corrcoef(np.abs(actions).ravel(), scale.ravel())[0, 1] > 0.2


@pytest.mark.parametrize("options", [FAST, BFLOAT16], ids=["fast", "bfloat16"])
def test_options_train_and_act_in_the_units_of_the_environment(options):
    algorithm = td3.make(limited(Drift(), 7), options)
    state, metrics = run(algorithm, 10)
    assert np.isfinite(metrics["loss/critic"].value[-1])
    policy = algorithm.policy(state)
    obs = jnp.broadcast_to(jnp.array([100.0, 700.0]), (500, 2))
    actions = policy(jax.random.key(0), obs, deterministic=False)
    assert actions.min() >= -2.0
    assert actions.max() <= 4.0
    middle = policy(jax.random.key(0), obs[0])
    np.testing.assert_array_equal(policy(jax.random.key(1), obs[0]), middle)
    # σ is a share of half the range, 3: the fixed one, or the middle of the range of scales.
    np.testing.assert_allclose(actions.std(), 3 * (0.25 if options is FAST else 0.1), rtol=0.15)


@pytest.mark.slow
def test_distributions_learn_to_keep_a_point_in_its_place():
    """On Drift the best action takes the point back to 100; an untrained one drifts off by 1 a step."""
    config = dataclasses.replace(
        FAST,
        hidden=(32, 32),
        critic_hidden=None,
        n_step=1,
        batch_size=128,
        num_updates=4,
        learning_rate=3e-3,
        critic_learning_rate=3e-3,
        target_rate=0.05,
        discount=0.8,
        replay_size=4000,
        learning_starts=200,
        num_atoms=51,
        value_min=-30.0,
        value_max=0.0,
    )
    env = limited(Drift(), 7)
    algorithm = td3.make(env, config)
    state, _ = run(algorithm, 400)
    returns = {
        name: evaluate(env, algorithm.policy(s), jax.random.key(5), 64).returns.mean()
        for name, s in (("untrained", jax.jit(algorithm.init)(jax.random.key(0))), ("trained", state))
    }
    assert returns["untrained"] < -20.0
    assert returns["trained"] > -7.0


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices")
def test_over_devices_each_has_its_own_experience_and_all_learn_the_same():
    algorithm = td3.make(limited(Drift(), 7), FAST)
    sharded = shard_environments(algorithm, make_mesh(jax.devices()[:4]))
    state = jax.jit(sharded.init)(jax.random.key(0))
    state, metrics = jax.jit(lambda s: jax.lax.scan(lambda s, _: sharded.step(s), s, None, 7))(state)
    for leaf, shape in (
        (state.experience.replay.data.reward, (1, 100)),
        (state.experience.memory, (1,)),
    ):
        assert [shard.data.shape for shard in leaf.addressable_shards] == [shape] * 4
    assert len(np.unique(state.experience.memory)) == 4
    assert len(np.unique(np.asarray(state.experience.replay.data.reward[:, :14]).round(5))) > 50
    for leaf in jax.tree.leaves((state.learner, state.experience.obs_statistics)):
        replicas = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(replicas) == 4
        for replica in replicas[1:]:
            np.testing.assert_array_equal(replica, replicas[0])
    assert np.isfinite(metrics["loss/critic"].value[-1])


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("policy_delay", 3, "a divisor of num_updates = 2"),
        ("num_updates", 3, "a divisor of num_updates = 3"),
        ("target_rate", 0.0, r"in \(0, 1\]"),
        ("discount", 1.5, r"in \[0, 1\]"),
        ("learning_rate", 0.0, "positive"),
        ("target_noise_clip", -0.5, "0 or more"),
        ("noise_min", 0.2, "at least noise_min = 0.2"),
        ("num_atoms", 1, "0, or at least 2"),
        ("value_max", -10.0, "more than value_min = -10.0"),
        ("critic_hidden", (8, 0), "at least 1 in each layer"),
        ("policy_value", "mean", "one of first, min"),
        ("activation", "sine", "one of .*tanh"),
        ("precision", "float16", "one of"),
    ],
)
def test_bad_settings_are_refused(field, value, allowed):
    with pytest.raises(ValueError, match=rf"^td3\.Config: \w+ = .* is not allowed; it must be {allowed}"):
        dataclasses.replace(TINY, **{field: value})


def test_environments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="td3 needs a one-dimensional Box of actions with bounds"):
        td3.make(rljax.make("cartpole"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"num_atoms": 51, "value_min": -800.0, "value_max": 0.0}], ids=["values", "distributions"]
)
def test_learns_pendulum(options):
    config = td3.Config(
        learning_starts=1_000, replay_size=20_000, learning_rate=1e-3, critic_learning_rate=1e-3, **options
    )
    env = rljax.make("pendulum")
    algorithm = td3.make(env, config)
    state, _ = run(algorithm, 10_000)
    episodes = jax.jit(lambda policy, key: evaluate(env, policy, key, 100))(algorithm.policy(state), jax.random.key(9))
    assert episodes.returns.mean() > -170
