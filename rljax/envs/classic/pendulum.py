"""Pendulum: swing a pendulum up and hold it there. Same task as Gymnasium's Pendulum-v1."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import Environment, State, initial_state
from rljax.spaces import PRIVILEGED, Box, Dict
from rljax.types import Key, PyTree


def wrap_angle(angle: jax.Array) -> jax.Array:
    """The same direction as an angle in [−π, π]; radians, any shape."""
    turn = 2.0 * math.pi
    return angle - turn * jnp.rint(angle / turn)


class Pendulum(Environment):
    """Physics f32 [2]: angle from upright (rad, not wrapped), angular velocity (rad/s).

    The observation f32 [3] is (cos angle, sin angle, angular velocity); with `blind`, a dict of "state" f32 [2] without
    the velocity and "privileged_state" f32 [3] with it. The action f32 [1] is a torque in [−2, 2] N·m. The reward is
    −(angle² + 0.1 velocity² + 0.001 torque²), of the state before the step.
    Never terminates.
    """

    name = "pendulum"
    gravity = 10.0
    mass = 1.0
    length = 1.0
    time_step = 0.05
    max_speed = 8.0
    max_torque = 2.0

    def __init__(self, blind: bool = False) -> None:
        self.blind, high = blind, np.array([1.0, 1.0, self.max_speed])
        all_of_it = Box(-high, high)
        parts = {"state": Box(-high[:2], high[:2]), PRIVILEGED: all_of_it}
        self.observation_space = Dict(parts) if blind else all_of_it
        self.action_space = Box(-self.max_torque, self.max_torque, (1,))

    def reset(self, key: Key) -> State:
        high = jnp.array([math.pi, 1.0], jnp.float32)
        physics = jax.random.uniform(key, (2,), jnp.float32, -high, high)
        return initial_state(physics, self.observe(physics))

    def observe(self, physics: jax.Array) -> PyTree:
        """Cosine and sine of the angle, angular velocity."""
        angle, velocity = physics
        all_of_it = jnp.stack([jnp.cos(angle), jnp.sin(angle), velocity])
        return {"state": all_of_it[:2], PRIVILEGED: all_of_it} if self.blind else all_of_it

    def step(self, state: State, action: jax.Array) -> State:
        angle, velocity = state.physics
        torque = jnp.clip(jnp.asarray(action, jnp.float32)[0], -self.max_torque, self.max_torque)
        cost = wrap_angle(angle) ** 2 + 0.1 * velocity**2 + 0.001 * torque**2

        fall = 1.5 * self.gravity / self.length * jnp.sin(angle)
        acceleration = fall + 3.0 / (self.mass * self.length**2) * torque
        velocity = jnp.clip(velocity + acceleration * self.time_step, -self.max_speed, self.max_speed)
        physics = jnp.stack([angle + velocity * self.time_step, velocity])
        return state.replace(
            physics=physics,
            obs=self.observe(physics),
            reward=-cost,
            terminated=jnp.zeros((), bool),
            truncated=jnp.zeros((), bool),
        )

    def render(self, state: State) -> np.ndarray:
        from rljax.envs.classic.drawing import DARK, LIGHT, WARM, Canvas

        angle = float(state.physics[0])
        canvas = Canvas(centre=(0.0, 0.0), scale=85.0)
        canvas.circle((0.0, 0.0), 1.0, LIGHT, outline=0.015)
        canvas.line((0.0, 1.0 - 0.06), (0.0, 1.0 + 0.06), LIGHT, 0.03)
        # Seen from the front, a positive angle turns anticlockwise.
        canvas.line((0.0, 0.0), (-math.sin(angle), math.cos(angle)), WARM, 0.2)
        canvas.circle((0.0, 0.0), 0.055, DARK)
        return canvas.frame()
