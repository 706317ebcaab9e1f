"""Files at the door: arrays checked as they are read, errors that name their file, writing whole or not at all.

`where` is what an error begins with: the file, and the place in it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax.spaces import ArraySpace, Box
from rljax.types import PyTree, Refused, Transition

TOLERANCE = 1e-4
"""Distance by which rounding may take an action out of its bounds; it is clipped."""


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Names the file in the error if it cannot be read."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Refused(f"{where}: damaged, or not readable: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write under, which becomes `path` if all goes well, and is removed otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield part
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{path}: no such file") from None
    except ValueError as error:
        raise Refused(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused(f"{path}: must hold a JSON object, and holds a {type(found).__name__}")
    return found


def text(value: Any) -> str:
    """HDF5's text, which may be bytes, as a string."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def array(where: str, holder: Any, name: str) -> np.ndarray:
    """The finite numbers under a key of an HDF5 group or npz: [N, …], floating point as float32."""
    if name not in holder:
        raise Refused(f"{where}: no {name}; there is {', '.join(sorted(holder)) or 'nothing'}")
    try:
        x = np.asarray(holder[name][()])
    except (TypeError, ValueError):  # a group; pickled objects
        x = np.asarray(None)
    if x.dtype.kind not in "biuf" or x.ndim == 0:
        raise Refused(
            f"{where}: {name} must be an array of numbers, and has the type {x.dtype} and the shape {x.shape} "
            "(groups, text, encoded images and pickled objects are of type object)"
        )
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
            x = x.astype(np.float32, copy=False)
        if not (finite := np.isfinite(x)).all():
            place = _first(~finite)
            raise Refused(f"{where}: {name}{list(place)} is {x[place]}; only finite float32 are allowed")
    return x


def rows(where: str, holder: Any, required: Sequence[str], optional: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of one length, [N, …] for observations and actions, [N] for all others."""
    found = {name: array(where, holder, name) for name in [*required, *(k for k in optional if k in holder)]}
    for name, x in found.items():
        if name not in ("observations", "next_observations", "actions", "next_actions") and x.ndim != 1:
            if x.shape[1:] != (1,):  # which some of D4RL's files have
                raise Refused(f"{where}: {name} has the shape {x.shape}, and must have one axis")
            found[name] = x[:, 0]
    if len(sizes := {len(x) for x in found.values()}) > 1 or 0 in sizes:
        lengths = ", ".join(f"{name} {len(x)}" for name, x in found.items())
        raise Refused(f"{where}: arrays must have one length, of at least 1, and have {lengths}")
    if found.get("next_observations", found["observations"]).shape != found["observations"].shape:
        shapes = [found[name].shape for name in ("observations", "next_observations")]
        raise Refused(f"{where}: observations and next_observations must be shaped alike, and are {shapes}")
    return found


def flags(where: str, found: dict[str, Any], name: str) -> np.ndarray:
    """Zeros and ones, in any type of number, as booleans."""
    x = found[name]
    if (bad := (x != 0) & (x != 1)).any():
        place = _first(bad)
        raise Refused(f"{where}: {name}{list(place)} is {x[place]}; only 0 and 1 are allowed")
    return x.astype(bool)


def fit(
    where: str, transitions: Transition, action_space: ArraySpace | None, observation_space: PyTree | None
) -> Transition:
    """Refuses transitions that do not fit the spaces, where given; clips actions to theirs."""
    if observation_space is not None:
        shape, wanted = _shapes(transitions.obs, 1), _shapes(observation_space, 0)
        if shape != wanted:
            raise Refused(f"{where}: observations have the shape {shape}, and the space {wanted}")
    if action_space is None:
        return transitions
    action = np.asarray(transitions.action)
    if action.shape[1:] != action_space.shape:
        raise Refused(f"{where}: actions have the shape {action.shape[1:]}, and the space {action_space.shape}")
    discrete = not isinstance(action_space, Box)
    if discrete and action.dtype.kind not in "iu":
        raise Refused(f"{where}: actions are of type {action.dtype}, and must be integers in {action_space}")
    space = action_space
    low, high = (space.low, space.high) if isinstance(space, Box) else (0, np.asarray(space.n) - 1)
    # Two comparisons, for a difference of unsigned integers wraps.
    outside = (action < low - TOLERANCE) | (action > high + TOLERANCE)
    if outside.any():
        place = _first(outside)
        least, most = (np.broadcast_to(bound, action.shape[1:])[place[1:]] for bound in (low, high))
        raise Refused(
            f"{where}: actions{list(place)} is {action[place]:.7g}, and must lie in [{least:.7g}, {most:.7g}]"
        )
    return transitions if discrete else transitions.replace(action=np.clip(action, low, high))


def _first(bad: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))


def _shapes(tree: PyTree, leading: int) -> PyTree:
    return jax.tree.map(lambda x: tuple(x.shape[leading:]), tree)
