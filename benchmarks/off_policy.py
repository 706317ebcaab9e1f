"""What the benchmarks of off-policy algorithms share: seeds as processes that can be stopped and resumed, and records.

Each seed is one run of `experiments/<algorithm>.py`, in `runs/benchmarks/<algorithm>/<task>-seed<n>`, on one core; as
many run at once as there are cores. A benchmark that is interrupted goes on where it stopped, and one that is finished
only reads its folders.
"""

import concurrent.futures
import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import write
from rljax.analysis.statistics import bootstrap_interval

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure."""

    tasks: tuple[str, ...]
    """Tasks, with the defaults of the experiment."""
    seeds: int | None = None
    """Seeds of the returns: 5, and 3 where the physics is MuJoCo's."""
    speed: bool = True
    """Also measure speed; without it a busy machine does no harm."""
    runs: Path = ROOT / "runs" / "benchmarks"
    """Where the runs of the seeds lie."""
    at_once: int = 0
    """Seeds trained at once, on a core each; 0 takes all cores."""


def returns(algorithm: str, task: str, seeds: int, settings: Settings, target: float | None) -> dict[str, Any]:
    """Trains the seeds, or reads what they left, and makes the record of their returns."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    at_once = settings.at_once or len(cores)
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        jobs = [pool.submit(_train, algorithm, task, seed, settings.runs, at_once > 1) for seed in range(seeds)]
        folders = [job.result() for job in jobs]
    evaluations = [json.loads((folder / "evaluation.json").read_text()) for folder in folders]
    members = [evaluation["members"][0] for evaluation in evaluations]
    machines = json.loads((folders[0] / "versions.json").read_text())
    config = json.loads((folders[0] / "config.json").read_text())
    means = {kind: [member[kind]["mean"] for member in members] for kind in ("deterministic", "stochastic")}
    engine = (config["settings"] or {}).get("engine")
    return {
        "algorithm": algorithm,
        "task": task,
        "engine": engine or "jax",
        "implementation": "rljax",
        "seeds": list(range(seeds)),
        "steps": evaluations[0]["steps"],
        "evaluation_episodes": evaluations[0]["episodes"],
        "returns_deterministic": means["deterministic"],
        "returns_stochastic": means["stochastic"],
        "return_interval": [float(bound) for bound in bootstrap_interval(np.array(means["deterministic"]))],
        "target": {"return": target},
        "curves": [_curve(folder) for folder in folders],
        "config": config["config"],
        "hardware": machines["hardware"],
        "versions": machines["versions"],
        "command": f"python -m benchmarks.{algorithm} --tasks {task} --seeds {seeds} --no-speed",
    }


def _train(algorithm: str, task: str, seed: int, runs: Path, alone: bool) -> Path:
    """One seed in a process of its own; where several share the machine, each computes on one thread."""
    name = f"{task.replace(':', '-')}-seed{seed}"
    command = [sys.executable, f"experiments/{algorithm}.py", "--env", task, "--seed", str(seed), "--resume"]
    command += ["--runs", str(runs), "--name", name, "--no-progress"]
    environment = os.environ | ({"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"} if alone else {})
    folder = runs / algorithm / name
    if not (folder / "evaluation.json").exists():
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
    return folder


def _curve(folder: Path) -> list[list[float]]:
    """Steps and the mean deterministic return of each evaluation on the way."""
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("evaluation/return")]
    return [[int(row["step"]), round(float(row["evaluation/return"]), 2)] for row in rows]


def save(record: dict[str, Any], engine: str | None = None) -> None:
    """Writes the record, and says what is in it."""
    task = record["task"].replace(":", "-")
    write(f"{record['algorithm']}-{task}" + (f"-{engine}" if engine else ""), record)
    returns = ", ".join(f"{value:.1f}" for value in record.get("returns_deterministic", []))
    print(f"{record['algorithm']} {record['task']}: {returns}", flush=True)
