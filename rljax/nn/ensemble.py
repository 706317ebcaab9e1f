"""Several networks of one kind, with their parameters stacked."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rljax.nn.precision import Precision


def over_ensemble(function: Callable[..., Any], members: int, precision: Precision) -> Callable[..., Any]:
    """`jax.vmap(function)` over the first axis of all arguments; on a CPU in bfloat16 one after the other.

    XLA's CPU backend cannot batch products in bfloat16 (nn/precision.py).
    """
    if precision == "float32" or jax.default_backend() != "cpu":
        return jax.vmap(function)

    def one_by_one(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        # Split, not indexed: the gradient of that is one concatenation, and not a sum of padded parts.
        split = [[part[0] for part in jax.lax.split(x, (1,) * members)] for x in leaves]
        each = [jax.tree.unflatten(tree, own) for own in zip(*split, strict=True)]
        results = [function(*own) for own in each]
        return jax.tree.map(lambda *x: jnp.stack(x), *results)

    return one_by_one
