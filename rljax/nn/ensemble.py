"""Several networks of one kind, with their parameters stacked."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def over_ensemble(function: Callable[..., Any], members: int) -> Callable[..., Any]:
    """`jax.vmap(function)` over the first axis of all arguments; on a CPU one after the other.

    Accelerators multiply a batch of matrices in one call. XLA's CPU backend takes them one at a time anyway, at about
    the same rate (benchmarks/sac.py measures both), and cannot batch products in bfloat16 (nn/precision.py).
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(function)

    def one_by_one(*args: Any) -> Any:
        each = [jax.tree.map(lambda x, i=i: x[i], args) for i in range(members)]
        results = [function(*own) for own in each]
        return jax.tree.map(lambda *x: jnp.stack(x), *results)

    return one_by_one
