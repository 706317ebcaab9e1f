"""Benchmark of populations: eight members that begin with learning rates from 1e-6 to 1e-2, with and without exchanges.

    python -m benchmarks.population                  # minutes on two cores; goes on where it was interrupted
    python -m benchmarks.population --seeds 1

PPO on CartPole with the settings of experiments/ppo.py but a constant learning rate. All methods begin with the same
seeds and the same learning rates, log-uniform in the range, and make the same steps: without exchanges it is random
search. Draws benchmarks/population.png.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

import rljax
from benchmarks import campaign
from benchmarks.campaign import with_interval
from experiments.ppo import TASKS
from rljax import experiment, training
from rljax.algorithms import ppo
from rljax.training.population import key_of

RANGES = {"learning_rate": (1e-6, 1e-2)}
METHODS: dict[str, training.PopulationBased | None] = {
    "random search": None,
    "population-based": training.PopulationBased(RANGES),
    "successive halving": training.SuccessiveHalving(RANGES),
}
SOLVED = 475.0
"""Mean return over 100 episodes at which Gymnasium calls CartPole-v1 solved."""
HIGHEST = 500.0


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    seeds: int = 3
    """Number of populations for each method, each of members of its own."""
    members: int = 8
    """Number of members of a population."""
    steps: int = 200_000
    """Environment steps of each member."""
    episodes: int = 100
    """Episodes of each member's final evaluation."""


def main(settings: Settings) -> None:
    training.use_cpu_cores(members=settings.members)
    algorithm = ppo.make(rljax.make("cartpole"), TASKS["cartpole"].config)
    for seed in range(settings.seeds):
        for name, population in METHODS.items():
            print(f"{name}, population {seed}", flush=True)
            learn(settings, algorithm, name, population, seed)
    campaign.write(settings, "population", table(settings))
    draw(settings)


def folder(settings: Settings, name: str, seed: int) -> Path:
    sizes = f"{settings.members}-{settings.steps}"
    return settings.runs / "population" / f"{name.replace(' ', '_')}-{sizes}-seed{seed}"


def learn(
    settings: Settings, algorithm: ppo.Algorithm, name: str, population: training.PopulationBased | None, seed: int
) -> None:
    """Trains a population, or its members without exchanges, in its run folder."""
    keys = experiment.keys_of(range(seed * settings.members, (seed + 1) * settings.members))
    drawn = training.PopulationBased(RANGES).draw(key_of(keys, 0), settings.members)
    options = training.Options(final_episodes=settings.episodes, progress=False, tensorboard=False)
    result = training.train(
        algorithm,
        keys,
        settings.steps,
        options,
        hyper={name: np.asarray(values, np.float64) for name, values in drawn.items()},
        folder=folder(settings, name, seed),
        resume=True,
        population=population,
    )
    if result.interrupted is not None:
        sys.exit(128 + result.interrupted)


def returns(settings: Settings, name: str) -> np.ndarray:
    """The final deterministic returns, [populations, members]."""
    found = []
    for seed in range(settings.seeds):
        evaluation = campaign.read(folder(settings, name, seed) / "evaluation.json") or {}
        found.append([member["deterministic"]["mean"] for member in evaluation["members"]])
    return np.array(found, np.float64)


def curves(settings: Settings, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps of the evaluations on the way, and their returns [populations, evaluations, members]."""
    found = []
    for seed in range(settings.seeds):
        steps, values = zip(*campaign.logged(folder(settings, name, seed), "evaluation/return"), strict=True)
        found.append(np.reshape(values, (-1, settings.members)))
    return np.unique(steps), np.array(found)


def table(settings: Settings) -> campaign.Record:
    """Methods in rows; the score of a population is the mean, or the highest or lowest, over its members."""
    rows, raw = [], {}
    for name in METHODS:
        final, (steps, on_the_way) = returns(settings, name), curves(settings, name)
        raw[name] = final.tolist()
        all_solved = [steps[np.flatnonzero((x >= SOLVED).all(1))] for x in on_the_way]
        rows.append(
            {
                "exchanges": name,
                "return, mean of members": with_interval(final.mean(1).tolist()),
                "best member": with_interval(final.max(1).tolist()),
                "worst member": with_interval(final.min(1).tolist()),
                f"members at {HIGHEST:g}": f"{int((final == HIGHEST).sum())} of {final.size}",
                f"steps until all were at {SOLVED:g} or more": ", ".join(
                    f"{x[0]:,}" if len(x) else "–" for x in all_solved
                ),
            }
        )
    notes = (
        f"{settings.members} members that begin with learning rates drawn log-uniformly from 1e-6 to 1e-2, constant "
        f"over the run but for exchanges; {settings.steps:,} steps each (rounded up to whole iterations). Populations "
        "of one number begin with the same seeds and learning rates under every method. Exchanges fall on the "
        f"evaluations, every tenth of the run (20 episodes); scores are deterministic, over {settings.episodes} "
        "episodes at the end. One setting of each method, not tuned."
    )
    title = "Populations: PPO on CartPole from learning rates over four decades"
    return campaign.table("population", title, rows, notes, returns=raw)


def draw(settings: Settings) -> None:
    """The mean and the worst of the members over steps: a thin line for each population, a thick one for their mean."""
    figure, axes = campaign.panels(2, 2, 4.6, 3.2, sharey=True)
    shown: dict[str, Any] = {"mean of the members": np.mean, "worst of the members": np.min}
    for axis, (title, statistic) in zip(axes, shown.items(), strict=True):
        for number, name in enumerate(METHODS):
            steps, found = curves(settings, name)
            values = statistic(found, axis=-1)
            axis.plot(steps, values.T, color=f"C{number}", linewidth=0.7, alpha=0.5)
            axis.plot(steps, values.mean(0), color=f"C{number}", linewidth=2, label=name)
        axis.set(title=title, xlabel="environment steps of each member")
    axis.figure.axes[0].set_ylabel("evaluation return")
    axis.legend(fontsize=8)
    campaign.save_figure(settings, "population", figure)


if __name__ == "__main__":
    campaign.main(main, Settings())
