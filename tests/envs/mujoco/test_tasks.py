"""The ten tasks against Gymnasium's: one step from the same state, on the way of Gymnasium's own episodes."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import rljax
from rljax.envs import AutoReset
from rljax.envs.mujoco.task import MujocoTask, Score
from rljax.ops import running_statistics

TASKS = {
    "half_cheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "ant": "Ant-v5",
    "humanoid": "Humanoid-v5",
    "swimmer": "Swimmer-v5",
    "reacher": "Reacher-v5",
    "pusher": "Pusher-v5",
    "inverted_pendulum": "InvertedPendulum-v5",
    "inverted_double_pendulum": "InvertedDoublePendulum-v5",
}
# MJX computes in single precision (Gymnasium in double), and stops its solver by another tolerance. Where that is all,
# agreement is to about 1e-5. Contacts amplify it. Beyond that:
# - Reacher: a joint at its limit is a stiff spring, entered or not by the last bit.
# - HalfCheetah: contact forces within a step of 10 ms depend on the solver's last digits.
MJX_TOLERANCE = {
    "inverted_pendulum": 1e-5,
    "inverted_double_pendulum": 1e-5,
    "swimmer": 1e-4,
    "reacher": 1e-3,
    "half_cheetah": 1e-2,
}


def steps_of_gymnasium(task, count, longest=60, **kwargs):
    """Random steps along Gymnasium's episodes: state before and action, observation, reward, terminated and info.

    States are rounded to single precision, which is what ours hold, before the step.
    """
    env: Any = gymnasium.make(TASKS[task], **kwargs).unwrapped
    env.action_space.seed(0)
    rows, age = [], longest
    for index in range(count):
        if age >= longest:
            env.reset(seed=index)
            age = 0
        qpos, qvel = (np.asarray(x, np.float32) for x in (env.data.qpos, env.data.qvel))
        mujoco.mj_resetData(env.model, env.data)  # forgets the warm start, which ours starts without too
        env.set_state(qpos.astype(float), qvel.astype(float))
        action = env.action_space.sample()
        obs, reward, terminated, _, info = env.step(action)
        rows.append((qpos, qvel, action, obs, reward, terminated, info))
        age = longest if terminated else age + 1
    *arrays, infos = zip(*rows, strict=True)
    return *map(np.array, arrays), infos


def step_from(env, qpos, qvel, action):
    def one(qpos, qvel, action):
        start = jax.eval_shape(env.reset, jax.random.key(0))
        state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), start)
        return env.step(state.replace(physics=env.engine.reset(qpos, qvel)), action)

    return jax.jit(jax.vmap(one))(qpos, qvel, action)


def assert_agree(task, engine, count, tolerance):
    *states, obs, reward, terminated, infos = steps_of_gymnasium(task, count)
    env = rljax.make(task, engine=engine, max_episode_steps=0)
    after = step_from(env, *states)
    np.testing.assert_allclose(after.obs, obs, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(after.reward, reward, rtol=tolerance, atol=tolerance)
    assert not after.truncated.any()
    assert not after.metrics["unstable"].any()
    shared = set(after.metrics) & set(infos[0])
    assert any(name.startswith("reward_") for name in shared)
    for name in shared:
        expected = [info[name] for info in infos]
        np.testing.assert_allclose(after.metrics[name], expected, rtol=tolerance, atol=tolerance, err_msg=name)
    return np.asarray(after.terminated), terminated


@pytest.mark.parametrize("task", TASKS)
def test_native_step_is_gymnasiums(task):
    ours, theirs = assert_agree(task, "native", 1000, 1e-5)
    np.testing.assert_array_equal(ours, theirs)
    if task not in ("half_cheetah", "swimmer", "reacher", "pusher"):
        assert theirs.any()


@pytest.mark.parametrize(
    "task", [t if t == "inverted_pendulum" else pytest.param(t, marks=pytest.mark.slow) for t in MJX_TOLERANCE]
)
def test_mjx_step_is_gymnasiums_within_its_precision(task):
    ours, theirs = assert_agree(task, "mjx", 1000, MJX_TOLERANCE[task])
    assert (ours != theirs).mean() < 0.005  # at the very edge of a healthy range


@pytest.mark.slow
@pytest.mark.parametrize("task", ["inverted_pendulum", "swimmer", "hopper", "half_cheetah"])
def test_warp_step_is_gymnasiums_within_its_precision(task):
    """On a CPU too, where Warp is installed; slowly."""
    pytest.importorskip("warp")
    tolerance = {"inverted_pendulum": 1e-5, "swimmer": 1e-4}.get(task, 2e-2)
    ours, theirs = assert_agree(task, "warp", 300, tolerance)
    assert (ours != theirs).mean() < 0.005


@pytest.mark.parametrize("task", TASKS)
def test_spaces_time_limit_and_control_rate_are_gymnasiums(task):
    env = rljax.make(TASKS[task])
    own = env.unwrapped
    assert isinstance(own, MujocoTask)
    theirs: Any = gymnasium.make(TASKS[task])
    assert env.name == task
    assert env.observation_space.shape == theirs.observation_space.shape
    np.testing.assert_array_equal(env.action_space.low, theirs.action_space.low)
    np.testing.assert_array_equal(env.action_space.high, theirs.action_space.high)
    assert env.max_episode_steps == theirs.spec.max_episode_steps
    assert own.dt == pytest.approx(theirs.unwrapped.dt)
    assert own.control_rate == pytest.approx(theirs.metadata["render_fps"], abs=0.5)


@pytest.mark.parametrize("task", TASKS)
def test_resets_are_distributed_as_gymnasiums(task):
    count = 400
    theirs: Any = gymnasium.make(TASKS[task]).unwrapped
    env = rljax.make(task)
    physics = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), count)).physics
    ours = np.concatenate([physics.qpos, physics.qvel], axis=1)
    rows = []
    for seed in range(count):
        theirs.reset(seed=seed)
        rows.append(np.concatenate([theirs.data.qpos, theirs.data.qvel]))
    expected = np.array(rows)
    deviation = expected.std(axis=0)
    error = 5.0 * deviation / np.sqrt(count) + 1e-6
    assert (np.abs(ours.mean(axis=0) - expected.mean(axis=0)) < error * np.sqrt(2)).all()
    assert (np.abs(ours.std(axis=0) - deviation) < 0.2 * deviation + 1e-6).all()
    np.testing.assert_allclose(np.abs(ours).max(axis=0), np.abs(expected).max(axis=0), rtol=0.5, atol=1e-3)


@pytest.mark.parametrize(
    ("task", "kwargs"),
    [
        ("half_cheetah", {"exclude_current_positions_from_observation": False, "ctrl_cost_weight": 1.0}),
        ("hopper", {"terminate_when_unhealthy": False, "healthy_reward": 3.0, "healthy_z_range": (1.0, 1.2)}),
        ("ant", {"include_cfrc_ext_in_observation": False, "contact_force_range": (-2.0, 2.0)}),
        ("humanoid", {"include_cinert_in_observation": False, "contact_cost_weight": 1e-2}),
        ("reacher", {"reward_dist_weight": 2.0, "reward_control_weight": 0.1}),
    ],
)
def test_arguments_mean_what_gymnasiums_mean(task, kwargs):
    *states, obs, reward, terminated, _ = steps_of_gymnasium(task, 100, **kwargs)
    after = step_from(rljax.make(task, max_episode_steps=0, **kwargs), *states)
    np.testing.assert_allclose(after.obs, obs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after.reward, reward, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(after.terminated, terminated)


def test_a_whole_episode_stays_near_gymnasiums():
    """The state is rounded to single precision between steps; a swimmer, without contacts, hardly feels it."""
    theirs: Any = gymnasium.make("Swimmer-v5").unwrapped
    theirs.reset(seed=0)
    env = rljax.make("swimmer", max_episode_steps=0)
    assert isinstance(env, MujocoTask)
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32)
    state = env.reset(jax.random.key(0))
    state = state.replace(physics=env.engine.reset(jnp.float32(theirs.data.qpos), jnp.float32(theirs.data.qvel)))
    _, ours = jax.jit(lambda s: jax.lax.scan(lambda s, a: (env.step(s, a),) * 2, s, actions))(state)
    steps = [theirs.step(action) for action in actions]
    np.testing.assert_allclose(ours.obs, [step[0] for step in steps], atol=1e-3)
    np.testing.assert_allclose(ours.reward.sum(), sum(step[1] for step in steps), atol=1e-2)


@pytest.mark.parametrize("engine", ["native", "mjx"])
@pytest.mark.parametrize(("task", "terminates"), [("inverted_pendulum", True), ("reacher", False)])
def test_an_unstable_simulation_ends_alone(engine, task, terminates):
    if engine == "mjx" and task == "reacher":
        pytest.skip("one is enough: it compiles for long")
    env = AutoReset(rljax.make(task, engine=engine), 4)
    good = jax.jit(env.reset)(jax.random.key(0))
    physics = good.physics.replace(qvel=good.physics.qvel.at[2].set(jnp.nan))
    action = jnp.zeros((4, *env.action_space.shape))
    step = jax.jit(env.step)
    after, undisturbed = step(good.replace(physics=physics), action), step(good, action)
    np.testing.assert_array_equal(after.metrics["unstable"], [0, 0, 1, 0])
    np.testing.assert_array_equal(after.terminated, [False, False, terminates, False])
    np.testing.assert_array_equal(after.truncated, [False, False, not terminates, False])
    np.testing.assert_array_equal(after.info["next_obs"][2], good.obs[2])
    assert after.reward[2] == 0
    others = np.array([0, 1, 3])
    np.testing.assert_array_equal(after.obs[others], undisturbed.obs[others])
    np.testing.assert_array_equal(after.reward[others], undisturbed.reward[others])
    leaves = jax.tree.leaves((after.obs, after.reward, after.metrics, after.physics, after.info["next_obs"]))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    statistics = running_statistics.update(running_statistics.init(good.obs[0]), after.info["next_obs"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(statistics))
    # The one that ended goes on from a fresh start.
    again = step(after, action)
    assert not again.metrics["unstable"].any()


def test_an_action_that_breaks_the_simulation_is_counted_and_over():
    """Not set up by hand: a controller of 1e9 throws the simulation out of bounds within the step."""
    env = rljax.make("swimmer", max_episode_steps=0)
    assert isinstance(env, MujocoTask)
    env.engine.model.actuator_ctrllimited[:] = 0
    env.engine.model.actuator_gear[:] *= 1e9
    state = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 2))
    state = jax.jit(jax.vmap(env.step))(state, jnp.array([[1.0, -1.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(state.metrics["unstable"], [1, 0])
    np.testing.assert_array_equal(state.truncated, [True, False])
    assert np.isfinite(state.obs).all()
    assert np.isfinite(state.reward).all()


class Slides(MujocoTask):
    """Two masses on rails; of their motors one has a range, the other none."""

    xml = """<mujoco><worldbody>
      <body><joint name="a" type="slide" axis="1 0 0"/><geom size=".1"/></body>
      <body pos="0 1 0"><joint name="b" type="slide" axis="1 0 0"/><geom size=".1"/></body></worldbody>
    <actuator><motor joint="a" ctrlrange="-2 3"/><motor joint="b"/></actuator></mujoco>"""

    def __init__(self):
        super().__init__(mujoco.MjModel.from_xml_string(self.xml), 5, engine="native")

    def initial(self, key):
        return jnp.zeros(2), jnp.zeros(2)

    def observe(self, physics):
        return physics.qvel

    def score(self, before, after, action):
        return Score(after.qvel.sum(), jnp.zeros((), bool), {})


def test_an_actuator_without_a_range_has_no_bounds():
    task = Slides()
    assert task.action_space.low.tolist() == [-2.0, -np.inf]
    assert task.action_space.high.tolist() == [3.0, np.inf]
    env = rljax.envs.RescaleAction(task)
    state, step = env.reset(jax.random.key(0)), jax.jit(env.step)
    less, more = (step(state, jnp.array([-1.0, force])).obs for force in (1.0, 20.0))
    assert less[0] == more[0] < 0
    assert 0 < less[1] < more[1]
