"""The classic tasks agree with Gymnasium: every step, the resets, the spaces, the time limits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rljax.envs import initial_state, make
from rljax.envs.classic import Acrobot
from rljax.spaces import Discrete

COUNT = 3000


def within(distance):
    """Too near a threshold for float32 to take the same side as float64."""
    return np.abs(distance) < 1e-6


def cartpole_unclear(after):
    return within(np.abs(after[:, 0]) - 2.4) | within(np.abs(after[:, 2]) - np.radians(12))


def mountain_car_unclear(goal):
    def unclear(after):
        wall = within(after[:, 0] + 1.2) & (after[:, 0] != np.float64(-1.2)) & (after[:, 0] != np.float32(-1.2))
        arrival = (after[:, 0] > goal - 1e-6) & within(after[:, 1])
        return wall | within(after[:, 0] - goal) | arrival

    return unclear


def acrobot_unclear(after):
    height = -np.cos(after[:, 0]) - np.cos(after[:, 0] + after[:, 1])
    return np.abs(height - 1.0) < 1e-5  # heights are of the order of 1 and come out of a Runge-Kutta step


class Task(NamedTuple):
    """How to compare one task: Gymnasium's id, states to start from, and where the two may rightly differ."""

    id: str
    low: list[float]
    high: list[float]
    unclear: Callable
    reset_low: list[float]
    reset_high: list[float]


TASKS = {
    "cartpole": Task(
        "CartPole-v1", [-2.5, -3, -0.23, -3], [2.5, 3, 0.23, 3], cartpole_unclear, [-0.05] * 4, [0.05] * 4
    ),
    "mountain_car": Task("MountainCar-v0", [-1.2, -0.07], [0.6, 0.07], mountain_car_unclear(0.5), [-0.6, 0], [-0.4, 0]),
    "mountain_car_continuous": Task(
        "MountainCarContinuous-v0", [-1.2, -0.07], [0.6, 0.07], mountain_car_unclear(0.45), [-0.6, 0], [-0.4, 0]
    ),
    # Up to half its speed limits: above, one Runge-Kutta step amplifies float32 rounding (to 1e-2 at worst; see the
    # float64 test below, which covers all speeds).
    "acrobot": Task(
        "Acrobot-v1",
        [-np.pi, -np.pi, -2 * np.pi, -4.5 * np.pi],
        [np.pi, np.pi, 2 * np.pi, 4.5 * np.pi],
        acrobot_unclear,
        [-0.1] * 4,
        [0.1] * 4,
    ),
    "pendulum": Task(
        "Pendulum-v1", [-20, -8], [20, 8], lambda after: np.zeros(len(after), bool), [-np.pi, -1], [np.pi, 1]
    ),
}
every_task = pytest.mark.parametrize("name", TASKS)


def draw(name, count=COUNT):
    """Random states f32 [count, …] and actions; continuous actions also lie outside their bounds."""
    rng, task = np.random.default_rng(0), TASKS[name]
    physics = rng.uniform(task.low, task.high, (count, len(task.low))).astype(np.float32)
    space = make(name).action_space
    if isinstance(space, Discrete):
        return physics, rng.integers(0, space.n, count, np.int32)
    return physics, rng.uniform(1.5 * space.low, 1.5 * space.high, (count, *space.shape)).astype(np.float32)


def gymnasium_steps(name, physics, actions):
    """What Gymnasium makes of each state and action: next physics, observation, reward, terminated."""
    env: Any = gymnasium.make(TASKS[name].id).unwrapped
    env.reset(seed=0)
    results = []
    for state, action in zip(physics, actions):
        env.state = state.astype(np.float64)
        if name == "cartpole":
            env.steps_beyond_terminated = None
        obs, reward, terminated, _, _ = env.step(action)
        results.append((np.array(env.state, np.float64), np.array(obs), reward, terminated))
    return [np.array(column) for column in zip(*results)]


@every_task
def test_every_step_agrees_with_gymnasium(name):
    env: Any = make(name, max_episode_steps=None)
    task = TASKS[name]
    physics, actions = draw(name)

    @jax.jit
    @jax.vmap
    def step(physics, action):
        return env.step(initial_state(physics, env.observe(physics)), action)

    after = jax.tree.map(np.asarray, step(physics, actions))
    expected_physics, expected_obs, expected_reward, expected_terminated = gymnasium_steps(name, physics, actions)
    clear = ~task.unclear(expected_physics)
    assert clear.mean() > 0.99
    close = {"rtol": 1e-5, "atol": 1e-5}
    difference = after.physics - expected_physics
    if name == "acrobot":  # angles near ±π may be wrapped to either side
        difference[:, :2] -= 2 * np.pi * np.round(difference[:, :2] / (2 * np.pi))
    np.testing.assert_allclose((expected_physics + difference)[clear], expected_physics[clear], **close)
    np.testing.assert_allclose(after.obs[clear], expected_obs[clear], **close)
    np.testing.assert_allclose(after.reward[clear], expected_reward[clear], **close)
    np.testing.assert_array_equal(after.terminated[clear], expected_terminated[clear])
    assert not after.truncated.any()
    if name != "pendulum":  # both outcomes were really compared
        assert 0.01 < expected_terminated.mean() < 0.99


def test_in_float64_acrobot_agrees_with_gymnasium_to_nine_digits_at_every_speed():
    env = make("acrobot", max_episode_steps=None)
    assert isinstance(env, Acrobot)
    physics, actions = draw("acrobot")
    physics[:, 2:] *= 2
    expected_physics, _, _, expected_terminated = gymnasium_steps("acrobot", physics, actions)
    jax.config.update("jax_enable_x64", True)
    try:
        step = jax.jit(jax.vmap(lambda physics, action: env.step(initial_state(physics, env.observe(physics)), action)))
        after = jax.tree.map(np.asarray, step(physics.astype(np.float64), actions))
    finally:
        jax.config.update("jax_enable_x64", False)
    np.testing.assert_allclose(after.physics, expected_physics, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(after.terminated, expected_terminated)
    assert np.any(expected_physics[:, 3] == 9 * np.pi)  # the speed limit was met


@every_task
def test_the_spaces_are_gymnasiums(name):
    env = make(name)
    theirs: Any = gymnasium.make(TASKS[name].id)
    np.testing.assert_array_equal(env.observation_space.low, theirs.observation_space.low)
    np.testing.assert_array_equal(env.observation_space.high, theirs.observation_space.high)
    assert env.observation_space.dtype == theirs.observation_space.dtype
    if isinstance(env.action_space, Discrete):
        assert env.action_space.n == theirs.action_space.n
    else:
        np.testing.assert_array_equal(env.action_space.low, theirs.action_space.low)
        np.testing.assert_array_equal(env.action_space.high, theirs.action_space.high)


@every_task
def test_resets_are_drawn_from_gymnasiums_distribution(name):
    env, task = make(name), TASKS[name]
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 2000))
    for drawn, low, high in zip(np.asarray(states.physics).T, task.reset_low, task.reset_high):
        if low == high:
            assert np.all(drawn == low)
        else:
            assert scipy.stats.kstest(drawn, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3
    # Gymnasium's own resets pass the same test, so the bounds above are the right ones.
    theirs: Any = gymnasium.make(task.id).unwrapped
    first = np.array([(theirs.reset(seed=seed), theirs.state)[1] for seed in range(200)])
    assert np.all(first >= np.array(task.reset_low) - 1e-6)
    assert np.all(first <= np.array(task.reset_high) + 1e-6)
    width = np.array(task.reset_high) - np.array(task.reset_low)
    np.testing.assert_allclose(np.ptp(first, axis=0), width, atol=0.1 * width.max())
    assert not np.any(states.done)
    assert not np.any(states.reward)


@every_task
def test_a_state_keeps_its_structure_and_types_so_that_it_can_be_carried_by_a_scan(name):
    env = make(name)
    state = jax.eval_shape(env.reset, jax.random.key(0))
    after = jax.eval_shape(env.step, state, jnp.zeros(env.action_space.shape, env.action_space.dtype))
    assert jax.tree.structure(state) == jax.tree.structure(after)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after)):
        assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, False)
    assert state.obs.shape == env.observation_space.shape
    assert state.obs.dtype == jnp.float32
    assert state.reward.shape == ()
    assert state.reward.dtype == jnp.float32


def roll_out(env, actor, steps):
    """(terminated, truncated) of every step from one reset, bool [steps] each."""

    @jax.jit
    def run(key):
        def body(state, _):
            state = env.step(state, actor(state.obs))
            return state, (state.terminated, state.truncated)

        return jax.lax.scan(body, env.reset(key), None, steps)[1]

    return [np.asarray(flags) for flags in run(jax.random.key(0))]


@pytest.mark.parametrize(
    ("name", "actor", "limit"),
    [
        ("pendulum", lambda obs: jnp.zeros(1), 200),
        ("mountain_car", lambda obs: 1, 200),
        ("cartpole", lambda obs: (obs[2] + 0.3 * obs[3] + 0.05 * obs[0] + 0.1 * obs[1] > 0).astype(int), 500),
    ],
)
def test_an_episode_that_lasts_is_truncated_at_exactly_the_limit_and_not_terminated(name, actor, limit):
    terminated, truncated = roll_out(make(name), actor, limit)
    assert not terminated.any()
    assert np.flatnonzero(truncated).tolist() == [limit - 1]


def test_a_cart_that_is_only_pushed_right_terminates_before_the_limit():
    terminated, truncated = roll_out(make("cartpole"), lambda obs: 1, 20)
    assert 5 < np.argmax(terminated) < 15
    assert not truncated.any()


@every_task
def test_the_drawing_is_a_frame_that_changes_with_the_state(name):
    env = make(name)
    frames = [env.render(env.reset(jax.random.key(seed))) for seed in (0, 1)]
    for frame in frames:
        assert frame.shape == (240, 360, 3)
        assert frame.dtype == np.uint8
        assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 10
    assert np.any(frames[0] != frames[1])
