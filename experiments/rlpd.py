r"""RLPD: SAC from demonstrations, half of each batch, without pre-training.

    python experiments/rlpd.py --dataset runs/datasets/hopper-expert-v0.hdf5
    python experiments/rlpd.py --dataset … --num-updates 5 --policy-delay 5     # a quarter of the time

Like for like with the last stage of a pipeline (experiments/gr_rl.py): demonstrations filtered and mirrored, chunks of
four actions after two observations, the same mismatch.

    python experiments/rlpd.py --dataset runs/gr_rl/lace-seed0/demonstrations.hdf5 --reward staged --mirror \
        --weight runs/gr_rl/lace-seed0/0-progress/weight.npy --history 2 --executed 4 --delay 1 --smoothing 0.5 \
        --rate-limit 0.1 --normalize-observation --action-normalization minmax

Everything is left in runs/rlpd/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import rljax
from rljax import experiment, pipeline
from rljax.algorithms import rlpd
from rljax.data import Dataset
from rljax.data.chunks import digest
from rljax.data.mirror import with_mirror
from rljax.envs import Environment
from rljax.envs.manipulation import ManipulationTask
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Settings(experiment.FromDataset):
    """Trains RLPD with demonstrations. The defaults of the algorithm's settings depend on the dataset's task."""

    env: str | None = None
    """The task, as rljax.make takes it; the dataset's where not given."""
    reward: str | None = None
    """Reward of a manipulation task, the same as in the dataset: dense, staged or sparse (the default)."""
    weight: Path | None = None
    """File .npy with a weight for each of the dataset's steps, [N]; chunks that begin at weight 0 are left out."""
    mirror: bool = False
    """Learn from mirrored demonstrations as well, in tasks with a symmetry."""
    total_steps: int = 100_000
    """Environment steps of each member, rounded up to whole iterations."""
    mismatch: experiment.Mismatch = dataclasses.field(default_factory=experiment.Mismatch)
    config: rlpd.Config = dataclasses.field(default_factory=rlpd.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


def main(settings: Settings) -> experiment.Result:
    dataset = experiment.dataset_of(settings)
    task = experiment.task_of(settings, dataset)
    if task is None:
        raise Refused("rlpd acts in a task, and the dataset does not say which: --env")
    options: dict[str, Any] = {} if settings.reward is None else {"reward": settings.reward}
    options |= settings.mismatch.options()

    weight = None if settings.weight is None else read_weight(settings.weight, dataset)
    extra = {"weight": None if weight is None else digest(weight), "mirror": settings.mirror}

    def make() -> rlpd.Algorithm:
        env, kept = rljax.make(task, **options), None if weight is None else weight > 0
        data = pipeline.rewarded(settings.dataset, experiment.in_form_of(env, dataset, settings), env)
        if kept is not None and data.size < dataset.size:  # without the last step of each demonstration
            kept = np.delete(kept, dataset.ends - 1)
        if settings.mirror:
            data, kept = mirrored(env, data), None if kept is None else np.tile(kept, 2)
        return rlpd.make(env, settings.config, data, kept=kept)

    return experiment.run("rlpd", make, settings.total_steps, settings.run, extra)


def read_weight(path: Path, dataset: Dataset) -> np.ndarray:
    """The weights of a dataset's steps, f32 [N]."""
    try:
        weight = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:  # not there; empty; no array, or one of objects
        raise Refused(f"{path}: not an array of weights: {' '.join(str(error).split())}") from None
    if weight.shape != (dataset.size,):
        raise Refused(f"{path}: has the shape {weight.shape}, and must be [{dataset.size}], as {dataset.metadata.name}")
    return weight


def mirrored(env: Environment, dataset: Dataset) -> Dataset:
    """The dataset and its mirror image."""
    task = env.unwrapped
    if not isinstance(task, ManipulationTask) or task.symmetry is None:
        raise Refused(f"--mirror: {env.name} has no mirror image")
    return with_mirror(dataset, task.symmetry)


if __name__ == "__main__":
    experiment.main_offline(main, Settings, "rlpd")
