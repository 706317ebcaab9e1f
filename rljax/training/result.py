"""What a training ends with."""

import dataclasses
from pathlib import Path
from typing import Any

from rljax.training.logs import Row


class Diverged(FloatingPointError):
    """A loss or a parameter became NaN or infinite."""


@dataclasses.dataclass
class Result:
    """The result of training.

    Fields:
      state: the last training state; with members, every leaf has a leading axis [members].
      policy: acts; with members likewise.
      steps: environment steps really made, by each member.
      rows: the rows logged since the start or the resumption, as in metrics.csv.
      evaluation: the final evaluation, as in evaluation.json; None where there was none.
      compile_seconds: seconds until the first training step could run.
      seconds: seconds in training, without compilation and evaluation, over all resumptions.
      interrupted: the signal that stopped the run early, or None.
      stopped: why a callback has stopped it, or None.
      folder: the run folder, or None.
      placement: the devices that it ran on, in words.
    """

    state: Any
    policy: Any
    steps: int
    rows: list[Row]
    evaluation: dict[str, Any] | None
    compile_seconds: float
    seconds: float
    interrupted: int | None
    stopped: str | None
    folder: Path | None
    placement: str
