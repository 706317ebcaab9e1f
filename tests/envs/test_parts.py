"""Observations with parts, from the spaces to the environments that have them."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.envs import AutoReset, EpisodeStatistics, Guard, check_env, to_gymnasium
from rljax.nn.encoder import seen
from rljax.spaces import Box, Dict, Discrete, MultiDiscrete, batch_shape, parts
from rljax.types import Refused
from tests.toys import Repeat

CAMERA = Box(0, 255, (4, 4, 3), np.uint8)
SPACE = Dict({"words": Discrete(5), "state": Box(-1.0, 1.0, (2,)), "eyes": Dict({"left": CAMERA, "right": CAMERA})})


def test_a_space_of_parts_draws_values_that_it_contains():
    value = jax.jit(SPACE.sample)(jax.random.key(0))
    assert list(SPACE.spaces) == ["eyes", "state", "words"]
    assert SPACE.contains(value)
    assert not SPACE.contains({"state": value["state"]})
    assert not SPACE.contains(value | {"state": value["state"] + 3.0})
    assert list(parts(SPACE)) == ["eyes/left", "eyes/right", "state", "words"]
    assert parts(CAMERA) == {"": CAMERA}
    many = jax.vmap(jax.vmap(SPACE.sample))(jax.random.split(jax.random.key(1), (3, 2)))
    assert batch_shape(SPACE, many) == (3, 2)


def test_what_is_no_space_of_parts_is_refused():
    for bad, message in (({}, "needs one part"), ({"a": 3}, "got 'a': int")):
        with pytest.raises(Refused, match=message):
            Dict(bad)


def test_what_is_privileged_is_seen_only_by_name():
    blind = rljax.make("pendulum", blind=True).observation_space
    assert list(seen(blind, ()).spaces) == ["state"]
    assert list(seen(blind, ("privileged_state",)).spaces) == ["privileged_state"]
    assert seen(SPACE, ()) is SPACE
    with pytest.raises(Refused, match="there is no part camera to see: the observation has the parts privileged_state"):
        seen(blind, ("camera",))
    with pytest.raises(Refused, match="the observation has no parts"):
        seen(CAMERA, ("camera",))


def test_a_blind_pendulum_is_the_pendulum_with_its_velocity_apart():
    blind, whole = rljax.make("pendulum", blind=True), rljax.make("pendulum")
    check_env(blind)
    state, other = (env.reset(jax.random.key(3)) for env in (blind, whole))
    for torque in (1.0, -2.0, 0.5):
        state, other = (jax.jit(e.step)(s, jnp.array([torque])) for e, s in ((blind, state), (whole, other)))
    np.testing.assert_array_equal(state.obs["privileged_state"], other.obs)
    np.testing.assert_array_equal(state.obs["state"], other.obs[:2])
    assert state.reward == other.reward


def test_auto_reset_replaces_every_part_and_keeps_the_successor():
    envs = AutoReset(EpisodeStatistics(Guard.around(rljax.make("pendulum", blind=True, max_episode_steps=2))), 3)
    state = jax.jit(envs.reset)(jax.random.key(0))
    for _ in range(2):
        before, state = state, jax.jit(envs.step)(state, jnp.zeros((3, 1)))
    assert state.truncated.all()
    following = state.info["next_obs"]
    np.testing.assert_allclose(following["state"], following["privileged_state"][:, :2])
    for part in ("state", "privileged_state"):
        assert (np.abs(state.obs[part] - following[part]) > 1e-6).any(-1).all()
        assert before.obs[part].shape == state.obs[part].shape


def test_checks_name_the_part_that_is_wrong():
    env = rljax.make("pendulum", blind=True)
    env.observation_space = Dict({"state": Box(-1.0, 1.0, (3,)), "privileged_state": Box(-0.1, 0.1, (3,))})
    with pytest.raises(Refused, match=r"obs\.state: reset gives float32 \[2\], but observation_space is .* \[3\]"):
        check_env(env)
    env.observation_space = Dict({"state": Box(-1.0, 1.0, (2,)), "privileged_state": Box(-0.1, 0.1, (3,))})
    with pytest.raises(Refused, match=r"obs\.privileged_state: .* lies outside the bounds"):
        check_env(env)
    env.observation_space = Dict({"state": Box(-1.0, 1.0, (2,))})
    with pytest.raises(Refused, match="reset gives privileged_state, state, but observation_space has the parts state"):
        check_env(env)


def test_several_choices_are_checked_each_by_its_own_range():
    check_env(Repeat())
    env = Repeat()
    env.observation_space = MultiDiscrete((3, 2, 3))
    with pytest.raises(Refused, match="obs: 3 lies outside the bounds of observation_space"):
        check_env(env)
    env.observation_space = MultiDiscrete((3, 2))
    with pytest.raises(
        Refused, match=r"obs: reset gives int32 \[3\], but observation_space is MultiDiscrete int32 \[2\]"
    ):
        check_env(env)
    env.action_space = Dict({"a": Discrete(2)})
    with pytest.raises(Refused, match="action_space is a Dict, it must be a Box, Discrete or MultiDiscrete"):
        check_env(env)


def test_gymnasium_sees_a_dictionary():
    env = to_gymnasium(rljax.make("pendulum", blind=True))
    assert isinstance(env.observation_space, gymnasium.spaces.Dict)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    obs, *_ = env.step(np.array([0.5], np.float32))
    assert env.observation_space.contains(obs)
    obs["state"][:] = 0.0  # a copy


def test_the_ball_is_caught_where_the_paddle_goes_under_it():
    env = rljax.make("catch")
    check_env(env)

    def play(follow, key):
        def step(state, _):
            move = jnp.clip((state.physics.ball - state.physics.paddle) / 3.0, -1.0, 1.0)
            after = env.step(state, (move if follow else -move)[None])
            return after, (after.reward, after.terminated)

        _, (reward, done) = jax.lax.scan(step, env.reset(key), None, 15)
        return reward, done

    reward, done = jax.jit(jax.vmap(lambda key: play(True, key)))(jax.random.split(jax.random.key(0), 64))
    assert done[:, 14].all()
    assert not done[:, :14].any()
    assert (reward[:, 14] == 1).all()
    away, _ = jax.jit(jax.vmap(lambda key: play(False, key)))(jax.random.split(jax.random.key(0), 64))
    assert away[:, 14].mean() < 0.5
    image = env.reset(jax.random.key(1)).obs
    assert (image.shape, image.dtype, int((image[:4] > 0).sum())) == ((32, 32, 1), jnp.uint8, 6)
