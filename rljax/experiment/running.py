"""A run as its settings say: its folder, its members, its devices and its results."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from rljax import paths, training
from rljax.algorithms.core.contract import Algorithm
from rljax.experiment.members import keys_of, members_of, population_of
from rljax.experiment.settings import Run
from rljax.experiment.summary import filmed, require_pictures, summarize
from rljax.training.devices import decided_by_first
from rljax.training.joining import join, processes
from rljax.training.lock import locked
from rljax.training.result import Result
from rljax.types import Refused

_SCHEDULES = ("anneal_steps", "exploration_steps", "policy_decay_steps")
"""Settings that are derived from total_steps where they are not given."""


def run(
    experiment: str,
    make_algorithm: Callable[[], Algorithm],
    total_steps: int,
    settings: Run,
    extra: dict[str, Any] | None = None,
    initialize: Callable[[Any], Any] | None = None,
    callbacks: Sequence[training.Callback] = (),
) -> Result:
    """Trains as `settings` say, into `runs/<experiment>/<name>`, draws the curve and prints where everything is.

    Args:
      experiment: first part of the folder, such as "ppo".
      make_algorithm: called once devices are set up; nothing of JAX may have run before.
      total_steps: steps of each member.
      extra: further entries of config.json.
      initialize: changes the first state of a run that starts anew (see `training.train`).
      callbacks: called between slices, besides the one of `stop_at_return`.
    """
    (seeds, hyper), population = members_of(settings), population_of(settings)
    set_up_devices(settings)
    algorithm = make_algorithm()
    if total_steps >= 2**31 * algorithm.per_iteration:
        raise Refused(f"total_steps = {total_steps} is not allowed; iterations must be fewer than 2^31")
    if settings.video:
        require_pictures(algorithm.env)
    name = settings.name or _default_name(algorithm, settings)
    folder = paths.local(settings.runs) / experiment / name

    def make_room() -> None:
        paths.require_writable(folder)
        if settings.resume:
            _check_schedules(folder, algorithm.config, total_steps)
        elif settings.overwrite:
            set_aside(folder)

    decided_by_first(make_room)
    start = None
    if settings.start_from is not None:
        start = training.StartFrom(paths.local(settings.start_from), settings.start_parts)
    keys = keys_of(seeds)
    of_settings = () if settings.stop_at_return is None else (training.StopAtReturn(settings.stop_at_return),)
    result = training.train(
        algorithm,
        keys if len(seeds) > 1 else keys[0],
        total_steps,
        settings.options(),
        hyper=hyper,
        folder=folder,
        resume=settings.resume,
        settings=extra,
        initialize=initialize,
        start_from=start,
        population=population,
        callbacks=[*callbacks, *of_settings],
    )
    if result.interrupted is None and jax.process_index() == 0:
        film = filmed(folder, algorithm.env, settings) if settings.video else None
        summarize(result, film, algorithm.unit)
    return result


def _check_schedules(folder: Path, config: Any, total_steps: int) -> None:
    """Tells whoever extends a run how to keep the schedules that follow `total_steps`."""
    try:
        before = json.loads((folder / "config.json").read_text())
        old, steps = before["config"], before["total_steps"]
    except (OSError, ValueError, KeyError):  # `training.train` says what is wrong with the folder
        return
    changed = [name for name in _SCHEDULES if old.get(name) and old[name] != getattr(config, name, None)]
    if changed and steps != total_steps:
        flags = " ".join(f"--{name.replace('_', '-')} {old[name]}" for name in changed)
        raise Refused(
            f"{folder} was begun with total_steps = {steps}, which its schedules follow; give --total-steps {steps} "
            f"to finish it, keep them with {flags} to go on for longer (a learning rate that has fallen to 0 stays "
            "there), or start anew under another --name"
        )


def set_up_devices(settings: Run) -> None:
    """Joins processes that were started together; several members are trained on all cores of a CPU.

    A second call changes nothing.
    """
    members = len(members_of(settings)[0])
    join(settings.distributed)
    if settings.devices is not None or members > 1:
        devices, count = settings.devices, processes()
        if devices is not None and devices % count:
            raise Refused(f"devices = {devices} is not allowed; it must divide by the {count} processes")
        # Of each process's own: members that do not divide over all are refused once the devices are there.
        training.use_cpu_cores(devices and devices // count, max(1, members // count))


def set_aside(folder: Path) -> None:
    """Renames a run folder, if it is there, to NAME.1 (or NAME.2, …); refuses one that is being written."""
    if folder.exists():
        with locked(folder):
            pass
        aside = next(p for n in itertools.count(1) if not (p := folder.with_name(f"{folder.name}.{n}")).exists())
        try:
            folder.rename(aside)
        except OSError as error:
            raise Refused(f"{folder} cannot be moved aside: {error.strerror or error}") from None


def _default_name(algorithm: Algorithm, settings: Run) -> str:
    what = algorithm.env.spec["name"] if algorithm.data is None else algorithm.data.metadata.name
    parts = [str(what).replace(":", "-").replace("/", "-"), f"seed{settings.seed}"]
    if settings.seeds > 1:
        parts.append(f"to{settings.seed + settings.seeds - 1}")
    parts += [settings.population] if settings.population else []
    parts += [f"sweep-{text.partition('=')[0].strip()}" for text in settings.sweep]
    return "-".join(parts)
