"""IQL on a dataset, and online from there.

    python experiments/iql.py --dataset runs/datasets/hopper-medium-replay-v0.hdf5
    python experiments/iql.py --dataset … --seeds 5 --total-steps 100_000
    python experiments/iql.py --dataset … --online-steps 100_000

Your own data: a file of D4RL's layout, a folder of Minari's, or OGBench's npz. Everything is left in
runs/iql/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any

from rljax import experiment
from rljax.algorithms import iql


@dataclasses.dataclass(frozen=True)
class Settings(experiment.OfflineRun):
    """Trains IQL on a dataset. The defaults of the algorithm's settings depend on the dataset's task."""

    decay: bool = True
    """Whether the policy's learning rate falls to 0 along a cosine over all updates (or over policy_decay_steps)."""
    config: iql.Config = dataclasses.field(default_factory=iql.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


def main(settings: Settings) -> experiment.Result:
    def make(env: Any, dataset: Any, online: bool = False) -> iql.Algorithm:
        config = settings.config
        if online:  # a rate that has fallen to 0 would learn nothing
            config = dataclasses.replace(config, policy_decay_steps=0)
        elif settings.decay and not config.policy_decay_steps:
            config = dataclasses.replace(config, policy_decay_steps=settings.total_steps)
        return iql.make(env, config, dataset, online=online)

    return experiment.run_offline("iql", make, settings)


if __name__ == "__main__":
    experiment.main_offline(main, Settings, "iql")
