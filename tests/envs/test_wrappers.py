"""Wrappers, on a counter whose every step can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rljax.envs import (
    ActionChunk,
    ActionRepeat,
    AutoReset,
    EpisodeStatistics,
    ExecutionMismatch,
    Guard,
    ObservationHistory,
    RescaleAction,
    TimeLimit,
    initial_state,
    make,
)
from rljax.envs.environment import Environment
from rljax.envs.episodes import play
from rljax.envs.wrappers import PotentialShaping
from rljax.policy import Policy
from rljax.spaces import Box, Discrete
from rljax.training import evaluate
from tests.toys import Clock


class Counter(Environment):
    """Counts its steps. Rewards are 1, 2, 3, …; terminates at `length`. The action is kept in the observation."""

    name = "counter"

    def __init__(self, length=10, action_space=None):
        self.length = length
        self.observation_space = Box(-np.inf, np.inf, (2,))
        self.action_space = action_space or Box([-2.0, 0.0], [2.0, 1.0])

    def reset(self, key):
        return initial_state(jnp.zeros((), jnp.int32), jnp.zeros(2))

    def step(self, state, action):
        count = state.physics + 1
        return state.replace(
            physics=count,
            obs=jnp.asarray(action, jnp.float32),
            reward=count.astype(jnp.float32),
            terminated=count >= self.length,
            truncated=jnp.zeros((), bool),
        )


def run(env, steps, action=(0.0, 0.0)):
    """The states after each step, stacked by a scan."""

    @jax.jit
    def scan(key):
        def body(state, _):
            state = env.step(state, jnp.asarray(action))
            return state, state.replace(info={})

        return jax.lax.scan(body, env.reset(key), None, steps)[1]

    return jax.tree.map(np.asarray, scan(jax.random.key(0)))


def test_a_time_limit_is_not_termination():
    states = run(TimeLimit(Counter(length=100), 3), 3)
    assert states.truncated.tolist() == [False, False, True]
    assert not states.terminated.any()


def test_a_step_that_terminates_at_the_limit_is_not_truncated():
    states = run(TimeLimit(Counter(length=3), 3), 3)
    assert states.terminated.tolist() == [False, False, True]
    assert not states.truncated.any()


def test_nested_time_limits_stop_at_the_shorter():
    env = TimeLimit(TimeLimit(Counter(), 2), 5)
    assert env.max_episode_steps == 2
    assert run(env, 2).truncated.tolist() == [False, True]


@pytest.mark.parametrize(
    ("inner", "outer", "ends", "length"),
    [(6, 5, 3, 6), (100, 2, 2, 4)],  # the inner limit, of steps; the outer one, of actions
)
def test_a_time_limit_within_and_one_around_action_repeat_are_both_kept(inner, outer, ends, length):
    env = TimeLimit(ActionRepeat(TimeLimit(Counter(length=100), inner), 2), outer)
    assert env.max_episode_steps == ends
    states = run(EpisodeStatistics(env), ends)
    assert states.truncated.tolist() == [False] * (ends - 1) + [True]
    assert states.metrics["episode_length"][-1] == length  # steps of the task


def test_wrappers_of_one_kind_keep_apart_what_they_carry():
    actions = [[1.0, 0.1], [2.0, 0.2], [2.0, 0.3]]
    obs, _, _ = actions_of(ObservationHistory(ObservationHistory(Counter(), 2), 2), actions)
    np.testing.assert_allclose(obs[2], [1.0, 0.1, 2.0, 0.2, 2.0, 0.2, 2.0, 0.3])
    obs, _, _ = actions_of(ExecutionMismatch(ExecutionMismatch(Counter(), delay=1), delay=1), actions)
    np.testing.assert_allclose(obs, [[1.0, 0.1], [1.0, 0.1], [1.0, 0.1]])

    def shaped(env):
        return PotentialShaping(env, lambda obs: jnp.float32(1.0), 0.5)

    env = EpisodeStatistics(shaped(EpisodeStatistics(shaped(EpisodeStatistics(Counter())))))
    state = env.reset(jax.random.key(0))
    for _ in range(3):
        state = env.step(state, jnp.zeros(2))
    totals = [kept["return"] for name, kept in state.info.items() if name.startswith("episode")]
    assert sorted(totals) == [1 + 2 + 3 - 2 * 1.5, 1 + 2 + 3 - 1.5, 1 + 2 + 3]


class Faulty(Counter):
    """Goes on when it is broken: what it shows or pays at step `at` is not finite; it can succeed for one step."""

    def __init__(self, at, what="obs", value=np.nan, length=10):
        super().__init__(length)
        self.at, self.what, self.value = at, what, value

    def reset(self, key):
        return initial_state(jnp.zeros((), jnp.int32), jnp.zeros(2), success=jnp.zeros((), bool), reward_twice=0.0)

    def step(self, state, action):
        after = super().step(state, action)
        bad = after.physics == self.at
        broken = {self.what: jnp.where(bad, self.value, getattr(after, self.what))}
        metrics = {"success": after.physics == 1, "reward_twice": 2.0 * after.reward + jnp.where(bad, self.value, 0.0)}
        return after.replace(**broken, metrics=metrics)


@pytest.mark.parametrize(("what", "value"), [("obs", np.nan), ("obs", np.inf), ("reward", np.nan), ("reward", -np.inf)])
def test_a_broken_simulation_ends_its_own_episode_and_reaches_nothing_else(what, value):
    """One of two environments breaks, at its second step; through everything that training puts around it."""
    env = AutoReset(EpisodeStatistics(Guard.around(TimeLimit(Faulty(2, what, value), 9))), 2)
    assert Guard.around(env.env) is env.env

    @jax.jit
    def step(state):
        state = state.replace(physics=state.physics.at[1].set(jnp.where(state.physics[1] == 1, 4, state.physics[1])))
        return env.step(state, jnp.ones((2, 2)))

    states = [env.reset(jax.random.key(0))]
    for _ in range(3):
        states.append(step(states[-1]))
    after = states[2]
    assert after.truncated.tolist() == [True, False]
    assert after.terminated.tolist() == [False, False]
    assert after.reward.tolist() == [0, 5]
    np.testing.assert_array_equal(after.info["next_obs"], np.ones((2, 2)))  # the last good one
    np.testing.assert_array_equal(after.obs, [[0, 0], [1, 1]])
    assert after.metrics["unstable"].tolist() == [1, 0]
    assert after.metrics["episode_return"].tolist() == [1, 6]
    assert after.metrics["reward_twice"].tolist() == [0, 10]
    assert states[3].metrics["unstable"].tolist() == [0, 0]
    for leaf in jax.tree.leaves([state.replace(info=state.info | {"fresh": ()}) for state in states]):
        assert np.isfinite(leaf).all()


def test_a_termination_stays_one_where_its_observation_is_not_finite():
    states = run(Guard(Faulty(3, value=np.inf, length=3)), 3, action=(1.0, 1.0))
    assert states.terminated.tolist() == [False, False, True]
    assert not states.truncated.any()
    assert states.reward.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(states.obs, np.ones((3, 2)))
    assert states.metrics["unstable"].tolist() == [0, 0, 1]


def test_broken_episodes_reach_neither_evaluation_nor_the_data_of_demonstrators():
    env = TimeLimit(Faulty(3, "reward"), 5)
    policy = Policy((), (), lambda _, key, obs, memory, deterministic: (jnp.ones((2, 2)), memory, ()))
    episodes = jax.jit(lambda key: evaluate(env, policy, key, 2))(jax.random.key(0))
    assert episodes.returns.tolist() == [3, 3]
    assert episodes.lengths.tolist() == [3, 3]
    assert episodes.highest["reward_twice"].tolist() == [4, 4]
    steps, _, ends = play(env, policy, jax.random.key(0), 2)
    assert ends.tolist() == [3, 6]
    assert steps.reward.tolist() == [1, 2, 0] * 2


@pytest.mark.parametrize("several", [ActionRepeat, ActionChunk])
def test_metrics_of_an_action_are_those_of_all_its_steps(several):
    """Success within it is not lost, parts of the reward add up as the reward does, and others are of its last step."""
    env = several(EpisodeStatistics(Faulty(99, length=5)), 3)
    states = run(env, 2, np.zeros(env.action_space.shape))
    assert states.metrics["success"].tolist() == [True, False]
    assert states.reward.tolist() == [1 + 2 + 3, 4 + 5]  # the second ends after two of three
    assert states.metrics["reward_twice"].tolist() == [2 * 6, 2 * 9]
    assert states.metrics["episode_return"].tolist() == [6, 15]


def test_all_that_a_task_is_paid_for_adds_up_to_the_reward_of_an_action():
    env = ActionRepeat(make("inverted_double_pendulum"), 4)
    state = jax.jit(env.step)(jax.jit(env.reset)(jax.random.key(0)), jnp.ones(1))
    parts = [state.metrics[name] for name in ("reward_survive", "distance_penalty", "velocity_penalty")]
    np.testing.assert_allclose(sum(parts), state.reward, rtol=1e-6)


@pytest.mark.parametrize("wrapper", [TimeLimit, ActionRepeat, ActionChunk, ObservationHistory])
def test_a_limit_or_repeat_below_one_is_refused(wrapper):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        wrapper(Counter(), 0)


@pytest.mark.parametrize(("length", "limit"), [(2, 3), (3, 2), (3, 3)])
def test_an_episode_ends_once_for_one_reason_at_the_earlier_of_length_and_limit(length, limit):
    states = run(TimeLimit(Counter(length), limit), min(length, limit))
    assert states.done.tolist() == [False] * (min(length, limit) - 1) + [True]
    assert states.terminated[-1] == (length <= limit)
    assert states.truncated[-1] == (limit < length)


def test_rescaled_actions_reach_the_bounds_exactly_and_are_clipped_outside():
    env = RescaleAction(Counter())
    np.testing.assert_array_equal(env.action_space.low, [-1, -1])
    np.testing.assert_array_equal(env.action_space.high, [1, 1])
    state = env.reset(jax.random.key(0))
    for action, expected in [((-1, -1), (-2, 0)), ((1, 1), (2, 1)), ((0, 0.5), (0, 0.75)), ((-9, 9), (-2, 1))]:
        np.testing.assert_array_equal(env.step(state, jnp.array(action, jnp.float32)).obs, expected)


# Subnormal numbers are flushed to zero by XLA on CPU.
bounds = st.floats(-100, 100, width=32, allow_subnormal=False)


@settings(max_examples=50, deadline=None)
@given(st.tuples(bounds, bounds).map(sorted), st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=2).map(sorted))
def test_rescaled_actions_keep_their_order_and_stay_within_bounds(interval, actions):
    low, high = interval
    env = RescaleAction(Counter(action_space=Box(low, high, (1,))))
    first, second = (env.rescale(np.full(1, a, np.float32)) for a in actions)
    assert env.env.action_space.contains(first)
    assert env.env.action_space.contains(second)
    assert np.all(first <= second)


largest = np.nextafter(np.finfo(np.float32).max, np.float32(0)).item()  # the one above it stands for no bound
large = st.floats(-largest, largest, width=32, allow_subnormal=False)


@settings(max_examples=50, deadline=None)
@given(st.tuples(large, large).map(sorted), st.floats(-1, 1, width=32, allow_subnormal=False))
@example([-largest, largest], 0.25)
@example([-largest, largest], -1.0)
def test_rescaled_actions_are_finite_and_map_back_whatever_the_bounds(interval, action):
    low, high = interval
    space = Box(low, high, (1,))
    rescaled = np.asarray(RescaleAction(Counter(action_space=space)).rescale(np.full(1, action, np.float32)))
    assert np.isfinite(rescaled).all()
    assert space.contains(rescaled)
    low, high = np.array(interval, np.float64)
    if high - low > 1e-3 * max(abs(low), abs(high)) > 1e-30:
        np.testing.assert_allclose(space.to_unit(rescaled), action, atol=1e-3)


def test_an_action_that_lacks_a_bound_keeps_its_units_and_is_clipped_to_the_bound_it_has():
    env = RescaleAction(Counter(action_space=Box([0.0, -np.inf, 2.0, -np.inf], [np.inf, 5.0, 4.0, np.inf])))
    np.testing.assert_array_equal(env.action_space.low, [0, -np.inf, -1, -np.inf])
    np.testing.assert_array_equal(env.action_space.high, [np.inf, 5, 1, np.inf])
    np.testing.assert_array_equal(env.rescale(jnp.array([-3.0, -9.0, -1.0, -9.0])), [0.0, -9.0, 2.0, -9.0])
    np.testing.assert_array_equal(env.rescale(jnp.array([7.0, 9.0, 0.5, 9.0])), [7.0, 5.0, 3.5, 9.0])


def test_actions_are_rescaled_onto_another_box_within_the_bounds():
    """As where a policy imitates data that do not use the whole of the bounds."""
    env = RescaleAction(Counter(), Box([-1.0, 0.25], [1.0, 7.0]))
    np.testing.assert_array_equal(env.action_space.low, [-1, -1])
    np.testing.assert_array_equal(env.rescale(jnp.array([0.5, -1.0])), [0.5, 0.25])
    np.testing.assert_array_equal(env.rescale(jnp.array([[1.0, 1.0]])), [[1.0, 1.0]])  # the bound is 1
    other = env.rescale(jnp.array([0.5, 0.0]), (np.zeros(2), np.ones(2)))
    np.testing.assert_array_equal(other, [0.75, 0.5])


def test_integer_actions_are_rescaled_to_the_nearest():
    env = RescaleAction(Counter(action_space=Box(0, 10, (2,), np.uint8)))
    assert env.action_space.dtype == np.float32
    rescaled = env.rescale(jnp.array([0.19, 1.0]))
    assert rescaled.dtype == jnp.uint8
    assert rescaled.tolist() == [6, 10]


@pytest.mark.parametrize("space", [Discrete(2), Box(-np.inf, np.inf, (1,))])
def test_rescaling_needs_finite_bounds(space):
    with pytest.raises(ValueError, match="finite bounds"):
        RescaleAction(Counter(action_space=space))


def test_a_repeated_action_sums_the_rewards():
    states = run(ActionRepeat(Counter(), 3), 3)
    assert states.reward.tolist() == [1 + 2 + 3, 4 + 5 + 6, 7 + 8 + 9]
    assert states.physics.tolist() == [3, 6, 9]
    assert not states.done.any()


def test_a_repeated_action_stops_where_the_episode_ends():
    states = run(ActionRepeat(Counter(length=4), 3), 2)
    assert states.reward.tolist() == [6, 4]
    assert states.physics.tolist() == [3, 4]
    assert states.terminated.tolist() == [False, True]


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7))
def test_repeating_actions_does_not_change_the_return(repeat, length):
    calls = -(-length // repeat)
    states = run(ActionRepeat(Counter(length), repeat), calls)
    assert states.terminated.tolist() == [False] * (calls - 1) + [True]
    assert states.reward.sum() == length * (length + 1) / 2


def actions_of(env, actions):
    """The observations, rewards and ends after each of these actions."""

    def step(state, action):
        state = env.step(state, action)
        return state, (state.obs, state.reward, state.done)

    return jax.lax.scan(step, env.reset(jax.random.key(0)), jnp.asarray(actions, jnp.float32))[1]


def test_a_chunk_does_its_actions_in_order_and_stops_where_the_episode_ends():
    env = ActionChunk(Counter(length=5), 3)
    assert env.action_space.shape == (6,)
    np.testing.assert_array_equal(env.action_space.high, [2, 1] * 3)
    chunk = [0.0, 0.1, 1.0, 0.2, 2.0, 0.3]
    obs, reward, done = actions_of(env, [chunk, chunk])
    np.testing.assert_allclose(obs, [[2.0, 0.3], [1.0, 0.2]])  # the second ends after two of three
    assert reward.tolist() == [1 + 2 + 3, 4 + 5]
    assert done.tolist() == [False, True]
    assert env.steps_per_action == 3
    assert ActionChunk(TimeLimit(Counter(), 10), 3).max_episode_steps == 4


@pytest.mark.parametrize("wrapper", [ActionChunk, ActionRepeat])
def test_what_steps_several_times_may_be_wrapped_by_what_adds_metrics(wrapper):
    """Of a task that hands on only its own, as MuJoCo's do."""
    env = EpisodeStatistics(wrapper(make("inverted_pendulum"), 2))
    state = env.reset(jax.random.key(0))
    for _ in range(2):
        state = jax.jit(env.step)(state, jnp.zeros(env.action_space.shape))
    assert (state.metrics["episode_return"], state.metrics["episode_length"]) == (4.0, 4)
    assert state.metrics["reward_survive"] == 2.0  # of both steps, as the reward


def test_a_history_repeats_the_first_observation_and_then_moves_on():
    env = ObservationHistory(Counter(), 3)
    assert env.observation_space.shape == (6,)
    np.testing.assert_array_equal(env.reset(jax.random.key(0)).obs, np.zeros(6))
    obs, _, _ = actions_of(env, [[1.0, 0.1], [2.0, 0.2], [3.0, 0.3], [4.0, 0.4]])
    np.testing.assert_allclose(obs[1], [0, 0, 1.0, 0.1, 2.0, 0.2])
    np.testing.assert_allclose(obs[3], [2.0, 0.2, 3.0, 0.3, 4.0, 0.4])


def test_a_history_begins_anew_after_a_reset():
    envs = AutoReset(ObservationHistory(Counter(length=2), 2), 1)
    state, step = jax.jit(envs.reset)(jax.random.key(0)), jax.jit(envs.step)
    for action in ([1.0, 0.1], [2.0, 0.2]):
        state = step(state, jnp.array([action]))
    np.testing.assert_allclose(state.info["next_obs"], [[1.0, 0.1, 2.0, 0.2]])
    np.testing.assert_array_equal(state.obs, np.zeros((1, 4)))
    state = step(state, jnp.array([[1.5, 0.5]]))
    np.testing.assert_allclose(state.obs, [[0, 0, 1.5, 0.5]])


def test_what_is_executed_is_delayed_smoothed_and_limited():
    asked = [[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [2.0, 1.0]]

    def executed(**mismatch):
        return np.asarray(actions_of(ExecutionMismatch(Counter(), **mismatch), asked)[0])

    np.testing.assert_array_equal(executed(), asked)
    np.testing.assert_array_equal(executed(delay=2), [asked[0], asked[0], asked[0], asked[1]])
    np.testing.assert_allclose(executed(smoothing=0.5)[:, 0], [0, 1, 1.5, 1.75])
    # The ranges are 4 and 1.
    np.testing.assert_allclose(executed(rate_limit=0.25), [[0, 0], [1, 0], [2, 0.25], [2, 0.5]])
    np.testing.assert_allclose(executed(delay=1, smoothing=0.5, rate_limit=0.2)[:, 0], [0, 0, 0.8, 1.4])


def test_a_mismatch_by_name_and_bad_ones():
    env = make("pendulum", mismatch={"delay": 1, "smoothing": 0.25})
    assert env.spec == {"name": "pendulum", "mismatch": {"delay": 1, "smoothing": 0.25}}
    assert isinstance(env, ExecutionMismatch)
    assert env.delay == 1
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\), got 1"):
        ExecutionMismatch(Counter(), smoothing=1.0)
    with pytest.raises(ValueError, match=r"pendulum: mismatch: .*'speed'; it takes: delay, smoothing, rate_limit"):
        make("pendulum", mismatch={"speed": 1.0})
    with pytest.raises(ValueError, match="needs a Box of actions with finite bounds"):
        make("cartpole", mismatch={"delay": 1})


def test_steps_per_action_multiply():
    assert ActionRepeat(Counter(), 4).steps_per_action == 4
    assert TimeLimit(ActionRepeat(ActionRepeat(Counter(), 2), 3), 5).steps_per_action == 6


def test_a_time_limit_inside_action_repeat_counts_steps_of_the_task():
    env = ActionRepeat(TimeLimit(Counter(length=100), 5), 2)
    assert env.max_episode_steps == 3
    states = run(env, 3)
    assert states.truncated.tolist() == [False, False, True]
    assert states.physics.tolist() == [2, 4, 5]


def test_a_time_limit_outside_action_repeat_counts_actions():
    env = TimeLimit(ActionRepeat(Counter(length=100), 2), 3)
    assert env.max_episode_steps == 3
    states = run(env, 3)
    assert states.truncated.tolist() == [False, False, True]
    assert states.physics.tolist() == [2, 4, 6]


def test_statistics_are_running_totals():
    states = run(EpisodeStatistics(Counter(length=3)), 3)
    assert states.metrics["episode_return"].tolist() == [1, 3, 6]
    assert states.metrics["episode_length"].tolist() == [1, 2, 3]


def test_statistics_count_steps_of_the_task_under_action_repeat():
    states = run(EpisodeStatistics(ActionRepeat(TimeLimit(Counter(length=100), 5), 2)), 3)
    assert states.metrics["episode_return"].tolist() == [3, 10, 15]
    assert states.metrics["episode_length"].tolist() == [2, 4, 5]


@pytest.mark.parametrize("policy", ["pool", "full", "first"])
def test_statistics_show_the_totals_where_an_episode_ends_and_start_again_after_an_auto_reset(policy):
    env = AutoReset(EpisodeStatistics(TimeLimit(Counter(length=3), 5)), 2, policy)
    states = run(env, 5, np.zeros((2, 2), np.float32))
    for column in range(2):
        assert states.metrics["episode_return"][:, column].tolist() == [1, 3, 6, 1, 3]
        assert states.metrics["episode_length"][:, column].tolist() == [1, 2, 3, 1, 2]


def test_statistics_of_a_real_task_equal_the_sums_of_its_rewards():
    env = AutoReset(EpisodeStatistics(make("cartpole")), 4)
    states = run(env, 40, np.ones(4, np.int32))
    assert states.done.any(axis=0).all()
    for column in range(4):
        ends = np.flatnonzero(states.done[:, column])
        lengths = np.diff(ends, prepend=-1)
        np.testing.assert_array_equal(states.metrics["episode_length"][ends, column], lengths)
        np.testing.assert_array_equal(states.metrics["episode_return"][ends, column], lengths)


def test_wrappers_pass_on_name_spaces_and_the_task_itself():
    inner = Counter()
    env = EpisodeStatistics(RescaleAction(TimeLimit(inner, 5)))
    assert env.unwrapped is inner
    assert env.name == "counter"
    assert env.max_episode_steps == 5
    assert env.observation_space is inner.observation_space
    assert "Counter(counter)" in repr(env)


def test_the_range_of_bytes_does_not_wrap_around():
    task = Counter()
    task.action_space = Box(-100, 100, (1,), np.int8)
    np.testing.assert_array_equal(ExecutionMismatch(task, rate_limit=1.0).most, [200.0])


class BadStart(Clock):
    """Its first observation is not finite, in every other episode; all that follows is."""

    def reset(self, key):
        bad = jax.random.bernoulli(key)
        state = super().reset(key)
        return state.replace(obs=jnp.where(bad, jnp.nan, state.obs))


def test_an_episode_that_begins_broken_is_over_after_one_step_and_shows_zeros():
    env = AutoReset(Guard.around(TimeLimit(BadStart(2, False), 2)), 8)
    state = env.reset(jax.random.key(0))
    bad = np.asarray((state.obs == 0).all(-1))
    assert 0 < bad.sum() < 8
    after = jax.jit(env.step)(state, jnp.zeros(8, jnp.int32))
    np.testing.assert_array_equal(after.truncated, bad)
    np.testing.assert_array_equal(after.metrics["unstable"], bad)
    np.testing.assert_array_equal(after.reward, ~bad)
    for leaf in (state.obs, after.obs, after.info["next_obs"]):
        assert np.isfinite(leaf).all()


def test_an_evaluation_counts_an_episode_that_begins_broken():
    policy = Policy((), (), lambda _, key, obs, memory, deterministic: (jnp.zeros(len(obs), jnp.int32), memory, ()))
    episodes = jax.jit(lambda key: evaluate(TimeLimit(BadStart(2, False), 2), policy, key, 8))(jax.random.key(0))
    broken = np.asarray(episodes.highest["unstable"])
    assert 0 < broken.sum() < 8
    np.testing.assert_array_equal(episodes.lengths, np.where(broken, 1, 2))
    np.testing.assert_array_equal(episodes.returns, np.where(broken, 0, 2))


def test_the_widest_bounds_leave_a_rate_limit_finite():
    env = Faulty(3)
    env.action_space = Box(-3.4e38, 3.4e38, (1,))
    assert np.isfinite(ExecutionMismatch(env, rate_limit=0.1).most).all()
