"""Wrappers around one environment. Each adds one thing; `AutoReset` (its own file) also adds the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import Environment, State
from rljax.spaces import Box
from rljax.types import Key, PyTree


class Wrapper(Environment):
    """Passes everything through to `env`; subclasses override what they change."""

    def __init__(self, env: Environment):
        self.env = env
        self.name = env.name
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.steps_per_action = env.steps_per_action
        self.max_episode_steps = env.max_episode_steps

    def reset(self, key: Key) -> State:
        return self.env.reset(key)

    def step(self, state: State, action: jax.Array) -> State:
        return self.env.step(state, action)

    def render(self, state: State) -> np.ndarray:
        return self.env.render(state)

    @property
    def unwrapped(self) -> Environment:
        return self.env.unwrapped

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.env!r})"


class TimeLimit(Wrapper):
    """Truncates an episode after `max_steps` steps. A step that terminates is not truncated as well."""

    def __init__(self, env: Environment, max_steps: int):
        if max_steps < 1:
            raise ValueError(f"TimeLimit: max_steps must be at least 1, got {max_steps}")
        super().__init__(env)
        self.max_episode_steps = max_steps

    def reset(self, key: Key) -> State:
        state = self.env.reset(key)
        return state.replace(info=state.info | {"elapsed": jnp.zeros((), jnp.int32)})

    def step(self, state: State, action: jax.Array) -> State:
        elapsed = state.info["elapsed"] + 1
        state = self.env.step(state, action)
        truncated = state.truncated | ((elapsed >= self.max_episode_steps) & ~state.terminated)
        return state.replace(truncated=truncated, info=state.info | {"elapsed": elapsed})


class PotentialShaping(Wrapper):
    """Adds γ Φ(s') - Φ(s) to the reward, which changes no optimal policy (Ng, Harada and Russell 1999).

    Args:
      potential: Φ, a function of the observation to f32 []. After a termination it counts as 0.
      discount: γ, which must be the learner's.
    """

    def __init__(self, env: Environment, potential: Callable[[PyTree], jax.Array], discount: float):
        super().__init__(env)
        if not 0 <= discount <= 1:
            raise ValueError(f"PotentialShaping: discount must be in [0, 1], got {discount}")
        self.potential, self.discount = potential, discount

    def step(self, state: State, action: jax.Array) -> State:
        after = self.env.step(state, action)
        following = jnp.where(after.terminated, 0.0, self.potential(after.obs))
        return after.replace(reward=after.reward + self.discount * following - self.potential(state.obs))


class RescaleAction(Wrapper):
    """Takes actions in [-1, 1] and maps them linearly to the bounds of `env`; values outside are clipped."""

    def __init__(self, env: Environment):
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, Box) or not space.bounded:
            raise ValueError(f"RescaleAction needs a Box with finite bounds, {env!r} has {space}")
        self.action_space = Box(-1.0, 1.0, space.shape, space.dtype)

    def rescale(self, action: jax.Array) -> jax.Array:
        """[-1, 1] to the units of the wrapped environment."""
        low, high = self.env.action_space.low, self.env.action_space.high  # type: ignore[union-attr]
        rescaled = low + (jnp.clip(action, -1.0, 1.0) + 1.0) * 0.5 * (high - low)
        return jnp.clip(rescaled, low, high)  # rounding may lead just outside

    def step(self, state: State, action: jax.Array) -> State:
        return self.env.step(state, self.rescale(action))


class ActionRepeat(Wrapper):
    """Holds each action for `repeat` steps and sums the rewards; stops early where the episode ends.

    Reaching a sparse goal by undirected noise becomes far likelier when the noise is held (MountainCar).
    Returns stay those of the underlying task, and steps are counted in it (`steps_per_action`).
    """

    def __init__(self, env: Environment, repeat: int):
        if repeat < 1:
            raise ValueError(f"ActionRepeat: repeat must be at least 1, got {repeat}")
        super().__init__(env)
        self.repeat = repeat
        self.steps_per_action = env.steps_per_action * repeat
        if env.max_episode_steps is not None:
            self.max_episode_steps = -(-env.max_episode_steps // repeat)

    def step(self, state: State, action: jax.Array) -> State:
        def body(state: State, first: jax.Array) -> tuple[State, None]:
            after = self.env.step(state, action)
            after = after.replace(reward=jnp.where(first, 0.0, state.reward) + after.reward)
            over = ~first & state.done
            return jax.tree.map(lambda old, new: jnp.where(over, old, new), state, after), None

        return jax.lax.scan(body, state, jnp.arange(self.repeat) == 0)[0]


class EpisodeStatistics(Wrapper):
    """Adds `episode_return` and `episode_length` so far to `metrics`; where the episode is done, its totals.

    `episode_length` counts steps of the underlying task when it has a `TimeLimit`, else calls of `step`.
    """

    def reset(self, key: Key) -> State:
        return self._record(self.env.reset(key), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))

    def step(self, state: State, action: jax.Array) -> State:
        total, length = state.info["episode_return"], state.info["episode_length"]
        state = self.env.step(state, action)
        return self._record(state, total + state.reward, length + 1)

    def _record(self, state: State, total: jax.Array, length: jax.Array) -> State:
        statistics: dict[str, Any] = {"episode_return": total, "episode_length": length}
        metrics = statistics | {"episode_length": state.info.get("elapsed", length)}
        return state.replace(metrics=state.metrics | metrics, info=state.info | statistics)
