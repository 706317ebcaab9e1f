"""The run folder: what config.json and versions.json say, and whether a folder holds the run that is to be resumed."""

import contextlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax.algorithms.base import Algorithm, config_to_dict
from rljax.training.versions import hardware, versions
from rljax.types import Key, Refused


def describe(
    algorithm: Algorithm,
    keys: Key,
    swept: dict[str, np.ndarray],
    total_steps: int,
    settings: dict[str, Any] | None,
) -> dict[str, Any]:
    """config.json: all that is needed to do the run again."""
    return {
        "algorithm": algorithm.name,
        "env": algorithm.env.spec,
        "config": config_to_dict(algorithm.config),
        "data": None if algorithm.data is None else algorithm.data.spec,
        "keys": np.asarray(jax.random.key_data(keys)).tolist(),
        "key_impl": str(jax.random.key_impl(keys)),
        "hyper": {name: values.tolist() for name, values in swept.items()},
        "total_steps": total_steps,
        "settings": settings or {},
    }


def open_folder(folder: Path, description: dict[str, Any], resume: bool) -> None:
    """Makes the folder, or checks that it holds this very run."""
    if jax.process_index() != 0:  # the first process speaks for all
        return
    path, machine = folder / "config.json", {"versions": versions(), "hardware": hardware()}
    if path.exists():
        if not resume:
            raise Refused(f"{folder} holds a run already; resume it, or choose another name")
        try:
            before = json.loads(path.read_text())
        except ValueError:
            raise Refused(f"{path} cannot be read, so the run cannot be resumed") from None
        for part in ("algorithm", "env", "config", "data", "keys", "key_impl", "hyper"):
            if before.get(part) != description[part]:
                raise Refused(f"{folder} holds another run: {_difference(part, before.get(part), description[part])}")
        with contextlib.suppress(OSError, ValueError):
            first = json.loads((folder / "versions.json").read_text())
            machine = first | {"resumed": [*first.get("resumed", []), machine]}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "versions.json", machine)
    write_json(path, description)


def _difference(part: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                return f"{part}.{name} was {before.get(name)!r} and is now {now.get(name)!r}"
    return f"{part} was {before!r} and is now {now!r}"


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)
