"""The progress bar: how far, how fast, how good, how long still."""

import sys
from typing import Any


class ProgressBar:
    """A rich bar on a terminal; elsewhere (a log file, CI) one line per `line` call. Writes to stderr."""

    def __init__(self, total: int, done: int, enabled: bool):
        self._bar: Any = None
        self._enabled = enabled
        if not enabled:
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
        """What is shown beside the bar, such as the latest return."""
        if self._bar is not None:
            self._bar.update(self._task, score=text)

    def line(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar is not None:
            from rich.text import Text

            self._bar.console.print(Text(text))  # a string would be read as markup
        elif self._enabled:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
