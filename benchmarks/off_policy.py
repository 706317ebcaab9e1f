"""The off-policy benchmarks: returns of many seeds, speed, and the learning curves of all results.

Each seed is one run of `experiments/<algorithm>.py`, in `runs/benchmarks/<algorithm>/<task>-seed<n>`, on one core; as
many run at once as there are cores. A benchmark that is interrupted goes on where it stopped, and one that is finished
only reads its folders. `python -m benchmarks.off_policy` draws the curves of all results: benchmarks/off_policy.png.
"""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import campaign
from rljax import training
from rljax.algorithms.core.contract import Algorithm
from rljax.config import config_to_dict
from rljax.envs.mujoco.task import MujocoTask
from rljax.types import Refused

CURVE = "evaluation/return"


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    tasks: tuple[str, ...] = ()
    """Tasks, with the defaults of the experiment."""
    seeds: int | None = None
    """Number of seeds of the returns; by default 5, or 3 where the physics is MuJoCo's."""
    total_steps: int | None = None
    """Environment steps of each run; by default the experiment's."""
    speed: bool = True
    """Whether to measure speed too; without it a busy machine does no harm."""
    runs: Path = campaign.ROOT / "runs" / "benchmarks"
    """Folder of the seeds' runs."""


def main(algorithm: str, targets: Mapping[str, float | None], settings: Settings) -> None:
    """The returns of every task, and the speed of one run where it is asked for."""
    campaign.require_known("tasks", settings.tasks, targets)
    experiment = importlib.import_module(f"experiments.{algorithm}")
    accelerated = getattr(experiment, "ACCELERATED", {}) if training.expect_accelerator() else {}
    for task in settings.tasks:
        defaults = dataclasses.replace({**experiment.TASKS, **accelerated}[task], env=task)
        if settings.total_steps is not None:
            defaults = dataclasses.replace(defaults, total_steps=settings.total_steps)
        made = experiment.make(defaults)
        record = returns(made, task, defaults.total_steps, targets[task], settings)
        record |= speed(made) if settings.speed else {}
        campaign.write(settings, f"{algorithm}-{task.replace(':', '-')}", record)


def returns(made: Algorithm, task: str, total_steps: int, target: float | None, settings: Settings) -> dict[str, Any]:
    """Trains the seeds that are not finished, and makes the record of all."""
    seeds = range(settings.seeds or (3 if isinstance(made.env.unwrapped, MujocoTask) else 5))
    folders = [settings.runs / made.name / f"{task.replace(':', '-')}-seed{seed}" for seed in seeds]
    config = config_to_dict(made.config)

    def evaluation(seed: int) -> dict[str, Any] | None:
        return campaign.finished(folders[seed], [seed], total_steps=total_steps, config=config)

    left = [seed for seed in seeds if evaluation(seed) is None]
    length = () if settings.total_steps is None else ("--total-steps", settings.total_steps)
    campaign.run_all(campaign.experiment(folders[seed], seed, "--env", task, *length) for seed in left)
    found = [of for seed in seeds if (of := evaluation(seed)) is not None]
    if len(found) < len(seeds):
        raise Refused(f"{len(seeds) - len(found)} runs of {task} in {settings.runs} have no evaluation")
    machine = json.loads((folders[0] / "versions.json").read_text())
    return {
        **campaign.returns(made, task, found[0]["steps"], found[0]["episodes"], [of["members"][0] for of in found]),
        "target": {"return": target},
        "curves": [[(step, round(value, 2)) for step, value in campaign.logged(f, CURVE)] for f in folders],
        **campaign.provenance(
            made.name, ["--tasks", task, "--seeds", str(len(seeds)), *map(str, length), "--no-speed"]
        ),
        # Of the machine and the code that ran, which may have been others.
        "hardware": machine["hardware"],
        "versions": machine["versions"],
    }


def speed(made: Algorithm) -> dict[str, Any]:
    """Steps per second of one run with the experiment's defaults, once it learns; and how long it took to compile."""
    # A pass over the warm-up first, in which nothing is learned.
    warm_up = getattr(made.config, "first_learning_iteration", 0) + 1
    rate, compile_seconds = campaign.training_rate(made, 15.0, devices=1, warm_up=warm_up)
    return {
        "compile_seconds": compile_seconds,
        "steps_per_second_one_run": rate,
        "peak_memory_mb": campaign.peak_memory_mb(),
    }


def draw(settings: campaign.Settings) -> None:
    """Every record's learning curves: each seed a line, the mean thick, the target dashed."""
    records = [campaign.read(file) or {} for file in sorted(settings.results.glob("*-cpu.json"))]
    records = [record for record in records if any(record.get("curves", []))]
    figure, axes = campaign.panels(len(records), 4, 3.6, 2.7)
    for axis, record in zip(axes, records, strict=True):
        curves = [np.array(curve) for curve in record["curves"]]
        for curve in curves:
            axis.plot(curve[:, 0], curve[:, 1], color="tab:blue", linewidth=0.8, alpha=0.5)
        # Seeds that were interrupted may have been evaluated at other steps than the rest.
        shared = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
        shared = shared[(shared >= max(c[0, 0] for c in curves)) & (shared <= min(c[-1, 0] for c in curves))]
        mean = np.mean([np.interp(shared, *curve.T) for curve in curves], axis=0)
        axis.plot(shared, mean, color="tab:blue", linewidth=2)
        if record["target"]["return"] is not None:
            axis.axhline(record["target"]["return"], color="grey", linestyle="--", linewidth=1)
        axis.set_title(f"{record['algorithm']}, {record['task'].removeprefix('gymnax:')}", fontsize=10)
        axis.xaxis.set_major_formatter(lambda step, _: f"{step / 1e6:g}M" if step >= 1e6 else f"{step / 1e3:g}k")
    figure.supxlabel("environment steps", fontsize=9)
    figure.supylabel("return of the deterministic policy", fontsize=9)
    campaign.save_figure(settings, "off_policy", figure)


if __name__ == "__main__":
    campaign.main(draw, campaign.Settings())
