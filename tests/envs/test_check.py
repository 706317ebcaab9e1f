"""What an author is told of an environment of their own: one with each fault, and what is said of it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import dqn, ppo
from rljax.envs import Environment, TimeLimit, check_env, initial_state, registry
from rljax.envs.check import _of_types
from rljax.envs.wrappers import RescaleAction
from rljax.nn.encoder import is_image
from rljax.spaces import Box, Discrete
from rljax.types import Refused
from tests import toys


class Mine(Environment):
    name = "mine"
    observation_space = Box(-1.0, 1.0, (2,))
    action_space = Discrete(2)

    def reset(self, key):
        return initial_state(jnp.int32(0), jnp.zeros(2))

    def step(self, state, action):
        return state.replace(physics=state.physics + 1, reward=jnp.float32(1.0))


class IntReward(Mine):
    def step(self, state, action):
        return state.replace(reward=jnp.where(action == 1, 1, 0))


class VectorReward(Mine):
    def step(self, state, action):
        return state.replace(reward=jnp.ones(1))


class IntDone(Mine):
    def step(self, state, action):
        return state.replace(terminated=(state.physics > 3).astype(jnp.int32))


class FloatDone(Mine):
    def step(self, state, action):
        return state.replace(terminated=(state.physics > 3).astype(jnp.float32))


class NewMetric(Mine):
    def step(self, state, action):
        return state.replace(metrics={"speed": jnp.float32(1.0)})


class LargerObs(Mine):
    def reset(self, key):
        return initial_state(jnp.int32(0), jnp.zeros(3))


class DictObs(Mine):
    def reset(self, key):
        return initial_state(jnp.int32(0), {"a": jnp.zeros(2)})


class OtherPhysics(Mine):
    def step(self, state, action):
        return state.replace(physics=state.physics + 1.5)


class NoInfo(Mine):
    def step(self, state, action):
        return initial_state(state.physics, state.obs)


class Outside(Mine):
    def step(self, state, action):
        return state.replace(obs=state.obs + 2.0)


class NotFinite(Mine):
    def step(self, state, action):
        return state.replace(physics=state.physics + 1, obs=state.obs + jnp.where(state.physics == 4, jnp.nan, 0.0))


class Impure(Mine):
    draws = itertools.count()

    def reset(self, key):
        return initial_state(jnp.int32(0), jnp.full(2, 1.0 / (2 + next(self.draws))))


class OldKey(Mine):
    def reset(self, key):
        return initial_state({"rng": jax.random.key_data(key)}, jnp.zeros(2))

    def step(self, state, action):
        return state


class Several(IntReward):
    def reset(self, key):
        return initial_state(jnp.int32(0), jnp.zeros(3))


FAULTS = {
    IntReward: ["reward: step gives int32 [], it must be float32 []"],
    VectorReward: ["reward: step gives float32 [1], it must be float32 []"],
    IntDone: ["terminated: step gives int32 [], it must be bool []"],
    FloatDone: ["terminated: step gives float32 [], it must be bool []"],
    NewMetric: ["metrics.speed: step gives it and reset does not, which must give it too"],
    LargerObs: ["obs: reset gives float32 [3], but observation_space is Box float32 [2]"],
    DictObs: ["obs: reset gives a dict, but observation_space is Box float32 [2]"],
    OtherPhysics: ["physics: reset gives int32 [] and step float32 [], they must be alike"],
    NoInfo: ["info: step must hand on what is in it: state.replace(…), or info=state.info | {…}"],
    Outside: ["obs: 2 lies outside the bounds of observation_space"],
    NotFinite: ["obs: it is not finite at step 5"],
    Impure: ["the same key and actions give other results the next time: it draws by something but its key"],
    OldKey: ["physics.rng: it is a random key that rekey leaves as it is; a state used twice would repeat its noise"],
    Several: [
        "obs: reset gives float32 [3], but observation_space is Box float32 [2]",
        "reward: step gives int32 [], it must be float32 []",
    ],
}
OF_TYPES = [kind for kind in FAULTS if kind not in (Outside, NotFinite, Impure, OldKey)]


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_each_fault_is_told_in_words(kind):
    with pytest.raises(rljax.types.Refused) as told:
        check_env(TimeLimit(kind(), 9))
    assert str(told.value).splitlines() == [f"mine: {line}" for line in FAULTS[kind]]


@pytest.mark.parametrize("kind", OF_TYPES, ids=lambda kind: kind.__name__)
def test_an_algorithm_refuses_wrong_types_with_the_same_words(kind):
    env = TimeLimit(kind(), 5)
    small = {"num_envs": 2, "hidden": (4,)}
    for algorithm in (
        ppo.make(env, ppo.Config(rollout_length=4, num_minibatches=1, num_epochs=1, **small)),
        dqn.make(env, dqn.Config(replay_size=64, batch_size=4, **small)),
    ):
        with pytest.raises(rljax.types.Refused) as told:
            jax.eval_shape(algorithm.init, jax.random.key(0))
        assert str(told.value).splitlines() == [f"mine: {line}" for line in FAULTS[kind]]


@pytest.mark.parametrize("name", ["cartpole", "mountain_car_continuous", "t_maze", "half_cheetah", "push_t"])
def test_the_types_of_our_own_tasks_are_right(name):
    assert _of_types(rljax.make(name)) == []


def test_nothing_is_said_of_what_is_right():
    check_env(Mine())
    check_env(toys.Pixels())
    check_env(RescaleAction(toys.Drift()))
    assert rljax.make("finite:frozen_lake", check=True).spec == {"name": "finite:frozen_lake"}


def test_a_task_is_checked_by_name_where_that_is_asked_for(monkeypatch):
    for table in ("_tasks", "_simplified"):  # what is registered here is forgotten after it
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    rljax.envs.register("wrong_reward", IntReward)
    with pytest.raises(rljax.types.Refused, match="reward: step gives int32"):
        rljax.make("wrong_reward", check=True)
    assert rljax.make("wrong_reward").name == "wrong_reward"


@pytest.mark.parametrize(
    ("shape", "image"), [((84, 84, 4), True), ((10, 10, 10), True), ((5, 5, 20), True), ((7,), False)]
)
def test_images_are_told_by_their_axes(shape, image):
    env = Mine()
    env.observation_space = Box(0, 255, shape, np.uint8)
    assert ppo.make(env).agent is not None
    assert is_image(env.observation_space) == image


@pytest.mark.parametrize("algorithm", [ppo, dqn])
def test_images_with_the_channels_first_are_refused(algorithm):
    env = Mine()
    env.observation_space = Box(0, 255, (4, 84, 84), np.uint8)
    with pytest.raises(rljax.types.Refused, match=r"needs images \[height, width, channels\], .* has \[4, 84, 84\]"):
        algorithm.make(env)


class Bare(Environment):
    """Has spaces, and nothing else."""

    observation_space, action_space = Box(-1.0, 1.0, (2,)), Discrete(2)


class Chooses(Bare):
    def reset(self, key):
        return initial_state(jnp.zeros(()), jnp.zeros(2))

    def step(self, state, action):
        return state.replace(reward=jnp.float32(1.0)) if action > 0 else state


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (object(), "object must be a subclass of rljax.envs.Environment"),
        (Environment(), "Environment: observation_space is missing, it must be of rljax.spaces"),
        (Bare(), "Bare: reset is missing"),
        (Chooses(), "Chooses: reset or step cannot be compiled: Python must not choose by the value of an array"),
    ],
)
def test_what_is_no_environment_or_cannot_be_compiled_is_said_in_words(env, message):
    with pytest.raises(Refused, match=message):
        check_env(env)
