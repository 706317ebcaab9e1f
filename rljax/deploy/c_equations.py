"""Equations as loops in C, over buffers that are used again."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rljax.deploy.c_layout import ROOM, Buffers, broadcast, literal, place, size_of, strides_of, total, type_of
from rljax.deploy.program import Block, Equation, Program, Value, axis_of, every_equation
from rljax.types import Refused

_FORMULAS = {
    "abs": "({0} < 0 ? -{0} : {0})",
    "add": "{0} + {1}",
    "ceil": "ceilf({0})",
    "cos": "cosf({0})",
    "div": "{0} / {1}",
    "eq": "{0} == {1}",
    "erf": "erff({0})",
    "exp": "expf({0})",
    "expm1": "expm1f({0})",
    "floor": "floorf({0})",
    "ge": "{0} >= {1}",
    "gt": "{0} > {1}",
    "le": "{0} <= {1}",
    "log": "logf({0})",
    "log1p": "log1pf({0})",
    "logistic": "1.0f / (1.0f + expf(-{0}))",
    "lt": "{0} < {1}",
    # A sum where neither is larger, nor equal: NaN goes on to the action, as in JAX.
    "max": "({0} > {1} ? {0} : {0} <= {1} ? {1} : {0} + {1})",
    "min": "({0} < {1} ? {0} : {0} >= {1} ? {1} : {0} + {1})",
    "mul": "{0} * {1}",
    "neg": "(-{0})",
    "pow": "powf({0}, {1})",
    "rsqrt": "1.0f / sqrtf({0})",
    "select_n": "({0} ? {2} : {1})",
    "sign": "({0} > 0 ? 1 : {0} < 0 ? -1 : {0})",
    "sin": "sinf({0})",
    "sqrt": "sqrtf({0})",
    "sub": "{0} - {1}",
    "tanh": "tanhf({0})",
}
_OF_BOOLEANS = {"and": "{0} && {1}", "or": "{0} || {1}", "not": "!{0}", "xor": "{0} != {1}"}


class Equations:
    """The statements of a program.

    Args:
      name: the beginning of the constants' names.
      inputs: what its inputs are called.

    Attributes:
      lines: the statements.
    """

    def __init__(self, name: str, program: Program, inputs: dict[Value, str]):
        self.name, self.now, self.depth = name, 0, 0
        self.lines: list[str] = []
        self.arrays: dict[bytes, tuple[str, np.ndarray]] = {}
        self.room = Buffers()
        self.held: dict[Value, tuple[str, int, int]] = {}
        self.places: dict[Value, tuple[str, int]] = {value: (identifier, 0) for value, identifier in inputs.items()}
        self.roots: dict[Value, Value] = {}
        self.inputs = set(inputs)
        # When each array is read for the last time, in the order of all equations; a choice reads what its branches
        # give. What the program gives is kept.
        self.last: dict[Value, int] = {}
        for time, equation in enumerate(every_equation(program)):
            if _is_alias(equation):
                self.roots[equation.outputs[0]] = self.root(equation.inputs[0])
            for x in (*equation.inputs, *(x for branch in equation.branches for x in branch.outputs)):
                self.last[self.root(x)] = time
        self.last.update({self.root(x): len(self.last) ** 2 + 2**31 for x in program.outputs})
        self.block(program)

    def root(self, x: Value) -> Value:
        """The value whose array it is: a reshaped value has none of its own."""
        return self.roots.get(x, x)

    def at(self, x: Value, index: str = "0") -> str:
        """An element, by its place in the flat array."""
        x = self.root(x)
        if x.constant is None:
            array, offset = self.places[x]
            return f"{array}[{total([str(offset) if offset else '', index])}]"
        values = np.asarray(x.constant)
        if values.size and (values == values.flat[0]).all():
            return literal(values.flat[0], x.dtype)
        return f"{self.constant(values)}[{index}]"

    def constant(self, values: np.ndarray) -> str:
        """The name of a parameter's array; equal ones are one."""
        key = values.dtype.str.encode() + values.tobytes()
        if key not in self.arrays:
            self.arrays[key] = f"{self.name}_c{len(self.arrays)}", values
        return self.arrays[key][0]

    def constants(self) -> Iterator[str]:
        """The declarations of the parameters."""
        for name, values in self.arrays.values():
            flat = [literal(x, values.dtype).strip("()") for x in values.ravel()]
            yield f"static const {type_of(values.dtype)} {name}[{len(flat)}] = {{"
            yield from (f"    {', '.join(flat[i : i + 8])}," for i in range(0, len(flat), 8))
            yield "};"
        yield ""

    def buffers(self) -> Iterator[str]:
        """The declarations of what holds arrays between the statements."""
        for kind, size in self.room.sizes.items():
            yield f"static {kind} {ROOM[kind]}[{size}];"

    def hold(self, x: Value) -> None:
        """Gives a value an array."""
        kind = type_of(x.dtype)
        begin, end = self.room.take(kind, max(size_of(x), 1))
        self.held[x], self.places[x] = (kind, begin, end), (ROOM[kind], begin)

    def release(self) -> None:
        """Frees the arrays that are not read any more."""
        for x in [x for x in self.held if self.last.get(x, -1) <= self.now]:
            self.room.give(*self.held.pop(x))

    # Statements

    def add(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    def nest(self, shape: Sequence[int], statement: str, first: int = 0) -> None:
        """A statement in a loop for each axis, whose index is i0_, i1_, …; none for an axis of size 1."""
        axes = [(first + axis, size) for axis, size in enumerate(shape) if size != 1]
        for axis, size in axes:
            self.add(f"for (int i{axis}_ = 0; i{axis}_ < {size}; ++i{axis}_)")
            self.depth += 1
        self.add(statement)
        self.depth -= len(axes)

    def move(
        self, to: Value, to_strides: Sequence[int], to_begin: int, of: Value, strides: Any, begin: int, shape: Any
    ) -> None:
        """Copies an array, element by element, with any strides."""
        target, source = (
            self.at(x, place(shape, s, b)) for x, s, b in ((to, to_strides, to_begin), (of, strides, begin))
        )
        self.nest(shape, f"{target} = {source};")

    def copied(self, x: Value, identifier: str) -> str:
        """The statement that hands an output over."""
        return f"for (int i_ = 0; i_ < {size_of(x)}; ++i_) {identifier}[i_] = {self.at(x, 'i_')};"

    def apart(self, x: Value) -> Value:
        """The same, in an array of its own where it is one of the inputs."""
        if self.root(x) not in self.inputs:
            return x
        own = Value(x.shape, x.dtype)
        self.last[own] = 2**62
        self.hold(own)
        self.nest([size_of(x)], f"{self.at(own, 'i0_')} = {self.at(x, 'i0_')};")
        return own

    def block(self, block: Block) -> None:
        for equation in block.equations:
            if equation.branches:
                self.choice(equation)
            elif not _is_alias(equation):
                self.equation(equation)
            self.release()
            self.now += 1

    def choice(self, equation: Equation) -> None:
        """Only the branch that is chosen runs."""
        for x in equation.outputs:
            self.last.setdefault(x, 2**62)
            self.hold(x)
        self.add(f"if (!{self.at(equation.inputs[0])}) {{")
        for number, branch in enumerate(equation.branches):
            if number:
                self.add("} else {")
            self.depth += 1
            self.block(branch)
            for x, y in zip(equation.outputs, branch.outputs, strict=True):
                self.move(x, strides_of(x.shape), 0, y, strides_of(y.shape), 0, x.shape)
            self.depth -= 1
        self.add("}")

    def equation(self, equation: Equation) -> None:
        name, output = equation.name, equation.outputs[0]
        formula = _FORMULAS.get(name)
        if name in _OF_BOOLEANS and output.dtype == bool:
            formula = _OF_BOOLEANS[name]
        if name == "rem":
            formula = "fmodf({0}, {1})" if output.dtype == np.float32 else "{0} % {1}"
        if name == "convert_element_type":
            formula = "{0} != 0" if output.dtype == bool else f"({type_of(output.dtype)})({{0}})"
        rule = None if formula else getattr(self, f"_{name}", None)
        if formula is None and rule is None:
            raise Refused(f"the primitive {name} has no translation to C; .stablehlo files have all primitives")
        self.hold(output)
        if rule is not None:
            rule(equation.params, output, *equation.inputs)
            return
        if name == "select_n" and len(equation.inputs) != 3:
            raise Refused(f"select_n among {len(equation.inputs) - 1} has no translation to C, only between two")
        shape = output.shape
        if all(size_of(x) in (1, size_of(output)) for x in equation.inputs):
            shape = (size_of(output),)
        elements = [self.at(x, place(shape, broadcast(x, shape))) for x in equation.inputs]
        self.nest(shape, f"{self.at(output, place(shape, strides_of(shape)))} = {str(formula).format(*elements)};")

    # One method for each other primitive: (parameters, output, *inputs)

    def _broadcast_in_dim(self, params: dict, y: Value, x: Value, *_: Value) -> None:
        strides = [0] * len(y.shape)
        for axis, size, stride in zip(params["broadcast_dimensions"], x.shape, strides_of(x.shape), strict=True):
            strides[axis] = stride if size != 1 else 0
        self.move(y, strides_of(y.shape), 0, x, strides, 0, y.shape)

    def _transpose(self, params: dict, y: Value, x: Value) -> None:
        strides = strides_of(x.shape)
        self.move(y, strides_of(y.shape), 0, x, [strides[i] for i in params["permutation"]], 0, y.shape)

    def _slice(self, params: dict, y: Value, x: Value) -> None:
        strides, starts = strides_of(x.shape), params["start_indices"]
        steps = params["strides"] or [1] * len(starts)
        begin = sum(start * stride for start, stride in zip(starts, strides, strict=True))
        self.move(y, strides_of(y.shape), 0, x, [a * b for a, b in zip(strides, steps, strict=True)], begin, y.shape)

    def _rev(self, params: dict, y: Value, x: Value) -> None:
        strides = strides_of(x.shape)
        begin = sum((x.shape[i] - 1) * strides[i] for i in params["dimensions"])
        reverse = [-stride if i in params["dimensions"] else stride for i, stride in enumerate(strides)]
        self.move(y, strides_of(y.shape), 0, x, reverse, begin, y.shape)

    def _concatenate(self, params: dict, y: Value, *parts: Value) -> None:
        strides, begin = strides_of(y.shape), 0
        for x in parts:
            self.move(y, strides, begin * strides[params["dimension"]], x, strides_of(x.shape), 0, x.shape)
            begin += x.shape[params["dimension"]]

    def _pad(self, params: dict, y: Value, x: Value, value: Value) -> None:
        config, strides = params["padding_config"], strides_of(y.shape)
        if any(low < 0 or high < 0 for low, high, _ in config):
            raise Refused("pad by less than nothing has no translation to C")
        self.move(y, strides, 0, value, [0] * len(y.shape), 0, y.shape)
        begin = sum(low * stride for (low, _, _), stride in zip(config, strides, strict=True))
        apart = [stride * (inner + 1) for (_, _, inner), stride in zip(config, strides, strict=True)]
        self.move(y, apart, begin, x, strides_of(x.shape), 0, x.shape)

    def _reduce(self, params: dict, y: Value, x: Value, first: str, step: str) -> None:
        kept, strides = strides_of(y.shape), [0] * len(x.shape)
        for axis, stride in zip((i for i in range(len(x.shape)) if i not in params["axes"]), kept, strict=True):
            strides[axis] = stride
        self.nest([size_of(y)], f"{self.at(y, place([size_of(y)], [1]))} = {first};")
        to, of = self.at(y, place(x.shape, strides)), self.at(x, place(x.shape, strides_of(x.shape)))
        self.nest(x.shape, step.format(to, of))

    def _reduce_sum(self, params: dict, y: Value, x: Value) -> None:
        self._reduce(params, y, x, "0", "{0} += {1};")

    def _reduce_max(self, params: dict, y: Value, x: Value) -> None:
        first = "-INFINITY" if x.dtype == np.float32 else literal(np.iinfo(x.dtype).min, x.dtype)
        self._reduce(params, y, x, first, "{0} = {0} > {1} ? {0} : {0} <= {1} ? {1} : {0} + {1};")

    def _reduce_min(self, params: dict, y: Value, x: Value) -> None:
        first = "INFINITY" if x.dtype == np.float32 else literal(np.iinfo(x.dtype).max, x.dtype)
        self._reduce(params, y, x, first, "{0} = {0} < {1} ? {0} : {0} >= {1} ? {1} : {0} + {1};")

    def _reduce_or(self, params: dict, y: Value, x: Value) -> None:
        self._reduce(params, y, x, "false", "{0} = {0} || {1};")

    def _reduce_and(self, params: dict, y: Value, x: Value) -> None:
        self._reduce(params, y, x, "true", "{0} = {0} && {1};")

    def _argmax(self, params: dict, y: Value, x: Value, better: str = ">") -> None:
        [axis] = params["axes"]
        strides, kept = strides_of(x.shape), list(strides_of(y.shape))
        kept.insert(axis, 0)
        outer = [1 if i == axis else size for i, size in enumerate(x.shape)]
        to, first = self.at(y, place(outer, kept)), place(outer, strides)
        now, best = (self.at(x, total([first, f"{i} * {strides[axis]}"])) for i in ("k_", to))
        wins = f"{now} {better} {best}"
        if x.dtype == np.float32:
            wins += f" || (isnan({now}) && !isnan({best}))"
        scan = f"for (int k_ = 1; k_ < {x.shape[axis]}; ++k_) if ({wins}) {to} = k_;"
        self.nest(outer, f"{{ {to} = 0; {scan} }}")

    def _argmin(self, params: dict, y: Value, x: Value) -> None:
        self._argmax(params, y, x, "<")

    def _dot_general(self, params: dict, y: Value, a: Value, b: Value) -> None:
        *batch, m, k = a.shape
        n, shape = b.shape[-1], [*batch, m]
        to = total([place(shape, [m * n] * len(batch) + [n]), "n_"])
        row = self.at(a, total([place(shape, [m * k] * len(batch) + [k]), "k_"]))
        weight = self.at(b, total([place(shape, [k * n] * len(batch) + [0]), f"k_ * {n}", "n_"]))
        zero = f"for (int n_ = 0; n_ < {n}; ++n_) {self.at(y, to)} = 0;"
        add = f"for (int n_ = 0; n_ < {n}; ++n_) {self.at(y, to)} += x_ * {weight};"
        kind = type_of(a.dtype)
        body = f"for (int k_ = 0; k_ < {k}; ++k_) {{ const {kind} x_ = {row}; {add} }}"
        self.nest(shape, f"{{ {zero} {body} }}")

    def _gather(self, params: dict, y: Value, operand: Value, indices: Value) -> None:
        # JAX gives NaN for an index that is out of bounds, or the nearest element, as here.
        equation = Equation(None, params, [operand, indices], [y])  # type: ignore[arg-type]
        axis, batch, strides = axis_of(equation), len(indices.shape) - 1, strides_of(operand.shape)
        places, steps = [0] * len(y.shape), list(strides)
        places[axis : axis + batch] = strides_of(indices.shape[:-1])
        steps[axis : axis + 1] = [0] * batch
        index = self.at(indices, place(y.shape, places))
        last = operand.shape[axis] - 1
        near = f"({index} < 0 ? 0 : {index} > {last} ? {last} : {index})"
        of = self.at(operand, total([place(y.shape, steps), f"{near} * {strides[axis]}"]))
        self.nest(y.shape, f"{self.at(y, place(y.shape, strides_of(y.shape)))} = {of};")

    def _conv_general_dilated(self, params: dict, y: Value, x: Value, kernel: Value) -> None:
        numbers = params["dimension_numbers"]
        groups = params["feature_group_count"], params["batch_group_count"]
        if len(x.shape) != 4 or groups != (1, 1) or any(d != 1 for d in params["lhs_dilation"]):
            raise Refused("conv_general_dilated has a translation to C for plain convolutions of images alone")
        # Of each: (batch, channels, height, width), and (output, input, height, width) of the kernel.
        of_x, of_k, of_y = (
            [strides_of(value.shape)[i] for i in spec]
            for value, spec in ((x, numbers.lhs_spec), (kernel, numbers.rhs_spec), (y, numbers.out_spec))
        )
        batch, channels, height, width = (x.shape[i] for i in numbers.lhs_spec)
        outputs, _, rows, columns = (kernel.shape[i] for i in numbers.rhs_spec)
        shape = [batch, *(y.shape[i] for i in numbers.out_spec[2:]), outputs]
        to = self.at(y, place(shape, [of_y[0], of_y[2], of_y[3], of_y[1]]))
        (down, right), (high, wide) = params["window_strides"], params["rhs_dilation"]
        (top, _), (left, _) = params["padding"]
        self.nest(shape, f"{to} = 0;")
        inner = [*shape[:3], rows, columns, channels, outputs]
        to = self.at(y, place(inner, [of_y[0], of_y[2], of_y[3], 0, 0, 0, of_y[1]]))
        weight = self.at(kernel, place(inner, [0, 0, 0, of_k[2], of_k[3], of_k[1], of_k[0]]))
        begin = -top * of_x[2] - left * of_x[3]
        strides = [of_x[0], down * of_x[2], right * of_x[3], high * of_x[2], wide * of_x[3], of_x[1], 0]
        pixel = self.at(x, place(inner, strides, begin))
        inside = ""
        if any(params["padding"][0]) or any(params["padding"][1]):
            row, column = (place(inner, s, -b) for s, b in (([0, down, 0, high], top), ([0, 0, right, 0, wide], left)))
            inside = f"if ({row} >= 0 && {row} < {height} && {column} >= 0 && {column} < {width}) "
        self.nest(inner, f"{inside}{to} += {pixel} * {weight};")


def _is_alias(equation: Equation) -> bool:
    """Whether the output is the input in another shape."""
    if equation.name == "broadcast_in_dim":
        return size_of(equation.inputs[0]) == size_of(equation.outputs[0])
    return equation.name in ("reshape", "squeeze", "expand_dims")
