"""Paths where they enter: the home folder, addresses, folders that cannot be written to."""

import dataclasses
import sys
from pathlib import Path

import pytest

import rljax
from rljax import paths
from rljax.analysis.runs import read_run
from rljax.data import formats
from rljax.types import Refused


@pytest.mark.parametrize("text", ["gs://bucket/runs", "s3://bucket/x.hdf5", "hf://datasets/x", "file:///tmp/x"])
def test_an_address_is_refused_in_one_line_and_nothing_is_made(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for enter in (paths.local, lambda path: paths.local(Path(path)), rljax.load, formats.load, read_run):
        with pytest.raises(Refused, match="is an address; only folders and files of this machine") as error:
            enter(text)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["runs", "/tmp/gs:/x", "a:b", "C:/runs", "runs [old]", ""])
def test_any_other_path_stays_as_it_is(text):
    assert paths.local(text) == Path(text)


def test_the_home_folder_is_meant_wherever_a_path_enters(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert paths.local("~/runs") == tmp_path / "runs"
    for enter in (rljax.load, formats.load, read_run):
        with pytest.raises((Refused, FileNotFoundError), match=str(tmp_path / "nothing")):
            enter("~/nothing")
    with pytest.raises(Refused, match="home"):
        paths.local("~nobody-of-that-name/runs")


@dataclasses.dataclass(frozen=True)
class Inner:
    runs: Path = Path("~/runs")
    name: str = "~/name"


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    files: tuple[Path, ...] = (Path("~/a"), Path("b"))
    none: Path | None = None


def test_all_paths_of_nested_settings_are_localized_and_no_other_text(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = paths.localized(Outer())
    assert found == Outer(Inner(tmp_path / "runs"), (tmp_path / "a", Path("b")))
    assert found.inner.name == "~/name"
    with pytest.raises(Refused, match="gs:/bucket is an address"):
        paths.localized(Outer(Inner(Path("gs://bucket"))))


@pytest.mark.parametrize("folder", ["new/folder", "old", "old/new"])
def test_asking_whether_a_folder_can_be_written_to_leaves_nothing(folder, tmp_path):
    (tmp_path / "old").mkdir()
    paths.require_writable(tmp_path / folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("file/runs", "file is not a folder"),
        ("file", "file is not a folder"),
        ("x" * 300, "File name too long"),
        ("new/" + "x" * 300, "File name too long"),
        pytest.param(
            "/proc/nothing",
            "No such file or directory",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="where nothing can be made, even by root"),
        ),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_refused_in_one_line_that_names_it(folder, reason, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=reason) as error:
        paths.require_writable(tmp_path / folder)
    assert str(error.value).startswith(f"{tmp_path / folder} cannot be written to: ")
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]
