"""CartPole: push a cart left or right so that the pole on it stays up. Same task as Gymnasium's CartPole-v1.

Equations: Florian, "Correct equations for the dynamics of the cart-pole system", 2007, without friction;
task: Barto, Sutton and Anderson, "Neuronlike adaptive elements …", 1983.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import Environment, State, initial_state
from rljax.spaces import Box, Discrete
from rljax.types import Key


class CartPole(Environment):
    """Physics f32 [4]: cart position (m), velocity (m/s), pole angle from upright (rad), angular velocity (rad/s).

    The observation is the physics. Action 0 pushes left, 1 pushes right. The reward is 1 for every step.
    Terminates where the cart is further than 2.4 m from the centre or the pole leans by more than 12°.
    """

    name = "cartpole"
    gravity = 9.8
    pole_mass = 0.1
    total_mass = 1.1
    half_length = 0.5
    force = 10.0
    time_step = 0.02
    max_position = 2.4
    max_angle = math.radians(12.0)

    def __init__(self) -> None:
        # Twice the limits, so that the state that ends an episode still lies in the space.
        high = np.array([2 * self.max_position, np.inf, 2 * self.max_angle, np.inf])
        self.observation_space = Box(-high, high)
        self.action_space = Discrete(2)

    def reset(self, key: Key) -> State:
        physics = jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05)
        return initial_state(physics, self.observe(physics))

    def observe(self, physics: jax.Array) -> jax.Array:
        """f32 [4]: the physics itself."""
        return physics

    def step(self, state: State, action: jax.Array) -> State:
        x, velocity, angle, spin = state.physics
        force = jnp.where(action == 1, self.force, -self.force)
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        pole_moment = self.pole_mass * self.half_length
        thrust = (force + pole_moment * spin**2 * sin) / self.total_mass
        inertia = self.half_length * (4.0 / 3.0 - self.pole_mass * cos**2 / self.total_mass)
        spin_rate = (self.gravity * sin - cos * thrust) / inertia
        acceleration = thrust - pole_moment * spin_rate * cos / self.total_mass

        x = x + self.time_step * velocity
        angle = angle + self.time_step * spin
        physics = jnp.stack([x, velocity + self.time_step * acceleration, angle, spin + self.time_step * spin_rate])
        return state.replace(
            physics=physics,
            obs=self.observe(physics),
            reward=jnp.ones((), jnp.float32),
            terminated=(jnp.abs(x) > self.max_position) | (jnp.abs(angle) > self.max_angle),
            truncated=jnp.zeros((), bool),
        )

    def render(self, state: State) -> np.ndarray:
        from rljax.envs.classic.drawing import ACCENT, DARK, GREY, LIGHT, WARM, Canvas

        x, _, angle, _ = np.asarray(state.physics, float)
        canvas = Canvas(centre=(0.0, 0.75), scale=360 / 5.6)
        rail = 0.15
        canvas.line((-9.0, rail), (9.0, rail), LIGHT, 0.03)
        canvas.line((-self.max_position, rail), (self.max_position, rail), GREY, 0.03)
        for end in (-self.max_position, self.max_position):
            canvas.line((end, rail - 0.12), (end, rail + 0.12), GREY, 0.03)
        canvas.rectangle((x, rail + 0.2), 0.7, 0.3, DARK)
        for wheel in (x - 0.22, x + 0.22):
            canvas.circle((wheel, rail + 0.06), 0.075, GREY)
        hinge = (x, rail + 0.33)
        length = 2 * self.half_length
        canvas.line(hinge, (x + length * math.sin(angle), hinge[1] + length * math.cos(angle)), WARM, 0.12)
        canvas.circle(hinge, 0.05, ACCENT)
        return canvas.frame()
