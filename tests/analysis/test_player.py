"""What the viewer shows: policies that act, episodes that begin anew, and pushes."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import rljax
from rljax.analysis.player import Player, pushed
from rljax.envs import TimeLimit
from rljax.policy import Policy
from rljax.types import Refused
from tests.toys import Clock, Pixels


def constant(action):
    """A policy that always acts alike; each has a function of its own, as loaded ones do."""

    def function(variables, key, obs, memory, deterministic):
        action = jnp.broadcast_to(variables, (1, *variables.shape))
        return jnp.where(deterministic, action, -action), memory, ()

    return Policy(jnp.asarray(action), (), function)


def test_episodes_end_and_begin_anew():
    player = Player(TimeLimit(Clock(3, terminates=True), 10), [constant(0), constant(1)])
    assert player.members == 2
    assert player.rate == 30.0
    for _ in range(3):
        player.step()
    np.testing.assert_array_equal(player.returns, [3.0, 3.0])
    np.testing.assert_array_equal(player.finished, [3.0, 3.0])
    player.step()  # the first state of the next
    np.testing.assert_array_equal(player.lengths, [0, 0])
    np.testing.assert_array_equal(player.states.physics, [0, 0])
    player.step()
    np.testing.assert_array_equal(player.returns, [1.0, 1.0])
    player.reset()
    assert np.isnan(player.finished).all()


def test_states_with_keys_can_be_shown():
    player = Player(TimeLimit(Pixels(), 5), [constant(0)])
    player.step()
    assert player.state(0).obs.shape == (6, 6, 1)
    assert player.metrics(0) == {"unstable": 0.0}


def test_there_must_be_a_policy():
    with pytest.raises(Refused, match="one policy at least"):
        Player(TimeLimit(Clock(3, terminates=True), 10), [])


def test_an_impulse_changes_the_momentum_of_a_free_body_by_itself():
    xml = """<mujoco><worldbody><body name="ball" pos="0 0 5"><freejoint/>
    <geom type="sphere" size=".1" mass="2" pos=".3 0 0"/></body></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    after = mujoco.MjData(model)
    after.qvel[:] = pushed(model, data, 1, (4.0, 0.0, -2.0))
    mujoco.mj_forward(model, after)
    mujoco.mj_subtreeVel(model, after)
    np.testing.assert_allclose(after.subtree_linvel[1], [2.0, 0.0, -1.0], atol=1e-9)  # Δv = p / m, of its centre
    np.testing.assert_allclose(after.qvel[3:], 0.0, atol=1e-9)  # no turn, since it is hit at the centre of mass


def test_a_robot_is_pushed_and_goes_on():
    env = rljax.make("inverted_pendulum", engine="native")
    player = Player(env, [constant([0.0]), constant([0.0])])
    assert set(player.bodies()) == {"cart", "pole"}
    positions, rotations, *_ = player.poses()
    assert positions.shape == (2, player.task.model.nbody, 3)
    assert rotations.shape == (2, player.task.model.nbody, 3, 3)
    before = np.array(player.states.physics.qvel)
    player.push(player.bodies()["cart"], (5.0, 0.0, 0.0))
    after = np.array(player.states.physics.qvel)
    assert (after[:, 0] > before[:, 0] + 0.1).all()
    player.step()
    assert (np.array(player.states.physics.qpos)[:, 0] > 0.005).all()
    assert player.metrics(1).keys() == {*jax.eval_shape(env.reset, jax.random.key(0)).metrics}
