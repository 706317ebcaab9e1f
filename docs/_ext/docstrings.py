"""Docstrings and types as Sphinx reads them.

Outside of `code`, marks such as * and | mean themselves. The type of a setting is shown without the constraint that it
is annotated with, which is a function. Fields of named tuples are left out, for their documentation is their number,
and so is what flax gives to every class.
"""

import re
import types
from typing import Annotated, Any, Union, get_args, get_origin

from rljax import algorithms, experiment  # noqa: F401, whose configs are changed
from rljax.algorithms import fqe  # noqa: F401
from rljax.config import Config

CODE = re.compile(r"(`[^`]*`)")
MARK = re.compile(r"([*|])|(?<=\w)_(?=\W|$)")


def escaped(line: str) -> str:
    parts = CODE.split(line)
    return "".join(part if part.startswith("`") else MARK.sub(r"\\\g<0>", part) for part in parts)


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    literal = False  # what is indented after an empty line is code, to its end
    for index, line in enumerate(lines):
        literal = line.startswith("    ") and (literal or not lines[index - 1].strip())
        lines[index] = line if literal else escaped(line)


def skip(app: Any, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    text = getattr(thing, "__doc__", None) or ""
    return True if text.startswith("Alias for field number") or name == "replace" else None


def bare(kind: Any) -> Any:
    """A type without what it is annotated with."""
    if get_origin(kind) is Annotated:
        return bare(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return Union[tuple(bare(part) for part in get_args(kind))]  # noqa: UP007
    return kind


def simplify(app: Any) -> None:
    for name in algorithms.NAMES:
        algorithms.get(name)
    configs = [Config]
    for config in configs:
        configs += config.__subclasses__()
        for annotations in (config.__annotations__, config.__init__.__annotations__):
            annotations.update({field: bare(kind) for field, kind in annotations.items()})


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", simplify)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
