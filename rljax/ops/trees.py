"""Choices between trees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from rljax.types import PyTree


def chosen(condition: Any, yes: PyTree, no: PyTree) -> PyTree:
    """Leaves of `yes` where the condition [...] holds, else those of `no` [..., …], which have axes of their own.

    A leaf of `yes` may lack the axes of the condition, as what is the same everywhere does.
    """

    def of(yes: Any, no: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (no.ndim - condition.ndim)), yes, no)

    return jax.tree.map(of, yes, no)
