"""The run folder: contents of config.json and versions.json, and whether a folder holds the run to be resumed."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax.algorithms.core.contract import Algorithm
from rljax.config import config_to_dict, plain
from rljax.paths import local
from rljax.training.versions import command, hardware, versions
from rljax.types import Key, Refused

COMPARED = ("algorithm", "env", "config", "data", "keys", "key_impl", "hyper", "settings")
"""Parts of config.json that a resumed run must match: all but `total_steps`."""

FREE_SETTINGS = frozenset(
    {
        "checkpoint_every",
        "devices",
        "evaluate_every",
        "evaluation_episodes",
        "final_episodes",
        "log_every",
        "progress",
        "tensorboard",
        "video",
        "wandb",
    }
)
"""Names in `settings` that may differ when a run is resumed: they say how it is watched and where it runs."""

RESULTS = ("evaluation.json", "learning_curve.png", "population.png", "report.html", "video.mp4")
"""Files that describe the end of a run, and are no longer true when it goes on."""


def run_folder(folder: str | Path) -> Path:
    """The path of a run folder, with a leading `~` expanded.

    Raises:
      Refused: an address, such as that of a bucket; or a file.
    """
    path = local(folder)
    try:
        if path.exists() and not path.is_dir():
            raise Refused(f"{path} is a file; a run folder must be a folder, or a name that is free")
    except OSError as error:  # a name that is too long
        raise Refused(f"{folder} cannot be a run folder: {error}") from error
    return path


def describe(
    algorithm: Algorithm,
    keys: Key,
    swept: dict[str, np.ndarray],
    total_steps: int,
    settings: dict[str, Any] | None,
) -> dict[str, Any]:
    """config.json: all that is needed to do the run again, as plain JSON types.

    Inputs that the algorithm does not learn are told by its identity, among the settings.
    """
    given = algorithm.identity() if algorithm.identity else {}
    return {
        "algorithm": algorithm.name,
        "env": plain(algorithm.env.spec, "env"),
        "config": config_to_dict(algorithm.config),
        "data": None if algorithm.data is None else plain(algorithm.data.spec, "data"),
        "keys": np.asarray(jax.random.key_data(keys)).tolist(),
        "key_impl": str(jax.random.key_impl(keys)),
        "hyper": plain({name: values.tolist() for name, values in swept.items()}, "hyper"),
        "total_steps": plain(total_steps, "total_steps"),
        "settings": plain({**(settings or {}), **given}, "settings"),
    }


def check_folder(folder: Path, description: dict[str, Any], resume: bool) -> None:
    """Refuses a folder that holds another run than this, or any run where none is to be resumed; writes nothing."""
    path = folder / "config.json"
    if not path.exists():
        if any(folder.glob("checkpoints/*/MANIFEST.json")):
            raise Refused(f"{folder} has checkpoints but no config.json, so nobody knows of which run")
        return
    if not resume:
        raise Refused(
            f"{folder} holds a run already: --resume (resume=True) continues it, --overwrite moves it aside, another "
            "--name starts beside it"
        )
    try:
        before = plain(json.loads(path.read_text()))
        compared = {part: before.get(part) for part in COMPARED}
    except (ValueError, AttributeError):
        raise Refused(f"{path} cannot be read, so the run cannot be resumed") from None
    compared["settings"], now = _fixed(compared["settings"]), _fixed(description["settings"])
    found = [
        text
        for part in COMPARED
        for text in _differences(part, compared[part], now if part == "settings" else description[part])
    ]
    if found:
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        hint = _hint(before, description)
        raise Refused(f"{folder} holds another run: {'; '.join(found[:3])}{more}{hint}")


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Writes config.json and versions.json; to this, each resumption adds its command, versions and hardware."""
    machine: dict[str, Any] = {"command": command(), "versions": versions(), "hardware": hardware()}
    if (folder / "config.json").exists():
        with contextlib.suppress(OSError, ValueError):
            first = json.loads((folder / "versions.json").read_text())
            machine = first | {"resumed": [*first.get("resumed", []), machine]}
    write_json(folder / "versions.json", machine)
    write_json(folder / "config.json", description)


def remove_results(folder: Path) -> None:
    """Removes the results of a run that goes on."""
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)


def _fixed(settings: Any) -> dict[str, Any]:
    return {name: value for name, value in (settings or {}).items() if name not in FREE_SETTINGS}


def _differences(name: str, before: Any, now: Any) -> Iterator[str]:
    """The differences, in words, place by place."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(f"{name}.{key}", before.get(key), now.get(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from _differences(f"{name}[{index}]", *pair)
    elif before != now:
        yield f"{name} was {before!r} and is now {now!r}"


def _hint(before: dict[str, Any], now: dict[str, Any]) -> str:
    """How to keep a setting that was derived from total_steps, as experiments derive `anneal_steps`."""
    if before.get("total_steps") == now["total_steps"] or not isinstance(before.get("config"), dict):
        return ""
    held = before["config"]
    names = [n for n, value in now["config"].items() if isinstance(held.get(n), int | float) and held[n] != value]
    if not names:
        return ""
    kept = " ".join(f"--{n.replace('_', '-')} {held[n]}" for n in names)
    return f"; where that follows total_steps ({before.get('total_steps')}, now {now['total_steps']}), keep it: {kept}"


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all; numbers that are not finite, which JSON does not have, become null."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
