"""Spaces of Gymnasium as spaces of rljax, and what reads the arrays of an observation."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from rljax.envs.adapters.common import box
from rljax.spaces import ArraySpace, Box, Dict, Discrete, MultiDiscrete, Space
from rljax.types import PyTree, Refused

Reader = Callable[[Any], list[Any]]
"""The arrays of an observation of Gymnasium's, or of a batch, in the order of the names of its parts."""


def named(space: Space, arrays: list[jax.Array]) -> PyTree:
    """An observation, of its arrays in the order of the names of its parts."""
    left = iter(arrays)

    def of(space: Space) -> PyTree:
        return {name: of(inner) for name, inner in space.spaces.items()} if isinstance(space, Dict) else next(left)

    return of(space)


def finite(reward: np.ndarray, *seen: np.ndarray) -> np.ndarray:
    """Whether the reward of each simulation, and all that is seen of it, is finite: bool [batch]."""
    whole = np.isfinite(reward)
    for array in seen:
        if array.dtype.kind == "f":
            whole &= np.isfinite(array).reshape(len(reward), -1).all(1)
    return whole


def one_hot(count: int, read: Reader) -> tuple[Box, Reader]:
    """The space and the reader of a choice among `count` that is all there is to be seen."""
    return Box(0.0, 1.0, (count,)), lambda x: [np.arange(count) == np.asarray(read(x)[0])[..., None]]


def observed(name: str, space: Any, spaces: Any) -> tuple[Space, Reader]:
    """The space of what a Gymnasium space observes, and what reads its arrays, of one observation or of a batch.

    Raises:
      Refused: a space is none of those that are known here; `name` is what it is called.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        named = isinstance(space, spaces.Dict)
        inner = dict(space.spaces) if named else {str(i): part for i, part in enumerate(space.spaces)}
        found = {part: observed(f"{name}: {part}", below, spaces) for part, below in inner.items()}
        try:
            made = Dict({part: of for part, (of, _) in found.items()})
        except Refused as error:
            raise Refused(f"{name}: {error}") from None

        def read(value: Any) -> list[Any]:
            value = value if named else {str(i): x for i, x in enumerate(value)}
            if not isinstance(value, Mapping) or value.keys() != found.keys():
                shown = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
                raise Refused(f"{name}: it has the parts {', '.join(made.spaces)}, and an observation has {shown}")
            return [x for part in made.spaces for x in found[part][1](value[part])]

        return made, read
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n)), lambda x: [np.asarray(x) - int(space.start)]
    if isinstance(space, spaces.MultiDiscrete):
        axes, start = space.nvec.ndim, space.start.ravel()
        return MultiDiscrete(space.nvec.ravel()), lambda x: [
            np.reshape(x, (*np.shape(x)[: np.ndim(x) - axes], -1)) - start
        ]
    if isinstance(space, spaces.MultiBinary):
        return Box(0.0, 1.0, space.shape), lambda x: [x]
    if isinstance(space, spaces.Box):
        return _box(name, space, np.uint8 if space.dtype == np.uint8 else np.float32), lambda x: [x]
    raise Refused(
        f"{name}: it must be a Box, Discrete, MultiDiscrete or MultiBinary, or a Dict or Tuple of them, "
        f"and is a {type(space).__name__}"
    )


def acted(name: str, space: Any, spaces: Any) -> tuple[ArraySpace, Any]:
    """The space of the actions of a Gymnasium space, and what is added to them; `Refused` as above."""
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n)), int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscrete(space.nvec.ravel()), space.start
    if isinstance(space, spaces.MultiBinary):
        return MultiDiscrete((2,) * int(np.prod(space.shape))), 0
    if isinstance(space, spaces.Box):
        return _box(name, space, np.float32), 0
    raise Refused(f"{name}: it must be a Box, Discrete, MultiDiscrete or MultiBinary, and is a {type(space).__name__}")


def _box(name: str, space: Any, dtype: Any) -> Box:
    """A Gymnasium Box; an integer one may be without bounds too, which its `low` and `high` do not say."""
    low = np.where(space.bounded_below, space.low, -np.inf if dtype == np.float32 else 0)
    high = np.where(space.bounded_above, space.high, np.inf if dtype == np.float32 else 255)
    return box(name, low, high, space.shape, dtype)
