"""`rljax list`: environments, algorithms and tuned settings."""

import ast
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rljax import experiments
from rljax.command.parser import Parser

if TYPE_CHECKING:
    from rljax.spaces import Space

ADAPTERS = {
    "brax:": ("brax:ant", "nothing more"),
    "playground:": ("playground:CartpoleBalance", "pip install 'rljax[playground]'"),
    "gymnax:": ("gymnax:Breakout-MinAtar", "pip install 'rljax[gymnax]'"),
    "finite:": ("finite:taxi", "nothing more; its transitions are known"),
    "gymnasium:": ("gymnasium:LunarLander-v3", "what the environment needs"),
    "my_module:": ("my_module:MyTask", "a class of your own, in a module that Python finds"),
}


def main(arguments: list[str], prog: str) -> None:
    """Prints the lists that are asked for."""
    parser = Parser(prog, "List environments, algorithms and tuned settings.")
    parser.add_argument("what", nargs="?", choices=list(_LISTS), help="one of the lists; all of them where not given")
    what = parser.parse_args(arguments).what
    for name, show in _LISTS.items():
        if what in (None, name):
            show()


def _environments() -> None:
    from rljax.envs import make, registered
    from rljax.envs.mujoco.task import MujocoTask
    from rljax.envs.registry import time_limit
    from rljax.types import Refused

    rows = []
    for name in registered():
        try:
            env = make(name)
        except Refused:  # a stand-in that needs arguments, or a task whose package is not installed
            continue
        task = env.unwrapped
        doc = (sys.modules[type(task).__module__].__doc__ or "").partition("\n")[0]
        engines = "native, mjx, warp" if isinstance(task, MujocoTask) else "JAX"
        spaces = (_in_words(env.observation_space), _in_words(env.action_space))
        rows.append((name, *spaces, str(time_limit(name) or "none"), engines, doc))
    _print_table("Environments", ("name", "observation", "action", "steps", "physics", "about"), rows)
    adapters = [(prefix, example, needs) for prefix, (example, needs) in ADAPTERS.items()]
    _print_table("Environments of others", ("prefix", "for example", "needs"), adapters)


def _algorithms() -> None:
    known = {name: experiments.about(name) for name in experiments.names()}
    rows = []
    for name, path in _algorithm_files().items():
        about = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        experiment = next((e for e in (name, *_EXPERIMENTS.get(name, ())) if e in known), None)
        rows.append((name, f"rljax train {experiment}" if experiment else "–", about))
    _print_table("Algorithms", ("name", "experiment", "about"), rows)


_EXPERIMENTS = {"diffusion": ("diffusion_policy",), "steering": ("steer",), "progress": ("gr_rl",)}
"""The experiments of algorithms that have another name than theirs."""


def _algorithm_files() -> dict[str, Path]:
    """The files of all algorithms by name; the names are read from the package's file, for that runs without JAX."""
    spec = importlib.util.find_spec("rljax.algorithms")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin)
    for node in ast.parse(package.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "NAMES":
            return {name: package.with_name(f"{name}.py") for name in ast.literal_eval(node.value)}
    raise RuntimeError(f"{package} has no NAMES")


def _settings() -> None:
    rows = []
    for name in experiments.names():
        if tasks := experiments.tasks_of(name):
            fast = experiments.tasks_of(name, accelerated=True)
            rows.append((name, ", ".join(tasks), ", ".join(fast) or "–"))
    from rljax.algorithms.offline_settings import FAMILIES

    offline: dict[str, list[str]] = {}
    for family, algorithms in FAMILIES.items():
        for name in algorithms:
            offline.setdefault(name, []).append(family)
    rows += [(name, f"datasets: {', '.join(families)}", "–") for name, families in offline.items()]
    _print_table("Tuned settings", ("experiment", "tasks", "tasks, on an accelerator"), rows)


_LISTS = {"envs": _environments, "algorithms": _algorithms, "settings": _settings}


def _in_words(space: "Space") -> str:
    """A space, short: "17 numbers", "3 choices", "32 × 32 × 1 bytes"."""
    import numpy as np

    from rljax.spaces import Box, Dict, Discrete, MultiDiscrete

    if isinstance(space, Dict):
        return "; ".join(f"{name}: {_in_words(part)}" for name, part in space.spaces.items())
    if isinstance(space, Discrete):
        return f"{space.n} choices"
    if isinstance(space, MultiDiscrete):
        return f"{' × '.join(map(str, space.n))} choices"
    assert isinstance(space, Box)
    what = "bytes" if np.dtype(space.dtype) == np.uint8 else "number" if space.shape == (1,) else "numbers"
    return f"{' × '.join(map(str, space.shape)) or '1'} {what}"


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table of texts on a terminal; in a pipe the same as plain columns, two spaces apart."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title, style="bold"), title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))  # a plain string would be read as markup
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
