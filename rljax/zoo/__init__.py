"""Trained policies that come with rljax: `rljax.load("zoo:half_cheetah-sac")`.

Each is two files of this folder: `<name>.npz`, the arrays of the policy by their places in it, and the card
`<name>.json`, which describes the run as its config.json did, and says how the policy was trained and what it scores.
"""

import difflib
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rljax.types import Refused

FOLDER = Path(__file__).parent
"""Folder of the files."""
PREFIX = "zoo:"
"""Beginning of a policy's name where a run folder may be meant as well."""
LARGEST = 10_000_000
"""Bytes of all files together."""


def names() -> list[str]:
    """The names of all policies, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def name_in(run: str | Path) -> str | None:
    """The name in "zoo:NAME"; None for what is the path of a run folder."""
    run = str(run)
    return run.removeprefix(PREFIX) if run.startswith(PREFIX) else None


def card(name: str) -> dict[str, Any]:
    """The card of a policy.

    Besides the entries of a run's config.json it has `command`, `seed`, `choice` (of the seed and the checkpoint),
    `steps` (of the environment; updates, where it learned from data alone), `seconds`, `commits`, `versions` and
    `hardware` of the training; `evaluation`, with the mean return of deterministic and of stochastic actions, and its
    95 % bootstrap interval over episodes; `sha256`, `bytes` and `parameters` of the npz; `licence`; and a `note`, which
    may be empty.

    Raises:
      Refused: there is no such policy, or its card is damaged.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise Refused(f"the zoo has no policy {name!r}; {hint}it has: {', '.join(names()) or 'none'}")
    path = FOLDER / f"{name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise Refused(f"{path} cannot be read: it is not JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("sha256"), str):
        raise Refused(f"{path} is not a card of a policy: it has no sha256")
    return found


def arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays of a policy by their places in it, such as "variables/params/params/value/bias".

    Raises:
      Refused: there is no such policy, or its file is missing or is not the one that its card describes.
    """
    path, described = FOLDER / f"{name}.npz", card(name)
    try:
        content = path.read_bytes()
    except OSError:
        raise Refused(f"{path} is missing, or cannot be read") from None
    if hashlib.sha256(content).hexdigest() != described["sha256"]:
        raise Refused(f"{path} is damaged: its SHA-256 sum is not that of its card")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {place: stored[place] for place in stored.files}
    except (ValueError, zipfile.BadZipFile):  # no archive, or with objects
        raise Refused(f"{path} is not an archive of arrays") from None
