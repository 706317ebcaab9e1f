"""Products of matrices in lower precision, for layers of flax: `nn.Dense(n, dot_general=bfloat16_dot_general)`."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from rljax.types import Refused

Precision = Literal["float32", "bfloat16"]


def dot_general_of(precision: Precision) -> Any:
    """The `dot_general` of `nn.Dense` for a precision; None, its own product, for float32."""
    return {"float32": None, "bfloat16": bfloat16_dot_general}[precision]


def bfloat16_dot_general(inputs: jax.Array, kernel: jax.Array, dimension_numbers: Any, **_: Any) -> jax.Array:
    """The product [..., i] x [i, o] of a dense layer: factors rounded to bfloat16, sums in float32, and so backwards.

    It is what a TPU does by default. CPUs with AVX512-BF16 multiply faster so (benchmarks/sac.py); others do not.
    On a CPU it cannot be vmapped over different kernels.
    """
    if dimension_numbers != (((inputs.ndim - 1,), (0,)), ((), ())) or kernel.ndim != 2:
        raise Refused(f"bfloat16_dot_general: a product of a dense layer, not {dimension_numbers}")
    return _product(inputs.reshape(-1, inputs.shape[-1]), kernel).reshape(*inputs.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    return _narrow(x, w, 1, 0)


def _narrow(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    dot = partial(lax.dot_general, preferred_element_type=jnp.float32)
    return dot(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), (((axis_a,), (axis_b,)), ((), ())))


def _forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x, w), (x, w)


# Without this the products of the gradient, whose one factor is a float32 sum, would be made in float32.
def _backward(factors: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = factors
    transposed = x.T.astype(jnp.bfloat16)
    if jax.default_backend() == "cpu":
        # In memory, row by row: XLA's CPU backend makes a product over first axes in float32.
        transposed = with_layout_constraint(transposed, Layout((0, 1)))
    return _narrow(g, w, 1, 1), _narrow(transposed, g, 1, 0)


_product.defvjp(_forward, _backward)
