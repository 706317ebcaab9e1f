"""Ray Tune over PPO: many trials on a Ray cluster, of which the worse half is stopped early (ASHA).

    python experiments/ray_tune.py
    python experiments/ray_tune.py --env half_cheetah --trials 32 --gpus 0.25 --runs /shared/runs
    RAY_ADDRESS=auto python experiments/ray_tune.py --trials 64

Each trial is a process of its own, which starts JAX and compiles; on one machine `experiments/search.py` is faster, for
there the values of many trials are members of one program. Needs `pip install 'rljax[ray]'`.
"""

import dataclasses
import logging
from typing import Any

import jax

import rljax
from rljax import experiment, training
from rljax.algorithms import ppo
from rljax.config import Count, NonNegative, Positive
from rljax.experiment import keys_of
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Settings:
    """Searches for PPO's hyperparameters on a Ray cluster, or on this machine. The space is at the top of the file."""

    env: str = "cartpole"
    """The task, as rljax.make takes it."""
    total_steps: int = 100_000
    """Environment steps of a trial that is not stopped early."""
    trials: Count = 8
    """Number of trials."""
    concurrent: Count = 2
    """Number of trials that run at the same time, where the cluster has room for them."""
    cpus: Positive = 1.0
    """Number of CPU cores of each trial."""
    gpus: NonNegative = 0.0
    """Number of GPUs of each trial; a part of one, such as 0.25, where trials share it."""
    config: ppo.Config = dataclasses.field(
        default_factory=lambda: ppo.Config(num_minibatches=16, normalize_reward=True, normalize_advantage=False)
    )
    run: experiment.Run = dataclasses.field(default_factory=lambda: experiment.Run(seed=1_000))


def space() -> dict[str, Any]:
    """The values that trials try, by the names of fields of PPO's config."""
    from ray import tune

    return {
        "learning_rate": tune.loguniform(1e-4, 1e-2),
        "gae_lambda": tune.uniform(0.8, 1.0),
        "hidden": tune.choice([(64, 64), (128, 128)]),
    }


class Report(training.Callback):
    """Tells Ray of every evaluation; Ray ends the trial there, if it is one of the worse."""

    def on_evaluate(self, steps: int, score: float | None, state: Any) -> None:
        from ray import tune

        tune.report({"score": float("-inf") if score is None else score, "steps": steps})


def trial(values: dict[str, Any], settings: Settings) -> None:
    """Trains with these values."""
    logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax tells of every file
    algorithm = ppo.make(rljax.make(settings.env), dataclasses.replace(settings.config, **values))
    options = dataclasses.replace(settings.run.options(), final_episodes=0, progress=False)
    key: jax.Array = keys_of([settings.run.seed])[0]
    training.train(algorithm, key, settings.total_steps, options, callbacks=[Report()])


def main(settings: Settings) -> None:
    try:
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler
    except ImportError as error:
        raise Refused("ray is not installed: pip install 'rljax[ray]'") from error
    name = settings.run.name or settings.env.replace(":", "-").replace("/", "-")
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trial, settings=settings), {"cpu": settings.cpus, "gpu": settings.gpus}
        ),
        param_space=space(),
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=settings.trials,
            max_concurrent_trials=settings.concurrent,
            # A rung every three times as many steps, from a tenth of the run on.
            scheduler=ASHAScheduler(
                time_attr="steps", max_t=settings.total_steps * 2, grace_period=settings.total_steps // 10
            ),
        ),
        run_config=tune.RunConfig(name=name, storage_path=str(settings.run.runs.absolute() / "ray_tune")),
    )
    results = tuner.fit()
    if results.num_errors == len(results):
        raise Refused(f"all {len(results)} trials have failed: {results.errors[0]}")
    best = results.get_best_result()
    flags = " ".join(f"--{name.replace('_', '-')} {_shown(value)}" for name, value in best.config.items())
    assert best.metrics is not None
    print(f"{len(results)} trials, {results.num_errors} of them failed; all are in {results.experiment_path}")
    print(f"best return {best.metrics['score']:.1f}: python experiments/ppo.py --env {settings.env} {flags}")


def _shown(value: Any) -> str:
    """A value as on a command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else f"{value:g}"


if __name__ == "__main__":
    experiment.main(main, Settings, {})
