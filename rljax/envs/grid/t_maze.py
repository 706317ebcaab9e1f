"""The T-maze: a task that only memory solves (Bakker 2002, "Reinforcement learning with long short-term memory")."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import Environment, State, initial_state
from rljax.spaces import Box, Discrete
from rljax.types import Key, Refused

NORTH, EAST, SOUTH, WEST = range(4)


class Physics(NamedTuple):
    """Where the agent is, and where it should turn."""

    position: jax.Array
    """int32 [], 0 at the start, `length` at the junction."""
    goal_north: jax.Array
    """bool [], whether the goal is north of the junction, else south."""


class TMaze(Environment):
    """A corridor of `length` steps east to a junction; a sign at the start tells where to turn there.

    Observation f32 [4]: the sign says north, the sign says south (at the start only), in the corridor, at the
    junction. Actions: north, east, south, west. Turning the right way at the junction pays 4 and the wrong way -0.1;
    both end the episode. Walking into a wall costs 0.1. Without memory the best expected return is 1.95, with it 4.
    """

    observation_space = Box(0.0, 1.0, (4,))
    action_space = Discrete(4)

    def __init__(self, length: int = 10):
        if length < 1:
            raise Refused(f"t_maze: length must be at least 1, got {length}")
        self.length = length

    def observe(self, physics: Physics) -> jax.Array:
        """The observation, f32 [4]."""
        start, junction = physics.position == 0, physics.position == self.length
        flags = (start & physics.goal_north, start & ~physics.goal_north, ~start & ~junction, junction)
        return jnp.stack(flags).astype(jnp.float32)

    def reset(self, key: Key) -> State:
        physics = Physics(jnp.int32(0), jax.random.bernoulli(key))
        return initial_state(physics, self.observe(physics))

    def step(self, state: State, action: jax.Array) -> State:
        position, goal_north = state.physics
        at_junction = position == self.length
        turned = at_junction & ((action == NORTH) | (action == SOUTH))
        right = turned & ((action == NORTH) == goal_north)
        moved = jnp.clip(position + (action == EAST).astype(jnp.int32) - (action == WEST), 0, self.length)
        stood = (moved == position) & ~turned
        physics = Physics(moved, goal_north)
        reward = jnp.where(right, 4.0, jnp.where(turned | stood, -0.1, 0.0))
        return state.replace(
            physics=physics,
            obs=self.observe(physics),
            reward=reward.astype(jnp.float32),
            terminated=turned,
            truncated=jnp.zeros((), bool),
        )

    def render(self, state: State) -> np.ndarray:
        from PIL import Image, ImageDraw

        cell, position = 32, int(state.physics.position)
        image = Image.new("RGB", (cell * (self.length + 1), cell * 3), "#404858")
        draw = ImageDraw.Draw(image)
        goal = 0 if bool(state.physics.goal_north) else 2

        def square(column: int, row: int, color: str, margin: int = 1) -> None:
            box = [column * cell + margin, row * cell + margin, (column + 1) * cell - margin, (row + 1) * cell - margin]
            draw.rectangle(box, fill=color)

        for column in range(self.length + 1):
            square(column, 1, "#f2f2ee")
        for row in (0, 2):
            square(self.length, row, "#4daf7c" if row == goal else "#f2f2ee")
        square(position, 1, "#c8553d", margin=8)
        return np.asarray(image)
