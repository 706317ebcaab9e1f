"""RLPD: SAC from demonstrations, half of each batch, without pre-training.

    python experiments/rlpd.py --dataset runs/datasets/hopper-expert-v0.hdf5
    python experiments/rlpd.py --dataset … --num-updates 5 --policy-delay 5     # a quarter of the time

Everything is left in runs/rlpd/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from pathlib import Path
from typing import Any

import rljax
from rljax import experiment, pipeline
from rljax.algorithms import rlpd
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains RLPD in an environment, with demonstrations. The defaults of --config depend on the dataset's task."""

    dataset: Path = Path("dataset.hdf5")
    """A file of D4RL's layout (HDF5), a folder of Minari's, or OGBench's npz; experiments/collect.py makes some."""
    env: str | None = None
    """The task, as rljax.make takes it: what the dataset says where not given."""
    reward: str | None = None
    """Of tasks of manipulation: dense, staged or sparse, which is what it is where not given; as in the dataset."""
    total_steps: int = 100_000
    """Environment steps of each member."""
    mismatch: experiment.Mismatch = dataclasses.field(default_factory=experiment.Mismatch)
    config: rlpd.Config = dataclasses.field(default_factory=rlpd.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


def main(settings: Settings) -> experiment.Result:
    dataset = experiment.load_dataset(settings.dataset)
    task = experiment.task_of(settings, dataset)
    if task is None:
        raise Refused("rlpd acts in a task, and the dataset does not say which: --env")
    options: dict[str, Any] = {} if settings.reward is None else {"reward": settings.reward}
    options |= settings.mismatch.options()

    def make() -> rlpd.Algorithm:
        env = rljax.make(task, **options)
        return rlpd.make(env, settings.config, pipeline.rewarded(settings.dataset, dataset, env))

    return experiment.run("rlpd", make, settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main_offline(main, Settings, "rlpd")
