"""Augmentation by a symmetry of the task: every transition a second time, as in a mirror."""

from typing import Any

import jax
import numpy as np

from rljax.data.dataset import Dataset, concatenate
from rljax.envs.symmetry import Symmetry
from rljax.types import Refused


def mirror(dataset: Dataset, symmetry: Symmetry) -> Dataset:
    """The dataset as it would be in the mirror; rewards and ends stay.

    Raises:
      ValueError: observations or actions are not of the size that the symmetry is declared for.
    """
    for name, x, size in (
        ("observations", dataset.obs, len(symmetry.observation.offset)),
        ("actions", dataset.action, len(symmetry.action.offset)),
    ):
        if np.shape(x)[1:] != (size,):
            raise Refused(f"{dataset.metadata.name}: {name} have the shape {np.shape(x)[1:]}, the symmetry [{size}]")

    def obs(x: Any) -> np.ndarray:
        return symmetry.observation(np.asarray(x)).astype(np.float32)

    def action(x: Any) -> np.ndarray:
        return symmetry.action(np.asarray(x)).astype(np.float32)

    return jax.tree.map(np.asarray, dataset).replace(
        obs=obs(dataset.obs),
        next_obs=obs(dataset.next_obs),
        action=action(dataset.action),
        next_action=action(dataset.next_action),
    )


def with_mirror(dataset: Dataset, symmetry: Symmetry) -> Dataset:
    """The dataset, and after it the same in the mirror, [2 N]."""
    return concatenate([dataset, mirror(dataset, symmetry)])
