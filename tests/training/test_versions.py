"""What a run ran on is told as far as this machine can tell it."""

import os

from rljax.training.versions import hardware, versions


def test_a_machine_without_git_has_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert versions()["commit"] is None


def test_a_system_without_sysconf_has_no_memory_to_tell(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert hardware()["memory_gb"] == 0
