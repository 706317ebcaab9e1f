"""One process at a time writes a run folder: a lock of the operating system's, which ends when its process does."""

import contextlib
import datetime
import json
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rljax.training.joining import hint
from rljax.types import Refused

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder, made where there is none, against everyone else who asks for it by this function.

    However the holder ends, killed or with its machine, its lock ends with it; the file that it leaves locks nothing.
    Other hosts are kept out where the file system passes locks on, as NFS does unless it is mounted without.

    Raises:
      Refused: another process, or another call in this one, holds the folder; or the folder cannot be written.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _hold(folder / LOCK)
    except OSError as error:
        raise Refused(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _is_at(file, folder / LOCK):  # the folder may have been renamed meanwhile
                (folder / LOCK).unlink()
            if made:
                folder.rmdir()  # where nothing was written there
        file.close()


def _hold(path: Path) -> TextIO:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            file.close()
            raise Refused(
                f"{path.parent} is being written by {holder}; wait for its end, or choose another name{hint()}"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{path.parent}: no locks on this file system ({error.strerror}); let one process alone write there",
                stacklevel=4,
            )
        # Whoever held it removed its file at the end; between our opening and our locking, the name became free.
        if _is_at(file, path):
            break
        file.close()
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    file.truncate(0)
    file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}) + "\n")
    file.flush()
    return file


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(file: TextIO) -> str:
    """Who holds a lock, in words; it says so just after it has it."""
    file.seek(0)
    try:
        held = json.loads(file.read())
        return f"process {held['process']} on {held['host']} since {held['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
