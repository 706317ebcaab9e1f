"""Many simulations of one Gymnasium task that are stepped together: `make("gymnasium:Pong-v5", vector="envpool")`.

Where `GymnasiumEnvironment` steps objects of Python one after the other, here one call steps a whole batch. For that a
state is worth a little less: it names a simulation, which begins with the reset and is used up by the episode.
"""

import difflib
import itertools
import os
import secrets
import threading
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.adapters.common import import_package
from rljax.envs.adapters.gymnasium_spaces import acted, finite, named, observed, one_hot
from rljax.envs.environment import Environment, State, initial_state
from rljax.envs.host_call import host_call
from rljax.spaces import Discrete, parts
from rljax.types import Key, Refused

_FREE = -1
"""`elapsed` of a simulation without an episode, and of a state whose episode is over."""

_NO_LIMIT = np.iinfo(np.int32).max


class Simulations(Protocol):
    """Simulations of one task, by their numbers 0 … size − 1; observations are trees with a leading axis."""

    observation_space: Any
    action_space: Any
    max_episode_steps: int | None

    def reset(self, which: np.ndarray) -> Any:
        """The first observations of new episodes in these simulations, i32 [batch]."""

    def step(self, which: np.ndarray, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        """The observations after actions [batch, …], from before any reset; rewards, terminated and truncated."""


class VectorEnvironment(Environment):
    """A Gymnasium task whose simulations are stepped together, by whatever makes `Simulations`.

    Physics: {"simulation": i32 [], "episode": u32 [2], "elapsed": i32 [], "obs"}. Each reset begins one episode in one
    simulation; the state names both, and the steps since. Spaces, actions and broken simulations are as in
    `GymnasiumEnvironment`. What is different there:

    - A reset state begins ONE episode: a second that begins with it is truncated at once, with a warning, as a state is
      that was stepped before or comes from another process. Auto-reset's `pool`, the default, and evaluation use
      each state once; `reset_policy = "first"` does not.
    - The seed of a reset counts only where simulations are made for it, which draw from it from then on. So a program
      that is run again, in a new process or with a new environment, goes the same way; but no episode can be repeated
      alone.

    Simulations are made in groups, as more are needed at once; one whose episode is over is used again.

    Args:
      make: `(size, seed) -> Simulations`.
      max_live: number of simulations beyond which (or twice the largest batch, if that is more) the one unused for the
        longest time is given up.
    """

    pure = False

    def __init__(self, make: Callable[[int, int], Simulations], name: str, max_live: int = 1024):
        spaces = import_package("gymnasium", "gymnasium", "gymnasium").spaces
        self.name, self.max_live = name, max_live
        self._make = make
        self._lock = threading.Lock()  # several devices may call at once
        self._groups: list[Simulations] = []
        self._begins = np.zeros(1, np.int64)  # the number of each group's first simulation, and of them all
        self._episode, self._elapsed, self._used = np.zeros(0, np.uint32), np.zeros(0, np.int32), np.zeros(0, np.int64)
        self._process, self._numbers, self._clock = np.uint32(secrets.randbits(32)), 0, itertools.count(1)
        self._warned = False
        first = make(1, 0)
        self.max_episode_steps = first.max_episode_steps
        self.observation_space, self._read = observed(f"{name}: observation_space", first.observation_space, spaces)
        if isinstance(self.observation_space, Discrete):
            self.observation_space, self._read = one_hot(self.observation_space.n, self._read)
        self.action_space, self._first_action = acted(f"{name}: action_space", first.action_space, spaces)
        self._action_dtype, self._action_shape = first.action_space.dtype, first.action_space.shape
        self._seen = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in parts(self.observation_space).values()]

    def reset(self, key: Key) -> State:
        seed = jax.random.randint(key, (), 0, np.iinfo(np.int32).max, jnp.int32)
        results = [jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.uint32), *self._seen]
        simulation, episode, *seen = host_call(self._reset_on_host, [seed], results, effect=True)
        zero, obs = jnp.zeros((), jnp.int32), named(self.observation_space, seen)
        physics = {"simulation": simulation, "episode": episode, "elapsed": zero, "obs": obs}
        return initial_state(physics, obs, unstable=jnp.float32(0.0)).replace(info={"elapsed": zero})

    def step(self, state: State, action: jax.Array) -> State:
        physics = state.physics
        results = [jax.ShapeDtypeStruct((), t) for t in (jnp.float32, bool, bool, bool, bool, jnp.int32)]
        operands = [*(physics[name] for name in ("simulation", "episode", "elapsed")), jnp.asarray(action)]
        reward, terminated, truncated, alive, unstable, elapsed, *seen = host_call(
            self._step_on_host, operands, [*results, *self._seen], effect=True
        )
        new, obs = alive & ~unstable, named(self.observation_space, seen)
        obs = jax.tree.map(lambda x, old: jnp.where(new, x, old), obs, physics["obs"])
        return state.replace(
            physics=physics | {"elapsed": elapsed, "obs": obs},
            obs=obs,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            metrics={"unstable": unstable.astype(jnp.float32)},
            info=state.info | {"elapsed": state.info["elapsed"] + alive},
        )

    def _reset_on_host(self, seeds: np.ndarray) -> list[np.ndarray]:
        count = len(seeds)
        with self._lock:
            which = self._take(count, int(seeds[0]))
            numbers = (self._numbers + np.arange(count)).astype(np.uint32)
            self._numbers += count
            self._episode[which], self._elapsed[which], self._used[which] = numbers, 0, next(self._clock)
            seen = self._buffers(count)
            for group, of in self._by_group(which):
                self._see(seen, of, self._groups[group].reset(self._local(group, which[of])))
        episode = np.stack([np.full(count, self._process), numbers], -1)
        return [which.astype(np.int32), episode, *seen]

    def _step_on_host(
        self, simulation: np.ndarray, episode: np.ndarray, elapsed: np.ndarray, actions: np.ndarray
    ) -> list[np.ndarray]:
        count, seen = len(elapsed), self._buffers(len(elapsed))
        reward, (terminated, truncated) = np.zeros(count, np.float32), np.zeros((2, count), bool)
        with self._lock, np.errstate(over="ignore"):
            alive = self._known(simulation, episode, elapsed)
            if not alive.all():
                self._warn(elapsed[~alive])
            which = simulation[alive]
            actions, places = self._converted(actions[alive]), np.flatnonzero(alive)
            for group, of in self._by_group(which):
                obs, *rest = self._groups[group].step(self._local(group, which[of]), actions[of])
                at = places[of]
                reward[at], terminated[at], truncated[at] = rest
                self._see(seen, at, obs)
            unstable = ~finite(reward, *seen)
            reward[unstable], truncated[unstable] = 0.0, truncated[unstable] | ~terminated[unstable]
            truncated |= ~alive
            elapsed = np.where(terminated | truncated, _FREE, elapsed + 1).astype(np.int32)
            self._elapsed[which], self._used[which] = elapsed[alive], next(self._clock)
        return [reward, terminated, truncated, alive, unstable, elapsed, *seen]

    def _known(self, simulation: np.ndarray, episode: np.ndarray, elapsed: np.ndarray) -> np.ndarray:
        """Which states are where their simulations are, bool [batch]; of several that are at the same, the first."""
        known = (elapsed != _FREE) & (simulation >= 0) & (simulation < self._begins[-1])
        known &= episode[:, 0] == self._process
        own = np.where(known, simulation, 0)
        if len(self._elapsed):
            known &= (self._episode[own] == episode[:, 1]) & (self._elapsed[own] == elapsed)
        order = np.arange(len(known))
        places = np.where(known, simulation, self._begins[-1])
        first = np.empty(self._begins[-1] + 1, np.int64)
        first[places[::-1]] = order[::-1]  # of equal places the last one written stays
        return known & (first[places] == order)

    def _take(self, count: int, seed: int) -> np.ndarray:
        """`count` simulations that are free, or new, or those unused for the longest time."""
        free = np.flatnonzero(self._elapsed == _FREE)
        if len(free) < count and len(self._elapsed) < max(self.max_live, 2 * count):
            # What auto-reset's pool has at once where `count` environments are stepped.
            size = 2 * count + max(32, count // 8)
            self._groups.append(self._make(size, seed))
            self._begins = np.append(self._begins, self._begins[-1] + size)
            self._episode = np.append(self._episode, np.zeros(size, np.uint32))
            self._elapsed = np.append(self._elapsed, np.full(size, _FREE, np.int32))
            self._used = np.append(self._used, np.zeros(size, np.int64))
            free = np.flatnonzero(self._elapsed == _FREE)
        if len(free) < count:
            live = np.flatnonzero(self._elapsed != _FREE)
            free = np.append(free, live[np.argsort(self._used[live], kind="stable")])
        return free[:count]

    def _by_group(self, which: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """The groups that simulations are of, each with the places that it has among them."""
        if len(self._groups) == 1:
            return [(0, np.arange(len(which)))] if len(which) else []
        group = np.searchsorted(self._begins, which, side="right") - 1
        return [(int(g), np.flatnonzero(group == g)) for g in np.unique(group)]

    def _local(self, group: int, which: np.ndarray) -> np.ndarray:
        return (which - self._begins[group]).astype(np.int32)

    def _converted(self, actions: np.ndarray) -> np.ndarray:
        actions = np.rint(actions) if np.issubdtype(self._action_dtype, np.integer) else actions
        whole = actions.astype(self._action_dtype).reshape(len(actions), *self._action_shape)
        return whole + np.asarray(self._first_action, self._action_dtype)

    def _buffers(self, count: int) -> list[np.ndarray]:
        return [np.zeros((count, *seen.shape), seen.dtype) for seen in self._seen]

    def _see(self, seen: list[np.ndarray], at: np.ndarray, obs: Any) -> None:
        for array, x in zip(seen, self._read(obs), strict=True):
            array[at] = x

    def _warn(self, elapsed: np.ndarray) -> None:
        if (elapsed != _FREE).any() and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name}: a state has no simulation any more and its episode is truncated: the run was resumed, "
                f"the state was stepped before, or more than max_live = {self.max_live} are in use",
                RuntimeWarning,
                stacklevel=2,
            )


class EnvPoolSimulations:
    """Simulations of EnvPool (Weng et al. 2022, arXiv:2206.10558), in C++ on threads of their own.

    EnvPool resets by itself where a finished simulation is stepped again. Here that never happens: a finished one is
    reset when its next episode begins, so that every observation is handed out, the last one of an episode too.
    """

    def __init__(self, envpool: Any, task: str, size: int, seed: int, threads: int, options: dict[str, Any]):
        self._pool = envpool.make(
            task, env_type="gymnasium", num_envs=size, num_threads=min(threads, size), seed=seed, **options
        )
        self.action_space = self._pool.action_space
        self.observation_space, self._moved = _of_rljax(self._pool.observation_space)
        limit = self._pool.config.get("max_episode_steps")
        self.max_episode_steps = limit if limit and limit < _NO_LIMIT else None

    def reset(self, which: np.ndarray) -> Any:
        return self._moved(self._pool.reset(which)[0])

    def step(self, which: np.ndarray, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        obs, *rest = self._pool.step(actions, which)[:4]
        return self._moved(obs), *rest


def _of_rljax(space: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A space as rljax has it, and what makes observations so: the channels of an image come last.

    EnvPool takes the smallest positive number for the lowest; here it is no bound.
    """
    if not hasattr(space, "low"):
        return space, lambda obs: obs
    low, high = space.low, space.high
    if np.issubdtype(space.dtype, np.floating):
        low = np.where(low == np.finfo(space.dtype).tiny, -np.inf, low).astype(space.dtype)
    if space.dtype == np.uint8 and low.ndim == 3 and 2 * low.shape[0] <= min(low.shape[1:]):
        low, high = (np.moveaxis(x, 0, -1) for x in (low, high))
        return type(space)(low, high, low.shape, space.dtype), lambda obs: np.moveaxis(obs, 1, -1)
    return type(space)(low, high, low.shape, space.dtype), lambda obs: obs


def make_envpool(name: str, max_live: int, threads: int | None, options: dict[str, Any]) -> Environment:
    """The task of EnvPool's that is called `name`.

    Raises:
      Refused: EnvPool is missing, or has no such task or option.
    """
    envpool = import_package("vector=envpool", "envpool", "'rljax[envpool]'")
    known, task = envpool.list_all_envs(), name.removeprefix("ALE/")
    if task not in known:
        near = difflib.get_close_matches(task, known)
        suggestion = f"did you mean {' or '.join(near)}? " if near else ""
        raise Refused(f"gymnasium:{name}: EnvPool has no such task; {suggestion}without vector Gymnasium's is stepped")
    if "max_episode_steps" in options:
        options = options | {"max_episode_steps": options["max_episode_steps"] or _NO_LIMIT}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def simulations(size: int, seed: int) -> Simulations:
        return EnvPoolSimulations(envpool, task, size, seed, threads or cores, options)

    try:
        return VectorEnvironment(simulations, f"gymnasium:{name}", max_live)
    except (TypeError, AssertionError, ValueError) as error:
        raise Refused(f"gymnasium:{name}: EnvPool says: {' '.join(str(error).split())}") from error
