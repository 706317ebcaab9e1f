"""RLPD: SAC from demonstrations, half of each batch, without pre-training.

    python experiments/rlpd.py --dataset runs/datasets/hopper-expert-v0.hdf5
    python experiments/rlpd.py --dataset … --num-updates 5 --policy-delay 5     # a quarter of the time

Everything is left in runs/rlpd/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any

import rljax
from rljax import experiment, pipeline
from rljax.algorithms import rlpd
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Settings(experiment.FromDataset):
    """Trains RLPD in an environment, with demonstrations. The defaults of --config depend on the dataset's task."""

    env: str | None = None
    """The task, as rljax.make takes it: what the dataset says where not given."""
    reward: str | None = None
    """Reward of a manipulation task: dense, staged or sparse (the default); that of the dataset."""
    total_steps: int = 100_000
    """Environment steps of each member."""
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

    def make() -> rlpd.Algorithm:
        env = rljax.make(task, **options)
        pipeline.check_rewards(settings.dataset, dataset, env)
        return rlpd.make(env, settings.config, dataset)

    return experiment.run("rlpd", make, settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main_offline(main, Settings, "rlpd")
