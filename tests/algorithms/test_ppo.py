"""PPO against hand-computed cases, rlax and closed forms; and what every algorithm here must do: jit, scan, vmap."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

import rljax
from rljax.algorithms import ppo
from rljax.config import config_from_dict
from rljax.envs.mujoco.task import MujocoTask
from rljax.ops import running_statistics
from rljax.spaces import Box
from rljax.training import evaluate
from rljax.types import Refused
from tests.toys import Clock, Drift, Pixels, limited

TINY = ppo.Config(num_envs=4, rollout_length=8, num_epochs=2, num_minibatches=2, hidden=(8,))


def run(algorithm, iterations, seed=0):
    """Trains; returns the last state and the metrics of every iteration."""

    def body(state, _):
        return algorithm.step(state)

    train = jax.jit(lambda key: jax.lax.scan(body, algorithm.init(key), None, iterations))
    return train(jax.random.key(seed))


def test_clipped_objective_by_hand():
    ratio = jnp.array([1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = jnp.array([2.0, -2.0, 2.0, -2.0, 1.0])
    # Gains stop at the edge of the range; losses never do.
    expected = [1.2 * 2.0, 1.5 * -2.0, 0.5 * 2.0, 0.8 * -2.0, 1.1]
    np.testing.assert_allclose(ppo.clipped_objective(ratio, advantage, 0.2), expected, rtol=1e-6)


def test_clipped_objective_agrees_with_rlax():
    ratio = jnp.exp(jax.random.normal(jax.random.key(0), (64,)))
    advantage = jax.random.normal(jax.random.key(1), (64,))
    ours = -ppo.clipped_objective(ratio, advantage, 0.2).mean()
    np.testing.assert_allclose(ours, rlax.clipped_surrogate_pg_loss(ratio, advantage, 0.2), rtol=1e-5)


@pytest.mark.parametrize("memory", [{}, {"memory": 8}, {"memory": 4, "memory_cell": "mingru", "memory_layers": 2}])
def test_ratio_is_one_on_the_first_minibatch_with_normalised_observations(memory):
    """The log-probabilities at acting and at the update agree: same statistics, same memory, same resets."""
    env = limited(Drift(), 5)
    config = dataclasses.replace(TINY, num_epochs=1, num_minibatches=1, normalize_observation=True, **memory)
    state, metrics = run(ppo.make(env, config), 4)
    # Statistics have moved a long way by now (from deviation 1 about 0), which would show in the ratio.
    assert state.obs_statistics.mean[0] > 50.0
    np.testing.assert_allclose(metrics["policy/approximate_kl"], 0.0, atol=1e-6)
    np.testing.assert_array_equal(metrics["policy/clip_fraction"], 0.0)


@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.9)), (True, (1 - 0.9**5) / (1 - 0.9))])
def test_value_bootstraps_through_a_time_limit_but_not_through_termination(terminates, expected):
    """A reward of 1 for 5 steps: worth 1 / (1 - γ) where only the clock ended, the sum of 5 where the task did."""
    env = limited(Clock(5, terminates), 5)
    config = ppo.Config(
        num_envs=8,
        rollout_length=10,
        num_minibatches=1,
        learning_rate=1e-2,
        discount=0.9,
        hidden=(16,),
        max_grad_norm=10.0,
    )
    algorithm = ppo.make(env, config)
    state, _ = run(algorithm, 250)
    value = value_of(algorithm, state, jnp.eye(5)[0])
    np.testing.assert_allclose(value, expected, rtol=0.05)


def value_of(algorithm, state, obs):
    output: Any = algorithm.agent.network.apply(state.params["policy"], obs[None], (), jnp.zeros((1,), bool))
    return output[1][0]


def test_gradients_are_clipped_by_their_global_norm():
    """After one step Adam's first moment is a tenth of the clipped gradient, whose norm over ALL parameters is 1e-3."""
    config = dataclasses.replace(TINY, num_epochs=1, num_minibatches=1, max_grad_norm=1e-3)
    state, metrics = run(ppo.make(rljax.make("pendulum"), config), 1)
    moments = state.learner.optimizer_state["policy"][1][0].mu
    norm = jnp.sqrt(sum(jnp.square(x).sum() for x in jax.tree.leaves(moments)))
    assert metrics["gradient_norm"][0] > 1e-2
    np.testing.assert_allclose(norm, 0.1 * 1e-3, rtol=1e-4)


def test_gradients_of_policy_and_value_are_clipped_apart_where_asked():
    config = dataclasses.replace(TINY, num_epochs=1, num_minibatches=1, max_grad_norm=1e-3, separate_grad_norms=True)
    state, _ = run(ppo.make(rljax.make("pendulum"), config), 1)
    moments = state.learner.optimizer_state["policy"][1][0].mu["params"]
    assert set(moments) == {"actor", "policy", "log_std", "critic", "value"}
    for names in (("actor", "policy", "log_std"), ("critic", "value")):
        norm = jnp.sqrt(sum(jnp.square(x).sum() for name in names for x in jax.tree.leaves(moments[name])))
        np.testing.assert_allclose(norm, 0.1 * 1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "minibatch_mean"),
    [({}, False), ({"advantage_scope": "rollout"}, True)],
)
def test_advantages_are_normalised_in_each_minibatch_or_in_the_whole_rollout(changes, minibatch_mean, monkeypatch):
    loss = ppo.Agent.loss

    def spied(self, params, batch, hyper):
        total, metrics = loss(self, params, batch, hyper)
        advantage = batch.advantage
        return total, metrics | {
            "mean": advantage.mean(),
            "size": jnp.abs(advantage.mean()),
            "second": (advantage**2).mean(),
        }

    monkeypatch.setattr(ppo.Agent, "loss", spied)
    _, metrics = run(ppo.make(rljax.make("cartpole"), dataclasses.replace(TINY, num_minibatches=4, **changes)), 1)
    # The metrics are means over all minibatches, of which each pass sees all.
    np.testing.assert_allclose(metrics["mean"], 0.0, atol=1e-5)
    np.testing.assert_allclose(metrics["second"], 1.0, atol=1e-4)
    assert (metrics["size"][0] > 1e-2) == minibatch_mean


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        ("pendulum", {"normalize_observation": True, "normalize_reward": True, "value_clip_range": 0.2}),
        ("pendulum", {"squash": True, "shared_torso": True, "target_kl": 1e-9}),
        ("cartpole", {"memory": 4, "shared_torso": True, "target_kl": 0.01, "kl_response": "adapt_learning_rate"}),
        ("pendulum", {"std_type": "softplus", "state_dependent_std": True, "advantage_scope": "rollout"}),
        ("pixels", {"cnn_channels": (4,)}),
    ],
)
def test_every_option_trains_and_acts(env, changes):
    env = limited(Pixels(), 6) if env == "pixels" else rljax.make(env)
    algorithm = ppo.make(env, dataclasses.replace(TINY, **changes))
    state, metrics = run(algorithm, 3)
    chex.assert_tree_all_finite((state.params, metrics))
    before = algorithm.init(jax.random.key(0)).params
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True))
    policy = algorithm.policy(state)
    obs = env.reset(jax.random.key(3)).obs
    action, _, _ = policy.apply(jax.random.key(0), obs, policy.initial_memory)
    assert env.action_space.contains(action)
    if changes.get("target_kl") == 1e-9:  # everything after the first minibatch is past it
        np.testing.assert_allclose(metrics["updates_taken"], 1 / 4, atol=0.26)
    if "kl_response" in changes:
        assert state.learner.extras != 1.0


def test_actions_bounded_on_one_side_are_kept_within_and_are_not_squashed():
    """Element by element: [0, inf) is clipped, [-3, 5] rescaled."""
    env = Drift()
    env.action_space = Box([0.0, -3.0], [np.inf, 5.0])
    algorithm = ppo.make(env, dataclasses.replace(TINY, num_envs=1))
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.params)
    policy = algorithm.policy(shapes.replace(learner=shapes.learner.replace(params=params), obs_statistics=()))
    actions = jax.jit(lambda obs: policy(jax.random.key(0), obs, deterministic=False))(jnp.zeros((1000, 2)))
    assert env.action_space.contains(np.array([actions[:, 0].min(), actions[:, 1].min()]))
    assert env.action_space.contains(np.array([actions[:, 0].max(), actions[:, 1].max()]))
    assert (actions[:, 0] == 0).any()
    assert actions[:, 1].max() > 4.0
    with pytest.raises(Refused, match="squash = True is not allowed without both bounds of every action: Box") as error:
        ppo.make(env, dataclasses.replace(TINY, squash=True))
    assert "\n" not in str(error.value)


def test_learning_rate_falls_linearly_to_zero_and_stays():
    config = dataclasses.replace(TINY, anneal_steps=3 * 32, learning_rate=0.3)
    _, metrics = run(ppo.make(rljax.make("cartpole"), config), 5)
    np.testing.assert_allclose(metrics["learning_rate"], [0.3, 0.2, 0.1, 0.0, 0.0], atol=1e-7)


def test_named_hyperparameters_fall_with_the_learning_rate():
    names = ("clip_range", "entropy_coefficient")
    config = dataclasses.replace(TINY, anneal_steps=100, entropy_coefficient=0.1, also_annealed=names)
    agent = ppo.make(rljax.make("cartpole"), config).agent
    hyper = agent.hyper()
    for steps, left in ((0, 1.0), (25, 0.75), (100, 0.0), (1000, 0.0)):
        now, fallen = vars(agent.now(hyper, jnp.float32(steps))), {*names, "learning_rate"}
        for name, value in vars(hyper).items():
            np.testing.assert_allclose(now[name], value * left if name in fallen else value, rtol=1e-6)
    with pytest.raises(
        Refused, match=r"ppo\.Config: also_annealed = \('num_envs',\) .* names among clip_range, discount"
    ):
        ppo.make(rljax.make("cartpole"), dataclasses.replace(TINY, also_annealed=("num_envs",)))
    with pytest.raises(Refused, match=r"also_annealed = \('clip_range',\) .* empty where anneal_steps = 0"):
        ppo.make(rljax.make("cartpole"), dataclasses.replace(TINY, also_annealed=("clip_range",)))


def test_first_episodes_at_random_ages_end_at_times_of_their_own():
    """And an episode that ends by the clock in the first steps is bootstrapped as any other."""
    env = limited(Clock(8, False), 8)
    algorithm = ppo.make(env, dataclasses.replace(TINY, num_envs=64, random_age=True))

    def collected(key):
        state = algorithm.init(key)
        return algorithm.loop.collect(state, key)[1].rollout, state.env_state.info["elapsed"]

    rollout, age = jax.jit(collected)(jax.random.key(0))
    ends, number = np.nonzero(np.asarray(rollout.transition.truncated))
    assert len(np.unique(age)) > 4
    np.testing.assert_array_equal(np.sort(number), np.arange(64))  # each once in 8 steps
    np.testing.assert_array_equal(ends[np.argsort(number)], 7 - np.asarray(age))
    assert not rollout.transition.terminated.any()
    np.testing.assert_array_equal(rollout.fresh[1:], rollout.transition.truncated[:-1])
    assert rollout.fresh[0].all()


def test_reward_normalisation_divides_by_the_deviation_of_the_discounted_return():
    """Scaling all rewards changes nothing but the first digits: training is the same."""

    class Scaled(Drift):
        def step(self, state, action):
            state = super().step(state, action)
            return state.replace(reward=1000.0 * state.reward)

    config = dataclasses.replace(TINY, normalize_reward=True, normalize_observation=True)
    states = [run(ppo.make(limited(env, 5), config), 3)[0] for env in (Drift(), Scaled())]
    chex.assert_trees_all_close(states[0].params, states[1].params, atol=1e-3)
    first, second = (jnp.sqrt(running_statistics.variance(s.return_statistics)) for s in states)
    np.testing.assert_allclose(second / first, 1000.0, rtol=1e-4)


def test_policy_acts_in_the_units_of_the_environment():
    algorithm = ppo.make(limited(Drift(), 5), dataclasses.replace(TINY, initial_log_std=3.0))
    policy = algorithm.policy(algorithm.init(jax.random.key(0)))
    actions = policy(jax.random.key(0), jnp.zeros((1000, 2)), deterministic=False)
    # A wide Gaussian, clipped to the bounds -2 and 4.
    assert actions.min() == -2.0
    assert actions.max() == 4.0
    np.testing.assert_allclose(policy(jax.random.key(0), jnp.zeros(2)), 1.0, atol=1e-6)


def test_evaluation_changes_neither_state_nor_statistics_and_depends_on_its_key_alone():
    env = limited(Drift(), 5)
    algorithm = ppo.make(env, dataclasses.replace(TINY, normalize_observation=True))
    state, _ = run(algorithm, 2)
    before = jax.tree.map(np.array, (state.params, state.obs_statistics))
    results = [evaluate(env, algorithm.policy(state), jax.random.key(s), 8).returns for s in (1, 1, 2)]
    chex.assert_trees_all_equal(before, (state.params, state.obs_statistics))
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()


def test_a_policy_with_memory_says_how_to_call_it():
    algorithm = ppo.make(rljax.make("t_maze"), dataclasses.replace(TINY, memory=4))
    policy = algorithm.policy(algorithm.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"policy\.apply"):
        policy(jax.random.key(0), jnp.zeros(4))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("discount", -0.1, r"in \[0, 1\]"),
        ("learning_rate", 0.0, "positive"),
        ("num_minibatches", 7, "divisor of num_envs . rollout_length = 2048"),
        ("num_envs", 0, "at least 1"),
        ("target_kl", -1.0, "positive, or None"),
        ("kl_response", "pause", "one of stop, adapt_learning_rate"),
        ("hidden", (64, 0), "at least 1 in each layer"),
        ("activation", "sine", "one of .*tanh"),
        ("cnn_kernels", (3, 3), "of one length with cnn_channels, 1"),
        ("reset_policy", "never", "one of .*pool"),
        ("memory_cell", "rnn", "one of gru, lstm, mingru"),
        ("std_type", "scalar", "one of log, softplus"),
        ("advantage_scope", "epoch", "one of minibatch, rollout"),
        ("max_learning_rate", 1e-6, "at least min_learning_rate = 1e-05"),
    ],
)
def test_bad_settings_are_refused_with_field_value_and_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError, match=rf"^ppo\.Config: {field} = .*{allowed}"):
        ppo.Config(**{field: value})


def test_norms_of_a_shared_torso_cannot_be_apart_and_settings_of_before_are_taken():
    with pytest.raises(Refused, match="separate_grad_norms = True is not allowed; it must be False where shared_torso"):
        ppo.Config(separate_grad_norms=True, shared_torso=True)
    older = config_from_dict(ppo.Config, {"normalize_advantage": False, "memory": 4})
    assert (older.normalize_advantage, older.advantage_scope, older.memory_cell) == (False, "minibatch", "gru")


@pytest.mark.parametrize("recipe", [ppo.RSL_RL, ppo.PLAYGROUND])
def test_recipes_fit_a_task_with_bounded_actions(recipe):
    """Traced at their own size, and not run: that is for accelerators."""
    algorithm = ppo.make(rljax.make("pendulum"), recipe)
    state, metrics = jax.eval_shape(lambda key: algorithm.step(algorithm.init(key)), jax.random.key(0))
    assert state.fresh.shape == (recipe.num_envs,)
    assert algorithm.per_iteration == recipe.steps_per_iteration
    assert "loss/policy" in metrics


def test_minibatches_of_a_recurrent_agent_are_whole_sequences():
    with pytest.raises(ValueError, match="divisor of num_envs = 6"):
        ppo.Config(num_envs=6, rollout_length=8, num_minibatches=4, memory=8)


def test_learns_cartpole():
    env = rljax.make("cartpole")
    config = ppo.Config(learning_rate=1e-3, normalize_reward=True, normalize_advantage=False)
    algorithm = ppo.make(env, config)
    state, _ = run(algorithm, 60)
    assert evaluate(env, algorithm.policy(state), jax.random.key(9), 20).returns.mean() > 300


@pytest.mark.slow
def test_only_memory_solves_the_t_maze():
    """The right turn pays 4, the wrong one -0.1; 1.95 is the best that an agent without memory can do."""
    env = rljax.make("t_maze", length=4)
    returns = {}
    for memory in (0, 16):
        config = ppo.Config(
            num_envs=32, rollout_length=24, learning_rate=5e-3, hidden=(16,), memory=memory, entropy_coefficient=0.05
        )
        algorithm = ppo.make(env, config)

        def train(key, algorithm=algorithm):
            state, _ = jax.lax.scan(lambda state, _: algorithm.step(state), algorithm.init(key), None, 150)
            return evaluate(env, algorithm.policy(state), jax.random.key(9), 200).returns.mean()

        returns[memory] = jax.jit(jax.vmap(train))(jax.vmap(jax.random.key)(jnp.arange(6)))
    assert returns[0].max() < 2.5
    # In so short a training some seeds never find out what the sign is for.
    assert jnp.median(returns[16]) > 3.7


def test_what_an_environment_measures_is_logged_as_its_mean():
    class Measured(Clock):
        def reset(self, key):
            return super().reset(key).replace(metrics={"time": jnp.float32(0.0)})

        def step(self, state, action):
            state = super().step(state, action)
            return state.replace(metrics={"time": state.physics.astype(jnp.float32)})

    _, metrics = run(ppo.make(limited(Measured(3, False), 4), TINY), 2)
    # Eight steps are two episodes of four: times 1, 2, 3, 4 and again.
    np.testing.assert_allclose(metrics["env/time"].value, 2.5)
    np.testing.assert_allclose(metrics["episode/length"].value, 4.0)


def test_a_simulation_that_breaks_is_counted_and_training_goes_on():
    env = rljax.make("swimmer")
    task = env.unwrapped
    assert isinstance(task, MujocoTask)
    task.engine.model.actuator_ctrllimited[:] = 0
    task.engine.model.actuator_gear[:] *= 1e8
    state, metrics = run(ppo.make(env, dataclasses.replace(TINY, normalize_observation=True)), 3)
    assert metrics["env/unstable"].value.min() > 0.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.obs_statistics)))
    assert np.isfinite(metrics["loss/value"]).all()


def test_minibatches_of_single_steps_learn_too():
    """A single advantage less its mean is 0: those of the whole rollout are normalised instead."""
    algorithm = ppo.make(rljax.make("cartpole"), dataclasses.replace(SINGLE, num_minibatches=8))
    before = jax.jit(algorithm.init)(jax.random.key(0))
    after, _ = jax.jit(algorithm.step)(before)
    head = lambda state: state.params["policy"]["params"]["policy"]["kernel"]  # noqa: E731
    assert jnp.abs(head(after) - head(before)).max() > 1e-4


SINGLE = ppo.Config(num_envs=2, rollout_length=4, num_epochs=1, hidden=(4,))


def test_the_learning_rate_is_adapted_within_bounds_of_its_own():
    """rsl_rl's: 1.5 times less or more, but not below 1e-5 nor above 1e-2 in all, and not by a KL of 0."""

    def rate(scale, kl, asked=1e-3, least=1e-5, most=1e-2):
        return asked * ppo.adapted_scale(jnp.float32(scale), jnp.float32(asked), jnp.float32(kl), 0.01, least, most)

    np.testing.assert_allclose([rate(1.0, 0.03), rate(1.0, 0.004), rate(1.0, 0.01)], [1e-3 / 1.5, 1.5e-3, 1e-3], 1e-5)
    np.testing.assert_allclose([rate(1.0, 0.0), rate(9.0, 0.001), rate(0.011, 0.1)], [1e-3, 1e-2, 1e-5], 1e-5)
    # A rate that was asked for beyond the bounds goes back towards them, never further.
    np.testing.assert_allclose([rate(1.0, 0.001, 0.05), rate(1.0, 0.1, 0.05)], [0.05, 0.05 / 1.5], 1e-5)
    bounds = {"least": 8e-4, "most": 1.2e-3}
    np.testing.assert_allclose([rate(1.0, 0.1, **bounds), rate(1.0, 0.001, **bounds)], [8e-4, 1.2e-3], 1e-5)
