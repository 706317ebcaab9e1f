"""A function as a flat list of few primitives, from which the writers of ONNX and C make their files.

`trace` inlines every call, unrolls every loop of known length, turns random draws into inputs and computes all that
does not depend on an input. What is left are equations over values of known shapes, and choices between two branches.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from rljax.deploy.reductions import REDUCED, is_product
from rljax.types import PyTree, Refused

LARGEST_CONSTANT = 100_000
"""Elements that a constant may have which was made by broadcasting: a larger one stays an equation."""


@dataclasses.dataclass(eq=False)
class Value:
    """An array, by its identity: an input, the output of an equation, or a constant."""

    shape: tuple[int, ...]
    dtype: Any
    constant: Any = None


@dataclasses.dataclass(eq=False)
class Equation:
    """`outputs = primitive(*inputs)`. A `cond` has two branches, whose equations may read any value before it."""

    primitive: core.Primitive
    params: dict[str, Any]
    inputs: list[Value]
    outputs: list[Value]
    branches: tuple["Block", ...] = ()

    @property
    def name(self) -> str:
        return self.primitive.name


@dataclasses.dataclass
class Block:
    """Equations in the order in which they run, and what they are for."""

    equations: list[Equation]
    outputs: list[Value]


@dataclasses.dataclass
class Draw:
    """Random numbers that the function draws, independently and anew in each call.

    Fields:
      kind: "normal" for N(0, 1), or "uniform" for [0, 1).
    """

    value: Value
    kind: str


@dataclasses.dataclass
class Program(Block):
    """A function's equations, and its inputs: the leaves of its arguments, and its random draws."""

    inputs: list[Value]
    draws: list[Draw]


def trace(function: Callable[..., PyTree], *arguments: PyTree, simple: bool = True) -> Program:
    """The program of `function(key, *arguments)`, with every random draw as an input.

    Args:
      function: its first argument is a key, from which it may draw normal, uniform and whole numbers.
      arguments: arrays, or `jax.ShapeDtypeStruct`s.
      simple: whether to reduce it to few primitives and compute constants; all shapes must be numbers then.
    """
    jaxpr = jax.make_jaxpr(function)(jax.random.key(0), *arguments)
    tracer = _Tracer(simple)
    key, *inputs = (tracer.value(x.aval) for x in jaxpr.jaxpr.invars)
    outputs = tracer.inline(jaxpr.jaxpr, jaxpr.consts, [key, *inputs])
    program = Program(tracer.equations, outputs, inputs, tracer.draws)
    if simple:
        _compute_constants(program, {key, *inputs, *(draw.value for draw in tracer.draws)})
        if _resolve_indices(program, tracer):
            _compute_constants(program, {key, *inputs, *(draw.value for draw in tracer.draws)})
    remove_dead(program)
    if key in needed(program, program.outputs) or any("random" in e.name for e in every_equation(program)):
        raise Refused("the policy draws random numbers in a way that cannot become an input of the exported function")
    return program


class _Tracer:
    """Collects the equations of a jaxpr, with the calls in it inlined."""

    def __init__(self, simple: bool) -> None:
        self.simple = simple
        self.equations: list[Equation] = []
        self.draws: list[Draw] = []

    def value(self, aval: Any) -> Value:
        return Value(tuple(aval.shape), aval.dtype)

    def constant(self, x: Any, aval: Any) -> Value:
        key = jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)
        return Value(tuple(aval.shape), aval.dtype, x if key else np.asarray(x, aval.dtype))

    def apply(self, function: Callable[..., Any], *values: Value) -> list[Value]:
        """The outputs of a function of arrays, whose equations are added."""
        jaxpr = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in values))
        return self.inline(jaxpr.jaxpr, jaxpr.consts, list(values))

    def inline(self, jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        known: dict[Any, Value] = {x: self.constant(c, x.aval) for x, c in zip(jaxpr.constvars, consts, strict=True)}
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def read(x: Any) -> Value:
            return self.constant(x.val, x.aval) if isinstance(x, core.Literal) else known[x]

        for equation in jaxpr.eqns:
            made = self.equation(equation, [read(x) for x in equation.invars])
            known.update(zip(equation.outvars, made, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        if name in ("jit", "pjit") and (draw := _DRAWS.get(params.get("name"))):
            return self.draw(draw, inputs[1:], equation.outvars[0].aval)
        if name == "scan":
            return self.scan(equation, inputs)
        if name == "cond":
            return self.cond(equation, inputs)
        if name == "while":
            raise Refused("a loop whose length is known only when it runs (while) cannot be exported")
        inner = next((params[x] for x in ("jaxpr", "call_jaxpr", "fun_jaxpr") if x in params), None)
        if isinstance(inner, core.ClosedJaxpr):
            return self.inline(inner.jaxpr, inner.consts, inputs)
        if isinstance(inner, core.Jaxpr):
            return self.inline(inner, (), inputs)
        if name in _NOTHING or (name == "convert_element_type" and inputs[0].dtype == params["new_dtype"]):
            return inputs
        if self.simple and name in REDUCED and not (name == "dot_general" and is_product(*inputs, **params)):
            return self.apply(lambda *x: REDUCED[name](*x, **params), *inputs)
        outputs = [self.value(x.aval) for x in equation.outvars]
        self.equations.append(Equation(equation.primitive, params, inputs, outputs))
        return outputs

    def draw(self, draw: tuple[str, Callable[..., Any]], inputs: list[Value], aval: Any) -> list[Value]:
        kind, formula = draw
        noise = Value(tuple(aval.shape), np.dtype(np.float32))
        self.draws.append(Draw(noise, kind))
        return self.apply(lambda noise, *x: formula(noise, *x).astype(aval.dtype), noise, *inputs)

    def scan(self, equation: Any, inputs: list[Value]) -> list[Value]:
        params, body, length = equation.params, equation.params["jaxpr"], equation.params["length"]
        # What is scanned over, and what is stacked, has an axis more outside than inside.
        stacked = sum(map(_has_more_axes, equation.outvars, body.jaxpr.outvars))
        scanned = sum(map(_has_more_axes, equation.invars, body.jaxpr.invars))
        carried, first = len(body.jaxpr.outvars) - stacked, len(inputs) - scanned
        constants, carry, xs = inputs[: first - carried], inputs[first - carried : first], inputs[first:]
        ys: list[list[Value]] = []
        for i in reversed(range(length)) if params["reverse"] else range(length):
            now = [self.apply(lambda x, i=i: x[i], x)[0] for x in xs]  # type: ignore[misc]
            out = self.inline(body.jaxpr, body.consts, [*constants, *carry, *now])
            carry, step = out[:carried], out[carried:]
            ys.append(step)
        if params["reverse"]:
            ys.reverse()
        return [*carry, *(self.apply(lambda *x: jnp.stack(x), *(step[i] for step in ys))[0] for i in range(stacked))]

    def cond(self, equation: Any, inputs: list[Value]) -> list[Value]:
        branches = equation.params["branches"]
        if len(branches) != 2:
            raise Refused(f"a choice between {len(branches)} branches (cond) cannot be exported, only between two")
        index, outer, blocks = inputs[0], self.equations, []
        for branch in branches:
            self.equations = []
            outputs = self.inline(branch.jaxpr, branch.consts, inputs[1:])
            blocks.append(Block(self.equations, outputs))
        self.equations = outer
        outputs = [self.value(x.aval) for x in equation.outvars]
        self.equations.append(Equation(equation.primitive, {}, [index], outputs, tuple(blocks)))
        return outputs


def _has_more_axes(outer: Any, inner: Any) -> bool:
    return len(outer.aval.shape) > len(inner.aval.shape)


_NOTHING = ("stop_gradient", "copy", "copy_p", "optimization_barrier", "reshard")
"""Primitives that change nothing of a value."""


def _uniform(noise: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)  # JAX hands them over in either order
    return jnp.maximum(low, noise * (high - low) + low)


def _whole(noise: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    return low + jnp.floor(noise * (high - low)).astype(low.dtype)


_DRAWS: dict[str, tuple[str, Callable[..., Any]]] = {
    "_normal": ("normal", lambda noise: noise),
    "_uniform": ("uniform", _uniform),
    "_randint": ("uniform", _whole),
}
"""The functions of `jax.random` that become inputs, by the name of their compiled part: the distribution of the input,
and the formula that makes the draw of it and of the function's further arguments."""


# Passes over a program


def every_equation(block: Block) -> Iterator[Equation]:
    """All equations, those of branches before the choice between them."""
    for equation in block.equations:
        for branch in equation.branches:
            yield from every_equation(branch)
        yield equation


def needed(block: Block, outputs: Sequence[Value]) -> set[Value]:
    """All values that some outputs depend on."""
    found = set(outputs)
    for equation in reversed(block.equations):
        if found.intersection(equation.outputs):
            found.update(equation.inputs)
            for branch in equation.branches:
                found |= needed(branch, branch.outputs)
    return found


def remove_dead(block: Block) -> None:
    """Removes the equations that no output depends on."""
    for equation in block.equations:
        for branch in equation.branches:
            remove_dead(branch)
    found = needed(block, block.outputs)
    block.equations[:] = [x for x in block.equations if found.intersection(x.outputs)]


def evaluate(program: Program, inputs: Sequence[Any], draws: Sequence[Any]) -> list[jax.Array]:
    """The program's outputs, by JAX."""
    given = [*program.inputs, *(draw.value for draw in program.draws)]
    return _run(program, dict(zip(given, [*inputs, *draws], strict=True)))


def _run(block: Block, known: dict[Value, Any]) -> list[Any]:
    def read(x: Value) -> Any:
        return known.get(x, x.constant)

    for equation in block.equations:
        inputs = [read(x) for x in equation.inputs]
        if equation.branches:
            branches = [lambda branch=branch: _run(branch, dict(known)) for branch in equation.branches]  # type: ignore[misc]
            made = lax.switch(jnp.int32(inputs[0]), branches)
        else:
            made = equation.primitive.bind(*map(jnp.asarray, inputs), **equation.params)
        known.update(zip(equation.outputs, made if isinstance(made, list | tuple) else [made], strict=True))
    return [read(x) for x in block.outputs]


def _compute_constants(program: Program, varying: set[Value]) -> None:
    """Replaces the outputs of equations that depend on no input by constants."""
    varying, constant, used = set(varying), [], set(program.outputs)
    for equation in every_equation(program):
        chosen = [x for branch in equation.branches for x in branch.outputs]
        large = equation.name in ("broadcast_in_dim", "iota") and _size(equation.outputs[0]) > LARGEST_CONSTANT
        if equation.branches or large or varying.intersection(equation.inputs):
            varying.update(equation.outputs)
            used.update(equation.inputs, chosen)
        else:
            constant.append(equation)
    wanted = [x for equation in constant for x in equation.outputs if x in used]
    given = list({x for equation in constant for x in equation.inputs if x.constant is not None})

    def compute(arrays: list[Any]) -> list[Any]:
        return _run(Block(constant, wanted), dict(zip(given, arrays, strict=True)))

    for x, array in zip(wanted, jax.jit(compute)([x.constant for x in given]) if wanted else [], strict=True):
        x.constant = np.asarray(array)
    _remove(program, set(constant))


def _remove(block: Block, equations: set[Equation]) -> None:
    for equation in block.equations:
        for branch in equation.branches:
            _remove(branch, equations)
    block.equations[:] = [x for x in block.equations if x not in equations]


def _size(x: Value) -> int:
    return math.prod(x.shape)


def _resolve_indices(block: Block, tracer: _Tracer) -> bool:
    """Makes a selection of what is flat of each gather and scatter with constant indices; whether there was any."""
    found = False
    for place, equation in reversed(list(enumerate(block.equations))):
        for branch in equation.branches:
            found |= _resolve_indices(branch, tracer)
        if equation.name not in ("gather", "scatter") or equation.inputs[1].constant is None:
            continue
        # Where each element of the output comes from, by the primitive itself, of the places of its inputs.
        operand, indices, *updates = equation.inputs
        sources, total = [], 0
        for x in (operand, *updates):
            sources.append(np.arange(total, total + _size(x), dtype=np.int32).reshape(x.shape))
            total += _size(x)
        params = equation.params | ({"fill_value": -1} if equation.name == "gather" else {})
        chosen = np.asarray(equation.primitive.bind(sources[0], indices.constant, *sources[1:], **params))
        if chosen.min(initial=0) < 0:
            raise Refused(f"{equation.name} with an index that is out of bounds cannot be exported")

        def select(*arrays: jax.Array, chosen: np.ndarray = chosen) -> jax.Array:
            flat = jnp.concatenate([x.reshape(-1) for x in arrays])
            return jnp.take(flat, chosen.reshape(-1), mode="clip").reshape(chosen.shape)

        tracer.equations = []
        tracer.apply(select, operand, *updates)
        tracer.equations[-1].outputs = equation.outputs
        block.equations[place : place + 1] = tracer.equations
        found = True
    return found


def axis_of(gather: Equation) -> int:
    """The axis a of a gather that puts operand[:, …, index, …, :] for each index [..., 1] in the place of axis a.

    Raises:
      Refused: it is of another form.
    """
    numbers, sizes = gather.params["dimension_numbers"], gather.params["slice_sizes"]
    operand, indices, output = (len(x.shape) for x in (*gather.inputs, *gather.outputs))
    axis, batch = numbers.start_index_map[0], indices - 1
    others = tuple(i for i in range(output) if not axis <= i < axis + batch)
    whole = all(size == (1 if i == axis else n) for i, (size, n) in enumerate(zip(sizes, gather.inputs[0].shape)))
    alone = tuple(numbers.start_index_map) == tuple(numbers.collapsed_slice_dims) == (axis,)
    if not (alone and whole and tuple(numbers.offset_dims) == others and operand - 1 + batch == output):
        raise Refused("gather in this form cannot be exported: only the choice of elements along one axis")
    return axis
