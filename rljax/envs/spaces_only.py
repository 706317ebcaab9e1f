"""An environment of which only the spaces are known: for learning from data where there is no simulator."""

from collections.abc import Sequence

import jax
import numpy as np

from rljax.envs.environment import Environment, State
from rljax.spaces import Box
from rljax.types import Key, Refused


class SpacesOnly(Environment):
    """Observations [n], actions between bounds; it cannot be acted in.

    Args:
      observation_size: n.
      action_low, action_high: bounds of the actions [d].
    """

    name = "spaces_only"

    def __init__(self, observation_size: int, action_low: Sequence[float], action_high: Sequence[float]):
        self.observation_space = Box(-np.inf, np.inf, (observation_size,))
        self.action_space = Box(np.asarray(action_low), np.asarray(action_high))

    def reset(self, key: Key) -> State:
        raise Refused("there is no simulator here, only a dataset: evaluate_every=0 and final_episodes=0")

    def step(self, state: State, action: jax.Array) -> State:
        return self.reset(action)
