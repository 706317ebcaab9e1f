"""Demonstrations of PushT by humans, downloaded when asked: `python -m rljax.data.download push_t_human_demos.npz`.

They are published as a zip of a Zarr store, of which the few arrays that matter are read here; their compression needs
numcodecs (`pip install "rljax[download]"`). Nothing is unpickled or evaluated.
"""

import argparse
import http.client
import itertools
import json
import shutil
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rljax.data import demonstrations, files
from rljax.paths import local
from rljax.types import Refused

PUSH_T = "https://diffusion-policy.cs.columbia.edu/data/training/pusht.zip"
"""By Chi et al. 2023 (arXiv 2303.04137), under the MIT licence; most of it is images, which are left out."""
_ARRAYS = {"state": "data/state", "action": "data/action", "episode_ends": "meta/episode_ends"}


def push_t(path: str | Path, url: str = PUSH_T, episodes: int = 206, steps: int = 25_650) -> None:
    """Writes the human demonstrations of PushT as an npz that `formats.load` reads: whole, or not at all.

    Args:
      url: address of the zip; a local copy is "file:///…/pusht.zip".
      episodes, steps: the numbers that are expected.

    Raises:
      ValueError: the file exists, there is no network, numcodecs is missing, or the download is not as expected; in one
        line.
    """
    path = local(path)
    if path.exists():
        raise Refused(f"{path}: exists already; remove it, or choose another name")
    with tempfile.TemporaryFile() as archive:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                shutil.copyfileobj(answer, archive)
        except (OSError, http.client.HTTPException) as error:
            said = getattr(error, "reason", error)
            raise Refused(
                f"{url}: not downloaded: {said}; fetch it where there is a network, then --url file:///…/pusht.zip"
            ) from None
        with files.reading(url), zipfile.ZipFile(archive) as store:
            arrays: dict[str, Any] = {name: _zarr(url, store, place) for name, place in _ARRAYS.items()}
    transitions, *_ = demonstrations.read_push_t(url, arrays)
    found = len(arrays["episode_ends"]), len(transitions.reward)
    if found != (episodes, steps):
        raise Refused(f"{url}: {found[0]} episodes of {found[1]} steps, and there must be {episodes} of {steps}")
    with files.whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _zarr(where: str, store: zipfile.ZipFile, place: str) -> np.ndarray:
    """An array of a Zarr store, version 2, whose chunks lie along its first axis."""
    about = f"{place}/.zarray"
    name = next((name for name in store.namelist() if f"/{name}".endswith(f"/{about}")), None)
    if name is None:
        raise Refused(f"{where}: no {about}; it must hold a Zarr store, version 2")
    try:
        said = json.loads(store.read(name))
        shape, chunk, dtype = tuple(said["shape"]), tuple(said["chunks"]), np.dtype(said["dtype"])
        compressor = said["compressor"] and said["compressor"]["id"]
        plain = said["zarr_format"] == 2 and said["order"] == "C" and not said["filters"]
        plain &= dtype.kind in "iuf" and compressor in (None, "blosc") and shape[1:] == chunk[1:] and chunk[0] > 0
    except (ValueError, KeyError, TypeError, IndexError):
        plain = False
    if not plain:
        raise Refused(f"{where}: {name} must be of numbers, in chunks of rows, compressed by Blosc or not at all")
    size, parts = dtype.itemsize * int(np.prod(chunk)), []
    for i in range(-(-shape[0] // chunk[0])):
        at = name.removesuffix(".zarray") + ".".join(map(str, (i, *itertools.repeat(0, len(shape) - 1))))
        data = store.read(at)
        data = _decompressed(where, data) if compressor else data
        if len(data) != size:  # the last one is as long as the others
            raise Refused(f"{where}: {at} has {len(data)} bytes, and must have {size}")
        parts.append(np.frombuffer(data, dtype).reshape(chunk))
    return np.concatenate(parts)[: shape[0]]


def _decompressed(where: str, data: bytes) -> Any:
    try:
        from numcodecs import blosc
    except ImportError:
        raise Refused(f'{where}: its arrays are compressed by Blosc: pip install "rljax[download]"') from None
    return blosc.decompress(data)


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m rljax.data.download", description=__doc__)
    parser.add_argument("path", type=Path, help="the npz to write")
    parser.add_argument("--url", default=PUSH_T, help="of the zip, or file:///…/pusht.zip (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        push_t(options.path, options.url)
    except (Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
