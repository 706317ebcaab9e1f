"""Histories of observations, by hand: in an environment, pushed one by one, and of frames at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs import ObservationHistory
from rljax.ops import history
from rljax.spaces import Box, Dict, Discrete, MultiDiscrete, parts
from tests.toys import Looking, Pixels, limited

SPACE = Dict({"image": Box(0, 255, (2, 3, 1), np.uint8), "state": Box(-1.0, [1.0, 2.0]), "one": Box(0.0, 9.0, ())})


def frame(number):
    return {
        "image": jnp.full((2, 3, 1), number, jnp.uint8),
        "state": jnp.array([number, -number], jnp.float32),
        "one": jnp.float32(number),
    }


def test_the_newest_observations_lie_side_by_side_and_the_first_stands_for_those_before():
    now = history.beginning(SPACE, frame(1), 3)
    for number in (2, 3, 4):
        now = history.pushed(now, frame(number), 3)
    np.testing.assert_array_equal(now["state"], [2, -2, 3, -3, 4, -4])
    np.testing.assert_array_equal(now["one"], [2, 3, 4])
    np.testing.assert_array_equal(now["image"][1, 2], [2, 3, 4])
    first = history.pushed(history.beginning(SPACE, frame(1), 3), frame(2), 3)
    np.testing.assert_array_equal(first["one"], [1, 1, 2])
    space = history.space_of(SPACE, 3)
    assert {name: part.shape for name, part in parts(space).items()} == {"image": (2, 3, 3), "one": (3,), "state": (6,)}
    assert parts(space)["image"].dtype == np.uint8
    assert space.contains(jax.tree.map(lambda x: np.asarray(x) * 0, now))
    assert history.space_of(Discrete(4), 2) == MultiDiscrete((4, 4))
    assert history.space_of(MultiDiscrete((3, 4)), 2) == MultiDiscrete((3, 4, 3, 4))


def test_frames_at_once_are_the_same_as_one_by_one():
    frames = jax.tree.map(lambda *x: jnp.stack(x)[None], *(frame(number) for number in (2, 3, 4)))
    together = jax.tree.map(history.side_by_side, frames)
    one_by_one = history.beginning(SPACE, frame(1), 3)
    for number in (2, 3, 4):
        one_by_one = history.pushed(one_by_one, frame(number), 3)
    jax.tree.map(np.testing.assert_array_equal, together, jax.tree.map(lambda x: x[None], one_by_one))
    assert isinstance(history.side_by_side(np.zeros((2, 3, 4))), np.ndarray)
    alone = jax.tree.map(lambda x: history.side_by_side(x[:, :1]), frames)
    jax.tree.map(np.testing.assert_array_equal, alone, jax.tree.map(lambda x: x[None], frame(2)))


@pytest.mark.parametrize("task", [Pixels, Looking])
def test_an_environment_may_show_histories_of_images_and_of_parts(task):
    env = ObservationHistory(limited(task(), 5), 2)
    state = jax.jit(env.reset)(jax.random.key(0))
    seen = [env.env.reset(jax.random.key(0)).obs] * 2
    for step in range(3):
        action = env.action_space.sample(jax.random.key(step))
        state = jax.jit(env.step)(state, action)
        seen.append(state.info["newest_obs"])
        assert env.observation_space.contains(jax.tree.map(np.asarray, state.obs))
    frames = jax.tree.map(lambda *x: jnp.stack(x)[None], *seen[-2:])
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x, y[0]), state.obs, jax.tree.map(history.side_by_side, frames)
    )
