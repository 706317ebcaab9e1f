"""The command line: flags, defaults that depend on the task, and errors in one line."""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tyro

from rljax import paths, training
from rljax.algorithms import offline_settings
from rljax.envs.registry import canonical, time_limit
from rljax.experiment.data import load_dataset
from rljax.training.joining import end_soon, processes
from rljax.training.progress import shielded_output
from rljax.training.result import Result
from rljax.types import Refused

_COUNTED_IN_PYTHON = (
    "seed",
    "total_steps",
    "online_steps",
    "log_every",
    "evaluate_every",
    "checkpoint_every",
    "anneal_steps",
    "exploration_steps",
)


def main(
    experiment: Callable[[Any], Any],
    settings: Any,
    tasks: Mapping[str, Any],
    accelerated: Mapping[str, Any] | None = None,
    prefixes: bool = False,
    by: str | None = None,
) -> None:
    """Parses flags into `settings`, whose defaults depend on `--env` or `--task`, and calls `experiment` with them.

    Where JAX will run on an accelerator, and the physics with it (`--engine` is not native), the defaults are those of
    `accelerated`, as far as it has the task: there thousands of environments cost little more than one.

    `by` is another flag on which the defaults depend, in place of those two.

    With `prefixes` a flag of a nested config begins with its name (--policy.width), since several configs share names.

    Bad input ends with one line and exit code 2, training that diverged with 1, and a run stopped by a signal with 128
    plus its number, as shells do. Any other error is a defect, of rljax or of the user's code, and keeps its traceback.
    """

    def default(arguments: list[str]) -> Any:
        if by is not None:
            return tasks.get(_argument(arguments, by) or "", settings())
        name = next((name for name in ("env", "task") if hasattr(settings, name)), None)
        if name is None:  # what acts in the task of another run
            return settings()
        task = canonical(_argument(arguments, name) or getattr(settings, name))
        fast = accelerated and _argument(arguments, "engine") != "native" and training.expect_accelerator()
        known = {**tasks, **(accelerated or {})} if fast else tasks
        return dataclasses.replace(known.get(task, settings()), **{name: task})

    _main(experiment, settings, default, prefixes)


def main_offline(experiment: Callable[[Any], Any], settings: Any, algorithm: str) -> None:
    """The same for an algorithm that learns from a dataset: the defaults depend on its task (offline_settings.py)."""

    def default(arguments: list[str]) -> Any:
        names = ("dataset", "env", "family", "max-episode-steps")
        path, task, family, limit = (_argument(arguments, name) for name in names)
        if family not in (None, "none", *offline_settings.FAMILIES):
            known = ", ".join(offline_settings.FAMILIES)
            raise Refused(f"family = {family!r} is not allowed; it must be one of {known}, or none")
        if limit is not None and not (limit.isdecimal() and int(limit)):
            raise Refused(f"max_episode_steps = {limit} is not allowed; it must be an integer of at least 1")
        steps = int(limit) if limit else time_limit(task or "")
        if path is not None:
            about = load_dataset(paths.local(path), settings.rewards, steps).metadata
            task = task or about.task
            if family is None and task in (None, "none") and (family := offline_settings.family(about.name)):
                print(f"settings of {family}, by the name of the dataset; --family none for others", file=sys.stderr)
        elif not {"-h", "--help"} & set(arguments):
            raise Refused("--dataset is missing: a file or folder of data; experiments/collect.py makes some")
        task = canonical(task) if task else None
        config = offline_settings.config(algorithm, family or task, training.expect_accelerator())
        return settings(env=task, family=family, max_episode_steps=steps, config=config)

    _main(experiment, settings, default)


def _main(
    experiment: Callable[[Any], Any], settings: Any, default: Callable[[list[str]], Any], prefixes: bool = False
) -> None:
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    arguments = sys.argv[1:]
    try:
        parsed = tyro.cli(
            settings,
            prog=Path(sys.argv[0]).name,
            args=arguments,
            default=default(arguments),
            config=() if prefixes else (tyro.conf.OmitArgPrefixes,),
        )
        _check_integers(parsed)
        with shielded_output():
            result = experiment(paths.localized(parsed))
    except (Refused, training.Diverged) as error:
        code = _failure(error)
        end_soon(code)
        sys.exit(code)
    except BaseException:
        if (count := processes()) > 1:
            print(f"one of {count} processes has failed, and all end; --resume continues the run", file=sys.stderr)
        end_soon(1)
        raise
    if isinstance(result, Result) and result.interrupted is not None:
        sys.exit(128 + result.interrupted)


def _argument(arguments: list[str], name: str) -> str | None:
    """The value of a flag that decides the defaults of others."""
    found = None
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.replace("_", "-") == f"--{name}":
            found = value if equals else next(iter(arguments[index + 1 : index + 2]), None)
    return found


def _failure(error: Exception) -> int:
    """Prints the error as one line; 1 where training diverged, 2 for bad input."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1 if isinstance(error, training.Diverged) else 2


def _check_integers(settings: Any, name: str = "") -> None:
    """Refuses integers that a compiled program cannot hold, in nested settings too."""
    if dataclasses.is_dataclass(settings):
        for field in dataclasses.fields(settings):
            _check_integers(getattr(settings, field.name), field.name)
    elif isinstance(settings, tuple):
        for value in settings:
            _check_integers(value, name)
    elif isinstance(settings, int) and name not in _COUNTED_IN_PYTHON and not -(2**31) <= settings < 2**31:
        raise Refused(f"{name} = {settings} is not allowed; it must be below 2^31")
