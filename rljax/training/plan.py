"""The schedule of a run, in iterations."""

import dataclasses
import math

from rljax.training.options import Options
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Plan:
    """The run's schedule, in iterations; `evaluate` and `checkpoint` are multiples of `log`, or 0 for never."""

    total: int
    log: int
    evaluate: int
    checkpoint: int

    @classmethod
    def make(cls, per_iteration: int, total: int, options: Options) -> "Plan":
        """The schedule for `total` environment steps.

        Raises:
          Refused: there are none.
        """
        if total < 1:
            raise Refused(f"total_steps = {total} is not allowed; it must be at least 1")
        logs = max(1, math.ceil((options.log_every or total / 100) / per_iteration))

        def multiple(steps: int | None) -> int:
            wanted = total / 10 if steps is None else steps
            return math.ceil(wanted / (per_iteration * logs)) * logs

        iterations = math.ceil(total / per_iteration)
        return cls(iterations, logs, multiple(options.evaluate_every), multiple(options.checkpoint_every))
