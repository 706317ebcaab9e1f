"""Callbacks: actions of the user's between two slices of training, and reasons to stop a run.

They change nothing of the mathematics: a run with callbacks is the run without them, or its beginning.
"""

from pathlib import Path
from typing import Any

from rljax.training.logs import Row


class Callback:
    """Its methods do nothing; subclasses override some. A text that a method returns stops the run, and says why.

    A stopped run is saved and evaluated like one that came to its end, and can be resumed.
    """

    def on_slice(self, steps: int, state: Any) -> str | None:
        """After a slice of about half a second, which may have made no step where data are waited for.

        Args:
          state: the training state; parts to keep must be copied, since the next slice overwrites it.
        """

    def on_log(self, steps: int, rows: list[Row]) -> str | None:
        """After a log: the steps made by each member, and a row of metrics for each, as in metrics.csv."""

    def on_evaluate(self, steps: int, score: float | None, state: Any) -> str | None:
        """After an evaluation on the way: the mean score of the members that live, None where there is none.

        The score is the return, or the "score" of an algorithm that evaluates itself.

        Args:
          state: the training state; parts to keep must be copied, since the next slice overwrites it.
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
