"""CQL and Cal-QL on a dataset, and online from there.

    python experiments/cql.py --dataset runs/datasets/hopper-medium-replay-v0.hdf5
    python experiments/cql.py --dataset … --penalty-draws 0              # the gradient of all candidates, not of a few
    python experiments/cql.py --dataset … --calibrated --online-steps 100_000     # Cal-QL

On little data CQL overfits: the values of the data's actions (value/mean) peak and then fall for good, and the score
with them (Kumar et al. 2021, arXiv 2109.10813, section 4). On half_cheetah-medium-replay, 110,000 transitions, they
peak after 80,000 of a million updates, and its policy scores 2 (benchmarks/README.md). Stop near the peak
(--total-steps), or load the state that evaluated best: rljax.load(folder, which="best").

Your own data: a file of D4RL's layout, a folder of Minari's, or OGBench's npz. Everything is left in
runs/cql/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any

from rljax import experiment
from rljax.algorithms import cql


@dataclasses.dataclass(frozen=True)
class Settings(experiment.OfflineRun):
    """Trains CQL on a dataset. The defaults of the algorithm's settings depend on the dataset's task."""

    config: cql.Config = dataclasses.field(default_factory=cql.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


def main(settings: Settings) -> experiment.Result:
    def make(env: Any, dataset: Any, online: bool = False) -> cql.Algorithm:
        return cql.make(env, settings.config, dataset, online=online)

    return experiment.run_offline("cql", make, settings)


if __name__ == "__main__":
    experiment.main_offline(main, Settings, "cql")
