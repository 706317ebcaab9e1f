"""Wrappers around one environment. Each adds one thing; `AutoReset` (its own file) also adds the batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rljax.envs.environment import Environment, State
from rljax.ops import history
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
        self.keeps_context = env.keeps_context

    def reset(self, key: Key) -> State:
        return self.env.reset(key)

    def step(self, state: State, action: jax.Array) -> State:
        return self.env.step(state, action)

    def rekey(self, state: State, key: Key) -> State:
        return self.env.rekey(state, key)

    def aged(self, state: State, key: Key) -> State:
        return self.env.aged(state, key)

    def combine_metric(self, name: str, earlier: jax.Array, later: jax.Array) -> jax.Array:
        return self.env.combine_metric(name, earlier, later)

    def render(self, state: State) -> np.ndarray:
        return self.env.render(state)

    @property
    def depth(self) -> int:
        """How many wrappers there are from the task to this one."""
        return 1 + (self.env.depth if isinstance(self.env, Wrapper) else 0)

    def begin(self, state: State, name: str, value: PyTree) -> State:
        """A reset state whose `info` keeps `value` for this wrapper: under `name`, or another name if that is taken."""
        return state.replace(info=state.info | {f"{name}_{self.depth}" if name in state.info else name: value})

    def slot(self, state: State, name: str) -> str:
        """The key of `info` under which this wrapper keeps what it began as `name`."""
        own = f"{name}_{self.depth}"
        return own if own in state.info else name

    @property
    def unwrapped(self) -> Environment:
        return self.env.unwrapped

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.env!r})"


class TimeLimit(Wrapper):
    """Truncates an episode after `max_steps` steps. A step that terminates is not truncated as well.

    Its clock is `info["elapsed"]`, unless the wrapped environment already counts its own steps there.
    """

    def __init__(self, env: Environment, max_steps: int):
        if max_steps < 1:
            raise Refused(f"TimeLimit: max_steps must be at least 1, got {max_steps}")
        super().__init__(env)
        self.max_steps = max_steps
        self.max_episode_steps = min(max_steps, env.max_episode_steps or max_steps)

    def reset(self, key: Key) -> State:
        return self.begin(self.env.reset(key), "elapsed", jnp.zeros((), jnp.int32))

    def aged(self, state: State, key: Key) -> State:
        """The first state of an episode that is anywhere between its beginning and its limit."""
        age = jax.random.randint(key, (), 0, self.max_steps, jnp.int32)
        return state.replace(info=state.info | {self.slot(state, "elapsed"): age})

    def step(self, state: State, action: jax.Array) -> State:
        clock = self.slot(state, "elapsed")
        elapsed = state.info[clock] + 1
        state = self.env.step(state, action)
        truncated = state.truncated | ((elapsed >= self.max_steps) & ~state.terminated)
        return state.replace(truncated=truncated, info=state.info | {clock: elapsed})


class Guard(Wrapper):
    """Ends an episode whose simulation broke, and keeps values that are not finite away from learners.

    Where the next observation or the reward is not finite, the episode is truncated at the last good observation, with
    a reward of 0, and `metrics["unstable"]` is 1. If the task itself terminated on this step, it stays terminated, with
    its reward if that is finite. An episode whose first observation is not finite begins with zeros in its place, and
    breaks at its first step, whatever the step gives.
    """

    @classmethod
    def around(cls, env: Environment) -> Environment:
        """`env` with a guard, unless one of its wrappers is one."""
        inner = env
        while isinstance(inner, Wrapper):
            if isinstance(inner, Guard):
                return env
            inner = inner.env
        return cls(env)

    def reset(self, key: Key) -> State:
        state = self.env.reset(key)
        good = _finite(state.obs)
        obs = jax.tree.map(lambda x: jnp.where(good, x, jnp.zeros_like(x)), state.obs)
        return self.begin(_counted(state.replace(obs=obs), ~good), "broken_start", ~good)

    def step(self, state: State, action: jax.Array) -> State:
        slot = self.slot(state, "broken_start")
        # A task may hand on the metrics that it is given: the flag of the step before must not return.
        before = {"unstable": jnp.zeros_like(state.metrics["unstable"])}
        after = self.env.step(state.replace(metrics=state.metrics | before), action)
        return end_broken(after, state.obs, state.info[slot])


def end_broken(after: State, last_obs: PyTree, broken: ArrayLike = False) -> State:
    """The step that led to `after`, made the last of its episode where the simulation broke, as `Guard` says.

    Args:
      last_obs: the observation before it, with which the episode then ends.
      broken: bool [], whether it broke even if all that it shows is finite.
    """
    good = _finite((after.obs, after.reward)) & ~jnp.asarray(broken)
    paid = jnp.isfinite(after.reward) & (good | after.terminated)
    metrics = {name: jnp.where(good | jnp.isfinite(x), x, 0).astype(x.dtype) for name, x in after.metrics.items()}
    after = after.replace(
        obs=jax.tree.map(lambda new, old: jnp.where(good, new, old), after.obs, last_obs),
        reward=jnp.where(paid, after.reward, 0.0).astype(jnp.float32),
        truncated=after.truncated | ~(good | after.terminated),
        metrics=metrics,
    )
    return _counted(after, ~good)


def _finite(tree: PyTree) -> jax.Array:
    """Whether all numbers of a tree are finite, bool []."""
    finite = jnp.ones((), bool)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            finite &= jnp.isfinite(leaf).all()
    return finite


def _counted(state: State, broken: jax.Array) -> State:
    unstable = jnp.maximum(state.metrics.get("unstable", 0.0), broken).astype(jnp.float32)
    return state.replace(metrics=state.metrics | {"unstable": unstable})


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

    Metrics are those of all steps of an action together (see `Environment.combine_metric`).

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
    """Takes `size` actions at once, [size * d], and executes one after the other; rewards are summed.

    It stops early where the episode ends. Returns, steps and metrics are counted as under `ActionRepeat`.
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
    """Observes the last `length` observations side by side (see ops/history.py); the first stands for those before.

    Vectors become longer, and images have more channels, the oldest first.
    """

    def __init__(self, env: Environment, length: int):
        if length < 1:
            raise Refused(f"ObservationHistory: length must be at least 1, got {length}")
        super().__init__(env)
        self.length = length
        self.observation_space = history.space_of(env.observation_space, length)

    def reset(self, key: Key) -> State:
        state = self.env.reset(key)
        obs = history.beginning(self.env.observation_space, state.obs, self.length)
        return self.begin(state.replace(obs=obs), "newest_obs", state.obs)

    def step(self, state: State, action: jax.Array) -> State:
        newest = self.slot(state, "newest_obs")
        after = self.env.step(state.replace(obs=state.info[newest]), action)
        obs = history.pushed(state.obs, after.obs, self.length)
        return after.replace(obs=obs, info=after.info | {newest: after.obs})


class ExecutionMismatch(Wrapper):
    """Executes other actions than commanded: each is delayed, smoothed and limited in its rate, as on a real robot.

    For actions that are targets (of a position): before the first, the first itself counts as executed.

    Args:
      delay: steps until an action has an effect.
      smoothing: share of the last executed action in the next one, in [0, 1).
      rate_limit: largest change of the executed action in a step, as a share of the action's range.
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
        low, high = (np.asarray(x, np.float32) for x in (space.low, space.high))  # bytes would wrap around
        self.most = 2 * rate_limit * (high / 2 - low / 2)  # halved, since high - low may be infinite

    def reset(self, key: Key) -> State:
        state = self.env.reset(key)
        shape = self.action_space.shape  # type: ignore[union-attr]
        execution = {
            "asked": jnp.zeros((self.delay, *shape)),
            "executed": jnp.zeros(shape),
            "fresh": jnp.ones((), bool),
        }
        return self.begin(state, "execution", execution)

    def step(self, state: State, action: jax.Array) -> State:
        slot = self.slot(state, "execution")
        before, action = state.info[slot], jnp.asarray(action, jnp.float32)
        asked, executed = (jnp.where(before["fresh"], action, before[name]) for name in ("asked", "executed"))
        queue = jnp.concatenate([asked, action[None]])
        change = (1.0 - self.smoothing) * (queue[0] - executed)
        executed = executed + jnp.clip(change, -self.most, self.most)
        after = self.env.step(state, executed)
        execution = {"asked": queue[1:], "executed": executed, "fresh": jnp.zeros((), bool)}
        return after.replace(info=after.info | {slot: execution})


def step_all(env: Environment, state: State, actions: jax.Array) -> State:
    """Steps by each of actions [k, …] in turn until the episode ends; the reward is the sum, metrics are combined."""

    def body(state: State, x: tuple[jax.Array, jax.Array]) -> tuple[State, None]:
        action, first = x
        after = env.step(state, action)
        metrics = {
            name: jnp.where(first, new, env.combine_metric(name, state.metrics[name], new))
            for name, new in after.metrics.items()
        }
        after = after.replace(reward=jnp.where(first, 0.0, state.reward) + after.reward, metrics=metrics)
        over = ~first & state.done
        return jax.tree.map(lambda old, new: jnp.where(over, old, new), state, after), None

    # An outer wrapper may have added metrics, which a step of `env` does not hand on.
    own = jax.eval_shape(env.step, state, actions[0]).metrics
    state = state.replace(metrics={name: state.metrics[name] for name in own})
    return jax.lax.scan(body, state, (actions, jnp.arange(len(actions)) == 0))[0]


class EpisodeStatistics(Wrapper):
    """Adds `episode_return` and `episode_length` so far to `metrics`; where the episode is done, its totals.

    `episode_length` counts steps of the underlying task when it has a `TimeLimit`, else calls of `step`. The totals so
    far are `info["episode"]`, where no other wrapper keeps its own there.
    """

    def reset(self, key: Key) -> State:
        nothing = {"return": jnp.zeros((), jnp.float32), "length": jnp.zeros((), jnp.int32)}
        return self._report(self.begin(self.env.reset(key), "episode", nothing), nothing)

    def step(self, state: State, action: jax.Array) -> State:
        slot = self.slot(state, "episode")
        before = state.info[slot]
        after = self.env.step(state, action)
        episode = {"return": before["return"] + after.reward, "length": before["length"] + 1}
        return self._report(after.replace(info=after.info | {slot: episode}), episode)

    def _report(self, state: State, episode: dict[str, jax.Array]) -> State:
        length = state.info.get("elapsed", episode["length"])
        return state.replace(metrics=state.metrics | {"episode_return": episode["return"], "episode_length": length})
