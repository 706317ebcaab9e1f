"""Behaviour cloning of a dataset, or of its best episodes.

    python experiments/bc.py --dataset runs/datasets/hopper-medium-replay-v0.hdf5
    python experiments/bc.py --dataset … --top 0.1                       # filtered: the best tenth of the episodes

Your own data: a file of D4RL's layout, a folder of Minari's, or OGBench's npz. Everything is left in
runs/bc/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any, ClassVar, Literal

from rljax import experiment
from rljax.algorithms import bc


@dataclasses.dataclass(frozen=True)
class Settings(experiment.OfflineRun):
    """Imitates a dataset. The defaults of the algorithm's settings depend on the dataset's task."""

    rewards: ClassVar[Literal["required", "optional"]] = "optional"
    config: bc.Config = dataclasses.field(default_factory=bc.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


def main(settings: Settings) -> experiment.Result:
    def make(env: Any, dataset: Any) -> bc.Algorithm:
        return bc.make(env, settings.config, dataset)

    return experiment.run_offline("bc", make, settings, goes_online=False)


if __name__ == "__main__":
    experiment.main_offline(main, Settings, "bc")
