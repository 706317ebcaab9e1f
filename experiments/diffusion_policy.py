"""A diffusion or flow policy of demonstrations.

    python -m rljax.data.download push_t_human_demos.npz
    python experiments/diffusion_policy.py --dataset push_t_human_demos.npz
    python experiments/diffusion_policy.py --dataset … --objective flow

PushT's demonstrations are those of Chi et al. 2023, as an npz with state, action and episode_ends. Your own data: a
file of D4RL's layout, a folder of Minari's, or OGBench's npz. Everything is left in runs/diffusion_policy/<name>:
settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any, ClassVar, Literal

from rljax import experiment
from rljax.algorithms import diffusion


@dataclasses.dataclass(frozen=True)
class Settings(experiment.OfflineRun):
    """Imitates a dataset, chunk by chunk. The defaults of the algorithm's settings depend on the dataset's task."""

    total_steps: int = 30_000
    """Updates of each member."""
    decay: bool = True
    """Whether the learning rate falls linearly to 0 over all updates (or over anneal_steps)."""
    rewards: ClassVar[Literal["required", "optional"]] = "optional"
    config: diffusion.Config = dataclasses.field(default_factory=diffusion.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


def main(settings: Settings) -> experiment.Result:
    def make(env: Any, dataset: Any) -> diffusion.Algorithm:
        config = settings.config
        if settings.decay and not config.anneal_steps:
            config = dataclasses.replace(config, anneal_steps=settings.total_steps)
        return diffusion.make(env, config, dataset)

    return experiment.run_offline("diffusion_policy", make, settings, goes_online=False)


if __name__ == "__main__":
    experiment.main_offline(main, Settings, "diffusion")
