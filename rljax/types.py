"""Types that all parts of rljax share: aliases, the transition, and how a state is split over devices."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rljax.errors import Refused as Refused

Key = jax.Array
"""A typed PRNG key, as made by `jax.random.key`; shape []."""

PyTree = Any


class Mean(struct.PyTreeNode):
    """A mean as sum and count, so that means over iterations and devices weigh every measurement alike.

    Fields:
      total: f32 [], the sum of the measurements.
      count: f32 [], the number of measurements, which may be 0.
    """

    total: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, values: Any, where: Any = True) -> "Mean":
        """The mean of an array of any shape, or of the elements that `where`, a mask that broadcasts to it, chooses."""
        values = jnp.asarray(values, jnp.float32)
        where = jnp.broadcast_to(where, values.shape)
        # A choice and not a product: what is not counted may be anything, NaN too.
        return cls(jnp.where(where, values, 0.0).sum(), where.sum(dtype=jnp.float32))

    @property
    def value(self) -> jax.Array:
        """The mean, as it is logged; NaN where nothing was measured."""
        measured = self.count > 0
        return jnp.where(measured, self.total / jnp.where(measured, self.count, 1.0), jnp.nan)


Metrics = dict[str, Any]
"""Named scalars f32 [], or `Mean`s. A scalar counts as one measurement. A metric that was not measured is a `Mean` of
count 0, never NaN: a measurement that is not finite ends the run."""


def sharded_field() -> Any:
    """A state field whose leaves are split over devices along their first axis; all others are replicated."""
    return struct.field(metadata={"sharded": True})


class Transition(struct.PyTreeNode):
    """One step of experience, with the successor observation from before any reset.

    Leaves may carry any leading axes (time, environments, batch).

    Fields:
      action: in the units of whoever acted: an agent's are in [-1, 1] for a bounded `Box`, a dataset's in those of its
        environment.
      extras: further results of acting, such as the log-probability; `()` for none.
    """

    obs: PyTree
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    next_obs: PyTree
    extras: PyTree = ()
