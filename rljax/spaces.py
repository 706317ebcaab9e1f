"""Spaces: the shape, type and bounds of an observation or an action."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.types import Key, PyTree, Refused


class Box:
    """Arrays between `low` and `high` (inclusive, element by element; infinite where unbounded).

    Scalars are broadcast to `shape`; without a shape it is that of the bounds. The largest number of a float type
    stands for no bound, as many libraries mean it.

    Raises:
      Refused: the bounds do not fit the shape or the type, are NaN, or leave nothing between them.
    """

    def __init__(self, low: Any, high: Any, shape: tuple[int, ...] | None = None, dtype: Any = np.float32):
        self.dtype = dtype
        low, high = (self._bound(name, value) for name, value in (("low", low), ("high", high)))
        try:
            self.shape: tuple[int, ...] = np.broadcast_shapes(low.shape, high.shape) if shape is None else tuple(shape)
            self.low, self.high = (np.broadcast_to(value, self.shape) for value in (low, high))
        except ValueError:
            shapes = f"low {list(low.shape)}, high {list(high.shape)}"
            raise Refused(f"Box: bounds must fit {shape or 'each other'}, got {shapes}") from None
        empty = ~((self.low <= self.high) & (self.low < np.inf) & (self.high > -np.inf))
        if empty.any():
            where = tuple(int(i) for i in np.argwhere(empty)[0])
            low, high = self.low[where].item(), self.high[where].item()
            raise Refused(f"Box: low must not be above high, nor NaN; element {list(where)} has low={low}, high={high}")

    def _bound(self, name: str, value: Any) -> np.ndarray:
        given, dtype = np.asarray(value), np.dtype(self.dtype)
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            if not np.all((given >= limits.min) & (given <= limits.max)):
                raise Refused(f"Box: {name} must be of type {dtype}, which goes from {limits.min} to {limits.max}")
            return given.astype(dtype)
        with np.errstate(over="ignore"):
            given = given.astype(dtype)
        return np.where(np.abs(given) >= jnp.finfo(dtype).max, np.copysign(np.inf, given), given).astype(dtype)

    def __repr__(self) -> str:
        def short(bounds: np.ndarray) -> Any:
            return bounds.flat[0].item() if bounds.size and (bounds == bounds.flat[0]).all() else bounds.tolist()

        return f"Box(low={short(self.low)}, high={short(self.high)}, shape={self.shape})"

    @property
    def bounded(self) -> bool:
        """Whether every element has finite bounds."""
        return bool(np.all(np.isfinite(self.low)) and np.all(np.isfinite(self.high)))

    @property
    def unbounded(self) -> bool:
        """Whether no element has a finite bound, on either side."""
        return not (np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def to_unit(self, value: Any) -> Any:
        """Maps the bounds, which must be finite, linearly to [-1, 1]; what is outside stays outside.

        An element whose bounds are equal maps to 0.
        """
        low, high = (np.asarray(x, np.result_type(x, np.float32)) for x in (self.low, self.high))
        middle, half = low / 2 + high / 2, high / 2 - low / 2  # apart, since high - low may be infinite
        return (value - middle) / np.where(half > 0, half, 1).astype(half.dtype)

    def sample(self, key: Key) -> jax.Array:
        """Uniform within the bounds; the space must be bounded."""
        if not self.bounded:
            raise Refused("Box.sample needs finite bounds on every element")
        if np.issubdtype(self.dtype, np.integer):
            high = jnp.asarray(self.high, jnp.int32) + 1
            return jax.random.randint(key, self.shape, jnp.asarray(self.low, jnp.int32), high).astype(self.dtype)
        half = jax.random.uniform(key, self.shape, self.dtype, self.low / 2, self.high / 2)
        return 2 * half  # the same numbers, but for high - low, which may be infinite

    def contains(self, value: Any) -> bool:
        """Whether a concrete value lies in the space."""
        value = np.asarray(value)
        return value.shape == self.shape and bool(np.all(value >= self.low) and np.all(value <= self.high))


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers 0 … n − 1."""

    n: int
    dtype: Any = np.int32

    def __post_init__(self) -> None:
        if self.n < 1:
            raise Refused(f"Discrete: n must be at least 1, got {self.n}")

    def __repr__(self) -> str:
        return f"Discrete({self.n})"

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    def sample(self, key: Key) -> jax.Array:
        """Uniform over the n values."""
        return jax.random.randint(key, (), 0, self.n, self.dtype)

    def contains(self, value: Any) -> bool:
        """Whether a concrete value lies in the space."""
        value = np.asarray(value)
        return value.shape == () and np.issubdtype(value.dtype, np.integer) and bool(0 <= value < self.n)


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Several choices at once: vectors of integers, of which the i-th is one of 0 … n[i] − 1."""

    n: tuple[int, ...]
    dtype: Any = np.int32

    def __post_init__(self) -> None:
        counts = np.asarray(self.n)
        if counts.ndim != 1 or counts.size == 0 or counts.dtype.kind not in "iu" or (counts < 1).any():
            raise Refused(f"MultiDiscrete: n must be one or more integers, each at least 1, got {self.n}")
        object.__setattr__(self, "n", tuple(counts.tolist()))

    def __repr__(self) -> str:
        return f"MultiDiscrete({self.n})"

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.n),)

    @property
    def exists(self) -> np.ndarray:
        """The values that each choice has, bool [k, max(n)]; the true elements are those of all choices, in order."""
        return np.arange(max(self.n)) < np.array(self.n)[:, None]

    def sample(self, key: Key) -> jax.Array:
        """Uniform over the values of each choice, independently."""
        return jax.random.randint(key, self.shape, 0, np.asarray(self.n, self.dtype), self.dtype)

    def contains(self, value: Any) -> bool:
        """Whether a concrete value lies in the space."""
        value = np.asarray(value)
        if value.shape != self.shape or not np.issubdtype(value.dtype, np.integer):
            return False
        return bool(np.all((value >= 0) & (value < self.n)))


def vector(size: int) -> Box:
    """Vectors [size] of any numbers."""
    return Box(-np.inf, np.inf, (size,))


@dataclasses.dataclass(frozen=True)
class Dict:
    """Named parts, each with a space of its own; a value is a dict of arrays with these names."""

    spaces: Mapping[str, "Space"]

    def __post_init__(self) -> None:
        if not self.spaces:
            raise Refused("Dict: a space needs one part at least")
        for name, space in self.spaces.items():
            if not isinstance(name, str) or "/" in name or not isinstance(space, Space):
                raise Refused(f"Dict: parts are spaces by name (without /), got {name!r}: {type(space).__name__}")
        object.__setattr__(self, "spaces", {name: self.spaces[name] for name in sorted(self.spaces)})

    def __hash__(self) -> int:
        return hash(tuple(self.spaces))

    def __getitem__(self, name: str) -> "Space":
        return self.spaces[name]

    def sample(self, key: Key) -> dict[str, Any]:
        """Each part uniform within its space, independently."""
        keys = jax.random.split(key, len(self.spaces))
        return {name: space.sample(k) for k, (name, space) in zip(keys, self.spaces.items(), strict=True)}

    def contains(self, value: Any) -> bool:
        """Whether a concrete value has these parts, and each lies in its space."""
        if not isinstance(value, Mapping) or set(value) != set(self.spaces):
            return False
        return all(space.contains(value[name]) for name, space in self.spaces.items())


ArraySpace = Box | Discrete | MultiDiscrete
"""A space whose values are arrays, as actions are."""
Space = ArraySpace | Dict
PRIVILEGED = "privileged_state"
"""Name of the part that exists in simulation only; it is seen only where it is named."""


def parts(space: Space, name: str = "") -> dict[str, ArraySpace]:
    """The spaces of a value's arrays, by name; a part of a part is called "part/name", and a single array ""."""
    if not isinstance(space, Dict):
        return {name: space}
    below = [parts(inner, f"{name}/{key}" if name else key) for key, inner in space.spaces.items()]
    return {key: inner for part in below for key, inner in part.items()}


def example(space: Space, *leading: int) -> PyTree:
    """Zeros [*leading, shape of the space] as networks are given them: numbers in float32, others in their type."""
    if isinstance(space, Dict):
        return {name: example(inner, *leading) for name, inner in space.spaces.items()}
    number = isinstance(space, Box) and len(space.shape) != 3
    return jnp.zeros((*leading, *space.shape), jnp.float32 if number else space.dtype)


def as_given(space: Space, value: PyTree, xp: Any = jnp) -> PyTree:
    """A value [..., shape of the space] in the types of `example`; NumPy's with `xp=numpy`."""
    return jax.tree.map(lambda x, like: xp.asarray(x, like.dtype), value, example(space))


def batch_shape(space: Space, value: Any) -> tuple[int, ...]:
    """The leading axes of a value [..., shape of the space], which all of its parts share."""
    while isinstance(space, Dict):
        name, space = next(iter(space.spaces.items()))
        value = value[name]
    return jnp.shape(value)[: jnp.ndim(value) - len(space.shape)]
