"""Videos of a tiny environment that ends after five steps."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rljax.analysis.video import animate
from rljax.envs.auto_reset import AutoReset
from rljax.envs.environment import Environment, initial_state
from rljax.envs.wrappers import TimeLimit
from rljax.spaces import Box


class Counter(Environment):
    """Counts to `end`; the reward is the action, and frame n is a bar of n columns."""

    name = "counter"
    observation_space = Box(0.0, np.inf, (1,))
    action_space = Box(-1.0, 1.0, (1,))

    def __init__(self, end=5):
        self.end = end

    def reset(self, key):
        return initial_state(jnp.zeros((), jnp.int32), jnp.zeros(1))

    def step(self, state, action):
        count = state.physics + 1
        return state.replace(
            physics=count, obs=count[None].astype(jnp.float32), reward=action[0], terminated=count >= self.end
        )

    def render(self, state):
        image = np.zeros((8, 200, 3), np.uint8)
        image[:, : int(state.physics)] = 255
        return image


def apply(key, obs, memory, deterministic):
    """Remembers how often it acted and returns that, so that memory must be carried."""
    return jnp.where(deterministic, memory[None], -1.0), memory + 1.0


POLICY = SimpleNamespace(initial_memory=jnp.zeros(()), apply=apply)


def frames_of(path):
    with Image.open(path) as image:
        assert image.format == "GIF"
        assert image.info["duration"] == 50
        assert image.info["loop"] == 0
        return [image.seek(i) or np.asarray(image.convert("L")) for i in range(image.n_frames)]


def test_one_frame_per_state_until_the_episode_ends(tmp_path):
    path = tmp_path / "videos" / "counter.gif"
    assert animate(Counter(), POLICY, jax.random.key(0), path, fps=20) == 0 + 1 + 2 + 3 + 4
    frames = frames_of(path)
    assert [int((frame[0] > 127).sum()) for frame in frames] == [0, 1, 2, 3, 4, 5]


def test_stops_at_max_steps_and_can_sample(tmp_path):
    path = tmp_path / "counter.gif"
    env = TimeLimit(Counter(end=1000), 3)
    assert animate(env, POLICY, jax.random.key(0), path, fps=20) == 0 + 1 + 2
    assert len(frames_of(path)) == 4
    assert animate(env, POLICY, jax.random.key(0), path, max_steps=2, fps=20, deterministic=False) == -2
    assert len(frames_of(path)) == 3


def test_episodes_longer_than_one_compiled_chunk(tmp_path):
    path = tmp_path / "counter.gif"
    assert animate(Counter(end=70), POLICY, jax.random.key(0), path, fps=20) == sum(range(70))
    assert len(frames_of(path)) == 71
    assert animate(Counter(end=200), POLICY, jax.random.key(0), path, max_steps=66, fps=20) == sum(range(66))
    assert len(frames_of(path)) == 67


def test_bad_arguments_are_refused(tmp_path):
    key = jax.random.key(0)
    for arguments, message in [
        ({"path": tmp_path / "a.mp4"}, "writes .gif"),
        ({"path": tmp_path / "a.gif", "fps": 60}, "fps"),
        ({"path": tmp_path / "a.gif", "max_steps": 0}, "max_steps"),
        ({"path": tmp_path / "a.gif", "env": AutoReset(Counter(), 2)}, "one environment"),
    ]:
        with pytest.raises(ValueError, match=message):
            animate(**({"env": Counter(), "policy": POLICY, "key": key} | arguments))
    assert not list(tmp_path.iterdir())
