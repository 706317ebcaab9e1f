"""Environments small enough to know everything about."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

import rljax
from rljax.algorithms.core.contract import Algorithm
from rljax.envs import Environment, State, TimeLimit, initial_state
from rljax.policy import Policy
from rljax.spaces import Box, Dict, Discrete, MultiDiscrete
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
        return jax.nn.one_hot(time % self.length, self.length, dtype=jnp.float32)

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
        position = 100.0 + jax.random.normal(key, (), jnp.float32)
        return initial_state(position, jnp.stack([position, 7.0 * position]))

    def step(self, state: State, action: jax.Array) -> State:
        position = state.physics + action[0]
        reward = -jnp.abs(position - 100.0)
        return state.replace(physics=position, obs=jnp.stack([position, 7.0 * position]), reward=reward)


class Gates(Environment):
    """A point goes up through one of two gates; velocities beyond 1 count as 1, whatever bounds are declared."""

    name = "gates"
    observation_space = Box(-2.0, 2.0, (2,))

    def __init__(self, bound: float = 1.0):
        self.action_space = Box(-bound, bound, (2,))

    def reset(self, key: Key) -> State:
        position = jnp.array([jax.random.uniform(key, minval=-0.1, maxval=0.1), 0.0])
        return initial_state(position, position, success=jnp.zeros(()))

    def step(self, state: State, action: jax.Array) -> State:
        before, after = state.physics, jnp.clip(state.physics + 0.25 * jnp.clip(action, -1.0, 1.0), -1.5, 1.5)
        opening = jnp.abs(jnp.abs(after[0]) - 0.5) < 0.1
        blocked = (before[1] < 0.5) & (after[1] >= 0.5) & ~opening
        after = jnp.where(blocked, jnp.array([after[0], 0.49]), after)
        done = after[1] >= 1.0
        metrics = {"success": done.astype(jnp.float32)}
        return state.replace(
            physics=after, obs=after, reward=jnp.where(done, 0.0, -1.0), terminated=done, metrics=metrics
        )


class Pixels(Environment):
    """A bright pixel on a 6 x 6 image; the action says in which half it is."""

    name = "pixels"
    observation_space = Box(0, 255, (6, 6, 1), jnp.uint8)
    action_space = Discrete(2)

    def reset(self, key: Key) -> State:
        key, cell_key = jax.random.split(key)
        cell = jax.random.randint(cell_key, (), 0, 36)
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


class Repeat(Environment):
    """Several choices at once: shows one value of each, and pays the share of them that the action repeats."""

    name = "repeat"
    observation_space = MultiDiscrete((3, 2, 4))
    action_space = MultiDiscrete((3, 2, 4))

    def reset(self, key: Key) -> State:
        shown = self.action_space.sample(key)
        return initial_state(shown, shown)

    def step(self, state: State, action: jax.Array) -> State:
        following = (state.physics + 1) % jnp.array(self.action_space.n, jnp.int32)
        reward = (action == state.physics).mean(dtype=jnp.float32)
        return state.replace(physics=following, obs=following, reward=reward)


def limited(env: Environment, steps: int) -> TimeLimit:
    return TimeLimit(env, steps)


class ContinuousClock(Clock):
    """A clock with an action to take, in the environment's own units."""

    action_space = Box(-2.0, 4.0, (1,))


@dataclasses.dataclass(frozen=True)
class CounterConfig:
    """Settings of `counter`."""

    size: int = 1
    anneal_steps: int = 0
    limit: float = math.inf


class CounterState(struct.PyTreeNode):
    params: jax.Array
    hyper: tuple[()]


def counter(config: CounterConfig | None = None) -> Algorithm:
    """An algorithm that counts and learns nothing, for what the runner does beside the maths: it compiles at once.

    One step an iteration; the state are `size` numbers, the policy always acts alike.
    """
    config = config or CounterConfig()
    env = rljax.make("cartpole", max_episode_steps=3)

    def init(key: Key) -> CounterState:
        return CounterState(jnp.zeros(config.size), ())

    def step(state: CounterState) -> tuple[CounterState, dict[str, jax.Array]]:
        return state.replace(params=state.params + 1), {"loss": state.params[0]}

    def act(variables, key, obs, memory, deterministic):
        return jnp.zeros(obs.shape[:-1], jnp.int32), memory, ()

    return Algorithm(
        init=init,
        step=step,
        policy=lambda state: Policy(state.params[:1], (), act),
        agent=None,
        name="counter",
        env=env,
        config=config,
        per_iteration=1,
        unit="steps",
        remake=counter,
    )


class Looking(Drift):
    """The same, seen by a camera whose brightness is the place, and in words; the numbers are privileged."""

    name = "looking"

    def __init__(self):
        camera, words = Box(0, 255, (6, 6, 1), jnp.uint8), Discrete(3)
        self.observation_space = Dict({"camera": camera, "words": words, "privileged_state": Drift.observation_space})

    def look(self, state: State) -> State:
        light = jnp.clip(state.obs[0], 0.0, 255.0).astype(jnp.uint8)
        parts = {"camera": jnp.full((6, 6, 1), light), "words": jnp.int32(light % 3), "privileged_state": state.obs}
        return state.replace(obs=parts)

    def reset(self, key: Key) -> State:
        return self.look(super().reset(key))

    def step(self, state: State, action: jax.Array) -> State:
        return self.look(super().step(state.replace(obs=state.obs["privileged_state"]), action))


def spaces(obs_size: int, action_size: int) -> tuple[Box, Box]:
    """The spaces of an agent: observations [obs_size], and actions [action_size] in [-1, 1]."""
    return Box(-jnp.inf, jnp.inf, (obs_size,)), Box(-1.0, 1.0, (action_size,))
