"""The best policies of a run: for each member the one whose evaluation on the way had the highest score."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.ops.trees import chosen
from rljax.types import PyTree


@dataclasses.dataclass
class Best:
    """The best policies so far, which every checkpoint keeps.

    Fields:
      policies: one `Policy`; with members, every leaf has a leading axis [members]. None before the first score.
      scores: the score of each member's; None where it had none yet.
      steps: the environment steps after which it was evaluated; None likewise.
    """

    policies: PyTree | None
    scores: list[float | None]
    steps: list[int | None]

    @classmethod
    def none(cls, members: int) -> "Best":
        """Before any evaluation."""
        return cls(None, [None] * members, [None] * members)

    def update(self, policies: PyTree, scores: np.ndarray, steps: int) -> None:
        """Takes the policies with higher scores [members] than before; a score that is not finite is none."""
        better = np.array(
            [bool(np.isfinite(x)) and (old is None or x > old) for x, old in zip(scores, self.scores, strict=True)]
        )
        if not better.any():
            return
        if self.policies is None or better.all():
            # A copy, for a jitted function may hand out parts of the state, which the next slice overwrites.
            self.policies = jax.tree.map(jnp.copy, policies)
        else:
            self.policies = chosen(better, policies, self.policies)
        for member in np.flatnonzero(better).tolist():
            self.scores[member], self.steps[member] = float(scores[member]), steps

    def notes(self) -> dict[str, Any]:
        """The scores and steps, for a checkpoint's notes."""
        return {"scores": self.scores, "steps": self.steps}
