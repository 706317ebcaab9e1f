"""Speed of the offline algorithms: updates per second beside CORL's, and runs of a million updates by the clock.

`python -m benchmarks.offline --parts speed million` runs it.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax

import rljax
from benchmarks import campaign
from benchmarks.campaign import ROOT
from rljax import algorithms, training
from rljax.algorithms import offline_settings
from rljax.data import formats, normalized_score
from rljax.training.evaluate import evaluate


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements of speed."""

    datasets: tuple[str, ...] = ()
    """Datasets of experiments/collect.py, as <task>-<kind>; speed is measured on the first."""
    algorithms: tuple[str, ...] = ()
    """Algorithms to measure."""
    updates: int | None = None
    """Updates of a run; where not given, those of the algorithm in benchmarks/offline.py (million: a million)."""
    seconds: float = 20.0
    """Seconds for which each speed is measured."""
    corl: Path = ROOT.parent / "CORL"
    """Folder with a clone of github.com/corl-team/CORL."""
    peers_python: Path = ROOT / ".venv-peers" / "bin" / "python"
    """The interpreter of the peers."""


def dataset_path(settings: Settings, name: str) -> Path:
    return settings.runs / "datasets" / f"{name}-v0.hdf5"


KINDS = {
    "float32": {"precision": "float32", "penalty_draws": 0},
    "bfloat16": {"precision": "bfloat16", "penalty_draws": 0},
    "bfloat16, penalty estimated from one candidate of thirty": {"precision": "bfloat16", "penalty_draws": 1},
}
"""Settings whose speed is measured. Only the first, in CORL's precision and gradient, is like for like; the last is
for CQL only."""
LIKE_FOR_LIKE = next(iter(KINDS))
RUNS = 2
"""Processes of each program, of which the faster counts, on both sides."""


def speed(settings: Settings) -> dict[str, Any]:
    """Updates per second: one run and five seeds in one program; and CORL's, in the same session."""
    name, rows, ratios = settings.datasets[0], [], {}

    def measured(algorithm: str, kind: str, members: int) -> tuple[float, float]:
        """Measures in a process of its own: a CPU's number of devices can be set only once per process."""
        return campaign.alone(rate_of, dataset_path(settings, name), algorithm, kind, members, settings.seconds)

    for algorithm in (a for a in ("bc", "td3_bc", "iql", "cql") if a in settings.algorithms):
        peer = corl_rate(settings, algorithm)
        if peer:
            rows.append(row_of_speed(f"{algorithm} of CORL", LIKE_FOR_LIKE, peer))
        for kind in KINDS if algorithm == "cql" else list(KINDS)[:2]:
            rate, compile_seconds = max(measured(algorithm, kind, 1) for _ in range(RUNS))
            together = measured(algorithm, kind, 5)[0] if kind == LIKE_FOR_LIKE else None
            rows.append(row_of_speed(algorithm, kind, rate, peer, compile_seconds, together))
            ratios[f"{algorithm}, {kind}"] = rate / peer if peer else None
            campaign.show(rows[-1])
    return campaign.table(
        "offline",
        f"Offline, {jax.default_backend()}: updates per second on {settings.datasets[0]}",
        rows,
        "Only the rows in float32 are like for like: CORL computes in float32, and CQL's penalty there has the "
        "gradient of all thirty candidates. Batches of 256 and the networks of the papers on both sides, CORL's with "
        "its published settings and PyTorch's own number of threads. Each rate is all updates after a warm-up over "
        f"all their seconds, of the faster of {RUNS} processes, on both sides; compilation is left out. "
        "experiments/*.py take bfloat16 where the processor has it, and one candidate of CQL's thirty"
        + ("; a hundred updates an iteration on an accelerator." if training.expect_accelerator() else "."),
        ratios=ratios,
    )


def row_of_speed(
    program: str,
    kind: str,
    rate: float,
    peer: float | None = None,
    compile_seconds: float | None = None,
    together: float | None = None,
) -> dict[str, Any]:
    return {
        "program": program,
        "precision and gradient": kind,
        "ms": f"{1e3 / rate:.2f}",
        "updates per second": rate,
        "over CORL": f"{rate / peer:.2f}×" if peer else "–",
        "compile, s": f"{compile_seconds:.1f}" if compile_seconds else "–",
        "cost of 5 seeds at once, of 5 runs": f"{rate / together:.2f}" if together else "–",
    }


def rate_of(path: Path, algorithm: str, kind: str, members: int, seconds: float) -> tuple[float, float]:
    """Updates per second over all members (all after a warm-up, over all their seconds); seconds until the first."""
    if members > 1:
        training.use_cpu_cores(members=members)
    task = path.name.partition("-")[0]
    config = offline_settings.config(algorithm, task, training.expect_accelerator())
    known = {field.name for field in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{name: value for name, value in KINDS[kind].items() if name in known})
    made = algorithms.get(algorithm).make(rljax.make(task), config, formats.load(path))
    return campaign.training_rate(made, seconds, members if members > 1 else None, warm_up=8)


def million(settings: Settings) -> dict[str, Any]:
    """Runs as a user starts them, by the clock: from the start of Python to its end, compilation and all between."""
    name, updates, rows = settings.datasets[0], settings.updates or 1_000_000, []
    for algorithm in (a for a in ("iql", "cql") if a in settings.algorithms):
        folder = settings.runs / "offline" / algorithm / f"million-{name}"
        command = [sys.executable, f"experiments/{algorithm}.py", "--dataset", str(dataset_path(settings, name))]
        command += ["--runs", str(folder.parents[1]), "--name", folder.name, "--overwrite", "--no-progress"]
        command += ["--total-steps", str(updates), "--evaluate-every", "0", "--final-episodes", "0"]
        begin = time.perf_counter()
        campaign.run(command)
        rows.append(row_of_million(folder, algorithm, name.partition("-")[0], time.perf_counter() - begin))
        campaign.show(rows[-1])
    return campaign.table(
        "offline",
        f"Offline, {jax.default_backend()}: {updates:,} updates on {name}, by the clock",
        rows,
        "One command each, with the settings of the papers: it starts Python, reads the dataset, compiles, learns, "
        "logs a hundred times and saves ten checkpoints; without evaluations. Scores are those of the last state over "
        "100 episodes, played afterwards.",
    )


def row_of_million(folder: Path, algorithm: str, task: str, elapsed: float) -> dict[str, Any]:
    """A row of a finished run's results, with a score."""
    values, seconds = dict(campaign.logged(folder, "value/mean")), campaign.logged(folder, "seconds")[-1][1]
    peak, end = max(values, key=lambda step: values[step]), max(values)
    env, policy = rljax.make(task), rljax.load(folder)
    returns = jax.jit(lambda key: evaluate(env, policy, key, 100).returns)(jax.random.key(1))
    return {
        "algorithm": algorithm,
        "seconds of the command": f"{elapsed:.1f}",
        "of these in training, after compilation": f"{seconds:.1f}",
        "updates per second": end / seconds,
        "highest mean value of the data": f"{values[peak]:.1f}",
        "after updates": peak,
        "at the end": f"{values[end]:.1f}",
        "score at the end": f"{normalized_score(task, returns).mean():.1f}",
    }


def corl_rate(settings: Settings, algorithm: str) -> float | None:
    """CORL's updates per second, with PyTorch's own number of threads, of the faster of as many processes as ours."""
    if not settings.corl.exists() or not settings.peers_python.exists():
        return None
    output, rates = settings.runs / "offline" / "corl" / f"speed-{algorithm}.json", []
    updates = 300 if algorithm == "cql" else 3000
    for _ in range(RUNS):
        campaign.run(corl(settings, algorithm, settings.datasets[0], updates, output, "--speed-only"))
        rates.append(json.loads(output.read_text())["steps_per_second_one_run"])
    return max(rates)


def corl(settings: Settings, algorithm: str, name: str, updates: int, output: Path, *flags: str) -> list[str]:
    """The command of one of CORL's runs."""
    task, _, kind = name.partition("-")
    where = ("--dataset", dataset_path(settings, name), "--kind", kind.replace("-", "_"), "--corl", settings.corl)
    of = (algorithm, "--task", task, "--updates", updates)
    return campaign.peer(settings.peers_python, "corl", output, *of, *where, *flags)
