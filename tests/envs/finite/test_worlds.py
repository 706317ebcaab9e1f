"""Worlds against Gymnasium's toy texts, and against what is known of them."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import planning
from rljax.envs.finite import from_lists, world, worlds
from rljax.types import Refused
from tests.envs.finite.test_mdp import matrices


@pytest.mark.parametrize(
    ("name", "arguments", "mdp"),
    [
        ("FrozenLake-v1", {"map_name": "8x8"}, worlds.frozen_lake()),
        ("FrozenLake-v1", {"map_name": "4x4", "is_slippery": False}, worlds.frozen_lake(worlds.FROZEN_LAKE_4X4, 0.0)),
        ("CliffWalking-v1", {}, worlds.cliff_walking()),
        ("CliffWalking-v1", {"is_slippery": True}, worlds.cliff_walking(2 / 3)),
        ("Taxi-v4", {}, worlds.taxi()),
    ],
)
def test_toy_texts_are_those_of_gymnasium(name, arguments, mdp):
    theirs: Any = gymnasium.make(name, **arguments).unwrapped
    expected = from_lists(theirs.P, 0.99, theirs.initial_state_distrib)
    np.testing.assert_allclose(matrices(mdp), matrices(expected), atol=1e-6)
    np.testing.assert_allclose(mdp.rewards, expected.rewards, atol=1e-4)
    np.testing.assert_array_equal(mdp.terminal, expected.terminal)
    np.testing.assert_allclose(mdp.start, expected.start, atol=1e-6)


def test_walls_wind_and_letters_of_a_grid():
    mdp = worlds.gridworld("S.#\n..G", rewards={"G": 2.0}, step_reward=-1.0, wind=[0, 1, 0])
    assert mdp.num_states == 6
    assert mdp.successors is not None
    right = mdp.successors[worlds.RIGHT, 0]
    assert int(right[0]) == 1
    assert int(right[1]) == 1  # a wall
    assert int(right[4]) == 4  # blown up a row, against the wall: it stays
    assert int(right[3]) == 4
    np.testing.assert_array_equal(mdp.terminal, [False, False, True, False, False, True])
    np.testing.assert_allclose(mdp.start, [1, 0, 0, 0, 0, 0])
    still = worlds.gridworld("S.#\n..G", rewards={"G": 2.0}, step_reward=-1.0)
    np.testing.assert_allclose(still.rewards[worlds.RIGHT], [-1, -1, 0, -1, 1, 0])
    for arguments, message in (
        ({"rows": "S.\n..."}, "one length"),
        ({"rows": "S.G", "slip": 2.0}, "slip"),
        ({"rows": "S.G", "wind": [1]}, "wind"),
        ({"rows": "..C", "back_to_start": "C"}, "needs one start"),
        ({"rows": "GH\nHG"}, "no cell to start from"),
    ):
        with pytest.raises(ValueError, match=message):
            worlds.gridworld(**arguments)


def test_who_bumps_into_a_wall_does_not_enter_the_cell_again():
    mdp = worlds.gridworld("SRG", rewards={"R": 1.0, "G": 0.0}, step_reward=-0.5)
    np.testing.assert_allclose(mdp.rewards[worlds.UP], [-0.5, -0.5, 0])
    np.testing.assert_allclose(mdp.rewards[worlds.RIGHT], [0.5, -0.5, 0])


def test_garnet_draws_all_sets_of_successors_alike():
    """Sorted draws moved apart had the outer two of three states in 3/4 of the pairs, and the inner one in 1/2."""
    drawn = np.asarray(worlds.garnet(3, 4_000, 2).successors)
    np.testing.assert_allclose(np.bincount(drawn.ravel()) / 12_000, 2 / 3, atol=0.02)


def test_the_gambler_should_be_bold():
    """Below even odds, bold play wins with the probability of example 4.3: 0.4 at half of the goal."""
    solution = planning.value_iteration(worlds.gambler(0.4), tolerance=1e-7)
    np.testing.assert_allclose(solution.values[25:76:25], [0.16, 0.4, 0.64], atol=1e-5)
    assert np.isinf(solution.bound)  # nothing is certified without a discount


def test_inventory_has_a_threshold():
    """With a fixed cost of ordering it is best to fill up below some stock, and not to order above (Scarf 1960)."""
    policy = np.asarray(planning.policy_iteration(worlds.inventory()).policy)
    ordering = policy > 0
    reorder = ordering.argmin()
    assert reorder > 0
    assert not ordering[reorder:].any()
    assert len(set(policy[:reorder] + np.arange(reorder))) == 1


def test_garnet_has_different_successors_and_other_ones_with_another_seed():
    mdp = worlds.garnet(40, 3, 5, seed=1)
    drawn = np.sort(np.asarray(mdp.successors), axis=1)
    assert (np.diff(drawn, axis=1) > 0).all()
    np.testing.assert_allclose(mdp.probabilities.sum(1), 1.0, rtol=1e-5)
    assert (drawn != np.sort(worlds.garnet(40, 3, 5, seed=2).successors, axis=1)).any()
    with pytest.raises(ValueError, match="successors must be from 1 to"):
        worlds.garnet(4, 2, 5)


def test_a_discretised_pendulum_agrees_with_the_task():
    """Its greedy policy, on the grid point nearest to where the real pendulum is, swings it up."""
    mdp = world("pendulum", angles=61, velocities=61, torques=5, discount=0.98)
    np.testing.assert_allclose(mdp.probabilities[..., :-1].sum(1), 1.0, rtol=1e-5)
    policy = jax.jit(planning.value_iteration, static_argnames=("tolerance",))(mdp, tolerance=1e-2).policy
    env, torques = rljax.make("pendulum"), np.linspace(-2, 2, 5)

    def step(state, _):
        angle, velocity = state.physics
        row = jnp.round((angle + jnp.pi) / (2 * jnp.pi / 61)).astype(int) % 61
        column = jnp.round((velocity + 8) / (16 / 60)).astype(int)
        state = env.step(state, jnp.asarray(torques)[policy[row * 61 + column]][None])
        return state, state.reward

    rewards = jax.jit(jax.vmap(lambda key: jax.lax.scan(step, env.reset(key), None, 200)[1].sum()))(
        jax.random.split(jax.random.key(0), 100)
    )
    assert rewards.mean() > -200


def test_a_discretised_mountain_car_knows_how_far_it_is():
    mdp = world("mountain_car", positions=61, velocities=61)
    values = planning.value_iteration(mdp, tolerance=0.1).values
    rest = values[:-1].reshape(61, 61)[24, 30]  # near -0.48, at rest: about 100 steps
    assert -125 < rest < -85


def test_worlds_by_name():
    env = rljax.make("finite:frozen_lake", slip=0.0)
    assert env.max_episode_steps == 200
    assert env.observation_space.shape == (64,)
    state = jax.jit(env.step)(env.reset(jax.random.key(0)), jnp.int32(worlds.RIGHT))
    assert int(state.obs.argmax()) == 1
    with pytest.raises(ValueError, match="did you mean taxi"):
        rljax.make("finite:txi")
    with pytest.raises(ValueError, match="taxi does not take slip"):
        rljax.make("finite:taxi", slip=0.1)
    with pytest.raises(ValueError, match="garnet needs num_states, num_actions, successors; it takes: "):
        rljax.make("finite:garnet")


def test_an_unknown_letter_is_refused_and_letters_that_an_argument_names_are_not():
    with pytest.raises(Refused, match=r"'X' in row 1, column 2 \(from 0\) is not a cell; allowed are ' ' '#' '.' 'F'"):
        worlds.gridworld("S.G\n..X")
    with pytest.raises(Refused, match="'s' in row 0, column 0"):
        worlds.frozen_lake(["sFG"])
    assert worlds.gridworld("S XG", rewards={"X": -1.0, "G": 1.0}).num_states == 4
