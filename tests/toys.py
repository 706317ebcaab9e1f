"""Environments small enough to know everything about."""

import jax
import jax.numpy as jnp

from rljax.envs import Environment, State, TimeLimit, initial_state
from rljax.spaces import Box, Discrete
from rljax.types import Key


class Clock(Environment):
    """Pays 1 a step, whatever is done; terminates after `length` steps or never. Sees the time modulo `length`."""

    name = "clock"
    action_space = Discrete(2)

    def __init__(self, length: int, terminates: bool):
        self.length = length
        self.terminates = terminates
        self.observation_space = Box(0.0, 1.0, (length,))

    def observe(self, time: jax.Array) -> jax.Array:
        return jax.nn.one_hot(time % self.length, self.length)

    def reset(self, key: Key) -> State:
        return initial_state(jnp.int32(0), self.observe(jnp.int32(0)))

    def step(self, state: State, action: jax.Array) -> State:
        time = state.physics + 1
        terminated = (time >= self.length) & self.terminates
        return state.replace(physics=time, obs=self.observe(time), reward=jnp.float32(1.0), terminated=terminated)


class Drift(Environment):
    """Continuous actions move a point on a line far from 0, so that observations need normalisation."""

    name = "drift"
    observation_space = Box(-jnp.inf, jnp.inf, (2,))
    action_space = Box(-2.0, 4.0, (1,))

    def reset(self, key: Key) -> State:
        position = 100.0 + jax.random.normal(key)
        return initial_state(position, jnp.stack([position, 7.0 * position]))

    def step(self, state: State, action: jax.Array) -> State:
        position = state.physics + action[0]
        reward = -jnp.abs(position - 100.0)
        return state.replace(physics=position, obs=jnp.stack([position, 7.0 * position]), reward=reward)


class Pixels(Environment):
    """A bright pixel on a 6 x 6 image; the action says in which half it is."""

    name = "pixels"
    observation_space = Box(0, 255, (6, 6, 1), jnp.uint8)
    action_space = Discrete(2)

    def reset(self, key: Key) -> State:
        cell = jax.random.randint(key, (), 0, 36)
        return initial_state((key, cell), self.draw(cell))

    def rekey(self, state: State, key: Key) -> State:
        return state.replace(physics=(key, state.physics[1]))

    def step(self, state: State, action: jax.Array) -> State:
        key, cell = state.physics
        key, cell_key = jax.random.split(key)
        reward = (action == (cell >= 18)).astype(jnp.float32)
        cell = jax.random.randint(cell_key, (), 0, 36)
        return state.replace(physics=(key, cell), obs=self.draw(cell), reward=reward)

    def draw(self, cell: jax.Array) -> jax.Array:
        return (jax.nn.one_hot(cell, 36) * 255).astype(jnp.uint8).reshape(6, 6, 1)


def limited(env: Environment, steps: int) -> TimeLimit:
    return TimeLimit(env, steps)


class ContinuousClock(Clock):
    """A clock with an action to take, in the environment's own units."""

    action_space = Box(-2.0, 4.0, (1,))
