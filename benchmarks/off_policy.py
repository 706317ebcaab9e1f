"""Shared code of the off-policy benchmarks: seeds as processes that can be stopped and resumed, and records.

Each seed is one run of `experiments/<algorithm>.py`, in `runs/benchmarks/<algorithm>/<task>-seed<n>`, on one core; as
many run at once as there are cores. A benchmark that is interrupted goes on where it stopped, and one that is finished
only reads its folders. `python -m benchmarks.off_policy` draws the curves of all results: benchmarks/off_policy.png.
"""

import concurrent.futures
import csv
import dataclasses
import importlib
import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import rljax
from benchmarks.common import RESULTS, peak_memory_mb, write
from rljax.envs.mujoco.task import MujocoTask

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurements."""

    tasks: tuple[str, ...]
    """Tasks, with the defaults of the experiment."""
    seeds: int | None = None
    """Number of seeds of the returns; by default 5, or 3 where the physics is MuJoCo's."""
    speed: bool = True
    """Whether to measure speed too; without it a busy machine does no harm."""
    runs: Path = ROOT / "runs" / "benchmarks"
    """Folder of the seeds' runs."""


def main(algorithm: str, targets: Mapping[str, float | None], settings: Settings) -> None:
    """The returns of every task, and the speed of one run where it is asked for."""
    if unknown := set(settings.tasks) - set(targets):
        sys.exit(f"error: unknown tasks {', '.join(sorted(unknown))}; known: {', '.join(targets)}")
    for task in settings.tasks:
        mujoco = not task.partition(":")[1] and isinstance(rljax.make(task).unwrapped, MujocoTask)
        record = returns(algorithm, task, settings.seeds or (3 if mujoco else 5), settings, targets[task])
        save(record | (speed(algorithm, task) if settings.speed else {}))


def speed(algorithm: str, task: str, seconds: float = 15.0) -> dict[str, Any]:
    """Steps per second of one run with the experiment's defaults, once it learns; and how long it took to compile."""
    experiment = importlib.import_module(f"experiments.{algorithm}")
    made = experiment.make(dataclasses.replace(experiment.TASKS[task], env=task))
    begin = time.perf_counter()
    state = jax.jit(made.init)(jax.random.key(0))

    def loop(state: Any, count: jax.Array) -> Any:
        return jax.lax.fori_loop(0, count, lambda _, s: made.step(s)[0], state)

    run = jax.jit(loop, donate_argnums=0)
    state = jax.block_until_ready(run(state, np.int32(0)))
    compile_seconds = time.perf_counter() - begin
    # A pass over the warm-up first, in which nothing is learned.
    warm_up = getattr(made.config, "first_learning_iteration", 0) + 1
    state = jax.block_until_ready(run(state, np.int32(warm_up)))
    done, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        count = max(1, round(done / elapsed)) if done else 1
        state = jax.block_until_ready(run(state, np.int32(count)))
        done += count
    return {
        "compile_seconds": compile_seconds,
        "steps_per_second_one_run": done * made.per_iteration / elapsed,
        "peak_memory_mb": peak_memory_mb(),
    }


def returns(algorithm: str, task: str, seeds: int, settings: Settings, target: float | None) -> dict[str, Any]:
    """Trains the seeds, or reads their results, and makes the record of their returns."""
    cores: queue.Queue[int] = queue.Queue()
    for core in os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0]:
        cores.put(core)

    def take_core() -> None:
        # Of the thread, whose children inherit it: two runs of two threads each on two cores are slower.
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {cores.get()})

    with concurrent.futures.ThreadPoolExecutor(cores.qsize(), initializer=take_core) as pool:
        jobs = [pool.submit(_train, algorithm, task, seed, settings.runs) for seed in range(seeds)]
        folders = [job.result() for job in jobs]
    evaluations = [json.loads((folder / "evaluation.json").read_text()) for folder in folders]
    members = [evaluation["members"][0] for evaluation in evaluations]
    machines = json.loads((folders[0] / "versions.json").read_text())
    config = json.loads((folders[0] / "config.json").read_text())
    means = {kind: [member[kind]["mean"] for member in members] for kind in ("deterministic", "stochastic")}
    engine = getattr(rljax.make(task).unwrapped, "engine", None)
    return {
        "algorithm": algorithm,
        "task": task,
        "engine": "jax" if engine is None else engine.name,
        "implementation": "rljax",
        "seeds": list(range(seeds)),
        "steps": evaluations[0]["steps"],
        "evaluation_episodes": evaluations[0]["episodes"],
        "returns_deterministic": means["deterministic"],
        "returns_stochastic": means["stochastic"],
        "target": {"return": target},
        "curves": [_curve(folder) for folder in folders],
        "config": config["config"],
        "hardware": machines["hardware"],
        "versions": machines["versions"],
        "command": f"python -m benchmarks.{algorithm} --tasks {task} --seeds {seeds} --no-speed",
    }


def _train(algorithm: str, task: str, seed: int, runs: Path) -> Path:
    """One seed in a process of its own."""
    name = f"{task.replace(':', '-')}-seed{seed}"
    command = [sys.executable, f"experiments/{algorithm}.py", "--env", task, "--seed", str(seed), "--resume"]
    command += ["--runs", str(runs), "--name", name, "--no-progress"]
    folder = runs / algorithm / name
    if not (folder / "evaluation.json").exists():
        subprocess.run(command, check=True, cwd=ROOT)
    return folder


def _curve(folder: Path) -> list[list[float]]:
    """Steps and the mean deterministic return of each evaluation on the way."""
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("evaluation/return")]
    return [[int(row["step"]), round(float(row["evaluation/return"]), 2)] for row in rows]


def save(record: dict[str, Any]) -> None:
    """Writes the record, and prints a summary."""
    write(f"{record['algorithm']}-{record['task'].replace(':', '-')}", record)
    returns = ", ".join(f"{value:.1f}" for value in record["returns_deterministic"])
    print(f"{record['algorithm']} {record['task']}: {returns}", flush=True)


def draw(path: Path = RESULTS.parent / "off_policy.png") -> None:
    """Every record's learning curves: each seed a line, the mean thick, the target dashed."""
    import matplotlib.pyplot as plt

    records = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*-cpu.json"))]
    records = [record for record in records if any(record.get("curves", []))]
    columns = 4
    rows = -(-len(records) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.7 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(records) :]:
        axis.axis("off")
    for axis, record in zip(axes.flat, records, strict=False):
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
        axis.tick_params(labelsize=8)
    figure.supxlabel("environment steps", fontsize=9)
    figure.supylabel("return of the deterministic policy", fontsize=9)
    figure.savefig(path, dpi=110)
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    draw()
