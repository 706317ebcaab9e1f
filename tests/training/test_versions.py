"""What a run ran on is told as far as this machine can tell it."""

import os
import shlex
import sys
import tomllib
from pathlib import Path

import rljax
from rljax.training.versions import command, hardware, versions


def test_a_machine_without_git_has_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert versions()["commit"] is None


def test_a_system_without_sysconf_has_no_memory_to_tell(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert hardware()["memory_gb"] == 0


def test_the_release_is_the_same_wherever_it_is_said():
    root = Path(__file__).parents[2]
    package = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert versions()["rljax"] == rljax.__version__ == package
    assert f"\nversion: {package}\n" in (root / "CITATION.cff").read_text()
    assert f"## {package}\n" in (root / "CHANGELOG.md").read_text()


def test_the_command_is_one_that_a_shell_takes(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # another test may have imported it
    arguments = ["--name", "it's a run", "--sweep", "learning_rate=1e-4,1e-3"]
    monkeypatch.setattr(sys, "argv", ["experiments/ppo.py", *arguments])
    assert shlex.split(command()) == ["python", "experiments/ppo.py", *arguments]
    monkeypatch.setattr(sys, "argv", ["rljax train ppo", *arguments])
    assert shlex.split(command()) == ["rljax", "train", "ppo", *arguments]
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert command() is None
