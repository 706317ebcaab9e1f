"""The experiments by their names, and the settings that they were tuned to.

They are single files that people copy: in a checkout those of the folder `experiments/`, in an installed wheel those
beside this file.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from rljax.errors import Refused

if TYPE_CHECKING:
    from rljax.experiment import Run


class Settings(Protocol):
    """What the settings of every experiment that acts in a task have."""

    env: str
    total_steps: int
    config: Any
    run: Run


def folder() -> Path:
    """The folder of the experiments."""
    here = Path(__file__).parent
    return here if (here / "ppo.py").is_file() else here.parents[1] / "experiments"


def names() -> list[str]:
    """The names of all experiments, sorted."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.stem.startswith("_"))


def path(name: str) -> Path:
    """The file of an experiment.

    Raises:
      Refused: there is no experiment of that name.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise Refused(f"there is no experiment {name!r}; {hint}known: {', '.join(known)}")
    return folder() / f"{name}.py"


def about(name: str) -> str:
    """What an experiment does: the first line of its file, which is not run."""
    return (ast.get_docstring(ast.parse(path(name).read_text(encoding="utf-8"))) or "").partition("\n")[0]


def load(name: str) -> ModuleType:
    """The module of an experiment, with its `Settings`, its `main`, and `TASKS`, the settings of each task."""
    file, module_name = path(name), f"{__name__}.{name}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # where dataclasses look for their types
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    return sys.modules[module_name]


def tuned(name: str, env: str, accelerated: bool = False) -> Settings:
    """The settings of an experiment that were tuned for a task: `tuned("sac", "hopper").config`.

    The schedule of the learning rate is in them: where the experiment anneals it, `anneal_steps` is `total_steps`.

    Args:
      name: the experiment.
      env: the task, by any of its names.
      accelerated: whether those for physics on an accelerator are wanted.

    Raises:
      Refused: there are none for this task.
    """
    from rljax.envs.registry import canonical

    tasks = {task: settings for task, settings in tasks_of(name, accelerated).items() if hasattr(settings, "config")}
    task = canonical(env)
    if task not in tasks:
        where = " on an accelerator" if accelerated else ""
        raise Refused(
            f"{name} has no settings tuned for {env!r}{where}; it has them for {', '.join(tasks) or 'no task'}"
        )
    settings = dataclasses.replace(tasks[task], env=task)
    if getattr(settings, "anneal", False) and not settings.config.anneal_steps:
        annealed = dataclasses.replace(settings.config, anneal_steps=settings.total_steps)
        settings = dataclasses.replace(settings, config=annealed)
    return settings


def tasks_of(name: str, accelerated: bool = False) -> dict[str, Any]:
    """The tuned settings of an experiment by task; empty for one that has none of its own, whose file is not run."""
    table = "ACCELERATED" if accelerated else "TASKS"
    nodes = [node for node in ast.parse(path(name).read_text(encoding="utf-8")).body if isinstance(node, ast.Assign)]
    has = any(isinstance(target, ast.Name) and target.id == table for node in nodes for target in node.targets)
    return dict(getattr(load(name), table)) if has else {}
