"""MountainCar: rock a weak car out of a valley. Same task as Gymnasium's MountainCar-v0.

Source: Moore, "Efficient memory-based learning for robot control", 1990; constants as in Sutton and Barto, 2018.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import Environment, State, initial_state
from rljax.spaces import Box, Discrete
from rljax.types import Key


class Valley(Environment):
    """Base of both mountain cars: the road, the physics f32 [2] (position, velocity) and the drawing.

    The observation is the physics. The left end of the road is a wall; a car that reaches it stops.
    """

    min_position = -1.2
    max_position = 0.6
    max_speed = 0.07
    gravity = 0.0025
    goal_position: float

    def __init__(self) -> None:
        low, high = (self.min_position, -self.max_speed), (self.max_position, self.max_speed)
        self.observation_space = Box(low, high)

    def reset(self, key: Key) -> State:
        position = jax.random.uniform(key, (), jnp.float32, -0.6, -0.4)
        physics = jnp.stack([position, jnp.zeros((), jnp.float32)])
        return initial_state(physics, self.observe(physics))

    def observe(self, physics: jax.Array) -> jax.Array:
        """f32 [2]: the physics itself."""
        return physics

    def drive(self, physics: jax.Array, push: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The physics after one step under `push` (change of velocity), and whether the goal is reached."""
        position, velocity = physics
        velocity = velocity + push - self.gravity * jnp.cos(3.0 * position)
        velocity = jnp.clip(velocity, -self.max_speed, self.max_speed)
        position = jnp.clip(position + velocity, self.min_position, self.max_position)
        velocity = jnp.where((position <= self.min_position) & (velocity < 0.0), 0.0, velocity)
        # A car can also arrive backwards, having started beyond the goal: that does not count.
        return jnp.stack([position, velocity]), (position >= self.goal_position) & (velocity >= 0.0)

    def render(self, state: State) -> np.ndarray:
        from rljax.envs.classic.drawing import DARK, GOAL, GREY, GROUND, Canvas

        def height(x: float) -> float:
            return 0.45 * math.sin(3.0 * x) + 0.55

        canvas = Canvas(centre=(-0.3, 0.6), scale=185.0)
        road = [(x, height(x)) for x in np.linspace(-1.4, 0.8, 120)]
        canvas.polygon([*road, (0.8, -1.0), (-1.4, -1.0)], GROUND)
        canvas.curve(road, GREY, 0.012)
        canvas.line((self.min_position, height(self.min_position)), (self.min_position, 2.0), GREY, 0.012)

        foot = height(self.goal_position)
        canvas.line((self.goal_position, foot), (self.goal_position, foot + 0.17), GREY, 0.01)
        canvas.polygon(
            [(self.goal_position, foot + y) for y in (0.17, 0.09)] + [(self.goal_position - 0.1, foot + 0.13)], GOAL
        )

        x = float(state.physics[0])
        tilt = math.atan(1.35 * math.cos(3.0 * x))

        def on_car(along: float, above: float) -> tuple[float, float]:
            sin, cos = math.sin(tilt), math.cos(tilt)
            return x + along * cos - above * sin, height(x) + along * sin + above * cos

        canvas.polygon([on_car(*p) for p in ((-0.09, 0.03), (0.09, 0.03), (0.09, 0.065), (-0.09, 0.065))], DARK)
        canvas.polygon([on_car(*p) for p in ((-0.06, 0.06), (0.055, 0.06), (0.03, 0.1), (-0.045, 0.1))], DARK)
        for wheel in (-0.05, 0.05):
            canvas.circle(on_car(wheel, 0.026), 0.026, GREY)
        return canvas.frame()


class MountainCar(Valley):
    """Actions 0, 1, 2 push left, not at all, right. The reward is −1 for every step until the flag is reached."""

    name = "mountain_car"
    goal_position = 0.5
    force = 0.001

    def __init__(self) -> None:
        super().__init__()
        self.action_space = Discrete(3)

    def step(self, state: State, action: jax.Array) -> State:
        push = (jnp.asarray(action, jnp.float32) - 1.0) * self.force
        physics, terminated = self.drive(state.physics, push)
        return state.replace(
            physics=physics,
            obs=self.observe(physics),
            reward=-jnp.ones((), jnp.float32),
            terminated=terminated,
            truncated=jnp.zeros((), bool),
        )
