"""Speed of the offline algorithms: updates per second beside CORL's, and runs of a million updates by the clock.

`python -m benchmarks.offline --parts speed million` runs it.
"""

import csv
import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

import rljax
from benchmarks.common import ROOT, profile
from rljax import algorithms, training
from rljax.algorithms import offline_settings
from rljax.data import formats, normalized_score
from rljax.training.evaluate import evaluate
from rljax.training.program import build


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where it is measured, and on what."""

    datasets: tuple[str, ...] = ()
    """Of experiments/collect.py, as <task>-<kind>; speed is measured on the first."""
    algorithms: tuple[str, ...] = ()
    """Which."""
    updates: int | None = None
    """Updates of a run, where not those of UPDATES (million: a million)."""
    seconds: float = 20.0
    """speed: how long each is measured."""
    runs: Path = ROOT / "runs"
    """Where the datasets and the runs lie."""
    corl: Path = ROOT.parent / "CORL"
    """A clone of github.com/corl-team/CORL."""
    peers_python: Path = ROOT / ".venv-peers" / "bin" / "python"
    """The interpreter of the peers."""


def dataset_path(settings: Settings, name: str) -> Path:
    return settings.runs / "datasets" / f"{name}-v0.hdf5"


def speed(settings: Settings) -> dict[str, Any]:
    """Updates per second: one run and five seeds in one program; and CORL's, in the same session."""
    name, rows, ratios = settings.datasets[0], [], {}

    def measured(*choice: Any) -> tuple[float, float]:
        """In a process of its own, as a user has it: how many devices a CPU is can be said but once in a process."""
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(rate_of, dataset_path(settings, name), *choice, settings.seconds).result()

    for algorithm in ("bc", "td3_bc", "iql", "cql"):
        if algorithm not in settings.algorithms:
            continue
        peer = corl_rate(settings, algorithm)
        if peer:
            rows.append([f"{algorithm} of CORL", f"{1e3 / peer:.2f}", peer, "–", f"{1e6 / peer / 60:.0f}", "–"])
        for kind in ("as configured",) if training.expect_accelerator() else ("float32", "as configured"):
            rate, compile_seconds = measured(algorithm, kind, 1)
            together = measured(algorithm, kind, 5)[0] if kind == "as configured" else None
            share = f"{rate / together:.2f}" if together else "–"
            rows.append(
                [f"{algorithm}, {kind}", f"{1e3 / rate:.2f}", rate, f"{rate / peer:.2f}×" if peer else "–",
                 f"{(compile_seconds + 1e6 / rate) / 60:.1f}", share]
            )  # fmt: skip
            ratios[f"{algorithm}, {kind}"] = rate / peer if peer else None
            print(rows[-1], flush=True)
    return profile(
        "benchmarks.offline",
        f"Offline, {jax.default_backend()}: updates per second on {settings.datasets[0]}",
        ["program", "ms", "updates per second", "over CORL", "minutes for 1M with compilation",
         "cost of 5 seeds at once, of 5 runs"],
        rows,
        "Batches of 256 and the networks of the papers, CORL's with its published settings and PyTorch's own "
        "number of threads. As configured: for CQL the gradient of one candidate of thirty; on a CPU products in "
        "bfloat16, on an accelerator a hundred updates an iteration.",
        ratios=ratios,
    )  # fmt: skip


def rate_of(path: Path, algorithm: str, kind: str, members: int, seconds: float) -> tuple[float, float]:
    """Updates per second (over all members), the best of several slices, and the seconds until the first."""
    if members > 1:
        training.use_cpu_cores(members=members)
    task = path.name.partition("-")[0]
    config = offline_settings.config(algorithm, task, training.expect_accelerator())
    if kind == "float32":
        exact = {"penalty_draws": 0} if algorithm == "cql" else {}
        config = dataclasses.replace(config, precision="float32", **exact)
    made = algorithms.get(algorithm).make(rljax.make(task), config, formats.load(path))
    begin = time.perf_counter()
    program = build(made, members if members > 1 else None, None, "threefry2x32")
    key = jax.random.split(jax.random.key(0), members) if members > 1 else jax.random.key(0)
    state, totals = program.init(np.asarray(jax.random.key_data(key)), {})
    data = program.place(made.data)
    state, totals, _ = jax.block_until_ready(program.run(state, totals, np.int32(0), np.int32(0), data))
    compile_seconds = time.perf_counter() - begin
    count, best, end = 8, 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        state, totals, _ = jax.block_until_ready(program.run(state, totals, np.int32(0), np.int32(count), data))
        elapsed = time.perf_counter() - begin
        best = max(best, count / elapsed)
        count = max(1, round(best * seconds / 8))
    return best * made.steps_per_iteration * members, compile_seconds


def million(settings: Settings) -> dict[str, Any]:
    """Runs as a user starts them, by the clock: from the start of Python to its end, compilation and all between."""
    name, updates, rows = settings.datasets[0], settings.updates or 1_000_000, []
    for algorithm in (a for a in ("iql", "cql") if a in settings.algorithms):
        folder = settings.runs / "offline" / algorithm / f"million-{name}"
        command = [sys.executable, f"experiments/{algorithm}.py", "--dataset", str(dataset_path(settings, name))]
        command += ["--runs", str(folder.parents[1]), "--name", folder.name, "--overwrite", "--no-progress"]
        command += ["--total-steps", str(updates), "--evaluate-every", "0", "--final-episodes", "0"]
        begin = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        rows.append(row_of_million(folder, algorithm, name.partition("-")[0], time.perf_counter() - begin))
        print(rows[-1], flush=True)
    return profile(
        "benchmarks.offline",
        f"Offline, {jax.default_backend()}: {updates:,} updates on {name}, by the clock",
        ["algorithm", "seconds of the command", "of these in training, after compilation", "updates per second",
         "highest mean value of the data", "after updates", "at the end", "score at the end"],
        rows,
        "One command each, with the settings of the papers: it starts Python, reads the dataset, compiles, learns, "
        "logs a hundred times and saves ten checkpoints; without evaluations. Scores are those of the last state over "
        "100 episodes, played afterwards.",
    )  # fmt: skip


def row_of_million(folder: Path, algorithm: str, task: str, elapsed: float) -> list[Any]:
    """What a finished run's folder says, with a score."""
    with (folder / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    values = {int(row["step"]): float(row["value/mean"]) for row in logged}
    peak, end = max(values, key=lambda step: values[step]), max(values)
    seconds = float(logged[-1]["seconds"])
    env, policy = rljax.make(task), rljax.load(folder)
    returns = jax.jit(lambda key: evaluate(env, policy, key, 100).returns)(jax.random.key(1))
    score = f"{normalized_score(task, returns).mean():.1f}"
    value = [f"{values[peak]:.1f}", peak, f"{values[end]:.1f}"]
    return [algorithm, f"{elapsed:.1f}", f"{seconds:.1f}", end / seconds, *value, score]


def corl_rate(settings: Settings, algorithm: str) -> float | None:
    """CORL's updates per second, with PyTorch's own number of threads, the better of two runs."""
    if not settings.corl.exists() or not settings.peers_python.exists():
        return None
    name, rates = settings.datasets[0], []
    task, _, kind = name.partition("-")
    for _ in range(2):
        output = settings.runs / "offline" / "corl" / f"speed-{algorithm}.json"
        command = [str(settings.peers_python), "benchmarks/peers/corl.py", algorithm, "--task", task, "--speed-only"]
        command += ["--dataset", str(dataset_path(settings, name)), "--kind", kind.replace("-", "_")]
        command += ["--updates", "300" if algorithm == "cql" else "3000", "--corl", str(settings.corl)]
        subprocess.run([*command, "--output", str(output)], check=True, cwd=ROOT)
        rates.append(json.loads(output.read_text())["steps_per_second_one_run"])
    return max(rates)
