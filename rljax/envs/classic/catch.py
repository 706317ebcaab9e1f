"""Catch: a ball falls, and a paddle must be under it; observations are 32 × 32 pixels."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.envs.environment import Environment, State, initial_state
from rljax.spaces import Box
from rljax.types import Key


class Physics(struct.PyTreeNode):
    """Places in pixels, f32 [].

    Fields:
      ball: column of the ball's middle.
      height: row of the ball's middle, from the top.
      paddle: column of the paddle's middle.
    """

    ball: jax.Array
    height: jax.Array
    paddle: jax.Array


class Catch(Environment):
    """Observations are images uint8 [32, 32, 1]; actions f32 [1] in [-1, 1] move the paddle by up to 3 pixels a step.

    The ball begins at the top in a random column and falls by 2 pixels a step. The episode terminates when it reaches
    the paddle's row: with a reward of 1 if it is caught, else 0. All other rewards are 0.
    """

    name = "catch"
    size = 32
    fall, speed = 2.0, 3.0
    reach = 3.5
    """Distance from the paddle's middle within which the ball is caught, in pixels."""
    observation_space = Box(0, 255, (32, 32, 1), np.uint8)
    action_space = Box(-1.0, 1.0, (1,))

    def reset(self, key: Key) -> State:
        ball_key, paddle_key = jax.random.split(key)
        low, high = self.reach, self.size - 1 - self.reach
        physics = Physics(
            ball=jax.random.uniform(ball_key, (), jnp.float32, 1.0, self.size - 2.0),
            height=jnp.float32(1.0),
            paddle=jax.random.uniform(paddle_key, (), jnp.float32, low, high),
        )
        return initial_state(physics, self.observe(physics), success=jnp.float32(0.0))

    def observe(self, physics: Physics) -> jax.Array:
        """The image, uint8 [32, 32, 1]."""
        row, column = jnp.meshgrid(*(jnp.arange(self.size, dtype=jnp.float32),) * 2, indexing="ij")
        ball = (jnp.abs(row - physics.height) <= 1.0) & (jnp.abs(column - physics.ball) <= 1.0)
        paddle = (row >= self.size - 2) & (jnp.abs(column - physics.paddle) <= self.reach - 1.0)
        return jnp.where(ball | paddle, 255, 0).astype(jnp.uint8)[..., None]

    def step(self, state: State, action: jax.Array) -> State:
        before: Physics = state.physics
        move = self.speed * jnp.clip(jnp.asarray(action, jnp.float32)[0], -1.0, 1.0)
        paddle = jnp.clip(before.paddle + move, self.reach, self.size - 1 - self.reach)
        physics = Physics(before.ball, before.height + self.fall, paddle)
        over = physics.height >= self.size - 2
        caught = (over & (jnp.abs(physics.ball - paddle) <= self.reach)).astype(jnp.float32)
        return state.replace(
            physics=physics,
            obs=self.observe(physics),
            reward=caught,
            terminated=over,
            truncated=jnp.zeros((), bool),
            metrics={"success": caught},
        )

    def render(self, state: State) -> np.ndarray:
        image = np.asarray(self.observe(state.physics))
        return np.repeat(np.repeat(np.repeat(image, 3, 2), 8, 0), 8, 1)
