"""The T-maze, worked out by hand."""

import jax
import numpy as np
import pytest

import rljax
from rljax.envs.grid import t_maze

NORTH, EAST, SOUTH, WEST = range(4)


def walk(actions, goal_north):
    env = rljax.make("t_maze", length=2)
    key = next(k for k in map(jax.random.key, range(20)) if bool(env.reset(k).physics.goal_north) == goal_north)
    state, step, trace = env.reset(key), jax.jit(env.step), []
    for action in actions:
        state = step(state, action)
        trace.append((round(float(state.reward), 3), bool(state.terminated), np.asarray(state.obs).argmax()))
    return trace


@pytest.mark.parametrize(
    ("turn", "goal_north", "reward"),
    [
        (NORTH, True, 4.0),
        (SOUTH, True, -0.1),
        (NORTH, False, -0.1),
        (SOUTH, False, 4.0),
    ],
)
def test_only_the_turn_that_the_sign_named_pays(turn, goal_north, reward):
    assert walk([EAST, EAST, turn], goal_north) == [(0.0, False, 2), (0.0, False, 3), (reward, True, 3)]


def test_walls_cost_and_do_not_move():
    assert walk([WEST, NORTH, EAST, SOUTH, WEST], True) == [
        (-0.1, False, 0),
        (-0.1, False, 0),
        (0.0, False, 2),
        (-0.1, False, 2),
        (0.0, False, 0),
    ]


def test_the_sign_is_seen_at_the_start_only_and_says_both_things_equally_often():
    env = t_maze.TMaze()
    obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 1000)).obs
    np.testing.assert_array_equal(obs[:, 2:], 0.0)
    assert 0.45 < obs[:, 0].mean() < 0.55


def test_a_corridor_needs_a_length():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        rljax.make("t_maze", length=0)
