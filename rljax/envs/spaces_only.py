"""An environment of which only the spaces are known: for learning from data where there is no simulator."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rljax.envs.environment import Environment, State
from rljax.spaces import Box, Dict, Space
from rljax.types import Key, Refused


class SpacesOnly(Environment):
    """Observations of known sizes, actions between bounds; it cannot be acted in.

    Args:
      observation_size: n for vectors [n]; a shape, of which one with three axes is that of an image of bytes; or a dict
        of such sizes, for observations with parts.
      action_low, action_high: bounds of the actions [d].
    """

    name = "spaces_only"

    def __init__(self, observation_size: Any, action_low: Sequence[float], action_high: Sequence[float]):
        self.observation_space = _space(observation_size)
        self.action_space = Box(np.asarray(action_low), np.asarray(action_high))

    def reset(self, key: Key) -> State:
        raise Refused("there is no simulator here, only a dataset: evaluate_every=0 and final_episodes=0")

    def step(self, state: State, action: jax.Array) -> State:
        return self.reset(action)


def _space(size: Any) -> Space:
    if isinstance(size, Mapping):
        return Dict({name: _space(inner) for name, inner in size.items()})
    shape = tuple(np.atleast_1d(size).tolist())
    return Box(0, 255, shape, np.uint8) if len(shape) == 3 else Box(-np.inf, np.inf, shape)
