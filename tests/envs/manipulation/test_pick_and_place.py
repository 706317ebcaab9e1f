"""PickAndPlace: parts, mirror, grip, rewards, engines."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.envs.manipulation.grip import REACH, grip
from rljax.envs.manipulation.pick_and_place import BLOCK, OPENING, PickAndPlace
from rljax.envs.mujoco.rendering import NoGraphics

COUNT = 64


@pytest.fixture(scope="module")
def task():
    return PickAndPlace(threads=1)


def at_the_block(states, opening=OPENING):
    """Positions with the hand around the block."""
    qpos = states.physics.qpos
    return qpos.at[:, 6:9].set(qpos[:, 2:5] + jnp.array([0.0, 0.0, BLOCK / 2])).at[:, 9:].set(opening / 2)


def test_by_name_and_its_parts():
    env = rljax.make("PickAndPlace-v0", threads=1)
    task = env.unwrapped
    assert isinstance(task, PickAndPlace)
    assert (env.max_episode_steps, task.control_rate) == (150, pytest.approx(20.0))
    assert env.observation_space.shape == (19,)
    assert env.action_space.bounded
    for blocks, size in ((task.observation_blocks, 19), (task.action_blocks, 4)):
        assert sum(s.stop - s.start for s in blocks.values()) == size


def test_it_starts_away_from_done(task, states):
    obs, blocks = states.obs, task.observation_blocks
    apart = jnp.linalg.norm(obs[:, blocks["block"]][:, :2] - obs[:, blocks["target"]], axis=1)
    assert 0.12 <= apart.min() < apart.max() <= 0.2 + 1e-6
    low, high = task.action_space.low[:2], task.action_space.high[:2]
    assert ((low <= obs[:, blocks["target"]]) & (obs[:, blocks["target"]] <= high)).all()
    assert not obs[:, 6].any()  # holds nothing


@pytest.mark.parametrize(
    ("distance", "opening", "command", "holds", "goes_to"),
    [
        (0.0, 0.04, 0.0, True, 0.04),  # closed around it
        (0.0, 0.08, 0.0, False, 0.04),  # still closing
        (0.0, 0.04, 0.08, False, 0.08),  # told to open
        (0.0, 0.0, 0.0, False, 0.0),  # closed before it came
        (2 * REACH, 0.04, 0.0, False, 0.0),  # pulled out
    ],
)
def test_jaws_hold_what_they_close_around(distance, opening, command, holds, goes_to):
    held, goal = grip(jnp.float32(distance), jnp.float32(opening), jnp.float32(command), 0.04)
    assert (bool(held), float(goal)) == (holds, pytest.approx(goes_to))


def test_a_held_block_comes_along_and_falls_when_let_go(step, states, put):
    state = put(states, at_the_block(states), jnp.zeros((COUNT, 11)))
    hand = state.physics.qpos[:, 6:9]
    for _ in range(10):
        state = step(state, jnp.concatenate([hand, jnp.zeros((COUNT, 1))], 1))
    assert state.obs[:, 6].all()
    # Jaws turn what they close around.
    assert jnp.abs(state.physics.qpos[:, 5]).max() < 0.1 < jnp.abs(states.physics.qpos[:, 5]).max()
    up = hand + jnp.array([0.0, 0.0, 0.1])
    for _ in range(12):
        state = step(state, jnp.concatenate([up, jnp.zeros((COUNT, 1))], 1))
    np.testing.assert_allclose(state.physics.qpos[:, 4], 0.1, atol=0.01)
    for _ in range(12):
        state = step(state, jnp.concatenate([up, jnp.full((COUNT, 1), OPENING)], 1))
    np.testing.assert_allclose(state.physics.qpos[:, 4], 0.0, atol=0.002)


def test_the_mirror_is_its_own_inverse_and_leaves_the_task_as_it_is(task, step, states, put):
    """S(step(s, a)) = step(S(s), A(a)), of hands that close around, push and carry the block."""
    mirror, rng = task.symmetry, np.random.default_rng(0)
    for map_, size in ((mirror.observation, 19), (mirror.action, 4), (mirror.position, 11)):
        x = rng.normal(size=(10, size)).astype(np.float32)
        np.testing.assert_allclose(map_(map_(x)), x)
    qpos = at_the_block(states).at[:, 6:9].add(jnp.asarray(rng.normal(size=(COUNT, 3)) * 0.01, jnp.float32))
    qvel = jnp.asarray(rng.normal(size=(COUNT, 11)) * 0.1, jnp.float32)
    ours = put(states, qpos, qvel)
    theirs = put(states, mirror.position(qpos), mirror.position.velocity(qvel))
    held = 0
    for i in range(15):
        action = np.concatenate([qpos[:, 6:9] + rng.normal(size=(COUNT, 3)) * 0.03, np.full((COUNT, 1), 0.08)], 1)
        action[: COUNT // 2, 3] = 0.0
        action = jnp.clip(jnp.asarray(action, jnp.float32), task.action_space.low, task.action_space.high)
        ours, theirs = step(ours, action), step(theirs, mirror.action(action))
        held += int(ours.obs[:, 6].sum())
        np.testing.assert_allclose(mirror.observation(ours.obs), theirs.obs, atol=1e-4, err_msg=f"step {i}")
        np.testing.assert_allclose(mirror.position(ours.physics.qpos), theirs.physics.qpos, atol=1e-4)
        np.testing.assert_allclose(ours.reward, theirs.reward)
    assert held > 30
    assert (jnp.abs(ours.physics.qpos[:, 2:4] - qpos[:, 2:4]).max(1) > 0.005).sum() > 10


@pytest.mark.parametrize(("reward", "expected"), [("dense", None), ("staged", 0.25 - 1.0), ("sparse", -1.0)])
def test_a_reward_is_what_is_missing(reward, expected):
    task = PickAndPlace(threads=1, reward=reward)
    start = jax.jit(task.reset)(jax.random.key(0))
    hand = start.physics.qpos[2:5] + jnp.array([0.0, 0.0, BLOCK / 2])
    reset = jax.jit(lambda qpos: start.replace(physics=task.engine.reset(qpos, jnp.zeros(11))))
    step = jax.jit(task.step)
    reached = reset(start.physics.qpos.at[6:9].set(hand))
    state = step(reached, jnp.append(hand, OPENING))
    assert not state.terminated
    assert float(state.reward) == (pytest.approx(-0.7, abs=0.05) if expected is None else pytest.approx(expected))
    placed = reset(start.physics.qpos.at[:2].set(start.physics.qpos[2:4] + 0.02).at[6:9].set(hand))
    state = step(placed, jnp.append(hand, OPENING))
    assert (state.reward, state.terminated, state.metrics["success"]) == (0.0, True, 1.0)


@pytest.mark.slow  # MJX takes a while to compile
def test_mjx_goes_as_native(task):
    other = PickAndPlace(engine="mjx")
    key = jax.random.key(0)
    ours, theirs = jax.jit(task.reset)(key), jax.jit(other.reset)(key)
    chex.assert_trees_all_close(ours.obs, theirs.obs, atol=1e-5)
    step, other_step = jax.jit(task.step), jax.jit(other.step)
    action = jnp.concatenate([ours.physics.qpos[2:5] + jnp.array([0.0, 0.0, BLOCK / 2]), jnp.zeros(1)])
    for i in range(40):
        told = action.at[3].set(OPENING if i < 20 else 0.0).at[2].add(0.1 if i > 30 else 0.0)
        ours, theirs = step(ours, told), other_step(theirs, told)
    assert ours.obs[6] == theirs.obs[6] == 1.0
    np.testing.assert_allclose(ours.obs, theirs.obs, atol=0.02)  # the angle; the rest is much nearer
    np.testing.assert_allclose(ours.physics.qpos[:5], theirs.physics.qpos[:5], atol=1e-3)


def test_it_is_drawn(task, states):
    try:
        frame = task.render(jax.tree.map(lambda x: x[0], states))
    except NoGraphics as error:
        pytest.skip(str(error))
    assert frame.shape == (480, 480, 3)
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 50
