"""The dataset of an experiment, and its task."""

import functools
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
from rljax.spaces import Dict
from rljax.types import Refused


@functools.lru_cache(maxsize=1)
def load_dataset(
    path: Path,
    rewards: Literal["required", "optional"] = "required",
    max_episode_steps: int | None = None,
    flatten: bool = True,
) -> Dataset:
    """The dataset of a path, read once, with vectors for actions.

    Args:
      rewards: whether a file without them is refused.
      max_episode_steps: the time limit of D4RL's oldest files, which do not mark it.
      flatten: whether observations with several parts become vectors (see `vectors_of`).
    """
    from rljax.data import formats

    dataset = formats.load(path, rewards=rewards, max_episode_steps=max_episode_steps, flatten=flatten)
    return vectors_of(dataset) if flatten else continuous(dataset)


def continuous(dataset: Dataset) -> Dataset:
    """The same dataset; refused where actions are not vectors of floating-point numbers."""
    name, action = dataset.metadata.name, np.asarray(dataset.action)
    if action.dtype.kind not in "f":
        raise Refused(f"{name}: actions are of type {action.dtype}; only continuous ones are learned from, as floats")
    if action.ndim != 2:
        raise Refused(f"{name}: actions have the shape {list(action.shape[1:])}; they must be vectors")
    return dataset


def vectors_of(dataset: Dataset) -> Dataset:
    """The same dataset, with dicts of vectors joined as Gymnasium's `FlattenObservation` does: by name.

    A dict with an image in it stays a dict.

    Raises:
      Refused: a part is neither a vector nor an image, or actions are no vectors of floating-point numbers.
    """
    if hasattr(continuous(dataset).obs, "shape"):
        return dataset
    parts = jax.tree.leaves_with_path(dataset.obs)
    for path, x in parts:
        if x.ndim not in (2, 4):
            part, shape = jax.tree_util.keystr(path), list(x.shape[1:])
            raise Refused(
                f"{dataset.metadata.name}: observations{part} have the shape {shape}; without a task, parts of a dict "
                "must be vectors or images"
            )
    if any(x.ndim == 4 for _, x in parts):
        return dataset

    def joined(obs: Any) -> np.ndarray:
        return np.concatenate([np.asarray(x, np.float32) for x in jax.tree.leaves(obs)], axis=-1)

    return dataset.replace(obs=joined(dataset.obs), next_obs=joined(dataset.next_obs))


def dataset_of(settings: FromDataset, flatten: bool = True) -> Dataset:
    """The dataset that the flags name; `flatten` as in `load_dataset`."""
    read = (paths.local(settings.dataset), settings.rewards, settings.max_episode_steps)
    return load_dataset(*read) if flatten else load_dataset(*read, flatten=False)  # the first is read once for all


def in_form_of(env: Environment, dataset: Dataset, settings: FromDataset) -> Dataset:
    """The dataset of the flags with parts, where observations of the task have parts; else as it was read."""
    return dataset_of(settings, flatten=False) if isinstance(env.observation_space, Dict) else dataset


def task_of(settings: Any, dataset: Dataset) -> str | None:
    """The task of the flags, or else of the dataset; None for none."""
    task = settings.env or dataset.metadata.task
    if task and not settings.env:
        check_recorded(task)
    return None if task == "none" else task


def spaces_of(dataset: Dataset) -> Environment:
    """A stand-in environment where there is no simulator, with actions bounded as the dataset's are."""
    action, sizes = (
        np.asarray(dataset.action),
        jax.tree.map(lambda x: x.shape[1] if x.ndim == 2 else list(x.shape[1:]), dataset.obs),
    )
    low, high = action.min(0), action.max(0)
    # An action that never varies has no range.
    bounds = {"action_low": low.tolist(), "action_high": np.where(high > low, high, low + 1.0).tolist()}
    return rljax.make("spaces_only", observation_size=sizes, **bounds)
