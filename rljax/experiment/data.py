"""The dataset of an experiment, and its task."""

import functools
import inspect
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import rljax
from rljax import paths
from rljax.data import Dataset
from rljax.envs.environment import Environment
from rljax.envs.registry import check_recorded
from rljax.experiment.settings import FromDataset
from rljax.types import Refused


@functools.lru_cache(maxsize=1)
def load_dataset(
    path: Path, rewards: Literal["required", "optional"] = "required", max_episode_steps: int | None = None
) -> Dataset:
    """The dataset of a path, read once, with vectors for observations and actions (see `vectors_of`).

    Args:
      rewards: whether a file without them is refused.
      max_episode_steps: the time limit of D4RL's oldest files, which do not mark it.
    """
    from rljax.data import formats

    options: dict[str, Any] = {"rewards": rewards, "max_episode_steps": max_episode_steps, "flatten": True}
    taken = inspect.signature(formats.load).parameters
    return vectors_of(formats.load(path, **{name: value for name, value in options.items() if name in taken}))


def vectors_of(dataset: Dataset) -> Dataset:
    """The same dataset, with dicts of vectors joined as Gymnasium's `FlattenObservation` does: by name.

    Raises:
      ValueError: observations or actions are not vectors, or actions are whole numbers, as of discrete choices.
    """
    name, action = dataset.metadata.name, np.asarray(dataset.action)
    if action.dtype.kind not in "f":
        raise Refused(f"{name}: actions are of type {action.dtype}; only continuous ones are learned from, as floats")
    if action.ndim != 2:
        raise Refused(f"{name}: actions have the shape {list(action.shape[1:])}; they must be vectors")
    if hasattr(dataset.obs, "shape"):
        return dataset
    parts = jax.tree.leaves_with_path(dataset.obs)
    for path, x in parts:
        if x.ndim != 2:
            part, shape = jax.tree_util.keystr(path), list(x.shape[1:])
            raise Refused(f"{name}: observations{part} have the shape {shape}; parts of a dict must be vectors")

    def joined(obs: Any) -> np.ndarray:
        return np.concatenate([np.asarray(x, np.float32) for x in jax.tree.leaves(obs)], axis=-1)

    return dataset.replace(obs=joined(dataset.obs), next_obs=joined(dataset.next_obs))


def dataset_of(settings: FromDataset) -> Dataset:
    """The dataset that the flags name."""
    return load_dataset(paths.local(settings.dataset), settings.rewards, settings.max_episode_steps)


def task_of(settings: Any, dataset: Dataset) -> str | None:
    """The task of the flags, or else of the dataset; None for none."""
    task = settings.env or dataset.metadata.task
    if task and not settings.env:
        check_recorded(task)
    return None if task == "none" else task


def spaces_of(dataset: Dataset) -> Environment:
    """A stand-in environment where there is no simulator, with actions bounded as the dataset's are."""
    obs, action = np.asarray(dataset.obs), np.asarray(dataset.action)
    low, high = action.min(0), action.max(0)
    # An action that never varies has no range.
    bounds = {"action_low": low.tolist(), "action_high": np.where(high > low, high, low + 1.0).tolist()}
    return rljax.make("spaces_only", observation_size=obs.shape[-1], **bounds)
