"""TD3+BC on a dataset, and ReBRAC, which is this with further settings.

    python experiments/td3_bc.py --dataset runs/datasets/hopper-medium-replay-v0.hdf5
    python experiments/td3_bc.py --dataset … --target-penalty 0.01 --layer-norm --hidden 256 256 256

Your own data: a file of D4RL's layout, a folder of Minari's, or OGBench's npz. Everything is left in
runs/td3_bc/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any

from rljax import experiment
from rljax.algorithms import td3_bc


@dataclasses.dataclass(frozen=True)
class Settings(experiment.OfflineRun):
    """Trains TD3+BC on a dataset. The defaults of the algorithm's settings depend on the dataset's task."""

    config: td3_bc.Config = dataclasses.field(default_factory=td3_bc.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


def main(settings: Settings) -> experiment.Result:
    def make(env: Any, dataset: Any, online: bool = False) -> td3_bc.Algorithm:
        return td3_bc.make(env, settings.config, dataset, online=online)

    return experiment.run_offline("td3_bc", make, settings)


if __name__ == "__main__":
    experiment.main_offline(main, Settings, "td3_bc")
