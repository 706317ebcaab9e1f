"""ONNX: one graph for a batch of one, with the parameters inside, of operators that every runtime has (opset 18)."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from rljax.deploy.program import Block, Equation, Value, axis_of
from rljax.deploy.source import Port, Run, Source
from rljax.types import Refused

OPSET, IR_VERSION = 18, 8
_DTYPES = ("bool", "uint8", "int32", "float32")

_SAME = {
    "abs": "Abs",
    "add": "Add",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
"""Operators that do what the primitive does, for the types that policies use."""


def imported() -> Any:
    """The package onnx.

    Raises:
      Refused: it is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise Refused("an .onnx file is written by the package onnx: pip install 'rljax[onnx]'") from None
    return onnx


def write(source: Source, metadata: dict[str, str]) -> bytes:
    """The file's content.

    Raises:
      Refused: the package onnx is missing, or the policy has a primitive that the writer does not know.
    """
    onnx = imported()
    writer = _Writer(onnx)
    for port in source.inputs:
        writer.names[port.value] = port.name
    writer.block(source.program)
    for port in source.outputs:  # which may be an input, or a constant, or another output too
        writer.node("Identity", [writer.read(port.value)], port.name)
    graph = onnx.helper.make_graph(
        writer.nodes,
        "policy",
        [_declared(onnx, port) for port in source.inputs],
        [_declared(onnx, port) for port in source.outputs],
        writer.constants,
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="rljax")
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def reader(content: bytes, source: Source) -> tuple[Run, str]:
    """A function of the named inputs to the named outputs, by the content of a file; and the name of what runs it."""
    names = [port.name for port in source.outputs]
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(imported().load(io.BytesIO(content)))
        return lambda inputs: dict(zip(names, evaluator.run(names, dict(inputs)), strict=True)), "onnx.reference"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True)), "onnxruntime"


def _declared(onnx: Any, port: Port) -> Any:
    return onnx.helper.make_tensor_value_info(port.name, _type(onnx, port.dtype), port.shape)


def _type(onnx: Any, dtype: Any) -> int:
    if str(dtype) not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise Refused(f"arrays of type {dtype} cannot be exported to this form, only {known}; .stablehlo takes all")
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class _Writer:
    """Nodes and constants of a graph, in which each value has a name."""

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.names: dict[Value, str] = {}
        self.made: dict[Any, str] = {}
        self.count = 0

    def node(self, operator: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        self.count += 1
        output = output or f"v{self.count}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, array: Any) -> str:
        """The name of a constant; equal ones are one."""
        array = np.asarray(array, order="C")
        _type(self.onnx, array.dtype) if array.dtype != np.int64 else None
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.made:
            self.made[key] = f"c{len(self.made)}"
            self.constants.append(self.onnx.numpy_helper.from_array(array, self.made[key]))
        return self.made[key]

    def integers(self, values: Any) -> str:
        return self.constant(np.asarray(list(values), np.int64))

    def read(self, x: Value) -> str:
        return self.constant(x.constant) if x.constant is not None else self.names[x]

    def block(self, block: Block) -> None:
        for equation in block.equations:
            self.equation(equation)

    def equation(self, equation: Equation) -> None:
        name, params, output = equation.name, equation.params, equation.outputs[0]
        for x in equation.outputs:
            _type(self.onnx, x.dtype)
        if name == "cond":
            return self.choice(equation)
        inputs = [self.read(x) for x in equation.inputs]
        if name in _SAME:
            made = self.node(_SAME[name], inputs)
        elif name in ("and", "or", "not", "xor") and output.dtype == bool:
            made = self.node(name.capitalize(), inputs)
        elif rule := getattr(self, f"_{name}", None):
            made = rule(equation, params, *inputs)
        else:
            raise Refused(f"the primitive {name} has no translation to ONNX; .stablehlo files have all primitives")
        self.names[output] = made
        return None

    def choice(self, equation: Equation) -> None:
        """Only the branch that is chosen is computed; it reads the values around it."""
        graphs, outer = [], self.nodes
        for branch in equation.branches:
            self.nodes = []
            self.block(branch)
            outputs = [self.node("Identity", [self.read(x)]) for x in branch.outputs]
            infos = [
                self.onnx.helper.make_tensor_value_info(output, _type(self.onnx, x.dtype), x.shape)
                for output, x in zip(outputs, branch.outputs, strict=True)
            ]
            graphs.append(self.onnx.helper.make_graph(self.nodes, f"branch{self.count}", [], infos))
        self.nodes = outer
        condition = self.node("Cast", [self.read(equation.inputs[0])], to=self.onnx.TensorProto.BOOL)
        self.count += 1
        names = [f"v{self.count}_{i}" for i in range(len(equation.outputs))]
        branches = {"else_branch": graphs[0], "then_branch": graphs[1]}
        self.nodes.append(self.onnx.helper.make_node("If", [condition], names, **branches))
        self.names.update(zip(equation.outputs, names, strict=True))

    # One method for each primitive: (equation, params, names of the inputs) -> name of the output

    def _reshape(self, equation: Equation, params: dict, x: str, *_: str) -> str:
        return self.node("Reshape", [x, self.integers(equation.outputs[0].shape)])

    _squeeze = _expand_dims = _reshape

    def _broadcast_in_dim(self, equation: Equation, params: dict, x: str, *_: str) -> str:
        shape, axes = equation.outputs[0].shape, params["broadcast_dimensions"]
        aligned = [1] * len(shape)
        for axis, size in zip(axes, equation.inputs[0].shape, strict=True):
            aligned[axis] = size
        x = self.node("Reshape", [x, self.integers(aligned)])
        return x if tuple(aligned) == shape else self.node("Expand", [x, self.integers(shape)])

    def _transpose(self, equation: Equation, params: dict, x: str) -> str:
        return self.node("Transpose", [x], perm=list(params["permutation"]))

    def _slice(self, equation: Equation, params: dict, x: str) -> str:
        starts, ends = params["start_indices"], params["limit_indices"]
        steps = params["strides"] or [1] * len(starts)
        return self.node("Slice", [x, *map(self.integers, (starts, ends, range(len(starts)), steps))])

    def _rev(self, equation: Equation, params: dict, x: str) -> str:
        axes = params["dimensions"]
        ends = [np.iinfo(np.int64).min] * len(axes)
        return self.node("Slice", [x, *map(self.integers, ([-1] * len(axes), ends, axes, [-1] * len(axes)))])

    def _concatenate(self, equation: Equation, params: dict, *x: str) -> str:
        return self.node("Concat", x, axis=int(params["dimension"]))

    def _pad(self, equation: Equation, params: dict, x: str, value: str) -> str:
        config = params["padding_config"]
        if any(low < 0 or high < 0 or inner for low, high, inner in config):
            raise Refused("pad between elements, or by less than nothing, has no translation to ONNX")
        pads = [low for low, _, _ in config] + [high for _, high, _ in config]
        return self.node("Pad", [x, self.integers(pads), value])

    def _select_n(self, equation: Equation, params: dict, which: str, *cases: str) -> str:
        if len(cases) != 2:
            raise Refused(f"select_n among {len(cases)} has no translation to ONNX, only between two")
        which = which if equation.inputs[0].dtype == bool else self.node("Cast", [which], to=9)
        return self.node("Where", [which, cases[1], cases[0]])

    def _convert_element_type(self, equation: Equation, params: dict, x: str) -> str:
        return self.node("Cast", [x], to=_type(self.onnx, params["new_dtype"]))

    def _rsqrt(self, equation: Equation, params: dict, x: str) -> str:
        return self.node("Reciprocal", [self.node("Sqrt", [x])])

    def _log1p(self, equation: Equation, params: dict, x: str) -> str:
        return self.node("Log", [self.node("Add", [x, self.constant(np.float32(1))])])

    def _expm1(self, equation: Equation, params: dict, x: str) -> str:
        return self.node("Sub", [self.node("Exp", [x]), self.constant(np.float32(1))])

    def _rem(self, equation: Equation, params: dict, x: str, y: str) -> str:
        return self.node("Mod", [x, y], fmod=1)

    def _reduced(self, operator: str, axes: Sequence[int], x: str) -> str:
        return self.node(operator, [x, self.integers(axes)], keepdims=0)

    def _reduce_sum(self, equation: Equation, params: dict, x: str) -> str:
        return self._reduced("ReduceSum", params["axes"], x)

    def _reduce_max(self, equation: Equation, params: dict, x: str) -> str:
        return self._reduced("ReduceMax", params["axes"], x)

    def _reduce_min(self, equation: Equation, params: dict, x: str) -> str:
        return self._reduced("ReduceMin", params["axes"], x)

    def _reduce_or(self, equation: Equation, params: dict, x: str) -> str:
        whole = self._reduced("ReduceMax", params["axes"], self.node("Cast", [x], to=self.onnx.TensorProto.INT32))
        return self.node("Cast", [whole], to=self.onnx.TensorProto.BOOL)

    def _reduce_and(self, equation: Equation, params: dict, x: str) -> str:
        whole = self._reduced("ReduceMin", params["axes"], self.node("Cast", [x], to=self.onnx.TensorProto.INT32))
        return self.node("Cast", [whole], to=self.onnx.TensorProto.BOOL)

    def _argmax(self, equation: Equation, params: dict, x: str, operator: str = "ArgMax") -> str:
        [axis] = params["axes"]
        index = self.node(operator, [x], axis=int(axis), keepdims=0)
        return self.node("Cast", [index], to=_type(self.onnx, params["index_dtype"]))

    def _argmin(self, equation: Equation, params: dict, x: str) -> str:
        return self._argmax(equation, params, x, "ArgMin")

    def _dot_general(self, equation: Equation, params: dict, a: str, b: str) -> str:
        return self.node("MatMul", [a, b])

    def _gather(self, equation: Equation, params: dict, operand: str, indices: str) -> str:
        # JAX gives NaN for an index that is out of bounds, or the nearest element; runtimes stop.
        axis, shape = axis_of(equation), equation.inputs[1].shape[:-1]
        last = self.constant(np.int32(equation.inputs[0].shape[axis] - 1))
        indices = self.node("Reshape", [indices, self.integers(shape)])
        indices = self.node("Min", [self.node("Max", [indices, self.constant(np.int32(0))]), last])
        return self.node("Gather", [operand, indices], axis=axis)

    def _conv_general_dilated(self, equation: Equation, params: dict, x: str, kernel: str) -> str:
        numbers = params["dimension_numbers"]
        if params["batch_group_count"] != 1 or any(d != 1 for d in params["lhs_dilation"]):
            raise Refused("conv_general_dilated with groups of batches or a dilated input has no translation to ONNX")
        weight = equation.inputs[1]
        if weight.constant is None:
            kernel = self.node("Transpose", [kernel], perm=list(numbers.rhs_spec))
        else:
            kernel = self.constant(np.transpose(weight.constant, numbers.rhs_spec))
        padding = params["padding"]
        made = self.node(
            "Conv",
            [self.node("Transpose", [x], perm=list(numbers.lhs_spec)), kernel],
            strides=list(params["window_strides"]),
            pads=[low for low, _ in padding] + [high for _, high in padding],
            dilations=list(params["rhs_dilation"]),
            group=params["feature_group_count"],
        )
        return self.node("Transpose", [made], perm=np.argsort(numbers.out_spec).tolist())
