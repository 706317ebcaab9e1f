"""How arrays lie in C: types, numbers, places of elements, and room that is used again."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rljax.deploy.program import Value
from rljax.types import Refused

TYPES = {"bool": "bool", "uint8": "uint8_t", "int32": "int32_t", "float32": "float"}
ROOM = {"bool": "bools_", "uint8_t": "bytes_", "int32_t": "integers_", "float": "floats_"}
"""Names of the arrays that hold values between the statements, by their type."""


def type_of(dtype: Any) -> str:
    """The type in C.

    Raises:
      Refused: there is none, such as for half precision.
    """
    if str(dtype) not in TYPES:
        known = ", ".join(TYPES)
        raise Refused(f"arrays of type {dtype} cannot be exported to this form, only {known}; .stablehlo takes all")
    return TYPES[str(dtype)]


def literal(x: Any, dtype: Any) -> str:
    """A number in C, exactly."""
    if np.dtype(dtype) != np.float32:
        return f"({int(x)})" if -(2**31) < int(x) < 0 else str(int(x)) if int(x) >= 0 else "(-2147483647 - 1)"
    if not math.isfinite(x):
        return "NAN" if math.isnan(x) else "INFINITY" if x > 0 else "(-INFINITY)"
    digits = f"{float(x):.9g}"
    digits += "" if set(digits) & set(".e") else ".0"
    return f"({digits}f)" if x < 0 else f"{digits}f"


class Buffers:
    """Room for arrays between the statements, one array for each type; what is free again is used again."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.free: dict[str, list[tuple[int, int]]] = {}

    def take(self, kind: str, size: int) -> tuple[int, int]:
        """Begin and end of a free stretch."""
        spaces = self.free.setdefault(kind, [])
        found = next((space for space in spaces if space[1] - space[0] >= size), None)
        if found is None:
            begin = self.sizes.get(kind, 0)
            self.sizes[kind] = begin + size
            return begin, begin + size
        spaces.remove(found)
        if found[1] - found[0] > size:
            spaces.append((found[0] + size, found[1]))
        return found[0], found[0] + size

    def give(self, kind: str, begin: int, end: int) -> None:
        """Frees a stretch, which grows together with its neighbours."""
        merged: list[tuple[int, int]] = []
        for space in sorted([*self.free[kind], (begin, end)]):
            if merged and merged[-1][1] == space[0]:
                merged[-1] = (merged[-1][0], space[1])
            else:
                merged.append(space)
        self.free[kind] = merged


def strides_of(shape: Sequence[int]) -> list[int]:
    """The distance between neighbours along each axis, in an array that is stored row by row."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def place(shape: Sequence[int], strides: Sequence[int], begin: int = 0) -> str:
    """The place of element [i0_, i1_, …]; an axis of size 1 has no index."""
    terms = [
        f"i{axis}_" if stride == 1 else f"i{axis}_ * {stride}"
        for axis, (size, stride) in enumerate(zip(shape, strides, strict=False))
        if size != 1 and stride
    ]
    return total([str(begin) if begin else "", *terms])


def total(terms: Sequence[str]) -> str:
    """The sum of terms, of which some may be nothing."""
    return " + ".join(term for term in terms if term not in ("", "0")) or "0"


def broadcast(x: Value, shape: Sequence[int]) -> list[int]:
    """The strides of a value that is as large as a shape, or of size 1, as a whole or along some axes."""
    if len(shape) == 1:
        return [0 if size_of(x) == 1 else 1]
    if not x.shape:
        return [0] * len(shape)
    return [0 if size == 1 else stride for size, stride in zip(x.shape, strides_of(x.shape), strict=True)]


def size_of(x: Value) -> int:
    """The number of elements."""
    return math.prod(x.shape)
