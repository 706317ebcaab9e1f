"""Callbacks: what a user wants done between two slices of training, and when a run has seen enough.

They change nothing of the mathematics: a run with callbacks is the run without them, or its beginning.
"""

from pathlib import Path
from typing import Any

from rljax.training.logs import Row


class Callback:
    """Its methods do nothing; subclasses override what they need. A text that one returns stops the run: it says why.

    A run that was stopped is saved and evaluated as one that came to its end, and can be resumed.
    """

    def on_log(self, steps: int, rows: list[Row]) -> str | None:
        """After a log: the steps made by each member, and a row of metrics for each, as in metrics.csv."""

    def on_evaluate(self, steps: int, score: float | None, state: Any) -> str | None:
        """After an evaluation on the way: the mean return of the members that live, None where none does.

        Args:
          state: of training; what is kept of it must be copied, since the next slice writes over it.
        """

    def on_save(self, steps: int, checkpoint: Path) -> str | None:
        """After a checkpoint was handed over for writing, which goes on in the background."""


class StopAtReturn(Callback):
    """Stops where an evaluation on the way finds a mean return of at least `threshold`."""

    def __init__(self, threshold: float):
        self.threshold = threshold

    def on_evaluate(self, steps: int, score: float | None, state: Any) -> str | None:
        if score is None or score < self.threshold:
            return None
        return f"the evaluation's return, {score:.2f}, has reached {self.threshold:g}"
