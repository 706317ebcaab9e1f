"""The directive `settings`: the fields of an algorithm's `Config`, as they stand in the code.

    ```{settings} rljax.algorithms.ppo
    ```

Each field has its default and its comment, which names its source; a mark says that a run can sweep it (`Hyper`).
"""

import dataclasses
import importlib
import inspect
from typing import Any

from docutils import nodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective


class Settings(SphinxDirective):
    """Two tables, and the place to which the reference links where it names the config."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        self.env.note_dependency(str(module.__file__))
        config, hyper = module.Config, getattr(module, "Hyper", None)
        swept = {field.name for field in dataclasses.fields(hyper)} if hyper else set()
        fields, own = dataclasses.fields(config), set(inspect.get_annotations(config))
        name = f"{self.arguments[0]}.Config"
        self.env.domains.python_domain.note_object(name, "class", name)
        return [
            nodes.target("", "", ids=[name]),
            *self.table("Its own settings", config, [f for f in fields if f.name in own], swept),
            *self.table("Settings that it shares with others", config, [f for f in fields if f.name not in own], swept),
        ]

    def table(self, title: str, config: type, fields: list[Any], swept: set[str]) -> list[nodes.Node]:
        if not fields:
            return []
        head = ("Setting", "Default", "Sweeps", "What it is")
        table = nodes.table("", nodes.title("", title), classes=["settings"])
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in (24, 16, 8, 52)), cols=4)
        group += nodes.thead("", nodes.row("", *(cell(nodes.Text(text)) for text in head)))
        rows = [
            nodes.row(
                "",
                cell(nodes.literal("", field.name)),
                cell(nodes.literal("", default(field))),
                cell(nodes.Text("yes" if field.name in swept else "")),
                cell(nodes.Text(comment(config, field.name))),
            )
            for field in fields
        ]
        group += nodes.tbody("", *rows)
        table += group
        return [table]


def cell(content: nodes.Node) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", "", content))


def default(field: Any) -> str:
    """The default as it is written."""
    if field.default is dataclasses.MISSING:
        return f"{getattr(field.default_factory, '__qualname__', '')}()"
    value = field.default
    return f"{value:_}" if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 9999 else repr(value)


def comment(config: type, name: str) -> str:
    """The comment of a field, from the nearest class that has one."""
    for owner in config.__mro__:
        if owner.__module__ in ("builtins", "abc"):
            continue
        documented = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs()
        if lines := documented.get((owner.__qualname__, name)):
            return " ".join(" ".join(lines).split())
    return ""


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
