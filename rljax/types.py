"""What every part of rljax shares: type aliases, the transition, and how a state is split over devices."""

from typing import Any

import jax
from flax import struct


class Refused(ValueError):
    """Bad input: a flag, a config, a file, a space. Its message is one line: what was wrong, and what is allowed.

    Command lines print this alone; every other error is a defect, and keeps its traceback.
    """


Key = jax.Array
"""A typed PRNG key, as made by `jax.random.key`; shape []."""

PyTree = Any
Metrics = dict[str, jax.Array]
"""Named scalars. Names under `episode/` and `env/` may be NaN (no episode ended). All others must be finite, but in an
iteration whose metric `updates` is 0: nothing was learned, and nothing measured."""


def sharded_field() -> Any:
    """A state field whose leaves are split over devices along their first axis; all others are replicated."""
    return struct.field(metadata={"sharded": True})


class Transition(struct.PyTreeNode):
    """One step of experience, with the successor observation from before any reset.

    Leaves may carry any leading axes (time, environments, batch).
    """

    obs: PyTree
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    next_obs: PyTree
