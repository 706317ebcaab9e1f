"""Our environments as Gymnasium's, checked by Gymnasium."""

import copy
import pickle
import subprocess
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs import AutoReset, TimeLimit, make, to_gymnasium
from rljax.envs.adapters.gymnasium import GymnasiumEnvironment
from rljax.spaces import Dict
from tests.toys import Clock, Looking, Repeat, limited

gymnasium = pytest.importorskip("gymnasium")
env_checker = pytest.importorskip("gymnasium.utils.env_checker")


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "mountain_car_continuous", "hopper"])
def test_gymnasiums_checker_passes(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What the checker says of bounds that are infinite, or other than [-1, 1], is advice.
        warnings.filterwarnings("ignore", message=".*(infinity|symmetric and normalized)")
        env_checker.check_env(to_gymnasium(make(name)), skip_render_check=True)


class Parted(Repeat):
    """Several choices, seen in a part of a part beside a picture, a word and numbers, which `Looking` has."""

    name = "parted"
    looking = Looking()
    observation_space = Dict({"eyes": looking.observation_space, "board": Repeat.observation_space})

    def reset(self, key):
        state = super().reset(key)
        return state.replace(obs={"eyes": self.looking.reset(key).obs, "board": state.obs})

    def step(self, state, action):
        after = super().step(state, action)
        return after.replace(obs={"eyes": state.obs["eyes"], "board": after.obs})


@pytest.mark.parametrize("task", [Repeat, Parted])
def test_gymnasiums_checkers_pass_parts_and_several_choices_and_our_adapter_finds_them_again(task):
    env = limited(task(), 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|Not able to test alternative render modes)")
        env_checker.check_env(to_gymnasium(env), skip_render_check=True)
        checked = gymnasium.wrappers.PassiveEnvChecker(to_gymnasium(env))
        obs, _ = checked.reset(seed=3)
        assert checked.observation_space.contains(obs)
        while True:
            obs, _, terminated, truncated, _ = checked.step(checked.action_space.sample())
            assert checked.observation_space.contains(obs)
            if terminated or truncated:
                break
    again = GymnasiumEnvironment(lambda: to_gymnasium(env), "again")
    assert repr(again.observation_space) == repr(env.observation_space)
    assert again.action_space == env.action_space
    state = again.step(again.reset(jax.random.key(0)), jnp.array([1, 0, 2]))
    assert env.observation_space.contains(jax.device_get(state.obs))


def test_an_episode_is_that_of_the_environment_and_seeds_repeat_it():
    env = make("cartpole", max_episode_steps=3)
    wrapped = to_gymnasium(env)
    obs, info = wrapped.reset(seed=4)
    assert (obs == wrapped.reset(seed=4)[0]).all()
    assert (obs != wrapped.reset()[0]).any()
    obs, info = wrapped.reset(seed=4)
    key = jax.random.key(np.random.Generator(np.random.PCG64(4)).integers(2**32, dtype=np.uint32))
    state = env.reset(key)
    assert info == {"unstable": 0.0}
    for count in range(3):
        np.testing.assert_allclose(obs, state.obs, rtol=1e-6)
        assert obs.dtype == np.float32
        assert obs.flags.writeable
        obs, reward, terminated, truncated, info = wrapped.step(1)
        state = env.step(state, 1)
        assert (reward, terminated, truncated) == (1.0, False, count == 2)
        assert type(reward) is float
        assert type(terminated) is type(truncated) is bool
    assert wrapped.spec.max_episode_steps == 3
    assert wrapped.spec.make().unwrapped.env is env


@pytest.mark.parametrize(("copied", "limit"), [(copy.deepcopy, None), (lambda env: pickle.loads(pickle.dumps(env)), 9)])
def test_it_can_be_copied_and_pickled_in_the_middle_of_an_episode(copied, limit):
    task = make("reacher")
    env: Any = to_gymnasium(TimeLimit(task, limit) if limit else task)
    env.reset(seed=1)
    env.step(np.ones(2))
    other = copied(env)
    for _ in range(2):
        for ours, theirs in zip(env.step(np.ones(2))[:4], other.step(np.ones(2))[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])
    assert other.spec.id == env.spec.id


def test_its_spec_can_be_sent_as_json():
    spec = to_gymnasium(make("cartpole", max_episode_steps=3), render_fps=7).spec
    again = gymnasium.envs.registration.EnvSpec.from_json(spec.to_json()).make(render_mode="rgb_array")
    assert again.unwrapped.env.spec == {"name": "cartpole", "max_episode_steps": 3}
    assert again.unwrapped.metadata["render_fps"] == 7
    assert again.unwrapped.render_mode == "rgb_array"


def test_in_a_vector_environment():
    vector = gymnasium.vector.SyncVectorEnv([lambda: to_gymnasium(make("pendulum", max_episode_steps=2))] * 2)
    obs, _ = vector.reset(seed=0)
    assert obs.shape == (2, 3)
    assert (obs[0] != obs[1]).any()
    for _ in range(2):
        _, reward, terminated, truncated, _ = vector.step(np.zeros((2, 1), np.float32))
    assert reward.shape == (2,)
    assert truncated.all()
    assert not terminated.any()


def test_rendering():
    env = to_gymnasium(make("cartpole"), render_mode="rgb_array", render_fps=50)
    assert env.metadata == {"render_modes": ["rgb_array"], "render_fps": 50}
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.render()
    env.reset(seed=0)
    frame = env.render()
    assert frame.dtype == np.uint8
    assert frame.shape[-1] == 3
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array', got 'human'"):
        to_gymnasium(make("cartpole"), render_mode="human")


def test_what_it_refuses(monkeypatch):
    env = to_gymnasium(make("cartpole"))
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset before step"):
        env.step(0)
    with pytest.raises(ValueError, match="needs one environment, got a batch"):
        to_gymnasium(AutoReset(make("cartpole"), 2))
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ValueError, match=r"to_gymnasium: needs gymnasium: pip install gymnasium"):
        to_gymnasium(make("cartpole"))


def test_importing_rljax_imports_no_gymnasium():
    code = "import sys, rljax.envs; print('gymnasium' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_stable_baselines3_accepts_it():
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*symmetric and normalized")
        checker.check_env(to_gymnasium(make("pendulum")))


def test_stable_baselines3_trains_on_it():
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env = to_gymnasium(make("reacher"))
    checker.check_env(env)
    model = stable_baselines3.PPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=1, device="cpu")
    model.learn(128)
    assert model.num_timesteps == 128


class Breaks(Clock):
    """From its second step on it is not a number."""

    def step(self, state, action):
        after = super().step(state, action)
        return after.replace(obs=jnp.where(after.physics > 1, jnp.nan, after.obs))


def test_a_simulation_that_broke_ends_the_episode_and_shows_no_nan():
    env = to_gymnasium(Breaks(4, False))
    first, info = env.reset(seed=0)
    assert info["unstable"] == 0
    good, *_ = env.step(0)
    last, reward, terminated, truncated, info = env.step(0)
    np.testing.assert_array_equal(last, good)
    assert (reward, terminated, truncated, info["unstable"]) == (0.0, False, True, 1)
    assert np.isfinite(first).all()
