"""Linear systems whose matrix is known by its products alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from rljax.types import PyTree


def conjugate_gradient(
    product: Callable[[PyTree], PyTree], target: PyTree, iterations: int, tolerance: float = 1e-10
) -> PyTree:
    """Solves A x = b for a symmetric positive definite A (Hestenes and Stiefel 1952), from x = 0.

    Args:
      product: v -> A v, of trees like b.
      target: b, a tree of arrays.
      iterations: how many products are made; as many as there are unknowns solve the system, were it not for rounding.
      tolerance: the share of |b|² at or below which the squared residual |b - A x|² counts as 0. Then x stays as it is:
        in float32 one more step divides rounding errors by rounding errors.

    Returns:
      x, a tree like b; zeros where b is 0.
    """
    smallest = tolerance * optax.tree.vdot(target, target)

    def step(_: jax.Array, carry: tuple[PyTree, PyTree, PyTree, jax.Array]) -> tuple:
        x, residual, direction, square = carry
        going = square > smallest
        image = product(direction)
        length = jnp.where(going, square / jnp.where(going, optax.tree.vdot(direction, image), 1.0), 0.0)
        x = jax.tree.map(lambda x, d: x + length * d, x, direction)
        residual = jax.tree.map(lambda r, i: r - length * i, residual, image)
        new_square = optax.tree.vdot(residual, residual)
        ratio = new_square / jnp.where(going, square, 1.0)
        direction = jax.tree.map(lambda r, d: r + ratio * d, residual, direction)
        return x, residual, direction, new_square

    start = (jax.tree.map(jnp.zeros_like, target), target, target, optax.tree.vdot(target, target))
    return jax.lax.fori_loop(0, iterations, step, start)[0]
