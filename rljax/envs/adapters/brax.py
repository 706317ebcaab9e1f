"""Tasks of Brax: `make("brax:ant", backend="spring")` (Freeman et al. 2021, arXiv 2106.13281)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from rljax.envs.adapters.common import import_package, like, rekey, unknown_name
from rljax.envs.environment import Environment, State
from rljax.envs.wrappers import TimeLimit, end_broken
from rljax.spaces import Box, Dict, Space
from rljax.types import Key, PyTree, Refused

_EPISODE_LENGTH = 1000
"""Time limit in `brax.envs.create` and in Brax's own training."""


class BraxEnvironment(Environment):
    """A raw Brax environment, that is one without Brax's episode and auto-reset wrappers.

    Physics is Brax's whole state. Its `done` is `terminated`: a raw environment has no clock. A simulation that broke
    ends its episode (see `Guard`). Actions are in [-1, 1]. Where the observation is a dict of several parts, such
    as "state" and "privileged_state", it is handed out as one; "pixels/view_0" is the part "view_0" of the part
    "pixels". Numbers are f32, but uint8 stays.
    """

    def __init__(self, env: Any, name: str = ""):
        self.env = env
        self.name = name
        obs = jax.eval_shape(lambda key: self._observe(env.reset(key)), jax.random.key(0))
        self.observation_space = _space(obs)
        self.action_space = Box(-1.0, 1.0, (env.action_size,))

    def reset(self, key: Key) -> State:
        physics = jax.tree.map(jnp.asarray, self.env.reset(key))
        return self._state(physics, {})

    def step(self, state: State, action: jax.Array) -> State:
        # tree.map rebuilds the dicts in the state: some tasks write to those that they are handed.
        before = jax.tree.map(lambda x: x, state.physics)
        after = self._state(like(self.env.step(before, action), state.physics), state.info)
        return end_broken(after, self._observe(state.physics))

    def rekey(self, state: State, key: Key) -> State:
        """`state` with its random keys drawn anew, and nothing else changed."""
        return state.replace(physics=rekey(state.physics, key))

    def _observe(self, physics: Any) -> PyTree:
        """The observation: all parts, or of a dict with "state" alone, its array."""
        obs = physics.obs
        if isinstance(obs, Mapping):
            obs = obs["state"] if set(obs) == {"state"} else unflatten_dict(dict(obs), sep="/")
        return jax.tree.map(lambda x: jnp.asarray(x, None if x.dtype == jnp.uint8 else jnp.float32), obs)

    def _state(self, physics: Any, info: dict[str, PyTree]) -> State:
        return State(
            physics=physics,
            obs=self._observe(physics),
            reward=jnp.asarray(physics.reward, jnp.float32),
            terminated=jnp.asarray(physics.done, bool),
            truncated=jnp.zeros((), bool),
            metrics=dict(physics.metrics) | {"unstable": jnp.zeros((), jnp.float32)},
            info=info,
        )

    def render(self, state: State) -> np.ndarray:
        return np.asarray(self.env.render(state.physics.pipeline_state))


def _space(obs: PyTree) -> Space:
    """The space of observations of these shapes and types, of which Brax says no bounds."""
    if isinstance(obs, dict):
        return Dict({name: _space(part) for name, part in obs.items()})
    return Box(0, 255, obs.shape, np.uint8) if obs.dtype == np.uint8 else Box(-np.inf, np.inf, obs.shape)


def make(
    name: str, *, backend: str | None = None, max_episode_steps: int | None = _EPISODE_LENGTH, **kwargs: Any
) -> Environment:
    """Makes a Brax task with a time limit (1000 steps, as in Brax's own training).

    Args:
      backend: "generalized", "spring", "positional" or "mjx"; the task's own choice where None.
      max_episode_steps: None or 0 for none.
      **kwargs: arguments of the Brax environment.

    Raises:
      ValueError: Brax is missing, or does not know the task or an argument.
    """
    import_package("brax", "brax", "brax")
    envs = import_package("brax", "brax.envs", "brax")
    if name not in envs._envs:
        raise unknown_name("brax", name, envs._envs)
    try:
        raw = envs.get_environment(name, **kwargs, **({} if backend is None else {"backend": backend}))
    except (TypeError, ValueError) as error:
        raise Refused(f"brax:{name}: {error}") from error
    env = BraxEnvironment(raw, f"brax:{name}")
    return TimeLimit(env, max_episode_steps) if max_episode_steps else env
