"""Acrobot: swing a two-link pendulum up with a motor at its elbow only. Same task as Gymnasium's Acrobot-v1.

Equations: Sutton and Barto, "Reinforcement Learning: An Introduction", example of the acrobot (the book's form,
not that of the 1996 paper); integrated by one Runge-Kutta step of fourth order per action.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.classic.pendulum import wrap_angle
from rljax.envs.environment import Environment, State, initial_state
from rljax.spaces import Box, Discrete
from rljax.types import Key

Numbers = tuple[jax.Array, ...]  # angles and velocities, as in the physics


class Acrobot(Environment):
    """Physics f32 [4]: shoulder angle from hanging, elbow angle (rad, in [−π, π]), their velocities (rad/s).

    The observation f32 [6] is (cos, sin) of each angle, then the velocities. Actions 0, 1, 2 are torques of
    −1, 0, 1 N·m at the elbow. The reward is −1 for every step but the one that ends the episode, 0.
    Terminates where the tip is more than one link's length above the shoulder.
    """

    name = "acrobot"
    gravity = 9.8
    # Both links are alike.
    length = 1.0
    mass = 1.0
    centre_of_mass = 0.5
    inertia = 1.0
    time_step = 0.2
    max_speed = (4 * math.pi, 9 * math.pi)

    def __init__(self) -> None:
        high = np.array([1.0, 1.0, 1.0, 1.0, *self.max_speed])
        self.observation_space = Box(-high, high)
        self.action_space = Discrete(3)

    def reset(self, key: Key) -> State:
        physics = jax.random.uniform(key, (4,), jnp.float32, -0.1, 0.1)
        return initial_state(physics, self.observe(physics))

    def observe(self, physics: jax.Array) -> jax.Array:
        """f32 [6]: cosine and sine of the shoulder, of the elbow, then both angular velocities."""
        shoulder, elbow, spin_1, spin_2 = physics
        return jnp.stack([jnp.cos(shoulder), jnp.sin(shoulder), jnp.cos(elbow), jnp.sin(elbow), spin_1, spin_2])

    def step(self, state: State, action: jax.Array) -> State:
        torque = jnp.asarray(action, jnp.float32) - 1.0
        shoulder, elbow, spin_1, spin_2 = self._integrate(tuple(state.physics), torque)
        shoulder, elbow = wrap_angle(shoulder), wrap_angle(elbow)
        spin_1 = jnp.clip(spin_1, -self.max_speed[0], self.max_speed[0])
        spin_2 = jnp.clip(spin_2, -self.max_speed[1], self.max_speed[1])
        physics = jnp.stack([shoulder, elbow, spin_1, spin_2])
        terminated = -jnp.cos(shoulder) - jnp.cos(shoulder + elbow) > 1.0
        return state.replace(
            physics=physics,
            obs=self.observe(physics),
            reward=terminated.astype(jnp.float32) - 1.0,
            terminated=terminated,
            truncated=jnp.zeros((), bool),
        )

    def _derivative(self, physics: Numbers, torque: jax.Array) -> Numbers:
        shoulder, elbow, spin_1, spin_2 = physics
        m, l, c = self.mass, self.length, self.centre_of_mass
        sin, cos = jnp.sin(elbow), jnp.cos(elbow)
        inertia_1 = m * c**2 + m * (l**2 + c**2 + 2 * l * c * cos) + 2 * self.inertia
        coupling = m * (c**2 + l * c * cos) + self.inertia
        inertia_2 = m * c**2 + self.inertia
        weight_2 = m * c * self.gravity * jnp.sin(shoulder + elbow)
        weight_1 = (m * c + m * l) * self.gravity * jnp.sin(shoulder) + weight_2
        load_1 = weight_1 - m * l * c * sin * spin_2 * (spin_2 + 2 * spin_1)
        load_2 = weight_2 + m * l * c * sin * spin_1**2
        rate_2 = (inertia_1 * (torque - load_2) + coupling * load_1) / (inertia_1 * inertia_2 - coupling**2)
        rate_1 = -(coupling * rate_2 + load_1) / inertia_1
        return spin_1, spin_2, rate_1, rate_2

    def _integrate(self, start: Numbers, torque: jax.Array) -> Numbers:
        # On separate numbers, not on one [4] array: XLA then fuses the whole step into one loop over the batch.
        def move(rate: Numbers, time: float) -> Numbers:
            return tuple(x + time * dx for x, dx in zip(start, rate))

        k1 = self._derivative(start, torque)
        k2 = self._derivative(move(k1, self.time_step / 2), torque)
        k3 = self._derivative(move(k2, self.time_step / 2), torque)
        k4 = self._derivative(move(k3, self.time_step), torque)
        mean = tuple((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4))
        return move(mean, self.time_step)

    def render(self, state: State) -> np.ndarray:
        from rljax.envs.classic.drawing import ACCENT, DARK, GOAL, GREY, WARM, Canvas

        shoulder, elbow, _, _ = np.asarray(state.physics, float)
        middle = (self.length * math.sin(shoulder), -self.length * math.cos(shoulder))
        tip = (
            middle[0] + self.length * math.sin(shoulder + elbow),
            middle[1] - self.length * math.cos(shoulder + elbow),
        )
        canvas = Canvas(centre=(0.0, 0.0), scale=52.0)
        canvas.line((-9.0, self.length), (9.0, self.length), GOAL, 0.03)
        canvas.circle((0.0, 0.0), 0.07, GREY)
        canvas.line((0.0, 0.0), middle, ACCENT, 0.2)
        canvas.line(middle, tip, WARM, 0.2)
        for joint in ((0.0, 0.0), middle):
            canvas.circle(joint, 0.05, DARK)
        return canvas.frame()
