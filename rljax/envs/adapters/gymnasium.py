"""Tasks of Gymnasium, and of all that register with it, on the host: `make("gymnasium:LunarLander-v3")`.

A Gymnasium environment is an object that changes; a `State` is a value. So the objects stay on the host, and a state
names the one it stands for: by the seed it was reset with, by a checksum of the actions since, and by its position in
the batch, since auto-reset may hand one reset state to several positions.
"""

import threading
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.adapters.common import import_package
from rljax.envs.environment import Environment, State, initial_state
from rljax.envs.host_call import host_call
from rljax.spaces import Box, Discrete
from rljax.types import Key, PyTree, Refused

_INSTALL = "gymnasium"
_OVER = -1
"""`elapsed` of a state whose episode is over: nothing on the host belongs to it."""


class GymnasiumEnvironment(Environment):
    """A Gymnasium environment, stepped on the host in a batch, one after the other.

    Physics: {"seed": i32 [], "elapsed": i32 [], "history": u32 [], "obs", "frame" if it is drawn}. An episode is
    determined by its seed and its actions. `terminated` and `truncated` are Gymnasium's own; both may be set.

    What it cannot preserve: a state is worth something only while its simulation is alive. A state that was stepped
    already (rewound), or that comes from another process (a resumed run), is truncated at once with the observation it
    has, and a warning is given once. So a resumed run goes on, but not bit for bit. `info` is dropped.

    Observations: a Box is f32 (uint8 stays), a Discrete is one-hot f32.

    Args:
      make: makes one Gymnasium environment; or the name of a registered one.
      max_live: simulations kept alive; past it (or twice the largest batch, if that is more), the one that was not
        used for the longest time is given up. It must hold all that is trained and evaluated at once.
    """

    def __init__(self, make: Callable[[], Any] | str, name: str = "", max_live: int = 1024):
        gymnasium = import_package("gymnasium", "gymnasium", _INSTALL)
        if isinstance(make, str):
            registered = make
            self._make: Callable[[], Any] = lambda: gymnasium.make(registered)
        else:
            self._make = make
        self.name = name
        self.max_live = max_live
        self._lock = threading.Lock()  # several devices may call at once
        self._live: OrderedDict[tuple[int, int, int, int], Any] = OrderedDict()
        self._warned = False
        first = self._make()
        self._free = [first]
        if first.spec is not None:
            self.max_episode_steps = first.spec.max_episode_steps

        spaces = gymnasium.spaces
        space = first.observation_space
        self._discrete = space if isinstance(space, spaces.Discrete) else None
        if isinstance(space, spaces.Discrete):
            self.observation_space = Box(0.0, 1.0, (int(space.n),))
        elif isinstance(space, spaces.Box):
            dtype = np.uint8 if space.dtype == np.uint8 else np.float32
            self.observation_space = Box(space.low, space.high, space.shape, dtype)
        else:
            raise Refused(f"{self.name}: observations are Box or Discrete here, it has {type(space).__name__}")
        space = first.action_space
        self._first_action = int(space.start) if isinstance(space, spaces.Discrete) else 0
        self._action_dtype = space.dtype
        if isinstance(space, spaces.Discrete):
            self.action_space = Discrete(int(space.n))
        elif isinstance(space, spaces.Box):
            self.action_space = Box(space.low, space.high, space.shape)
        else:
            raise Refused(f"{self.name}: actions are Box or Discrete here, it has {type(space).__name__}")
        self._seen = {"obs": jax.ShapeDtypeStruct(self.observation_space.shape, self.observation_space.dtype)}
        if first.render_mode == "rgb_array":
            first.reset(seed=0)
            self._seen["frame"] = jax.ShapeDtypeStruct(np.shape(first.render()), np.uint8)

    def reset(self, key: Key) -> State:
        seed = jax.random.randint(key, (), 0, np.iinfo(np.int32).max, jnp.int32)
        seen = dict(zip(self._seen, host_call(self._reset_on_host, [seed], list(self._seen.values())), strict=True))
        physics = {"seed": seed, "elapsed": jnp.zeros((), jnp.int32), "history": jnp.zeros((), jnp.uint32), **seen}
        return initial_state(physics, physics["obs"]).replace(info={"elapsed": physics["elapsed"]})

    def step(self, state: State, action: jax.Array) -> State:
        physics = state.physics
        results = [jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, bool, bool, bool, jnp.int32, jnp.uint32)]
        operands = [physics["seed"], physics["elapsed"], physics["history"], jnp.asarray(action)]
        reward, terminated, truncated, alive, elapsed, history, *values = host_call(
            self._step_on_host, operands, [*results, *self._seen.values()], effect=True
        )
        seen = {name: jnp.where(alive, value, physics[name]) for name, value in zip(self._seen, values, strict=True)}
        return state.replace(
            physics={"seed": physics["seed"], "elapsed": elapsed, "history": history, **seen},
            obs=seen["obs"],
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            info=state.info | {"elapsed": state.info["elapsed"] + alive},
        )

    def render(self, state: State) -> np.ndarray:
        if "frame" not in self._seen:
            raise NotImplementedError(f'{self.name} draws only if made with render_mode="rgb_array"')
        return np.asarray(state.physics["frame"])

    def _reset_on_host(self, seeds: np.ndarray) -> list[np.ndarray]:
        seen = self._buffers(len(seeds))
        with self._lock:
            env = self._take(len(seeds))
            for i, seed in enumerate(seeds):
                self._see(env, env.reset(seed=int(seed))[0], seen, i)
            self._free.append(env)
        return seen

    def _step_on_host(
        self, seeds: np.ndarray, elapsed: np.ndarray, history: np.ndarray, actions: np.ndarray
    ) -> list[np.ndarray]:
        count = len(seeds)
        reward = np.zeros(count, np.float32)
        terminated, truncated, alive = np.zeros((3, count), bool)
        elapsed, history, seen = elapsed.copy(), history.copy(), self._buffers(count)
        with self._lock:
            for i in range(count):
                place = (i, int(seeds[i]), int(elapsed[i]), int(history[i]))
                if elapsed[i] == 0:
                    env = self._take(count)
                    env.reset(seed=int(seeds[i]))
                else:
                    env = self._live.pop(place, None)
                if env is None:
                    self._warn(elapsed[i])
                    truncated[i], elapsed[i] = True, _OVER
                    continue
                action = np.array(actions[i], self._action_dtype) + self._first_action
                obs, reward[i], terminated[i], truncated[i], _ = env.step(action)
                self._see(env, obs, seen, i)
                alive[i] = True
                if terminated[i] or truncated[i]:
                    elapsed[i] = _OVER
                    self._free.append(env)
                else:
                    elapsed[i] += 1
                    history[i] = zlib.crc32(action.tobytes(), history[i])
                    self._keep((i, int(seeds[i]), int(elapsed[i]), int(history[i])), env)
        return [reward, terminated, truncated, alive, elapsed, history, *seen]

    def _buffers(self, count: int) -> list[np.ndarray]:
        return [np.zeros((count, *seen.shape), seen.dtype) for seen in self._seen.values()]

    def _see(self, env: Any, obs: Any, seen: list[np.ndarray], i: int) -> None:
        """Writes what there is to see after a reset or a step."""
        if self._discrete is not None:
            seen[0][i, int(obs) - int(self._discrete.start)] = 1.0
        else:
            seen[0][i] = obs
        if len(seen) > 1:
            seen[1][i] = env.render()

    def _take(self, batch: int) -> Any:
        """An environment that is free, new, or was not used for the longest time."""
        if self._free:
            return self._free.pop()
        if len(self._live) >= max(self.max_live, 2 * batch):
            return self._live.popitem(last=False)[1]
        return self._make()

    def _keep(self, place: tuple[int, int, int, int], env: Any) -> None:
        double = self._live.pop(place, None)
        if double is not None:  # left over from the same episode, played before and not to its end
            self._free.append(double)
        self._live[place] = env

    def _warn(self, elapsed: int) -> None:
        if elapsed != _OVER and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name}: a state has no simulation any more and its episode is truncated: the run was resumed, "
                f"the state was stepped before, or more than max_live = {self.max_live} are in use",
                RuntimeWarning,
                stacklevel=2,
            )


def make(name: str, *, max_live: int = 1024, **kwargs: Any) -> Environment:
    """Makes a registered Gymnasium task; "module:Name-v0" imports `module` first.

    Args:
      max_live: see `GymnasiumEnvironment`.
      max_episode_steps: replaces the time limit; None or 0 for none.
      **kwargs: of `gymnasium.make`. With render_mode="rgb_array" every step is drawn: for videos, not for training.

    Raises:
      ValueError: Gymnasium or what the task needs is missing, or it does not know the task or an argument.
    """
    gymnasium = import_package("gymnasium", "gymnasium", _INSTALL)
    if "max_episode_steps" in kwargs:
        kwargs["max_episode_steps"] = kwargs["max_episode_steps"] or -1
    # Its checker looks at the first step of every environment made: here once for each position of the batch.
    options: dict[str, PyTree] = {"disable_env_checker": True, **kwargs}
    try:
        return GymnasiumEnvironment(lambda: gymnasium.make(name, **options), f"gymnasium:{name}", max_live)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise Refused(f"gymnasium:{name}: {' '.join(str(error).split())}") from error
