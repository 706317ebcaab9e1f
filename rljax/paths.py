"""Paths at the door: `~` is the home folder, an address is no path, and a folder can be written to or is refused."""

import dataclasses
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from rljax.errors import Refused

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two letters at least, for C:/ is a drive; Path makes // one /


def local(path: str | os.PathLike[str]) -> Path:
    """A path of this machine, with `~` expanded.

    Raises:
      ValueError: an address such as gs://bucket/runs, or the home folder of nobody.
    """
    found = Path(path)
    if _ADDRESS.match(os.fspath(path)):
        raise Refused(f"{os.fspath(path)} is an address; only folders and files of this machine are allowed")
    try:
        return found.expanduser()
    except RuntimeError as error:
        raise Refused(f"{found}: {error}") from None


def localized(settings: Any) -> Any:
    """The same settings, a dataclass or a tuple, in which every `Path` is `local`, in nested ones too."""
    if isinstance(settings, Path):
        return local(settings)
    if isinstance(settings, tuple) and not hasattr(settings, "_fields"):
        return tuple(map(localized, settings))
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return settings
    before = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings) if field.init}
    after = {name: localized(value) for name, value in before.items()}
    changed = {name: value for name, value in after.items() if value != before[name]}
    return dataclasses.replace(settings, **changed) if changed else settings


def require_writable(folder: Path) -> None:
    """Refuses a folder that cannot be made, or written in; leaves nothing behind."""
    try:
        existing = folder
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            raise NotADirectoryError(None, f"{existing} is not a folder")
        with tempfile.TemporaryDirectory(prefix=".rljax-", dir=existing) as temporary:
            (Path(temporary) / folder.relative_to(existing)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{folder} cannot be written to: {error.strerror or error}") from None
