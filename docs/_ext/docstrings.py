"""Docstrings as Sphinx reads them: outside of `code`, marks such as * and | mean themselves."""

import re
from typing import Any

CODE = re.compile(r"(`[^`]*`)")
MARK = re.compile(r"([*|])|(?<=\w)_(?=\W|$)")


def escaped(line: str) -> str:
    parts = CODE.split(line)
    return "".join(part if part.startswith("`") else MARK.sub(r"\\\g<0>", part) for part in parts)


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    literal = False  # what is indented after a line that ends with a double colon, or stands alone, is code
    for index, line in enumerate(lines):
        literal = line.startswith("    ") and (literal or not lines[index - 1].strip())
        lines[index] = line if literal else escaped(line)


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
