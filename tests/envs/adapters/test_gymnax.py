"""The adapter of gymnax, against gymnax itself, before and since it tells truncation from termination."""

import dataclasses
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import ppo
from rljax.envs import AutoReset, make
from rljax.envs.adapters.gymnax import GymnaxEnvironment
from rljax.types import Refused

LIMIT, GOAL = 4, 3


@dataclasses.dataclass(frozen=True)
class Parameters:
    max_steps_in_episode: int = LIMIT
    goal: int = GOAL

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Position:
    time: jax.Array
    terminal: jax.Array


class Merged:
    """As gymnax 0.0.9: `done` is termination or time limit, and the state remembers it."""

    def reset_env(self, key, params):
        del key, params
        return jnp.int32(0), Position(0, False)

    def step_env(self, key, state, action, params):
        del key, action
        time = state.time + 1
        done = self.is_terminal(Position(time, state.terminal), params)
        return time, Position(time, done), 1, done, {}

    def is_terminal(self, state, params):
        return (state.time >= params.max_steps_in_episode) | (state.time == params.goal) | state.terminal

    def observation_space(self, params):
        del params
        return types.SimpleNamespace(n=9)

    def action_space(self, params):
        del params
        return types.SimpleNamespace(low=-1.0, high=1.0, shape=(1,))


class Separate(Merged):
    """As gymnax 1.x: `step_env` returns termination alone."""

    def is_terminal(self, state, params):
        return (state.time == params.goal) | state.terminal

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode


@pytest.mark.parametrize("signature", [Merged, Separate])
@pytest.mark.parametrize(
    ("params", "steps", "terminated"),
    [(Parameters(), 3, True), (Parameters(goal=9), 4, False), (Parameters(goal=4), 4, True)],
)
def test_termination_and_time_limit_are_told_apart_and_the_last_observation_survives(
    signature, params, steps, terminated
):
    env = AutoReset(GymnaxEnvironment(signature(), params), 2)
    state, step = env.reset(jax.random.key(0)), jax.jit(env.step)
    for count in range(steps):
        assert not state.done.any(), count
        state = step(state, jnp.zeros((2, 1)))
    assert state.terminated.tolist() == [terminated] * 2
    assert state.truncated.tolist() == [not terminated] * 2
    assert state.info["next_obs"].argmax(-1).tolist() == [steps] * 2
    assert state.obs.argmax(-1).tolist() == [0, 0]
    assert state.info["elapsed"].tolist() == [0, 0]


class Broken(Separate):
    """Its reward is noise, and at the third step nothing that is finite."""

    def step_env(self, key, state, action, params):
        obs, after, _, done, info = super().step_env(key, state, action, params)
        return obs, after, jnp.where(after.time == 3, jnp.inf, jax.random.normal(key)), done, info


def test_a_simulation_that_broke_ends_its_own_episode_with_the_last_good_observation():
    env = GymnaxEnvironment(Broken(), Parameters(goal=9))
    state, step = env.reset(jax.random.key(0)), jax.jit(env.step)
    for _ in range(3):
        assert not state.done
        assert state.metrics["unstable"] == 0
        state = step(state, jnp.zeros(1))
    assert (bool(state.terminated), bool(state.truncated), state.reward.item()) == (False, True, 0.0)
    assert state.metrics["unstable"] == 1
    assert state.obs.argmax() == 2


def test_states_rekeyed_differently_see_other_noise():
    env = GymnaxEnvironment(Broken(), Parameters())
    start, step = env.reset(jax.random.key(0)), jax.jit(env.step)
    states = [start, *(env.rekey(start, jax.random.key(key)) for key in (1, 2))]
    assert len({step(state, jnp.zeros(1)).reward.item() for state in states}) == 3
    assert all(state.physics["state"] == start.physics["state"] for state in states)


class Misshapen(Separate):
    def observation_space(self, params):
        del params
        return types.SimpleNamespace(low=0.0, high=jnp.inf, shape=(2,))


class Nan(Separate):
    def action_space(self, params):
        del params
        return types.SimpleNamespace(low=jnp.nan, high=1.0, shape=(1,))


def test_the_spaces_of_a_library_are_looked_at_before_they_are_believed():
    for wrong, words in (
        (Misshapen, r"wrong: a reset shows \[\], but the observation space is \[2\]; they must agree"),
        (Nan, r"wrong: action_space: Box: low must not be above high, nor NaN; element \[0\] has low=nan, high=1.0"),
    ):
        with pytest.raises(Refused, match=words) as error:
            GymnaxEnvironment(wrong(), Parameters(), "wrong")
        assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def gymnax():
    # Not pytest.importorskip: it skips for a missing gymnax only, and gymnax imports more than it asks for.
    try:
        import gymnax
    except ImportError as error:
        pytest.skip(str(error))
    return gymnax


def test_a_trajectory_is_that_of_gymnax(gymnax):
    env = make("gymnax:Breakout-MinAtar")
    raw, params = gymnax.make("Breakout-MinAtar")
    key = jax.random.key(5)
    ours, step, raw_step = env.reset(key), jax.jit(env.step), jax.jit(raw.step_env)
    reset_key, key = jax.random.split(key)
    obs, state = raw.reset_env(reset_key, params)
    assert ours.obs.shape == obs.shape == env.observation_space.shape == (10, 10, 4)
    for _ in range(4):
        key, step_key = jax.random.split(key)
        ours = step(ours, 1)
        obs, state, reward, done, *_ = raw_step(step_key, state, 1, params)
        np.testing.assert_array_equal(ours.obs, obs)
        assert ours.reward == reward
        assert ours.terminated == done
    assert ours.info["elapsed"] == 4


def test_games_that_remember_being_over_are_truncated_at_the_limit(gymnax):
    del gymnax
    env = make("gymnax:Breakout-MinAtar", max_episode_steps=2)
    state, step = env.reset(jax.random.key(0)), jax.jit(env.step)
    state = step(step(state, 0), 0)
    assert env.max_episode_steps == 2
    assert state.truncated
    assert not state.terminated


def test_every_task_keeps_its_types_and_its_spaces(gymnax):
    left_out = {"MNISTBandit-bsuite"}  # downloads its data
    if not hasattr(gymnax.environments.environment.Environment, "is_truncated"):
        left_out.add("SimpleBandit-bsuite")  # which gymnax 0.0.9 cannot reset
    for name in sorted({*gymnax.registered_envs} - left_out):
        env = make(f"gymnax:{name}")
        before = jax.eval_shape(env.reset, jax.random.key(0))
        action = jax.ShapeDtypeStruct(env.action_space.shape, env.action_space.dtype)
        after = jax.eval_shape(env.step, before, action)
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(before)] == [
            (x.shape, x.dtype) for x in jax.tree.leaves(after)
        ], name
        assert after.obs.shape == env.observation_space.shape, name
        assert (env.max_episode_steps or 0) > 0, name


def test_parameters_and_constructor_arguments_can_be_given(gymnax):
    del gymnax
    env = make("gymnax:DeepSea-bsuite", size=5, deterministic=False, max_episode_steps=None)
    assert isinstance(env, GymnaxEnvironment)
    assert env.env.size == 5
    assert env.params.deterministic is False
    assert env.max_episode_steps is None


@pytest.mark.slow
def test_ppo_learns_from_images_without_nan(gymnax):
    del gymnax
    config = ppo.Config(num_envs=2, rollout_length=4, num_epochs=1, num_minibatches=1, hidden=(8,), cnn_channels=(2,))
    algorithm = ppo.make(make("gymnax:Breakout-MinAtar"), config)
    step = jax.jit(algorithm.step)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    for _ in range(2):
        state, metrics = step(state)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(metrics))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_wrong_names_and_arguments_are_refused_in_one_line(gymnax, monkeypatch):
    del gymnax
    with pytest.raises(ValueError, match=r"'gymnax:breakout-minatr'; did you mean Breakout-MinAtar.*known: ") as error:
        make("gymnax:breakout-minatr")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"gymnax:CartPole-v1: .*'weight'"):
        make("gymnax:CartPole-v1", weight=1.0)
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(ValueError, match=r'gymnax: needs gymnax: pip install "rljax\[gymnax\]"'):
        make("gymnax:CartPole-v1")
