"""The commands that docstrings and pages show: each is parsed, and nothing runs. And the texts of the flags."""

import ast
import dataclasses
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from rljax import experiment
from tests.datasets import drift_data
from tests.pages import PAGES

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "experiments").glob("*.py"))
SHARED = [ROOT / "rljax" / "experiment" / "settings.py", ROOT / "rljax" / "training" / "options.py"]
DOCUMENTED = [*SHARED, *SCRIPTS, *sorted((ROOT / "rljax" / "algorithms").glob("*.py"))]


def commands(script):
    """The arguments of every command that calls a script; of a fragment in backticks, too."""
    documents = [ast.get_docstring(ast.parse(path.read_text())) or "" for path in (script, *SCRIPTS)]
    documents += [page.read_text() for page in PAGES]
    documents = [text.replace("\\\n", " ") for text in documents]  # a command over several lines
    pattern = rf'(?<!")python experiments/{script.name}\b([^\n`&]*)'  # and not one that is another's argument
    found = [shlex.split(text, comments=True) for document in documents for text in re.findall(pattern, document)]
    found += [shlex.split(" ".join(text.split())) for text in re.findall(r"`(--[^`…]+)`", documents[0])]
    return list(dict.fromkeys(map(tuple, found)))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_command_that_is_shown_is_parsed(script, monkeypatch):
    parsed: list[Any] = []
    real = experiment.main, experiment.main_offline
    monkeypatch.setattr(experiment, "main", lambda _, *args, **options: real[0](parsed.append, *args, **options))
    monkeypatch.setattr(experiment, "main_offline", lambda _, *args: real[1](parsed.append, *args))
    monkeypatch.setattr("rljax.experiment.command_line.load_dataset", lambda *_: drift_data(name="toy", task="hopper"))
    shown = commands(script)
    assert shown
    for arguments in shown:
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            if stop.code or "--help" not in arguments:
                pytest.fail(f"{script.name} {' '.join(arguments)}: exit code {stop.code}")
            continue
        settings = parsed.pop()
        for text in getattr(getattr(settings, "run", None), "sweep", ()):  # what the program would sweep
            name, _, values = text.partition("=")
            assert name in sys.modules[type(settings.config).__module__].Hyper.__dataclass_fields__, arguments
            for value in re.split(r",|\.\.", values):
                dataclasses.replace(settings.config, **{name: float(value)})


NAMES = ("Config", "Settings", "Run", "Which", "Options", "Dataset", "Mismatch")
"""Ends of the names of classes whose fields are flags."""


def texts(path):
    """The text of every flag: (class, field, text)."""
    for cls in ast.walk(ast.parse(path.read_text())):
        if isinstance(cls, ast.ClassDef) and cls.name.endswith(NAMES):
            for field, text in zip(cls.body, cls.body[1:]):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    yield cls.name, ast.unparse(field.target), ast.literal_eval(text.value)


@pytest.mark.parametrize("path", DOCUMENTED, ids=lambda path: path.stem)
def test_the_text_of_a_flag_makes_sense_alone_as_help_shows_it(path):
    for cls, field, text in texts(path):
        where = f"{path.name}: {cls}.{field}: {text}"
        assert text.endswith("."), where
        assert not re.match(r"(Of|In|On|So|Nor|And|Or|To|For|From|By|With|That|Those|These|Added|Then)\b", text), where
