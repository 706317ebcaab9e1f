"""Wrappers around one environment. Each adds one thing; `AutoReset` (its own file) also adds the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rljax.envs.environment import Environment, State
from rljax.spaces import Box
from rljax.types import Key, PyTree, Refused


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
            raise Refused(f"TimeLimit: max_steps must be at least 1, got {max_steps}")
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
            raise Refused(f"PotentialShaping: discount must be in [0, 1], got {discount}")
        self.potential, self.discount = potential, discount

    def step(self, state: State, action: jax.Array) -> State:
        after = self.env.step(state, action)
        following = jnp.where(after.terminated, 0.0, self.potential(after.obs))
        return after.replace(reward=after.reward + self.discount * following - self.potential(state.obs))


class RescaleAction(Wrapper):
    """Takes actions in [-1, 1] and maps them linearly to a box; values outside are clipped.

    Where an element of the box lacks a bound it stays in the units of `env`, clipped to the bound that it has.

    Args:
      onto: the box, in units of `env`; its bounds where None.

    Raises:
      Refused: actions are not a `Box`, or have no finite bound at all.
    """

    def __init__(self, env: Environment, onto: Box | None = None):
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, Box) or space.unbounded:
            raise Refused(f"RescaleAction needs a Box with finite bounds, {env!r} has {space}")
        low, high = self.onto = (space.low, space.high) if onto is None else (onto.low, onto.high)
        bounded = np.isfinite(low) & np.isfinite(high)
        dtype = space.dtype if jnp.issubdtype(space.dtype, jnp.floating) else np.float32
        self.action_space = Box(np.where(bounded, -1.0, low), np.where(bounded, 1.0, high), space.shape, dtype)

    def rescale(self, action: jax.Array, onto: tuple[ArrayLike, ArrayLike] | None = None) -> jax.Array:
        """[-1, 1] to the units of the wrapped environment, within its bounds; `onto`: another box, low and high."""
        space: Box = self.env.action_space  # type: ignore[assignment]
        action = jnp.asarray(action)
        dtype = jnp.result_type(action, jnp.float32)
        low, high, least, most = (
            jnp.broadcast_to(jnp.asarray(x, dtype), action.shape)
            for x in (*(self.onto if onto is None else onto), space.low, space.high)
        )
        bounded = jnp.isfinite(low) & jnp.isfinite(high)
        # Each is halved before they are added: between large bounds high - low is infinite.
        half_low, half_high = (jnp.where(bounded, x, 0.0) / 2 for x in (low, high))
        inside = half_low + half_high + jnp.clip(action, -1.0, 1.0) * (half_high - half_low)
        inside = jnp.where(action >= 1.0, high, jnp.where(action <= -1.0, low, inside))
        rescaled = jnp.clip(jnp.where(bounded, inside, action), low, high)  # rounding may lead just outside
        rescaled = jnp.clip(rescaled, least, most)
        return rescaled if jnp.issubdtype(space.dtype, jnp.floating) else jnp.round(rescaled).astype(space.dtype)

    def step(self, state: State, action: jax.Array) -> State:
        return self.env.step(state, self.rescale(action))


class ActionRepeat(Wrapper):
    """Holds each action for `repeat` steps and sums the rewards; stops early where the episode ends.

    Reaching a sparse goal by undirected noise becomes far likelier when the noise is held (MountainCar).
    Returns stay those of the underlying task, and steps are counted in it (`steps_per_action`).
    """

    def __init__(self, env: Environment, repeat: int):
        if repeat < 1:
            raise Refused(f"ActionRepeat: repeat must be at least 1, got {repeat}")
        super().__init__(env)
        self.repeat = repeat
        self.steps_per_action = env.steps_per_action * repeat
        if env.max_episode_steps is not None:
            self.max_episode_steps = -(-env.max_episode_steps // repeat)

    def step(self, state: State, action: jax.Array) -> State:
        action = jnp.asarray(action)
        return step_all(self.env, state, jnp.broadcast_to(action, (self.repeat, *action.shape)))


class ActionChunk(Wrapper):
    """Takes `size` actions at once, [size * d], and does one after the other; rewards are summed.

    It stops early where the episode ends. Returns and steps are counted as under `ActionRepeat`.
    """

    def __init__(self, env: Environment, size: int):
        space = env.action_space
        if size < 1:
            raise Refused(f"ActionChunk: size must be at least 1, got {size}")
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise Refused(f"ActionChunk needs a one-dimensional Box of actions, {env!r} has {space}")
        super().__init__(env)
        self.size = size
        self.action_space = Box(np.tile(space.low, size), np.tile(space.high, size), dtype=space.dtype)
        self.steps_per_action = env.steps_per_action * size
        if env.max_episode_steps is not None:
            self.max_episode_steps = -(-env.max_episode_steps // size)

    def step(self, state: State, action: jax.Array) -> State:
        return step_all(self.env, state, jnp.asarray(action).reshape(self.size, -1))


class ObservationHistory(Wrapper):
    """Observes the last `length` observations [length * n], the oldest first; the first one stands for those before."""

    def __init__(self, env: Environment, length: int):
        space = env.observation_space
        if length < 1:
            raise Refused(f"ObservationHistory: length must be at least 1, got {length}")
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise Refused(f"ObservationHistory needs observations [n], {env!r} has {space}")
        super().__init__(env)
        self.length = length
        self.observation_space = Box(np.tile(space.low, length), np.tile(space.high, length), dtype=space.dtype)

    def reset(self, key: Key) -> State:
        state = self.env.reset(key)
        return state.replace(obs=jnp.tile(state.obs, self.length), info=state.info | {"newest_obs": state.obs})

    def step(self, state: State, action: jax.Array) -> State:
        after = self.env.step(state.replace(obs=state.info["newest_obs"]), action)
        past = state.obs[after.obs.shape[0] :]
        return after.replace(
            obs=jnp.concatenate([past, after.obs]), info=after.info | {"newest_obs": after.obs}
        )  # fmt: skip


class ExecutionMismatch(Wrapper):
    """Executes not what is asked for: each action is delayed, smoothed and limited in its rate, as on a real robot.

    For actions that are targets (of a position): before the first, the first itself counts as executed.

    Args:
      delay: steps until an action has an effect.
      smoothing: share of the last executed action in the next one, in [0, 1).
      rate_limit: most that it changes in a step, as a share of the action's range.
    """

    def __init__(self, env: Environment, delay: int = 0, smoothing: float = 0.0, rate_limit: float = 1.0):
        space = env.action_space
        if not isinstance(space, Box) or not space.bounded:
            raise Refused(f"ExecutionMismatch needs a Box of actions with finite bounds, {env!r} has {space}")
        for name, value, valid, allowed in (
            ("delay", delay, delay >= 0, "0 or more"),
            ("smoothing", smoothing, 0 <= smoothing < 1, "in [0, 1)"),
            ("rate_limit", rate_limit, 0 < rate_limit <= 1, "in (0, 1]"),
        ):
            if not valid:
                raise Refused(f"ExecutionMismatch: {name} must be {allowed}, got {value}")
        super().__init__(env)
        self.delay, self.smoothing = delay, smoothing
        self.most = rate_limit * (space.high - space.low)

    def reset(self, key: Key) -> State:
        state = self.env.reset(key)
        shape = self.action_space.shape  # type: ignore[union-attr]
        execution = {
            "asked": jnp.zeros((self.delay, *shape)), "executed": jnp.zeros(shape), "fresh": jnp.ones((), bool)
        }  # fmt: skip
        return state.replace(info=state.info | {"execution": execution})

    def step(self, state: State, action: jax.Array) -> State:
        before, action = state.info["execution"], jnp.asarray(action, jnp.float32)
        asked, executed = (jnp.where(before["fresh"], action, before[name]) for name in ("asked", "executed"))
        queue = jnp.concatenate([asked, action[None]])
        change = (1.0 - self.smoothing) * (queue[0] - executed)
        executed = executed + jnp.clip(change, -self.most, self.most)
        after = self.env.step(state, executed)
        execution = {"asked": queue[1:], "executed": executed, "fresh": jnp.zeros((), bool)}
        return after.replace(info=after.info | {"execution": execution})


def step_all(env: Environment, state: State, actions: jax.Array) -> State:
    """Steps by each of actions [k, …] in turn until the episode ends; the reward is the sum."""

    def body(state: State, x: tuple[jax.Array, jax.Array]) -> tuple[State, None]:
        action, first = x
        after = env.step(state, action)
        after = after.replace(reward=jnp.where(first, 0.0, state.reward) + after.reward)
        over = ~first & state.done
        return jax.tree.map(lambda old, new: jnp.where(over, old, new), state, after), None

    # A wrapper outside may have added metrics, which a step of `env` does not hand on.
    own = jax.eval_shape(env.step, state, actions[0]).metrics
    state = state.replace(metrics={name: state.metrics[name] for name in own})
    return jax.lax.scan(body, state, (actions, jnp.arange(len(actions)) == 0))[0]


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
