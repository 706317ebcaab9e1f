"""The adapter of MuJoCo Playground, against Playground itself."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import ppo
from rljax.envs import AutoReset, make
from rljax.envs.adapters.playground import PlaygroundEnvironment

pytest.importorskip("mujoco_playground")
import mujoco_playground as playground

config_dict = pytest.importorskip("ml_collections.config_dict")


class Counter(playground.MjxEnv):
    """Counts steps; ends with NaN at step 3, or at step `goal`, without."""

    xml_path = mj_model = mjx_model = None
    action_size = 1

    def reset(self, rng):
        del rng
        return self._state(jnp.zeros(()))

    def step(self, state, action):
        del action
        state.metrics["seen"] = state.data
        return self._state(state.data + 1)

    def _state(self, count):
        value = jnp.where(count >= 3, jnp.nan, count)
        obs = {"state": value[None], "privileged_state": jnp.stack([value, count])}
        done = jnp.where((count >= 3) | (count == self._config.goal), 1.0, 0.0)
        return playground.State(count, obs, value, done, {"seen": jnp.zeros(())}, {})


def counter_config():
    return config_dict.create(ctrl_dt=0.1, sim_dt=0.1, episode_length=7, action_repeat=1, goal=5, impl="warp")


@pytest.fixture
def counter():
    suite = playground.dm_control_suite
    suite.register_environment("Counter", Counter, counter_config)
    yield "playground:Counter"
    del suite._envs["Counter"], suite._cfgs["Counter"]


def test_a_trajectory_is_that_of_the_raw_environment():
    env = make("playground:PendulumSwingup")
    raw = playground.registry.load("PendulumSwingup", config_overrides={"impl": "jax"})

    @jax.jit
    def both(key, action):
        ours, theirs = env.reset(key), raw.reset(key)
        observations = [(ours.obs, theirs.obs)]
        for _ in range(2):
            ours, theirs = env.step(ours, action), raw.step(theirs, action)
            observations.append((ours.obs, theirs.obs))
        return observations, (ours.reward, theirs.reward), ours

    observations, rewards, state = both(jax.random.key(1), jnp.ones(1))
    for ours, theirs in observations:
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(*rewards, rtol=1e-6)
    assert observations[0][0].tolist() != observations[2][0].tolist()
    assert not state.done
    assert env.observation_space.shape == (raw.observation_size,)
    assert env.action_space.shape == (raw.action_size,)
    assert env.max_episode_steps == playground.registry.get_default_config("PendulumSwingup").episode_length == 1000


def engine_of(env):
    task = env.unwrapped
    assert isinstance(task, PlaygroundEnvironment)
    return task.env._config.impl


def test_on_a_cpu_the_engine_is_jax_unless_another_is_asked_for(counter):
    if jax.default_backend() == "cpu":
        assert engine_of(make(counter)) == "jax"
    assert engine_of(make(counter, impl="warp")) == "warp"
    assert engine_of(make(counter, config_overrides={"impl": "warp"})) == "warp"


def test_the_time_limit_is_that_of_the_configuration_unless_another_is_asked_for(counter):
    assert make(counter).max_episode_steps == 7
    assert make(counter, config_overrides={"episode_length": 9}).max_episode_steps == 9
    assert make(counter, max_episode_steps=2).max_episode_steps == 2
    assert make(counter, max_episode_steps=None).max_episode_steps is None


@pytest.mark.parametrize(("limit", "goal", "last"), [(2, 9, 2.0), (9, 1, 1.0), (9, 9, 2.0)])
def test_done_is_termination_the_limit_truncation_and_the_last_observation_is_finite(counter, limit, goal, last):
    env = AutoReset(make(counter, max_episode_steps=limit, config_overrides={"goal": goal}), 1)
    state, step = env.reset(jax.random.key(0)), jax.jit(env.step)
    while not state.done.any():
        state = step(state, jnp.ones((1, 1)))
    assert state.truncated.item() == (limit == 2)
    assert state.terminated.item() != state.truncated.item()
    plain = lambda obs: {name: part.tolist() for name, part in obs.items()}  # noqa: E731
    assert plain(state.info["next_obs"]) == {"state": [[last]], "privileged_state": [[last, last]]}
    assert plain(state.obs) == {"state": [[0.0]], "privileged_state": [[0.0, 0.0]]}
    assert jnp.isfinite(state.reward).all()


def test_a_dict_is_handed_out_with_its_names_of_which_the_policy_sees_the_state_and_is_not_written_to(counter):
    env = make(counter)
    before = env.step(env.reset(jax.random.key(0)), jnp.ones(1))
    env.step(before, jnp.ones(1))
    shapes = {name: space.shape for name, space in env.observation_space.spaces.items()}
    assert shapes == {"state": (1,), "privileged_state": (2,)}
    assert {name: part.tolist() for name, part in before.obs.items()} == {"state": [1.0], "privileged_state": [1.0] * 2}
    agent = ppo.make(env, ppo.Config(value_obs=("privileged_state",))).agent
    assert [list(agent.seen(values).spaces) for values in (False, True)] == [["state"], ["privileged_state"]]
    assert before.physics.metrics["seen"] == 0


def test_wrong_names_and_arguments_are_refused_in_one_line(monkeypatch, counter):
    with pytest.raises(ValueError, match=r"'playground:CheetaRun'; did you mean CheetahRun.*\? known: ") as error:
        make("playground:CheetaRun")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"playground:Counter: config_overrides: .*mass.*ctrl_dt") as error:
        make(counter, config_overrides={"mass": 1.0})
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="unexpected mass; it takes: impl, config_overrides, max_episode_steps"):
        make(counter, mass=1.0)
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    with pytest.raises(ValueError, match=r'playground: needs mujoco_playground: pip install "rljax\[playground\]"'):
        make("playground:CheetahRun")
