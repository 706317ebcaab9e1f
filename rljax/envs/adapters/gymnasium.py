"""Tasks of Gymnasium, and of all that register with it, on the host: `make("gymnasium:LunarLander-v3")`.

A Gymnasium environment is an object that changes; a `State` is a value. So the objects stay on the host, and a state
names the one it stands for: by the number of an episode, which is drawn where the episode begins and never again, and
by the steps since. Two states that begin with the same seed are two episodes, whoever steps them and in what order.
"""

import itertools
import secrets
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.adapters.common import check_observation, import_package
from rljax.envs.adapters.gymnasium_spaces import acted, finite, named, observed, one_hot
from rljax.envs.adapters.vector import make_envpool
from rljax.envs.environment import Environment, State, initial_state
from rljax.envs.host_call import host_call
from rljax.spaces import Discrete, parts
from rljax.types import Key, PyTree, Refused

_INSTALL = "gymnasium"
_OVER = -1
"""`elapsed` of a state whose episode is over: nothing on the host belongs to it."""


class GymnasiumEnvironment(Environment):
    """A Gymnasium environment, stepped on the host in a batch, one after the other.

    Physics: {"seed": i32 [], "noise": u32 [], "episode": u32 [2], "elapsed": i32 [], "obs", "frame" if it is drawn}. An
    episode is determined by its seed and its actions, and by "noise" where `rekey` has set it, which then seeds
    `np_random` after the reset. `terminated` and `truncated` are Gymnasium's own; both may be set. A step whose
    observation or reward is not finite ends its episode, as in `MujocoTask`.

    A reset state may begin several episodes, so each episode is reset once to be seen and once more, from the same
    seed, when its first step is made. Where `reset` does not follow its seed, the two would differ: a warning is given,
    and the simulation of each reset is kept for the one episode that it can begin.

    What it cannot preserve: a state is worth something only while its simulation is alive. A state that was stepped
    already (rewound), or that comes from another process (a resumed run), is truncated at once with the observation it
    has, and a warning is given once. So a resumed run goes on, but not bit for bit. `info` is dropped.

    Observations: a Box is f32 (uint8 stays), a MultiBinary is a Box of 0 and 1, and a MultiDiscrete has one axis. A
    Discrete is one-hot f32 where it is all there is, and stays a Discrete where it is a part. A Dict keeps its names;
    the parts of a Tuple are "0", "1", …. Actions: a Box, a Discrete, a MultiDiscrete of one axis, or a MultiBinary as a
    MultiDiscrete of twos. All integers begin at 0 here, wherever they start in Gymnasium.

    Args:
      make: makes one Gymnasium environment; or the name of a registered one.
      max_live: number of simulations kept alive; beyond it (or twice the largest batch, if that is more), the one
        unused for the longest time is given up. It must suffice for all that is trained and evaluated at once.

    Raises:
      Refused: Gymnasium is missing, or a space is none of these, or observations are not of their space.
    """

    pure = False

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
        # By the episode's number. The first half tells this process's from those that a checkpoint brings.
        self._live: OrderedDict[tuple[int, int], tuple[int, Any]] = OrderedDict()
        self._process, self._numbers = secrets.randbits(32), itertools.count()
        self._warned = False
        first = self._make()
        self._free = [first]
        if first.spec is not None:
            self.max_episode_steps = first.spec.max_episode_steps

        space, spaces = first.observation_space, gymnasium.spaces
        self.observation_space, self._read = observed(f"{name}: observation_space", space, spaces)
        if isinstance(self.observation_space, Discrete):
            self.observation_space, self._read = one_hot(self.observation_space.n, self._read)
        self.action_space, self._first_action = acted(f"{name}: action_space", first.action_space, spaces)
        self._action_dtype, self._action_shape = first.action_space.dtype, first.action_space.shape
        arrays = parts(self.observation_space)
        self._seen = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays.values()]
        one, other = ([np.array(x) for x in self._read(first.reset(seed=0)[0])] for _ in range(2))
        for part, array, x in zip(arrays, arrays.values(), one, strict=True):
            check_observation(f"{name}: {part}" if part else name, array.shape, x.shape)
        self._follows_seed = all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(one, other))
        if not self._follows_seed:
            warnings.warn(
                f"{self.name}: two resets with one seed differ, so a run cannot be repeated; reset(seed=…) should call "
                "super().reset(seed=seed) and draw from self.np_random",
                RuntimeWarning,
                stacklevel=2,
            )
        self._draws = first.render_mode == "rgb_array"
        if self._draws:
            self._seen.append(jax.ShapeDtypeStruct(np.shape(first.render()), np.uint8))

    def _named(self, seen: list[jax.Array]) -> dict[str, PyTree]:
        """The observation, and the frame if it is drawn, of their arrays."""
        frame = {"frame": seen[-1]} if self._draws else {}
        return {"obs": named(self.observation_space, seen[: len(seen) - len(frame)])} | frame

    def reset(self, key: Key) -> State:
        seed = jax.random.randint(key, (), 0, np.iinfo(np.int32).max, jnp.int32)
        results = [jax.ShapeDtypeStruct((2,), jnp.uint32), *self._seen]
        episode, *values = host_call(self._reset_on_host, [seed], results, effect=True)
        zero, noise = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.uint32)
        physics = {"seed": seed, "noise": noise, "episode": episode, "elapsed": zero, **self._named(values)}
        return initial_state(physics, physics["obs"], unstable=jnp.float32(0.0)).replace(info={"elapsed": zero})

    def step(self, state: State, action: jax.Array) -> State:
        physics = state.physics
        results = [
            *(jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, bool, bool, bool, bool, jnp.int32)),
            jax.ShapeDtypeStruct((2,), jnp.uint32),
        ]
        operands = [*(physics[name] for name in ("seed", "noise", "episode", "elapsed")), jnp.asarray(action)]
        reward, terminated, truncated, alive, unstable, elapsed, episode, *values = host_call(
            self._step_on_host, operands, [*results, *self._seen], effect=True
        )
        new = alive & ~unstable
        seen = self._named(values)
        seen = jax.tree.map(lambda x, old: jnp.where(new, x, old), seen, {name: physics[name] for name in seen})
        return state.replace(
            physics=physics | {"episode": episode, "elapsed": elapsed, **seen},
            obs=seen["obs"],
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            metrics={"unstable": unstable.astype(jnp.float32)},
            info=state.info | {"elapsed": state.info["elapsed"] + alive},
        )

    def rekey(self, state: State, key: Key) -> State:
        """`state`, which was just reset, with the noise of its steps drawn anew, and nothing else changed."""
        noise = jax.random.randint(key, (), 1, np.iinfo(np.int32).max, jnp.int32).astype(jnp.uint32)
        return state.replace(physics=state.physics | {"noise": noise})

    def render(self, state: State) -> np.ndarray:
        if not self._draws:
            raise NotImplementedError(f'{self.name} draws only if made with render_mode="rgb_array"')
        return np.asarray(state.physics["frame"])

    def _reset_on_host(self, seeds: np.ndarray) -> list[np.ndarray]:
        count = len(seeds)
        episode, seen = np.zeros((count, 2), np.uint32), self._buffers(count)
        with self._lock, np.errstate(over="ignore"):
            for i, seed in enumerate(seeds):
                env = self._take(count)
                self._see(env, env.reset(seed=int(seed))[0], seen, i)
                episode[i] = self._number()
                if self._follows_seed:
                    self._free.append(env)
                else:
                    self._keep(episode[i], 0, env)
        return [episode, *seen]

    def _step_on_host(
        self, seeds: np.ndarray, noises: np.ndarray, episode: np.ndarray, elapsed: np.ndarray, actions: np.ndarray
    ) -> list[np.ndarray]:
        count, actions = len(seeds), self._converted(actions)
        reward = np.zeros(count, np.float32)
        terminated, truncated, alive = np.zeros((3, count), bool)
        episode, elapsed, seen = episode.copy(), elapsed.copy(), self._buffers(count)
        # Beyond single precision a number is infinite, and so unstable. Once for all: to enter it takes a microsecond.
        with self._lock, np.errstate(over="ignore"):
            for i in range(count):
                if elapsed[i] == 0 and self._follows_seed:
                    env = self._take(count)
                    env.reset(seed=int(seeds[i]))
                    episode[i] = self._number()
                else:
                    env = self._find(episode[i], elapsed[i])
                if env is None:
                    self._warn(elapsed[i])
                    truncated[i], elapsed[i] = True, _OVER
                    continue
                if elapsed[i] == 0 and noises[i]:
                    env.unwrapped.np_random = np.random.default_rng(int(noises[i]))
                obs, paid, terminated[i], truncated[i], _ = env.step(actions[i])
                reward[i] = paid if isinstance(paid, float) else np.asarray(paid).item()
                self._see(env, obs, seen, i)
                alive[i] = True
                self._keep(episode[i], elapsed[i] + 1, env)
            unstable = ~finite(reward, *seen)
            reward[unstable], truncated[unstable] = 0.0, truncated[unstable] | ~terminated[unstable]
            over = terminated | truncated
            elapsed = np.where(over, _OVER, elapsed + 1).astype(np.int32)
            self._free += [self._live.pop(tuple(episode[i].tolist()))[1] for i in np.flatnonzero(alive & over)]
        return [reward, terminated, truncated, alive, unstable, elapsed, episode, *seen]

    def _converted(self, actions: np.ndarray) -> np.ndarray:
        """Actions [batch, …] as Gymnasium's space has them."""
        actions = np.rint(actions) if np.issubdtype(self._action_dtype, np.integer) else actions
        whole = actions.astype(self._action_dtype).reshape(len(actions), *self._action_shape)
        return whole + np.asarray(self._first_action, self._action_dtype)

    def _buffers(self, count: int) -> list[np.ndarray]:
        return [np.zeros((count, *seen.shape), seen.dtype) for seen in self._seen]

    def _see(self, env: Any, obs: Any, seen: list[np.ndarray], i: int) -> None:
        """Writes the observation, and the frame if it is drawn, after a reset or a step."""
        arrays = self._read(obs) + ([env.render()] if self._draws else [])
        for array, x in zip(seen, arrays, strict=True):
            array[i] = x

    def _number(self) -> tuple[int, int]:
        """The number of an episode; no other has it."""
        return self._process, next(self._numbers) % 2**32

    def _take(self, batch: int) -> Any:
        """An environment that is free, new, or the one unused for the longest time."""
        if self._free:
            return self._free.pop()
        if len(self._live) >= max(self.max_live, 2 * batch):
            return self._live.popitem(last=False)[1][1]
        return self._make()

    def _keep(self, episode: np.ndarray, elapsed: int, env: Any) -> None:
        self._live[episode[0].item(), episode[1].item()] = (int(elapsed), env)

    def _find(self, episode: np.ndarray, elapsed: int) -> Any:
        """The episode's environment, taken out; None where there is none, or it has gone on without this state."""
        number = (episode[0].item(), episode[1].item())
        if number in self._live and self._live[number][0] == elapsed:
            return self._live.pop(number)[1]
        return None

    def _warn(self, elapsed: int) -> None:
        if elapsed != _OVER and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name}: a state has no simulation any more and its episode is truncated: the run was resumed, "
                f"the state was stepped before, or more than max_live = {self.max_live} are in use",
                RuntimeWarning,
                stacklevel=2,
            )


def make(
    name: str,
    *,
    vector: Literal["envpool"] | None = None,
    threads: int | None = None,
    max_live: int = 1024,
    **kwargs: Any,
) -> Environment:
    """Makes a registered Gymnasium task; "module:Name-v0" imports `module` first.

    Args:
      vector: "envpool" steps the task of that name that EnvPool has, many at once (see `VectorEnvironment`); else
        Gymnasium's own is stepped, one environment after the other, and an episode follows its seed.
      threads: number of EnvPool's threads; one for each core where None.
      max_live: see `GymnasiumEnvironment`.
      max_episode_steps: replaces the time limit; None or 0 for none.
      **kwargs: arguments of `gymnasium.make`. With render_mode="rgb_array" every step is drawn: for videos, not for
        training.

    Raises:
      ValueError: Gymnasium or what the task needs is missing, or it does not know the task or an argument.
    """
    if vector is not None:
        if vector != "envpool":
            raise Refused(f"gymnasium:{name}: vector = {vector!r} is not allowed; it must be envpool, or None")
        return make_envpool(name, max_live, threads, kwargs)
    if threads is not None:
        raise Refused(f'gymnasium:{name}: threads = {threads} is not allowed without vector="envpool"')
    gymnasium = import_package("gymnasium", "gymnasium", _INSTALL)
    if "max_episode_steps" in kwargs:
        kwargs["max_episode_steps"] = kwargs["max_episode_steps"] or -1
    # Its checker looks at the first step of every environment made: here once for each position of the batch.
    options: dict[str, PyTree] = {"disable_env_checker": True, **kwargs}
    try:
        return GymnasiumEnvironment(lambda: gymnasium.make(name, **options), f"gymnasium:{name}", max_live)
    except gymnasium.error.NameNotFound as error:
        said = " ".join(str(error).split())
        raise Refused(
            f"gymnasium:{name}: {said} A module that registers it is imported by gymnasium:module:Id"
        ) from error
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise Refused(f"gymnasium:{name}: {' '.join(str(error).split())}") from error
