"""The arrays of transitions, by name: what an actor must send, and what is wrong with what it sent."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rljax.remote.protocol import TYPES
from rljax.spaces import ArraySpace, Box, Dict, Space, example, parts
from rljax.types import PyTree, Refused

TOLERANCE = 1e-4
"""Share of its range by which an action may lie outside of its bounds."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a transition.

    Fields:
      dtype: name of its type.
      shape: its shape, of one transition.
      low, high: arrays that broadcast to the shape, which it must lie between; None for no bounds.
    """

    dtype: str
    shape: tuple[int, ...]
    low: Any = None
    high: Any = None

    @property
    def num_bytes(self) -> int:
        """Its size, of one transition."""
        return int(np.prod(self.shape, dtype=np.int64)) * TYPES[self.dtype].itemsize

    def described(self) -> list[Any]:
        """Type, shape and bounds, for JSON, which has no infinity."""
        largest = np.finfo(np.float64).max
        low, high = (
            None if x is None else np.clip(np.asarray(x, np.float64), -largest, largest).tolist()
            for x in (self.low, self.high)
        )
        return [self.dtype, list(self.shape), low, high]

    @classmethod
    def of(cls, described: list[Any]) -> "Field":
        """The inverse of `described`."""
        dtype, shape, low, high = described
        low, high = (None if x is None else np.asarray(x) for x in (low, high))
        return cls(str(dtype), tuple(shape), low, high)

    def check(self, name: str, x: np.ndarray, leading: tuple[int, ...] = ()) -> None:
        """Refuses an array [*leading, *shape] that is not of this type and shape, or not finite, or out of bounds."""
        if x.dtype.name != self.dtype:
            raise Refused(f"{name} is of type {x.dtype.name}, and must be {self.dtype}")
        if x.shape != (*leading, *self.shape):
            raise Refused(f"{name} has the shape {list(x.shape)}, and must have {[*leading, *self.shape]}")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise Refused(f"{name} is not finite")
        if self.low is not None and x.size and ((x < self.low).any() or (x > self.high).any()):
            raise Refused(f"{name} goes from {x.min():g} to {x.max():g}, which is out of bounds")


class Schema:
    """The arrays of a transition in an environment with these spaces; actions are in the environment's own units."""

    def __init__(self, observation_space: Space, action_space: ArraySpace):
        self.observation_space, self.action_space = observation_space, action_space
        self.obs = {_named("obs", part): _field(space) for part, space in parts(observation_space).items()}
        next_obs = {name.replace("obs", "next_obs", 1): field for name, field in self.obs.items()}
        self.action = _bounded(action_space)
        self.fields = {
            **self.obs,
            **next_obs,
            "action": self.action,
            "reward": Field("float32", ()),
            "terminated": Field("bool", ()),
            "truncated": Field("bool", ()),
            "intervened": Field("bool", ()),
            "version": Field("int32", (), 0, 2**31 - 1),
            "episode_return": Field("float32", ()),
            "episode_length": Field("int32", (), 1, 2**31 - 1),
        }

    @property
    def num_bytes(self) -> int:
        """The size of one transition."""
        return sum(field.num_bytes for field in self.fields.values())

    def described(self) -> dict[str, Any]:
        """What an actor is told: type, shape and bounds of each array by name."""
        return {name: field.described() for name, field in self.fields.items()}

    def check(self, arrays: Mapping[str, np.ndarray], most: int) -> int:
        """The number of transitions in arrays [n, …]; all of them are as they should be.

        Args:
          most: largest n that is allowed.

        Raises:
          Refused: with the first fault that was found.
        """
        if arrays.keys() != self.fields.keys():
            missing = ", ".join(sorted(self.fields.keys() - arrays.keys())) or "nothing"
            unknown = len(arrays.keys() - self.fields.keys())
            raise Refused(f"transitions lack {missing}, and have {unknown} arrays that are not known")
        count = arrays["reward"].shape[0] if arrays["reward"].ndim else 0
        if not 1 <= count <= most:
            raise Refused(f"{count} transitions in a frame; from 1 to {most} are allowed")
        for name, field in self.fields.items():
            field.check(name, arrays[name], (count,))
        return count

    def tree(self, arrays: Mapping[str, Any], name: str = "obs") -> PyTree:
        """The observation, a tree, of its arrays by name."""

        def of(space: Space, place: str) -> PyTree:
            if isinstance(space, Dict):
                return {key: of(inner, f"{place}/{key}") for key, inner in space.spaces.items()}
            return arrays[place]

        return of(self.observation_space, name)


def _named(name: str, part: str) -> str:
    return f"{name}/{part}" if part else name


def _field(space: ArraySpace) -> Field:
    """Numbers of an observation have no bounds here, for declared ones are often wrong; choices must exist."""
    dtype = np.dtype(example(space).dtype).name
    if isinstance(space, Box):
        return Field(dtype, tuple(space.shape))
    return Field(dtype, tuple(space.shape), 0, np.asarray(space.n) - 1)


def _bounded(space: ArraySpace) -> Field:
    if not isinstance(space, Box):
        return Field(np.dtype(space.dtype).name, tuple(space.shape), 0, np.asarray(space.n) - 1)
    low, high = (np.asarray(x, np.float64) for x in (space.low, space.high))
    room = np.where(np.isfinite(high - low), TOLERANCE * (high - low), 0.0)
    return Field("float32", tuple(space.shape), low - room, high + room)
