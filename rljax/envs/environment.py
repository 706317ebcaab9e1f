"""The environment contract: two pure functions over one state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.envs.identity import identity
from rljax.spaces import ArraySpace, Space
from rljax.types import Key, PyTree, Refused


class State(struct.PyTreeNode):
    """One environment between two steps. Batch it with `jax.vmap`.

    Fields:
      physics: the integrated quantities (arrays, mjx.Data, …).
      obs: the observation, an array or a dict of arrays.
      reward: f32 [], of the step that led here; 0 after a reset.
      terminated: bool [], the task ended: the future is worth 0.
      truncated: bool [], the clock ended: the future is worth V(obs).
      metrics: named quantities of the last step, worth plotting; the same names from the reset on.
      info: values that wrappers carry from step to step, each under its own name; a step hands on unknown entries.
        `info["elapsed"]`, where it is there, counts the steps of the underlying task in this episode.
      context: values that are constant in an episode: a task, a goal, parameters of its physics, a learned model's
        weights. Auto-reset takes it with a fresh state, or keeps it (see `Environment.keeps_context`).
    """

    physics: PyTree
    obs: PyTree
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    metrics: dict[str, jax.Array] = struct.field(default_factory=dict)
    info: dict[str, PyTree] = struct.field(default_factory=dict)
    context: PyTree = ()

    @property
    def done(self) -> jax.Array:
        """bool []: the episode is over, for either reason."""
        return self.terminated | self.truncated


class Environment:
    """Base class of every task. Subclasses hold constants only; all that changes is in `State`."""

    name: str = ""
    observation_space: Space
    action_space: ArraySpace
    steps_per_action: int = 1
    """Steps of the underlying task that one call of `step` makes (more than 1 under `ActionRepeat`)."""
    max_episode_steps: int | None = None
    """Most calls of `step` before the episode is truncated; None without a time limit."""
    terminates_at_success: bool = False
    """Whether episodes terminate where `metrics["success"]` is 1, and nowhere else; ask `unwrapped` for it."""
    keeps_context: bool = False
    """Whether auto-reset keeps the context, which was set from outside, and on which `reset` must not depend then; else
    each episode has its own."""
    pure: bool = True
    """Whether reset and step are functions of their arguments alone; a simulator on the host keeps its episodes."""
    _spec: dict[str, Any] | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """The arguments of `rljax.make` that made it, so that a run folder can make it again.

        If it was made otherwise, "name", "class" and "constants" (see `identity`): enough to tell it from others.
        """
        return self._spec or {"name": self.name} | identity(self)

    @spec.setter
    def spec(self, arguments: dict[str, Any]) -> None:
        self._spec = arguments

    def reset(self, key: Key) -> State:
        """Draws a first state."""
        raise NotImplementedError

    def step(self, state: State, action: jax.Array) -> State:
        """Advances one control step. `action` is in the units of `action_space`."""
        raise NotImplementedError

    def rekey(self, state: State, key: Key) -> State:
        """The same state with other randomness to come: an environment with a random key in it puts `key` there.

        A state that is used twice is rekeyed in between, for a copied key repeats its noise. Nothing else changes.
        """
        return state

    def aged(self, state: State, key: Key) -> State:
        """The same first state with a clock at a random age, as `TimeLimit` draws it.

        Raises:
          Refused: there is no `TimeLimit`.
        """
        raise Refused(f"random_age = True needs a TimeLimit: {self!r} has none, or counts its steps itself")

    def combine_metric(self, name: str, earlier: jax.Array, later: jax.Array) -> jax.Array:
        """The value of a metric over two successive stretches of an episode, where one action lasts several steps.

        Parts of the reward (`reward…`) add up, as the reward does. Of `success`, `unstable`, `overflow` and booleans
        the larger value is kept, so that later steps do not erase it; of all others the later value.
        """
        if name.startswith("reward"):
            return earlier + later
        if name in ("success", "unstable", "overflow") or later.dtype == bool:
            return jnp.maximum(earlier, later)
        return later

    def render(self, state: State) -> np.ndarray:
        """Draws one unbatched state: uint8 [height, width, 3]. Runs on the host, not under jit."""
        raise NotImplementedError(f"{self.name or type(self).__name__} has no drawing")

    @property
    def unwrapped(self) -> "Environment":
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        # By its recipe, where there is one: a simulator can be neither pickled nor copied.
        return super().__reduce_ex__(protocol) if self._spec is None else (_make_again, (self._spec,))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"


def _make_again(spec: dict[str, Any]) -> Environment:
    from rljax.envs.registry import make  # which imports this module

    return make(**spec)


def initial_state(physics: PyTree, obs: PyTree, **metrics: Any) -> State:
    """A `State` fresh from a reset: zero reward, neither terminated nor truncated."""
    return State(
        physics=physics,
        obs=obs,
        reward=jnp.zeros((), jnp.float32),
        terminated=jnp.zeros((), bool),
        truncated=jnp.zeros((), bool),
        metrics={name: jnp.asarray(value) for name, value in metrics.items()},
    )
