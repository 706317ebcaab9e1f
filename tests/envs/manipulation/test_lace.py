"""Lace: parts, mirror, where it lies, grips, rewards, engines."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import rljax
from rljax.envs.manipulation.lace import (
    HOLE,
    OPENING,
    SAG,
    THICKNESS,
    Lace,
    held_points,
    lace_points,
    threading,
)
from rljax.envs.mujoco.rendering import NoGraphics

COUNT = 64
HEIGHT = 0.2108
"""Of the middle, where the tip hangs at 0.2."""


@pytest.fixture(scope="module")
def task():
    return Lace(threads=1)


def pose(middle_y, left, right, aside=0.0):
    """A lace that points to the right, its tip level with the eyelet; hands at (y, opening), at middle and tip."""
    hands = [0.0, left[0], HEIGHT, left[1], 0.0, right[0], 0.2, right[1]]
    segments = jnp.stack([jnp.zeros(3), jnp.asarray(SAG)], 1).reshape(-1)
    return jnp.concatenate([jnp.array([*hands, aside, 0.2, 0.0, middle_y, HEIGHT, -np.pi / 2]), segments])


def test_by_name_and_its_parts():
    env = rljax.make("Lace-v0", threads=1)
    task = env.unwrapped
    assert isinstance(task, Lace)
    assert (env.max_episode_steps, task.control_rate) == (300, pytest.approx(20.0))
    assert env.observation_space.shape == (43,)
    assert env.action_space.bounded
    for blocks, size in ((task.observation_blocks, 43), (task.action_blocks, 8)):
        assert sum(s.stop - s.start for s in blocks.values()) == size


def test_either_hand_starts_with_it(task, states):
    holds = states.obs[:, jnp.array([7, 15])]
    assert (holds.sum(1) == 1).all()
    assert 0.3 < holds[:, 0].mean() < 0.7
    direction = states.obs[:, 42]
    np.testing.assert_allclose(direction, jnp.where(holds[:, 0] == 1, -1.0, 1.0), atol=1e-6)
    np.testing.assert_allclose(states.obs[:, 17] * direction, -jnp.abs(states.obs[:, 17]))  # the tip is before it


def test_a_hand_may_always_start_with_it():
    for share in (0.0, 1.0):
        state = jax.jit(jax.vmap(Lace(threads=1, left_first=share).reset))(jax.random.split(jax.random.key(0), 8))
        np.testing.assert_array_equal(state.obs[:, 7], share)
    with pytest.raises(ValueError, match="Lace: left_first must be between 0 and 1, got 2"):
        Lace(left_first=2)


def test_starts_are_at_rest(step, states):
    """With the hands kept where they are, the tip hardly moves."""
    qpos = states.physics.qpos
    state = states
    for _ in range(5):
        state = step(state, qpos[:, :8])
        assert jnp.abs(state.obs[:, 16:19] - states.obs[:, 16:19]).max() < 0.003
    assert (state.obs[:, 7] + state.obs[:, 15] == 1).all()


def test_points_are_mujocos(task):
    data, rng = mujoco.MjData(task.model), np.random.default_rng(0)
    for _ in range(5):
        data.qpos[:] = rng.normal(size=20)
        mujoco.mj_kinematics(task.model, data)
        places = held_points(jnp.asarray(data.qpos, jnp.float32))
        for place, name in zip(places, ("middle", "tip")):
            np.testing.assert_allclose(place, data.site(name).xpos, atol=1e-6)


def test_velocities_are_those_of_the_points(task, states, put):
    rng = np.random.default_rng(0)
    velocity = jnp.asarray(rng.normal(size=(COUNT, 20)), jnp.float32)
    obs = put(states, states.physics.qpos, velocity).obs
    before, after = (jax.vmap(lace_points)(states.physics.qpos + s * 1e-3 * velocity) for s in (-1, 1))
    np.testing.assert_allclose(obs[:, 19:22], ((after - before) / 2e-3)[:, -1], atol=2e-3)
    np.testing.assert_allclose(
        obs[:, 31:40], ((after - before) / 2e-3)[:, jnp.array([1, 3, 4])].reshape(COUNT, 9), atol=2e-3
    )


def test_threading_by_hand():
    line = jnp.linspace(-0.05, 0.095, 6)
    points = jnp.stack([jnp.full(6, 0.1), line, jnp.full(6, 0.2)], 1)
    inside = threading(points, jnp.array([0.1, 0.2]), jnp.float32(1.0))
    np.testing.assert_allclose(inside.passed, 0.095)
    assert inside.threaded
    assert not threading(points, jnp.array([0.1, 0.2 + 1.1 * HOLE]), jnp.float32(1.0)).threaded  # beside the hole
    backwards = threading(points, jnp.array([0.1, 0.2]), jnp.float32(-1.0))
    np.testing.assert_allclose(backwards.passed, -0.095)
    assert not backwards.threaded  # pushed in with its tail first
    assert not threading(points.at[:, 1].add(-0.1), jnp.array([0.1, 0.2]), jnp.float32(1.0)).threaded  # before it


def test_the_mirror_is_its_own_inverse_and_leaves_the_task_as_it_is(task, step, states, put):
    """S(step(s, a)) = step(S(s), A(a)), of laces in hands, in the eyelet, against its rim, and dropped."""
    mirror, rng = task.symmetry, np.random.default_rng(0)
    for map_, size in ((mirror.observation, 43), (mirror.action, 8), (mirror.position, 20)):
        x = rng.normal(size=(10, size)).astype(np.float32)
        np.testing.assert_allclose(map_(map_(x)), x)
    qpos = np.array(states.physics.qpos)
    half = COUNT // 2
    # Half of them at the eyelet, partly in it, in one hand or in both.
    for i in range(half):
        other = (-0.055, THICKNESS if i % 2 else OPENING)
        qpos[i] = pose(0.04, (0.04, THICKNESS), other, rng.uniform(-0.015, 0.015))
    qpos += rng.normal(size=qpos.shape) * np.repeat([0.002, 0.0, 0.002, 0.0, 0.05], [8, 2, 3, 1, 6])
    qvel = rng.normal(size=(COUNT, 20)) * 0.1
    qpos, qvel = jnp.asarray(qpos, jnp.float32), jnp.asarray(qvel, jnp.float32)
    ours = put(states, qpos, qvel)
    theirs = put(states, mirror.position(qpos), mirror.position.velocity(qvel))
    bent, held = jnp.zeros(COUNT), jnp.zeros(2)
    for i in range(20):
        action = np.asarray(qpos[:, :8]) + rng.normal(size=(COUNT, 8)) * np.tile([0.02, 0.02, 0.02, 0.01], 2)
        action[::4, 3] = action[1::4, 7] = 0.0  # else it is dropped soon
        action = jnp.clip(jnp.asarray(action, jnp.float32), task.action_space.low, task.action_space.high)
        ours, theirs = step(ours, action), step(theirs, mirror.action(action))
        np.testing.assert_allclose(mirror.observation(ours.obs), theirs.obs, atol=1e-4, err_msg=f"step {i}")
        np.testing.assert_allclose(mirror.position(ours.physics.qpos), theirs.physics.qpos, atol=1e-4)
        np.testing.assert_allclose(ours.reward, theirs.reward)
        for name, value in ours.metrics.items():
            np.testing.assert_allclose(value, theirs.metrics[name], atol=1e-4, err_msg=name)
        bent = jnp.maximum(bent, jnp.abs(ours.physics.qpos[:, 14]))  # sideways, which nothing but the rim does
        held += ours.obs[:, jnp.array([7, 15])].sum(0)
    assert ours.metrics["unstable"].sum() == 0
    assert (bent[:half] > 0.15).sum() > 5
    assert (held > 50).all()


def test_beside_the_hole_the_rim_stops_it(task, step, states, put):
    """2 cm to the side, a hand can push on as it will."""
    aside = jnp.where(jnp.arange(COUNT) % 2 == 0, 0.0, 0.017)
    start = jax.vmap(lambda aside: pose(0.12, (0.12, THICKNESS), (-0.2, OPENING), aside))(aside)
    state = put(states, start, jnp.zeros((COUNT, 20)))
    hand = start[:, :8]
    for i in range(40):
        state = step(state, hand.at[:, 1].set(max(0.12 - 0.005 * i, 0.03)))
    threaded = state.metrics["threaded"] == 1
    assert threaded[::2].all()
    assert not threaded[1::2].any()


@pytest.mark.parametrize("reward", ["dense", "staged", "sparse"])
def test_a_reward_is_what_is_missing(reward):
    task = Lace(threads=1, reward=reward)
    fresh = jax.jit(task.reset)(jax.random.key(0))
    held, away = THICKNESS, (-0.2, OPENING)
    stages = [
        pose(0.12, (0.12, held), away),  # straight before the hole
        pose(0.05, (0.05, held), away),  # through it
        pose(0.04, (0.04, held), (-0.05, held)),  # the other holds it too
        pose(-0.03, (0.1, OPENING), (-0.12, held)),  # and alone, pulled far enough
    ]
    earlier = pose(0.2, (0.2, held), away)
    physics = jax.vmap(lambda qpos: task.engine.reset(qpos, jnp.zeros(20)))
    both = jnp.stack([earlier, *stages])

    @jax.jit
    def run(qpos):
        states = jax.tree.map(lambda x: jnp.broadcast_to(x, (5, *x.shape)), fresh).replace(physics=physics(qpos))
        return jax.vmap(task.step)(states, qpos[:, :8])

    for qpos in (both, task.symmetry.position(both)):
        state = run(qpos)
        np.testing.assert_allclose(state.metrics["stages"], [0, 0.25, 0.5, 0.75, 1])
        rewards = np.asarray(state.reward)
        if reward == "dense":
            assert (np.diff(rewards) > 0).all()
            assert rewards[0] > -1
        else:
            expected = {"staged": [-1, -0.75, -0.5, -0.25, 0], "sparse": [-1, -1, -1, -1, 0]}[reward]
            np.testing.assert_allclose(rewards, expected)
        assert rewards[-1] == 0.0
        np.testing.assert_array_equal(state.terminated, [False] * 4 + [True])


@pytest.mark.slow  # MJX takes a while to compile
def test_mjx_goes_as_native(task):
    other = Lace(engine="mjx")
    step, other_step = jax.jit(task.step), jax.jit(other.step)
    fresh = jax.jit(task.reset)(jax.random.key(0)), jax.jit(other.reset)(jax.random.key(0))
    np.testing.assert_allclose(fresh[0].obs, fresh[1].obs, atol=1e-5)
    # A lace held in the eyelet, pushed on with contact at its rim.
    qpos = pose(0.07, (0.07, THICKNESS), (-0.1, OPENING), 0.006)
    ours, theirs = (
        state.replace(physics=task.engine.reset(qpos, jnp.zeros(20))) for state, task in zip(fresh, (task, other))
    )
    for i in range(20):
        action = qpos[:8].at[1].add(-0.002 * i)
        ours, theirs = step(ours, action), other_step(theirs, action)
    assert ours.metrics["threaded"] == theirs.metrics["threaded"] == 1
    np.testing.assert_allclose(ours.physics.qpos[:14], theirs.physics.qpos[:14], atol=1e-3)
    np.testing.assert_allclose(ours.obs[16:19], theirs.obs[16:19], atol=3e-3)


def test_it_is_drawn(task, states):
    try:
        frame = task.render(jax.tree.map(lambda x: x[0], states))
    except NoGraphics as error:
        pytest.skip(str(error))
    assert frame.shape == (480, 480, 3)
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 50
