"""PPO split over the workers of a Ray cluster: a worker that dies is replaced, and the run goes on.

    python experiments/ray_train.py
    python experiments/ray_train.py --workers 4 --env half_cheetah --num-envs 4096 --gpus 1 --runs /shared/runs
    RAY_ADDRESS=auto python experiments/ray_train.py --name first --resume

Ray Train starts a process for each worker and joins them; the environments are split over the devices of all. A worker
is a core, or with `--gpus 1` a GPU. When one dies, Ray ends the others and starts a new group, which resumes from
rljax's own checkpoints: so all nodes of the cluster must share the folder of runs. Needs `pip install 'rljax[ray]'`.
"""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import rljax
from rljax import experiment
from rljax.algorithms import ppo
from rljax.config import Count, Whole
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains one PPO agent on the workers of a Ray cluster, or on as many processes of this machine."""

    env: str = "cartpole"
    """The task, as rljax.make takes it."""
    total_steps: int = 200_000
    """Environment steps, rounded up to whole iterations."""
    workers: Count = 2
    """Number of workers, each a process; the number of environments must divide by all of their devices."""
    gpus: Whole = 0
    """Number of GPUs of each worker; 0 trains on the CPU."""
    max_failures: Whole = 3
    """Number of times that a group of workers is started anew after one of them has died."""
    config: ppo.Config = dataclasses.field(
        default_factory=lambda: ppo.Config(
            num_minibatches=16, learning_rate=1e-3, normalize_reward=True, normalize_advantage=False
        )
    )
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


def work(settings: Settings) -> None:
    """Trains in one worker, once Ray has joined all."""

    def make() -> ppo.Algorithm:
        return ppo.make(rljax.make(settings.env), settings.config)

    logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax tells of every file
    experiment.run("ray_train", make, settings.total_steps, settings.run)


def main(settings: Settings) -> None:
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.jax import JaxConfig, JaxTrainer
    except ImportError as error:
        raise Refused("ray is not installed: pip install 'rljax[ray]'") from error
    name = settings.run.name or f"{settings.env.replace(':', '-').replace('/', '-')}-seed{settings.run.seed}"
    runs = settings.run.runs.absolute()
    folder = runs / "ray_train" / name
    if settings.run.overwrite:
        experiment.set_aside(folder)
    elif (folder / "config.json").exists() and not settings.run.resume:
        raise Refused(f"{folder} holds a run already: --resume continues it, --overwrite moves it aside")
    # From now on the folder is this run's: whichever group of workers comes, it goes on from what it finds there.
    run = dataclasses.replace(settings.run, name=name, runs=runs, resume=True, overwrite=False, progress=False)
    variables = {"JAX_PLATFORMS": "cuda" if settings.gpus else "cpu", "RAY_TRAIN_V2_ENABLED": "1"}
    resources: dict[str, Any] = {"CPU": 1} | ({"GPU": settings.gpus} if settings.gpus else {})
    trainer = JaxTrainer(
        work,
        train_loop_config=dataclasses.replace(settings, run=run),
        # By use_gpu the workers are joined, whichever platform the variable then names.
        jax_config=JaxConfig(use_gpu=True),
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=settings.gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(runs / "ray"),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            worker_runtime_env={"env_vars": variables},
        ),
    )
    trainer.fit()
    print(f"{_outcome(folder)}\nrun folder: {folder}")


def _outcome(folder: Path) -> str:
    """The final evaluation, in words; it lies in the shared folder."""
    try:
        evaluation = json.loads((folder / "evaluation.json").read_text())
    except OSError:
        return "the run has no final evaluation"
    means = [member["deterministic"]["mean"] for member in evaluation["members"]]
    return f"return after {evaluation['steps']:,} steps: {', '.join(f'{mean:.1f}' for mean in means)}"


if __name__ == "__main__":
    experiment.main(main, Settings, {})
