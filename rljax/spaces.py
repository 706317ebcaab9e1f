"""Spaces: the shape, type and bounds of an observation or an action."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.types import Key, Refused


class Box:
    """Arrays between `low` and `high` (inclusive, element by element; infinite where unbounded).

    Scalars are broadcast to `shape`; without a shape it is that of the bounds.
    """

    def __init__(self, low: Any, high: Any, shape: tuple[int, ...] | None = None, dtype: Any = np.float32):
        if shape is None:
            shape = np.broadcast_shapes(np.shape(low), np.shape(high))
        self.shape: tuple[int, ...] = tuple(shape)
        self.dtype = dtype
        self.low = np.broadcast_to(np.asarray(low, dtype), self.shape)
        self.high = np.broadcast_to(np.asarray(high, dtype), self.shape)
        if np.any(self.low > self.high):
            raise Refused(f"Box: low must not be above high, got low={low}, high={high}")

    def __repr__(self) -> str:
        return f"Box(low={self.low.tolist()}, high={self.high.tolist()}, shape={self.shape})"

    @property
    def bounded(self) -> bool:
        """Whether every element has finite bounds."""
        return bool(np.all(np.isfinite(self.low)) and np.all(np.isfinite(self.high)))

    def to_unit(self, value: Any) -> Any:
        """Maps the bounds, which must be finite, linearly to [-1, 1]; what is outside stays outside.

        An element whose bounds are equal has one value, which becomes 0.
        """
        half = (self.high - self.low) / 2
        return (value - (self.high + self.low) / 2) / np.where(half > 0, half, 1)

    def sample(self, key: Key) -> jax.Array:
        """Uniform within the bounds; the space must be bounded."""
        if not self.bounded:
            raise Refused("Box.sample needs finite bounds on every element")
        if np.issubdtype(self.dtype, np.integer):
            high = jnp.asarray(self.high, jnp.int32) + 1
            return jax.random.randint(key, self.shape, jnp.asarray(self.low, jnp.int32), high).astype(self.dtype)
        return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)

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


Space = Box | Discrete
