"""RL in the noise of a diffusion or flow policy (DSRL).

    python experiments/diffusion_policy.py --dataset push_t_human_demos.npz
    python experiments/steer.py --base runs/diffusion_policy/push_t_human_demos-seed0
    python experiments/steer.py --base … --method dsrl_na --delay 1
    python experiments/steer.py --base … --method dsrl_na --demos push_t_human_demos.npz --reward sparse

The policy stays frozen: RL learns which noise to begin from, or, as a baseline, what to add to its actions
(`--method residual`). The defaults of all flags depend on --method; dsrl_na's are for a GPU, and on a CPU
`--hidden 256 256 256` is advisable. Everything is left in runs/steer/<name>: settings, metrics, checkpoints,
evaluation, learning curve.
"""

import dataclasses
from pathlib import Path

import rljax
from rljax import experiment, pipeline
from rljax.algorithms import diffusion, steering
from rljax.config import config_from_dict
from rljax.envs.manipulation import ManipulationTask
from rljax.envs.registry import make_recorded
from rljax.training.loading import read_description
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Settings:
    """Steers a policy in its task. The defaults of the algorithm's settings depend on --method."""

    base: Path = Path("runs/diffusion_policy/push_t_human_demos-seed0")
    """Run folder of the policy, made by experiments/diffusion_policy.py."""
    reward: str = "dense"
    """Reward of a manipulation task: dense, staged or sparse."""
    executed: int = 0
    """Actions of a chunk that are executed before the next chunk; 0 takes the policy's number."""
    demos: Path | None = None
    """File of demonstrations, which are half of each batch (or --offline-share); for dsrl_na and grrl_steer."""
    total_steps: int = 300_000
    """Environment steps of each member, counted in single actions."""
    mismatch: experiment.Mismatch = dataclasses.field(default_factory=experiment.Mismatch)
    config: steering.Config = dataclasses.field(default_factory=steering.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


def main(settings: Settings) -> experiment.Result:
    description = read_description(settings.base)
    if description["algorithm"] != "diffusion":
        raise Refused(f"{settings.base} is of {description['algorithm']}; only a diffusion or flow policy has noise")
    spec = dict(description["env"])
    if isinstance(make_recorded(spec).unwrapped, ManipulationTask):
        spec["reward"] = settings.reward
    spec |= settings.mismatch.options()
    sampler = config_from_dict(diffusion.Config, description["config"])
    sampler = dataclasses.replace(sampler, executed=settings.executed or sampler.executed)
    config = dataclasses.replace(settings.config, sampler=sampler, normalize_observation=sampler.normalize_observation)

    extra, dataset = {"base": str(settings.base)}, None
    if settings.demos is not None:
        dataset = experiment.load_dataset(settings.demos)
        dataset = pipeline.rewarded(settings.demos, dataset, make_recorded(spec))
        config = dataclasses.replace(config, offline_share=config.offline_share or 0.5)
        extra["demos"] = str(settings.demos)

    def make() -> steering.Algorithm:
        env = make_recorded(spec)
        base = steering.base_of(rljax.load(settings.base, env=env))
        return steering.make(env, config, base, dataset)

    return experiment.run("steer", make, settings.total_steps, settings.run, extra)


METHODS: dict[str, Settings] = {method: Settings(config=config) for method, config in steering.DEFAULTS.items()}


if __name__ == "__main__":
    experiment.main(main, Settings, METHODS, by="method")
