"""Calls from a compiled program to a Python function on the host, batched under vmap.

Like `jax.pure_callback`, with two differences that matter to a simulator called at every step. It hands the
function NumPy views of the program's own buffers, where `pure_callback` first makes JAX arrays of them: on a CPU that
costs more than small physics does, and needs threads that the waiting program may hold. And under any number of vmaps
the function sees one flat batch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

HostFunction = Callable[..., Sequence[np.ndarray]]
_primitive = Primitive("host_call")
_primitive.multiple_results = True


def host_call(
    function: HostFunction, operands: Sequence[jax.Array], results: Sequence[jax.ShapeDtypeStruct], effect: bool = False
) -> list[jax.Array]:
    """Calls `function` on the host, from inside jit, vmap, scan and shard_map.

    Args:
      function: takes one array [batch, *shape] for each operand, which it must not write to or keep, and returns one
        for each result. It must not call JAX: the threads that JAX needs may all be waiting for it.
      operands: arrays, without batch.
      results: shapes and dtypes of the results, without batch.
      effect: the call does more than compute its results, so equal calls are not made one. Even so a call is dropped
        where no result of it is used.
    """
    event_ndims = tuple(x.ndim for x in operands)
    shapes = tuple((tuple(r.shape), np.dtype(r.dtype)) for r in results)
    return _primitive.bind(*operands, function=function, event_ndims=event_ndims, results=shapes, effect=effect)


@_primitive.def_abstract_eval
def _abstract(*operands: Any, event_ndims: tuple[int, ...], results: tuple, **_: Any) -> list[Any]:
    batch = operands[0].shape[: operands[0].ndim - event_ndims[0]]
    return [jax.core.ShapedArray((*batch, *shape), dtype) for shape, dtype in results]


def _batch(operands: Sequence[jax.Array], axes: Sequence[int | None], **params: Any) -> tuple[list[jax.Array], list]:
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    full = [
        jax.numpy.broadcast_to(x, (size, *x.shape)) if axis is None else jax.numpy.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
    return _primitive.bind(*full, **params), [0] * len(params["results"])


def _flattened(function: HostFunction, batch: tuple[int, ...], results: tuple) -> Callable[..., tuple[np.ndarray, ...]]:
    """`function` for arrays [*batch, …], which it sees as one flat batch."""
    size = math.prod(batch)

    def call(*arrays: Any) -> tuple[np.ndarray, ...]:
        flat = [np.asarray(x).reshape((size, *x.shape[len(batch) :])) for x in arrays]
        outputs = function(*flat)
        return tuple(
            np.asarray(x, dtype).reshape((*batch, *shape)) for x, (shape, dtype) in zip(outputs, results, strict=True)
        )

    return call


def _call_now(
    *operands: Any, function: HostFunction, event_ndims: tuple[int, ...], results: tuple, effect: bool
) -> list[jax.Array]:
    """The call outside a compiled program. No jit: its cache would keep `function` and all that it holds for ever."""
    batch = operands[0].shape[: operands[0].ndim - event_ndims[0]]
    return [jax.numpy.array(x) for x in _flattened(function, batch, results)(*operands)]


def _lower(
    ctx: Any, *operands: Any, function: HostFunction, event_ndims: tuple[int, ...], results: tuple, effect: bool
) -> Any:
    batch = ctx.avals_in[0].shape[: ctx.avals_in[0].ndim - event_ndims[0]]
    call = _flattened(function, batch, results)
    return mlir.emit_python_callback(
        ctx, call, None, operands, ctx.avals_in, ctx.avals_out, has_side_effect=effect, returns_token=False
    )[0]


batching.primitive_batchers[_primitive] = _batch
mlir.register_lowering(_primitive, _lower)
_primitive.def_impl(_call_now)
