"""The first state of a run."""

from typing import Any

import jax
import jax.numpy as jnp


def of_its_own(state: Any, made_from: Any) -> Any:
    """Copies arrays that a state shares with others than `made_from`: it will be donated, and they may be in use."""
    own = {id(x) for x in jax.tree.leaves(made_from)}

    def copy(x: Any) -> Any:
        if id(x) not in own:
            return jnp.copy(x)
        own.remove(id(x))  # no buffer is donated twice
        return x

    return jax.tree.map(copy, state)
