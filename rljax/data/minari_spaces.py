"""Spaces in Minari's metadata.json: shapes, text, images, the task; and observations as one vector."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rljax.envs.registry import canonical, registered
from rljax.types import PyTree, Refused


class Spaces(NamedTuple):
    """The spaces of a dataset.

    Fields:
      observation: the space as Minari writes it; None where it is missing.
      shape, action_shape: of each step, a tuple or a dict of shapes, without text.
      text: names of the parts of observations that are text.
      jpeg: whether images are encoded.
      task: as `rljax.make` takes it; None where the environment is not named, or has settings of its own.
    """

    observation: Any
    shape: Any
    action_shape: Any
    text: list[str]
    jpeg: bool
    task: str | None

    def flattened(self, where: str, obs: PyTree) -> np.ndarray:
        """Observations [N, …] as vectors [N, n]: Gymnasium's `flatten`, but for text, which is not there."""
        return np.concatenate(_vectors(where, self.observation, obs), axis=1)


def of(metadata: Path, said: dict[str, Any]) -> Spaces:
    """The spaces that metadata.json describes.

    Raises:
      ValueError: a space that cannot be read, or observations that are nothing but text.
    """
    observation, shape = _described(metadata, said, "observation_space")
    _, action_shape = _described(metadata, said, "action_space")
    if is_text(observation) or shape == {}:
        raise Refused(f"{metadata}: observations are nothing but text, which is not read")
    jpeg, text = bool(said.get("jpeg_encoding", True)), _text("observations", observation)
    return Spaces(observation, shape, action_shape, text, jpeg, _task(said.get("env_spec")))


def _described(metadata: Path, said: dict[str, Any], key: str) -> tuple[Any, Any]:
    """A space and the shape of each step; None and None where the space is missing."""
    try:
        space = json.loads(said[key]) if key in said else None
        return space, None if space is None else _shape(space)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Refused(f"{metadata}: {key} does not describe a space of Minari's") from None


def parts(space: Any) -> dict[str, Any]:
    """The spaces in a Dict or a Tuple, by the names that they have in a file; none of any other."""
    subspaces = space.get("subspaces", {}) if isinstance(space, dict) else {}
    return {f"_index_{i}": x for i, x in enumerate(subspaces)} if isinstance(subspaces, list) else subspaces


def is_text(space: Any) -> bool:
    """Whether it is a space of strings."""
    return isinstance(space, dict) and space.get("type") == "Text"


def is_image(space: Any) -> bool:
    """Whether Minari encodes values of this space: bytes of at least 32 x 32, from 0 to 255."""
    if not isinstance(space, dict) or space.get("type") != "Box" or space.get("dtype") != "uint8":
        return False
    shape = tuple(space["shape"])
    large = len(shape) in (2, 3) and min(shape[:2]) >= 32
    return large and bool((np.asarray(space["low"]) == 0).all() and (np.asarray(space["high"]) == 255).all())


def decoded(where: str, images: np.ndarray, space: Any) -> np.ndarray:
    """Images uint8 [N, height, width(, channels)] of JPEGs: [N] arrays of bytes, or bytes [N, n] where n is the same.

    Raises:
      ValueError: something that is no JPEG of this shape.
    """
    from PIL import Image

    shape = tuple(space["shape"])
    found = np.empty((len(images), *shape), np.uint8)
    for number, encoded in enumerate(images):
        with Image.open(io.BytesIO(np.asarray(encoded, np.uint8).tobytes()), formats=("JPEG",)) as image:
            height, width, *channels = shape
            if (image.height, image.width, len(image.getbands())) != (height, width, *(channels or [1])):
                raise Refused(f"{where}[{number}]: an image of {image.size} with {image.mode}; it must be {shape}")
            found[number] = np.asarray(image).reshape(shape)
    return found


def _shape(space: Any) -> Any:
    match space["type"]:
        case "Dict" | "Tuple":
            return {k: _shape(v) for k, v in parts(space).items() if not is_text(v)}
        case "Box":
            return tuple(space["shape"])
        case "MultiBinary":
            return tuple(np.atleast_1d(space["n"]).tolist())
        case "MultiDiscrete":
            return np.shape(space["nvec"])
        case _:
            return ()


def _text(name: str, space: Any) -> list[str]:
    if is_text(space):
        return [name]
    return [found for key, inner in parts(space).items() for found in _text(f"{name}/{key}", inner)]


def _task(env_spec: Any) -> str | None:
    """The name of the environment that a Gymnasium EnvSpec in JSON describes."""
    try:
        spec = json.loads(env_spec) if env_spec else {}
        name, settings = spec["id"], {k: v for k, v in (spec.get("kwargs") or {}).items() if k != "render_mode"}
    except (KeyError, TypeError, ValueError):
        return None
    if settings:
        return None
    own = canonical(name.rpartition("/")[2])
    return own if own in registered() else f"gymnasium:{name}"


def _vectors(where: str, space: Any, x: Any) -> list[np.ndarray]:
    """Parts f32 [N, …] in Gymnasium's order: a Dict's by name, a Tuple's by place."""
    if isinstance(x, dict):
        inner = parts(space)
        names = inner if space["type"] == "Tuple" else sorted(inner)
        return [part for name in names if name in x for part in _vectors(where, inner[name], x[name])]
    match space["type"]:
        case "Discrete":
            return [_chosen(where, x - space.get("start", 0), space["n"])]
        case "MultiDiscrete":
            counts, start = np.ravel(space["nvec"]), np.ravel(space.get("start", 0))
            choices = x.reshape(len(x), -1) - start
            return [_chosen(where, choices[:, i], count) for i, count in enumerate(counts)]
        case _:
            return [np.asarray(x, np.float32).reshape(len(x), -1)]


def _chosen(where: str, choice: np.ndarray, count: int) -> np.ndarray:
    """Ones among zeros, f32 [N, count]."""
    if ((choice < 0) | (choice >= count)).any():
        raise Refused(f"{where}: a choice of {count} is out of range")
    return np.eye(count, dtype=np.float32)[choice]
