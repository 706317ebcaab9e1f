"""Two processes never write one run folder, and who is dead holds none."""

import errno
import os
import subprocess
import sys

import pytest

from rljax.training import lock
from rljax.training.lock import LOCK, locked
from rljax.types import Refused

OTHER = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def test_the_second_is_refused_and_told_who_holds_it(tmp_path):
    with locked(tmp_path / "run"):
        with (
            pytest.raises(Refused, match=rf"run is being written by process {os.getpid()} on \S+ since 20") as error,
            locked(tmp_path / "run"),
        ):
            pass
        assert "\n" not in str(error.value)
        (tmp_path / "run" / "metrics.csv").write_text("step\n")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.csv"]
    with locked(tmp_path / "run"):
        pass


def test_a_process_that_was_killed_holds_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path / LOCK)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Refused, match="is being written by another process"), locked(tmp_path):
            pass
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()


def test_a_folder_that_was_made_and_not_written_is_removed(tmp_path):
    with pytest.raises(Refused), locked(tmp_path / "new"):
        raise Refused("something else")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_was_renamed_takes_the_lock_of_nobody_else(tmp_path):
    with locked(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "run.1")
        with locked(tmp_path / "run"):
            pass
        with pytest.raises(Refused, match="is being written"), locked(tmp_path / "run.1"):
            pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="no locks on this file system"), locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="file/run cannot be written"), locked(tmp_path / "file" / "run"):
        pass
