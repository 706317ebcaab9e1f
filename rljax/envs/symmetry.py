"""Symmetries of tasks: affine maps that are declared part by part, of observations, actions and positions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.types import Refused

Blocks = Mapping[str, slice]
"""Where the named parts of a vector lie; together they are all of it."""


class Image(NamedTuple):
    """The image of a part: `matrix` times the part called `of`, plus `offset`.

    Fields:
      matrix: [m, n]; or [n], a diagonal; or a number.
    """

    of: str
    matrix: Any = 1.0
    offset: Any = 0.0


class Affine(NamedTuple):
    """x [..., n] to matrix [n, n] x + offset [n]."""

    matrix: np.ndarray
    offset: np.ndarray

    def __call__(self, x: Any) -> Any:
        return x @ self.matrix.T + self.offset

    def velocity(self, x: jax.Array) -> jax.Array:
        """The same for a change of x."""
        return x @ self.matrix.T


class Symmetry(NamedTuple):
    """Maps that leave a task unchanged: s, a → s' becomes S(s), A(a) → S(s').

    Fields:
      observation, action: maps of observations and actions.
      position: map of the simulator's positions, with which the symmetry can be tested.
    """

    observation: Affine
    action: Affine
    position: Affine


def affine(blocks: Blocks, images: Mapping[str, Image]) -> Affine:
    """The map of a whole vector, from the images of its parts.

    Raises:
      ValueError: a part is missing or unknown, or a matrix does not fit.
    """
    if unlike := set(blocks) ^ set(images) or {image.of for image in images.values()} - set(blocks):
        raise Refused(f"symmetry: the parts are {', '.join(blocks)}; missing or unknown: {', '.join(sorted(unlike))}")
    size = max(where.stop for where in blocks.values())
    matrix, offset = np.zeros((size, size), np.float32), np.zeros(size, np.float32)
    for name, image in images.items():
        rows, columns = blocks[name], blocks[image.of]
        shape = rows.stop - rows.start, columns.stop - columns.start
        part = np.asarray(image.matrix, np.float32)
        part = part if part.ndim == 2 else np.diag(np.broadcast_to(part, shape[1]))
        if part.shape != shape:
            raise Refused(f"symmetry: {name} from {image.of} takes a matrix {shape}, got {part.shape}")
        matrix[rows, columns] = part
        offset[rows] = image.offset
    return Affine(matrix, offset)


def blocks_of(**sizes: int) -> dict[str, slice]:
    """Parts one after the other, by name and size."""
    ends = np.cumsum(list(sizes.values()))
    return {name: slice(int(end) - size, int(end)) for (name, size), end in zip(sizes.items(), ends)}
