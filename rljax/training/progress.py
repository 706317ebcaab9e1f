"""The progress bar: how far, how fast, how good, how long still."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, Literal, TextIO

Progress = bool | Literal["lines"]
"""Display of progress: True for a bar and lines, "lines" for lines alone, False for nothing."""


class ProgressBar:
    """A rich bar on a terminal; elsewhere (a log file, CI), or if asked for, one line per `line` call, on stderr."""

    def __init__(self, total: int, done: int, shown: Progress):
        self._bar: Any = None
        self._lines = bool(shown)
        if shown is not True:
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=sys.stderr)
        if not console.is_terminal:
            return
        self._bar = Progress(
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
            TextColumn("[cyan]{task.fields[rate]}"),
            TextColumn("[green]{task.fields[score]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("", total=total, completed=done, rate="compiling", score="")
        self._bar.start()

    def update(self, done: int, rate: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:,.0f} steps/s" if rate else "compiling")

    def score(self, text: str) -> None:
        """Shows a text beside the bar, such as the latest return."""
        if self._bar is not None:
            self._bar.update(self._task, score=text)

    def line(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, emoji=False)
        elif self._lines:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class _Shielded:
    """A stream whose reader may go: what can no longer be written is dropped, and training goes on."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # such as a full disk, which may have room again
                return
            # Nobody reads it any more: a pipe whose other end was closed, a terminal that went. From now on it leads
            # nowhere, or what is left in its buffer would be an error again when Python ends.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
        except ValueError:  # it was closed
            if not self._stream.closed:
                raise


@contextlib.contextmanager
def shielded_output() -> Iterator[None]:
    """While it lasts, no print fails because its reader has gone, such as `| head -1` or a closed terminal."""
    before = sys.stdout, sys.stderr
    # Either is None in a process without a console.
    sys.stdout, sys.stderr = (None if stream is None else _Shielded(stream) for stream in before)  # type: ignore
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
