"""The adapter of Brax, against Brax itself."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import ppo
from rljax.envs import AutoReset, TimeLimit, check_env, make
from rljax.policy import Policy
from rljax.spaces import parts
from rljax.training.evaluate import evaluate

brax_envs = pytest.importorskip("brax.envs")
pytest.importorskip("brax.envs.fast")
from brax.envs import fast


class Short(fast.Fast):
    """Fast, ending at the third step; it writes to the dicts in the state that it is handed, as some tasks do."""

    def reset(self, rng):
        return super().reset(rng).replace(metrics={"steps": jnp.zeros(())}, reward=0)

    def step(self, state, action):
        after = super().step(state, action)
        after.metrics["steps"] += 1
        return after.replace(done=jnp.where(after.metrics["steps"] >= 3, 1.0, 0.0))


class Broken(fast.Fast):
    """Breaks at the second step, and goes on; its noise comes from a key in its state."""

    def reset(self, rng):
        state = super().reset(rng)
        return state.replace(info={"rng": rng}, metrics={"noise": jnp.zeros(())})

    def step(self, state, action):
        rng, own = jax.random.split(state.info["rng"])
        broken = jnp.where(state.obs[0] > 0, jnp.nan, 1.0)
        after = super().step(state, action)
        metrics = {"noise": broken * jax.random.normal(own)}
        return after.replace(obs=broken * after.obs, reward=jnp.ones(()), info={"rng": rng}, metrics=metrics)


@pytest.fixture
def broken(monkeypatch):
    monkeypatch.setitem(brax_envs._envs, "broken", Broken)
    return make("brax:broken")


def test_a_simulation_that_broke_ends_its_own_episode_and_reaches_nothing_else(broken):
    step = jax.jit(broken.step)
    first = step(broken.reset(jax.random.key(0)), jnp.ones(broken.action_space.shape))
    after = step(first, jnp.ones(broken.action_space.shape))
    assert (bool(first.done), first.metrics["unstable"].item()) == (False, 0.0)
    assert first.metrics["noise"] != 0
    assert (bool(after.terminated), bool(after.truncated), after.reward.item()) == (False, True, 0.0)
    np.testing.assert_array_equal(after.obs, first.obs)
    assert {name: value.item() for name, value in after.metrics.items()} == {"noise": 0.0, "unstable": 1.0}
    assert after.info["elapsed"] == 2


def test_an_evaluation_sees_a_simulation_that_broke_as_the_end_of_its_episode(broken):
    def apply(variables, key, obs, memory, deterministic):
        return jnp.ones((len(obs), *broken.action_space.shape)), memory, ()

    episodes = evaluate(broken, Policy((), (), apply), jax.random.key(0), 2)
    assert episodes.lengths.tolist() == [2, 2]
    assert episodes.returns.tolist() == [1.0, 1.0]
    assert episodes.highest["unstable"].tolist() == [1.0, 1.0]


def test_states_rekeyed_differently_see_other_noise_and_nothing_else_is_changed(broken):
    step, start = jax.jit(broken.step), broken.reset(jax.random.key(0))
    rekey = broken.unwrapped.rekey
    states = [start, rekey(start, jax.random.key(1)), rekey(start, jax.random.key(2)), rekey(start, jax.random.key(1))]
    own, one, other, one_again = (step(s, jnp.ones(broken.action_space.shape)).metrics["noise"].item() for s in states)
    assert one == one_again
    assert len({own, one, other}) == 3
    assert jax.tree.structure(states[1]) == jax.tree.structure(start)
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(states[1]), strict=True):
        if jnp.issubdtype(before.dtype, jax.dtypes.prng_key):
            assert before.dtype == after.dtype
        else:
            np.testing.assert_array_equal(before, after)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setitem(brax_envs._envs, "short", Short)
    return "brax:short"


def test_a_trajectory_is_that_of_the_raw_environment():
    raw, env = brax_envs.get_environment("fast"), make("brax:fast")
    key, action = jax.random.key(3), jnp.ones(env.action_space.shape)
    ours, theirs = env.reset(key), raw.reset(key)
    for _ in range(3):
        np.testing.assert_array_equal(ours.obs, theirs.obs)
        ours, theirs = jax.jit(env.step)(ours, action), raw.step(theirs, action)
        np.testing.assert_allclose(ours.reward, theirs.reward, rtol=1e-6)
    assert ours.obs[0] > 0
    assert env.observation_space.shape == (raw.observation_size,)
    assert env.action_space.shape == (raw.action_size,)
    assert env.action_space.bounded


def test_the_time_limit_is_its_own_unless_another_is_asked_for():
    assert make("brax:fast").max_episode_steps == 1000
    env = make("brax:fast", max_episode_steps=5)
    assert isinstance(env, TimeLimit)
    assert env.max_episode_steps == 5
    assert make("brax:fast", max_episode_steps=0).max_episode_steps is None
    assert env.name == env.unwrapped.name == "brax:fast"


@pytest.mark.parametrize(("limit", "ends_by"), [(2, "truncated"), (3, "terminated"), (4, "terminated")])
def test_done_is_termination_the_limit_truncation_and_the_last_observation_survives(short, limit, ends_by):
    env = AutoReset(make(short, max_episode_steps=limit), 2)
    state = env.reset(jax.random.key(0))
    for _ in range(min(limit, 3)):
        assert not state.done.any()
        state = jax.jit(env.step)(state, jnp.ones((2, *env.action_space.shape)))
    assert bool(state.terminated.all()) == (ends_by == "terminated")
    assert bool(state.truncated.all()) == (ends_by == "truncated")
    assert (state.info["next_obs"][:, 0] > 0).all()
    assert (state.obs == 0).all()


def test_a_step_does_not_write_to_the_state_it_is_handed(short):
    env = make(short)
    state = env.reset(jax.random.key(0))
    env.step(state, jnp.ones(env.action_space.shape))
    assert state.physics.metrics["steps"] == 0
    assert state.metrics["steps"] == 0


def test_a_dict_of_observations_is_handed_out_with_all_its_parts():
    env = make("brax:fast", obs_mode="dict_state", asymmetric_obs=True)
    state = env.reset(jax.random.key(0))
    shapes = {name: part.shape for name, part in state.obs.items()}
    assert shapes == {"state": (2,), "privileged_state": (4,)}
    assert shapes == {name: space.shape for name, space in env.observation_space.spaces.items()}
    check_env(env)
    alone = make("brax:fast", obs_mode="dict_state")
    assert alone.reset(jax.random.key(0)).obs.shape == alone.observation_space.shape == (2,)


def test_pictures_of_several_views_are_parts_of_a_part():
    env = make("brax:fast", asymmetric_obs=True, obs_mode="dict_pixels_state")
    check_env(env)
    state = jax.jit(env.step)(env.reset(jax.random.key(0)), jnp.ones(env.action_space.shape))
    seen = {name: part.shape for name, part in parts(env.observation_space).items()}
    pictures = {"pixels/view_0": (4, 4, 3), "pixels/view_1": (4, 4, 3)}
    assert seen == pictures | {"privileged_state": (4,), "state": (2,)}
    theirs = state.physics.obs
    assert set(theirs) == set(seen)
    np.testing.assert_array_equal(state.obs["pixels"]["view_1"], theirs["pixels/view_1"])
    np.testing.assert_array_equal(state.obs["state"], theirs["state"])
    agent = ppo.make(env, ppo.Config(value_obs=("pixels", "privileged_state"), cnn_channels=(2,), hidden=(4,))).agent
    assert list(agent.seen().spaces) == ["pixels", "state"]
    jax.eval_shape(agent.init, jax.random.key(0))


class Bytes(fast.Fast):
    """Fast, seen by a camera of bytes."""

    def reset(self, rng):
        return super().reset(rng).replace(obs={"state": jnp.zeros(2), "camera": jnp.full((4, 4, 3), 200, jnp.uint8)})

    def step(self, state, action):
        return super().step(state, action).replace(obs=state.obs)


def test_a_picture_of_bytes_stays_one(monkeypatch):
    monkeypatch.setitem(brax_envs._envs, "bytes", Bytes)
    env = make("brax:bytes")
    check_env(env)
    assert repr(parts(env.observation_space)["camera"]) == "Box(low=0, high=255, shape=(4, 4, 3))"
    camera = env.step(env.reset(jax.random.key(0)), jnp.ones(env.action_space.shape)).obs["camera"]
    assert (camera.dtype, camera.max()) == (jnp.uint8, 200)


@pytest.mark.parametrize("task", ["fast", pytest.param("inverted_pendulum", marks=pytest.mark.slow)])
def test_ppo_learns_from_it_without_nan(task):
    env = make(f"brax:{task}")
    algorithm = ppo.make(env, ppo.Config(num_envs=2, rollout_length=4, num_epochs=1, num_minibatches=1, hidden=(8,)))
    step = jax.jit(algorithm.step)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    for _ in range(2):
        state, metrics = step(state)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(metrics))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_wrong_names_and_arguments_are_refused_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"'brax:halfcheeta'; did you mean halfcheetah\? known: ant, ") as error:
        make("brax:halfcheeta")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"brax:inverted_pendulum: .*'mass'"):
        make("brax:inverted_pendulum", mass=1.0)
    with pytest.raises(ValueError, match=r"brax:inverted_pendulum: backend should be in"):
        make("brax:inverted_pendulum", backend="newton")
    monkeypatch.setitem(sys.modules, "brax", None)
    with pytest.raises(ValueError, match="brax: needs brax: pip install brax"):
        make("brax:ant")
