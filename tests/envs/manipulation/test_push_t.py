"""PushT against gym-pusht: coverage, physics, where it starts; its mirror."""

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.data import formats
from rljax.envs.manipulation import push_t
from rljax.envs.manipulation.push_t import GOAL, PushT, coverage, overlap

DEMONSTRATIONS = Path(__file__).parents[4] / "shared" / "data" / "push_t_human_demos.npz"
needs_demonstrations = pytest.mark.skipif(not DEMONSTRATIONS.exists(), reason="needs PushT's demonstrations")


@functools.cache
def demonstrations():
    with np.load(DEMONSTRATIONS) as arrays:
        return {name: arrays[name] for name in ("state", "action", "episode_ends")}


@pytest.fixture(scope="module")
def task():
    return PushT()


def gym_pusht(pose=None):
    """Theirs, in a pose as it reports it."""
    env = pytest.importorskip("gym_pusht.envs.pusht").PushTEnv()
    env.reset(seed=0)
    if pose is not None:
        agent_x, agent_y, x, y, angle = map(float, pose)
        env.agent.position, env.agent.velocity = (agent_x, agent_y), (0.0, 0.0)
        env.block.angle = angle
        env.block.position = (x, y)
        for body in (env.agent, env.block):
            env.space.reindex_shapes_for_body(body)
    return env


def test_overlap_by_hand():
    square = jnp.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    box = functools.partial(overlap, low=jnp.zeros(2), high=jnp.array([4.0, 2.0]))
    assert box(square) == 4.0  # sides on sides
    assert box(square + jnp.array([3.0, 1.0])) == 1.0
    assert box(square + jnp.array([5.0, 0.0])) == 0.0
    assert box(square * 10 - 5.0) == pytest.approx(8.0)  # all around it
    diamond = jnp.array([[2.0, -1.0], [4.0, 1.0], [2.0, 3.0], [0.0, 1.0]])
    assert box(diamond) == pytest.approx(6.0)  # of 8, two corners of 1 are cut


def test_coverage_by_hand():
    goal = jnp.array(GOAL, jnp.float32)
    assert coverage(goal) == pytest.approx(1.0, abs=1e-6)
    assert coverage(goal + jnp.array([200.0, 0.0, 0.0])) == 0.0
    # Half a turn about the bar's centre covers the bar, and nothing of the stem.
    along = jnp.array([-jnp.sin(goal[2]), jnp.cos(goal[2])])
    turned = jnp.concatenate([goal[:2] + 30.0 * along, goal[2:] + jnp.pi])
    assert coverage(turned) == pytest.approx(3600 / 6300, abs=1e-5)


@needs_demonstrations
def test_coverage_is_gym_pushts_on_all_stored_states():
    poses = demonstrations()["state"]
    ours = jax.jit(jax.vmap(coverage))(jnp.asarray(poses[:, 2:]))
    env, theirs = gym_pusht(), []
    for *_, x, y, angle in poses.astype(float):
        env.block.angle = angle
        env.block.position = (x, y)
        theirs.append(env._get_coverage())
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert max(theirs) < 0.95 < 1.0  # which no recorded state reaches


@needs_demonstrations
@pytest.mark.parametrize("engine", ["native", pytest.param("mjx", marks=pytest.mark.slow)])
def test_replayed_demonstrations_go_as_in_gym_pusht(engine):
    """Open loop, over whole demonstrations: the physics differ in how contact is solved, and errors may grow."""
    task, data = PushT(engine=engine), demonstrations()
    ends = data["episode_ends"][:40]
    starts = np.concatenate([[0], ends[:-1]])
    longest = (ends - starts).max()
    actions = np.stack(
        [np.pad(data["action"][a:b], ((0, longest - b + a), (0, 0)), "edge") for a, b in zip(starts, ends)]
    )

    @jax.jit
    def replay(pose, actions):
        def step(state, action):
            state = task.step(state, action)
            return state, (task.pose(state.physics), state.metrics["coverage"])

        return jax.vmap(lambda pose, actions: jax.lax.scan(step, task.place(pose), actions)[1])(pose, actions)

    poses, covered = map(np.asarray, replay(jnp.asarray(data["state"][starts]), jnp.asarray(actions)))
    distances, highest = [], []
    for i, (a, b) in enumerate(zip(starts, ends)):
        env, theirs = gym_pusht(data["state"][a]), []
        for action in data["action"][a:b].astype(float):
            *_, info = env.step(action)
            theirs.append((*info["pos_agent"], *info["block_pose"][:2], info["coverage"]))
        *places, their_coverage = np.transpose(theirs)
        distances.append(np.abs(poses[i, : b - a, :4] - np.transpose(places)))
        highest.append((covered[i, : b - a].max(), their_coverage.max()))
    distances = np.concatenate(distances)
    assert distances[:, :2].max() < 0.05  # pixels, of the agent, which feels nothing
    assert np.median(distances[:, 2:]) < 0.2
    assert np.percentile(distances[:, 2:], 90) < 2.0
    ours, theirs = np.mean(highest, 0)
    assert ours == pytest.approx(theirs, abs=0.01)


def test_it_starts_as_gym_pusht_does(task):
    """The same ranges; there the block is placed upright, and then turned about its centre of mass."""
    poses = jax.jit(jax.vmap(lambda key: task.pose(task.reset(key).physics)))(jax.random.split(jax.random.key(0), 2000))
    env = gym_pusht()
    theirs = np.array([env.reset(seed=seed)[0] for seed in range(500)])
    for ours, other in zip(np.asarray(poses).T, theirs.T):
        np.testing.assert_allclose(np.percentile(ours, [5, 50, 95]), np.percentile(other, [5, 50, 95]), atol=35)
    np.testing.assert_allclose(poses[:, 4], jnp.mod(poses[:, 4], 2 * np.pi))


def test_a_pose_comes_back(task):
    pose = jnp.array([100.0, 120.0, 300.0, 200.0, 4.0])
    state = task.place(pose)
    np.testing.assert_allclose(task.pose(state.physics), pose, rtol=1e-5)
    np.testing.assert_allclose(state.obs, [100, 120, 300, 200, np.cos(4), np.sin(4)], rtol=1e-5)


def test_the_mirror_is_its_own_inverse_and_leaves_the_task_as_it_is(task):
    """S(step(s, a)) = step(S(s), A(a)), from poses with the agent at the block, pushing; and equal rewards."""
    mirror = PushT.symmetry
    for map_, size in ((mirror.observation, 6), (mirror.action, 2), (mirror.position, 5)):
        x = np.random.default_rng(0).uniform(0, 512, (10, size)).astype(np.float32)
        np.testing.assert_allclose(map_(map_(x)), x, atol=1e-4)
    rng = np.random.default_rng(1)
    block = rng.uniform(150, 350, (64, 2))
    pose = np.concatenate([block + rng.uniform(-60, 60, (64, 2)), block, rng.uniform(0, 6, (64, 1))], 1)
    action = jnp.asarray(np.clip(pose[:, 2:4] + rng.uniform(-60, 60, (64, 2)), 0, 512), jnp.float32)

    def after(qpos, action):
        state = task.reset(jax.random.key(0))
        state = state.replace(physics=task.engine.reset(qpos, jnp.zeros(5)))
        return task.step(state, action)

    qpos = jax.vmap(lambda pose: task.place(pose).physics.qpos)(jnp.asarray(pose, jnp.float32))
    both = jax.jit(jax.vmap(after))
    ours, mirrored = both(qpos, action), both(mirror.position(qpos), mirror.action(action))
    moved = np.abs(np.asarray(ours.physics.qpos[:, 2:] - qpos[:, 2:])).max(1) > 1.0
    assert moved.sum() > 20
    np.testing.assert_allclose(mirror.observation(ours.obs), mirrored.obs, atol=0.02)
    np.testing.assert_allclose(mirror.position.velocity(ours.physics.qvel), mirrored.physics.qvel, atol=0.5)
    np.testing.assert_allclose(ours.metrics["coverage"], mirrored.metrics["coverage"], atol=1e-3)


@pytest.mark.parametrize(("reward", "expected"), [("dense", None), ("staged", 0.25 - 1.0), ("sparse", -1.0)])
def test_a_reward_is_what_is_missing(reward, expected):
    task = PushT(reward=reward)
    goal = jnp.array([20.0, 20.0, *GOAL])
    stay = jnp.array([20.0, 20.0])
    state = task.step(task.place(goal), stay)
    assert (state.reward, state.terminated, state.metrics["success"]) == (0.0, True, 1.0)
    # Half the bar's length to its side: the first of four stages.
    away = task.place(goal.at[2:4].add(60.0 * jnp.array([jnp.cos(GOAL[2]), jnp.sin(GOAL[2])])))
    state = task.step(away, stay)
    covered = float(state.metrics["coverage"])
    assert 0.25 < covered < 0.5
    assert state.reward == pytest.approx(covered / 0.95 - 1.0 if expected is None else expected, abs=1e-5)
    assert not state.terminated


def test_it_goes_on_after_success_if_told_to():
    task = PushT(terminate_on_success=False)
    state = task.step(task.place(jnp.array([20.0, 20.0, *GOAL])), jnp.array([20.0, 20.0]))
    assert state.metrics["success"] == 1.0
    assert not state.terminated


def test_by_name_and_a_wrong_reward():
    env = rljax.make("PushT-v0")
    assert env.max_episode_steps == 300
    task = env.unwrapped
    assert isinstance(task, push_t.PushT)
    assert task.control_rate == pytest.approx(10.0)
    assert sum(s.stop - s.start for s in task.observation_blocks.values()) == env.observation_space.shape[0]
    with pytest.raises(
        ValueError, match=r"PushT: reward must be one of .*'dense', 'staged', 'sparse'.*, got 'coverage'"
    ):
        rljax.make("push_t", reward="coverage")


def test_it_is_drawn(task):
    frame = task.render(jax.jit(task.reset)(jax.random.key(0)))
    assert frame.shape == (384, 384, 3)
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 3


@needs_demonstrations
def test_the_demonstrations_are_a_dataset_of_the_task():
    dataset, data = formats.load(DEMONSTRATIONS), demonstrations()
    assert (dataset.metadata.task, dataset.size, len(dataset.ends)) == ("push_t", 25_650, 206)
    np.testing.assert_allclose(dataset.obs[:, :4], data["state"][:, :4])
    np.testing.assert_array_equal(dataset.action, data["action"])
    assert dataset.terminated.sum() == 206
    np.testing.assert_array_equal(dataset.returns, 1 - np.diff(data["episode_ends"], prepend=0))
    chex.assert_trees_all_equal(dataset.next_obs[:48], dataset.obs[1:49])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.zeros((4, 4))}, r"state must be \[N, 5\]"),
        ({"action": np.zeros((3, 2))}, r"action \[N, 2\], and are \(4, 5\) and \(3, 2\)"),
        ({"episode_ends": np.array([2, 3])}, "must rise to the number of steps, 4"),
        ({"episode_ends": np.array([3, 2, 4])}, "must rise"),
        ({"state": np.full((4, 5), np.nan)}, "only finite"),
    ],
)
def test_demonstrations_that_do_not_fit_are_refused(tmp_path, change, message):
    arrays = {"state": np.zeros((4, 5)), "action": np.zeros((4, 2)), "episode_ends": np.array([2, 4])}
    np.savez(tmp_path / "demos.npz", **(arrays | change))
    with pytest.raises(ValueError, match=message):
        formats.load(tmp_path / "demos.npz")


def test_observations_of_poses():
    assert push_t.observation_of(jnp.zeros((3, 2, 5))).shape == (3, 2, 6)
