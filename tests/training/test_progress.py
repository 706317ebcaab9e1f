"""The progress bar: lines above it are text, and no markup."""

import io
import sys

from rljax.training.progress import ProgressBar


def test_lines_are_shown_as_they_are(monkeypatch):
    """Brackets are markup to rich, and colons emoji."""
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", "100")
    bar = ProgressBar(10, 0, True)
    bar.line("resumed lr[red]1 [/b] :fire:")
    bar.close()
    assert "resumed lr[red]1 [/b] :fire:" in stream.getvalue()
