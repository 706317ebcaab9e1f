"""C: one header without dependencies (C99 and its mathematics), for one observation a call, without allocation."""

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from rljax.deploy.c_equations import Equations
from rljax.deploy.c_layout import literal, type_of
from rljax.deploy.source import Arrays, Port, Source
from rljax.types import Refused

FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic")
"""What the header compiles with; `-O3 -march=native` is faster."""

KEYWORDS = frozenset(
    [
        "auto",
        "break",
        "case",
        "char",
        "const",
        "continue",
        "default",
        "do",
        "double",
        "else",
        "enum",
        "extern",
        "float",
        "for",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "register",
        "restrict",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "struct",
        "switch",
        "typedef",
        "union",
        "unsigned",
        "void",
        "volatile",
        "while",
    ]
)


def write(source: Source, name: str, about: Iterable[str]) -> bytes:
    """The file's content.

    Args:
      name: of the function, and the beginning of all other names.
      about: lines of the comment at its beginning.

    Raises:
      Refused: the name is none of C, or the policy has a primitive that the writer does not know.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in KEYWORDS:
        raise Refused(f"{name!r} cannot be the name of a function in C: letters, digits and _ are allowed, no keyword")
    ports = _ports(source)
    body = Equations(name, source.program, {port.value: identifier for identifier, port in ports.items()})
    outputs = [(_identifier(port), port) for port in source.outputs]
    # A memory is read before it is written: what one output takes from an input is set aside first.
    taken = [body.apart(port.value) for _, port in outputs]
    writes = [body.copied(x, identifier) for (identifier, _), x in zip(outputs, taken, strict=True)]
    comment = [f" * {line}".rstrip().replace("*/", "* /") for line in about]
    sizes = [
        f"#define {name.upper()}_{identifier.upper()}_SIZE {int(np.prod(port.shape))}"
        for identifier, port in (*ports.items(), ("action", source.outputs[0]))
    ]
    lines = [
        "/*",
        *comment,
        " */",
        f"#ifndef {name.upper()}_H",
        f"#define {name.upper()}_H",
        "",
        "#include <math.h>",
        "#include <stdbool.h>",
        "#include <stdint.h>",
        "#include <string.h>",
        "",
        *sizes,
        "",
        *body.constants(),
        *_reset(source, name),
        f"static inline void {name}({', '.join(_parameters(source))}) {{",
        *(f"    {line}" for line in (*body.buffers(), *body.lines, *writes)),
        "}",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines).encode()


def _ports(source: Source) -> dict[str, Port]:
    ports = {_identifier(port): port for port in source.inputs}
    if len(ports) < len(source.inputs) or "action" in ports:
        raise Refused(f"the inputs {', '.join(port.name for port in source.inputs)} have no names of their own in C")
    return ports


def _identifier(port: Port) -> str:
    """A port's name in C; the memory is one, before and after."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", port.name.removeprefix("next_") if port.group == "next_memory" else port.name)
    name = name.strip("_")
    return name if re.match("[A-Za-z]", name) and name not in KEYWORDS else f"{port.group}_{name}"


def _parameters(source: Source) -> list[str]:
    made = [
        f"{'' if port.group == 'memory' else 'const '}{type_of(port.dtype)} *{identifier}"
        for identifier, port in _ports(source).items()
    ]
    return [*made, f"{type_of(source.outputs[0].dtype)} *action"]


def _reset(source: Source, name: str) -> list[str]:
    """A function that sets the memory to that before the first step."""
    memory = {identifier: port for identifier, port in _ports(source).items() if port.group == "memory"}
    if not memory:
        return []
    parameters = ", ".join(f"{type_of(port.dtype)} *{identifier}" for identifier, port in memory.items())
    lines = ["/* Before the first step of each episode. */", f"static inline void {name}_reset({parameters}) {{"]
    for identifier, port in memory.items():
        initial, kind = np.asarray(port.initial), type_of(port.dtype)
        if (initial == initial.flat[0]).all():
            first = literal(initial.flat[0], port.dtype)
            lines.append(f"    for (int i = 0; i < {initial.size}; ++i) {identifier}[i] = {first};")
        else:
            values = ", ".join(literal(x, port.dtype) for x in initial.flat)
            lines += [f"    static const {kind} start_{identifier}[] = {{{values}}};"]
            lines += [f"    memcpy({identifier}, start_{identifier}, sizeof start_{identifier});"]
    return [*lines, "}", ""]


def compiler() -> str | None:
    """The C compiler of this machine, or of the environment variable CC."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "cc", "gcc", "clang"))), None)


def reader(content: bytes, source: Source, name: str) -> tuple["Compiled", str]:
    """A function of the named inputs to the named outputs, by the content of a file; and the name of the compiler."""
    return Compiled(content, source, name), Path(compiler() or "cc").name


class Compiled:
    """A header, compiled; its calls update the memory that they are given.

    Raises:
      Refused: the compiler finds a fault in it.
    """

    def __init__(self, content: bytes, source: Source, name: str):
        parameters, names = ", ".join(_parameters(source)), ", ".join([*_ports(source), "action"])
        kinds = ", ".join(parameter.rpartition("*")[0] + "*" for parameter in _parameters(source))
        memory = {identifier: port for identifier, port in _ports(source).items() if port.group == "memory"}
        starts = " ".join(
            f"static {type_of(port.dtype)} start_{n}[{np.prod(port.shape)}]; memcpy(start_{n}, {n}, sizeof start_{n});"
            for n, port in memory.items()
        )
        again = " ".join(f"memcpy({n}, start_{n}, sizeof start_{n});" for n in memory)
        wrapper = f"""#include "policy.h"
void call({parameters});
void repeat(int count, {parameters});
void call({parameters}) {{ {name}({names}); }}
void repeat(int count, {parameters}) {{
    void (*volatile function)({kinds}) = call;
    {starts}
    for (int i = 0; i < count; ++i) {{ function({names}); {again} }}
}}
"""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "policy.h").write_bytes(content)
            (Path(folder) / "wrapper.c").write_text(wrapper)
            library = str(Path(folder) / "policy.so")
            command = [compiler() or "cc", *FLAGS, "-shared", "-fPIC", "-o", library, "wrapper.c", "-lm"]
            made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if made.returncode:
                raise Refused(f"the C compiler refused the header: {' '.join(made.stderr.split())[:400]}")
            self.library = ctypes.CDLL(library)
        self.source = source

    def arrays(self, inputs: Arrays) -> list[np.ndarray]:
        """The arguments of a call, the action last."""
        given = [np.array(inputs[port.name], port.dtype, order="C") for port in self.source.inputs]
        action = self.source.outputs[0]
        return [*given, np.zeros(action.shape, action.dtype)]

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        arrays = self.arrays(inputs)
        self.library.call(*(x.ctypes.data_as(ctypes.c_void_p) for x in arrays))
        memory = {f"next_{port.name}": x for port, x in zip(self.source.inputs, arrays, strict=False)}
        return {"action": arrays[-1]} | {port.name: memory[port.name] for port in self.source.outputs[1:]}

    def repeat(self, inputs: Arrays, count: int) -> Callable[[], None]:
        """Calls it so often with the same inputs, within C."""
        arrays = self.arrays(inputs)
        pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in arrays]
        return lambda: self.library.repeat(ctypes.c_int(count), *pointers)
