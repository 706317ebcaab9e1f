"""What every part of rljax shares: type aliases and the transition."""

from typing import Any

import jax
from flax import struct

Key = jax.Array
"""A typed PRNG key, as made by `jax.random.key`; shape []."""

PyTree = Any
Metrics = dict[str, jax.Array]
"""Named scalars. Names under `episode/` may be NaN (no episode ended); all others must be finite."""


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
