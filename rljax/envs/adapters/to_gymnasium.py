"""The other direction: one of our environments as a Gymnasium environment, for libraries that train on those."""

import dataclasses
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.envs.registration import EnvSpec

from rljax.envs.auto_reset import AutoReset
from rljax.envs.environment import Environment, State
from rljax.envs.registry import make_recorded
from rljax.envs.wrappers import Guard
from rljax.spaces import Box, Dict, Discrete, MultiDiscrete, Space
from rljax.types import Refused


class GymnasiumEnv(gymnasium.Env):
    """`env` as a `gymnasium.Env`: `reset` and `step` are jitted once, on the CPU.

    Observations are NumPy arrays of the type of `env.observation_space`; `terminated` and `truncated` are those of
    `env`, whose time limit stays its own; `info` holds its metrics. A simulation that breaks ends its episode as in
    training, and `info["unstable"]` is 1 (see `Guard`). The generator that `reset(seed=…)` seeds draws the key of each
    episode. It can be copied and pickled in the middle of an episode if `env` can, as all of `rljax.make` can.
    """

    def __init__(self, env: Environment, render_mode: str | None = None, render_fps: int | None = None):
        if isinstance(env, AutoReset):
            raise Refused("to_gymnasium needs one environment, got a batch with auto-reset: pass its `.env`")
        render_fps = render_fps or round(getattr(env.unwrapped, "control_rate", 30))
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": render_fps}
        if render_mode not in (None, "rgb_array"):
            raise Refused(f"to_gymnasium: render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.env = env
        self.render_mode = render_mode
        self.observation_space = _space(env.observation_space)
        self.action_space = _space(env.action_space)
        self._state: State | None = None
        self._prepare()

    def _prepare(self) -> None:
        """Sets the attributes that can neither be copied nor pickled."""
        env, render_fps = self.env, self.metadata["render_fps"]
        self.spec = _Spec(
            "rljax/" + (env.name or type(env).__name__).replace("/", "-"),
            max_episode_steps=env.max_episode_steps,
            entry_point=lambda **kwargs: GymnasiumEnv(env, **{"render_fps": render_fps, **kwargs}),
            disable_env_checker=True,
        )
        self.spec.recipe = None if "class" in env.spec else {"spec": env.spec, "render_fps": render_fps}
        self._cpu = jax.devices("cpu")[0]
        guarded = Guard.around(env)
        self._reset, self._step = jax.jit(guarded.reset), jax.jit(guarded.step)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("spec", "_cpu", "_reset", "_step")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()
        self._state = jax.device_put(self._state, self._cpu)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        with jax.default_device(self._cpu):
            self._state = self._reset(jax.random.key(self.np_random.integers(2**32, dtype=np.uint32)))
        return self._observe(self._state), self._info(self._state)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        with jax.default_device(self._cpu):
            state = self._state = self._step(self._state, np.asarray(action, self.env.action_space.dtype))
        terminated, truncated = bool(state.terminated), bool(state.truncated)
        return self._observe(state), float(state.reward), terminated, truncated, self._info(state)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        if self.render_mode is None:
            return None
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before render")
        return self.env.render(self._state)

    def _observe(self, state: State) -> Any:
        return _copied(self.env.observation_space, state.obs)

    def _info(self, state: State) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in state.metrics.items()}


class _Spec(EnvSpec):
    """Makes environments on its own `env`; from JSON, on an equal one, if `rljax.make` made it."""

    recipe: dict[str, Any] | None

    def to_json(self) -> str:
        if self.recipe is None:
            return super().to_json()
        entry_point = f"{_remade.__module__}:{_remade.__name__}"
        return EnvSpec.to_json(dataclasses.replace(self, entry_point=entry_point, kwargs=self.recipe | self.kwargs))


def _remade(spec: dict[str, Any], **kwargs: Any) -> GymnasiumEnv:
    return GymnasiumEnv(make_recorded(spec), **kwargs)


def _copied(space: Space, obs: Any) -> Any:
    """NumPy's arrays of an observation: copies, since JAX's own memory must not be written to."""
    if isinstance(space, Dict):
        return {name: _copied(inner, obs[name]) for name, inner in space.spaces.items()}
    if isinstance(space, Discrete):
        return np.int64(obs)  # not an array, of which Gymnasium's checker warns
    return np.array(obs, space.dtype if isinstance(space, Box) else np.int64)


def _space(space: Space) -> gymnasium.Space:
    if isinstance(space, Dict):
        return gymnasium.spaces.Dict({name: _space(inner) for name, inner in space.spaces.items()})
    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(space.n)
    if isinstance(space, MultiDiscrete):
        return gymnasium.spaces.MultiDiscrete(list(space.n))
    return gymnasium.spaces.Box(space.low, space.high, space.shape, space.dtype)
