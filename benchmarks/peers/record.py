"""Shared code of all peers' drivers: their results, their machine, and the record. Needs nothing of rljax."""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

EVALUATION_EPISODES = 100
# Far from the seeds that anyone trains with.
EVALUATION_SEED = 1_000_000


@dataclasses.dataclass(frozen=True)
class Trained:
    """Result of a driver: the trained policy and the training that it took."""

    act: Callable[..., Any]
    """The deterministic policy, as the driver's own evaluation takes it."""
    steps: int
    """Environment steps really executed, over all environments; updates, if it learnt from a dataset."""
    compile_seconds: float | None
    training_seconds: float
    """Seconds of training, without compilation."""
    config: dict[str, Any]
    timed_steps: int | None = None
    """Steps that `training_seconds` covers, where not all."""
    curve: list[tuple[int, float]] | None = None
    """Steps done, and the mean deterministic return then."""


def parser(
    description: str, tasks: Collection[str], task: str, num_envs: int | None, *, offline: bool = False
) -> argparse.ArgumentParser:
    """The part of the command line that all drivers have; those that train with one environment give no `num_envs`.

    Args:
      offline: trains on a dataset, so that what is counted are updates.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--task", choices=tasks, default=task)
    if offline:
        parser.add_argument("--updates", type=int, default=1_000_000, help="gradient updates")
    else:
        parser.add_argument("--steps", type=int, default=100_000, help="environment steps, over all environments")
    parser.add_argument("--seed", type=int, default=0)
    if num_envs is not None:
        parser.add_argument("--num-envs", type=int, default=num_envs)
    parser.add_argument("--episodes", type=int, default=EVALUATION_EPISODES, help="of the evaluation after training")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    return parser


def write(
    arguments: argparse.Namespace,
    trained: Trained,
    evaluate: Callable[[], list[float]],
    packages: Iterable[str],
    *,
    algorithm: str,
    **fields: Any,
) -> None:
    """Evaluates, and writes the record of training and evaluation; `fields` are the driver's own.

    Args:
      evaluate: the return of each episode; of none where only speed is measured.
    """
    peak_memory_mb = _peak_memory_mb()
    returns = evaluate()
    mean_return = float(np.mean(returns)) if returns else None
    optional = {"timed_steps": trained.timed_steps, "curve": trained.curve}
    timed_steps = trained.timed_steps or trained.steps
    rate = timed_steps / trained.training_seconds
    record = {
        "algorithm": algorithm,
        "task": arguments.task,
        **fields,
        "seeds": [arguments.seed],
        "steps": trained.steps,
        "num_envs": getattr(arguments, "num_envs", 1),
        "compile_seconds": trained.compile_seconds,
        "training_seconds": trained.training_seconds,
        "steps_per_second_one_run": rate,
        "steps_per_second_all_seeds": None,
        # One for each seed, the mean over its episodes.
        "returns_deterministic": None if mean_return is None else [mean_return],
        "returns_stochastic": None,
        "evaluation_episodes": len(returns),
        "peak_memory_mb": peak_memory_mb,
        **{name: value for name, value in optional.items() if value is not None},
        "config": trained.config,
    }
    save(arguments, record, packages)
    unit = "updates" if hasattr(arguments, "updates") else "steps"
    result = "" if mean_return is None else f", return {mean_return:.1f} over {len(returns)} episodes"
    print(
        f"{record['implementation']} {arguments.task}: {timed_steps:,} {unit} in {trained.training_seconds:.1f} s, "
        f"{rate:,.0f} {unit}/s{result} -> {arguments.output}"
    )


def save(arguments: argparse.Namespace, record: dict[str, Any], packages: Iterable[str]) -> None:
    """Writes a record with the machine, the versions and the command, whole or not at all."""
    versions = {package: importlib.metadata.version(package) for package in packages}
    record = record | {
        "hardware": _hardware(),
        "versions": {"python": platform.python_version(), **versions},
        "command": _command(arguments),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    aside = arguments.output.with_name(f".{arguments.output.name}.aside")
    aside.write_text(json.dumps(record, indent=2) + "\n")
    aside.replace(arguments.output)


def _command(arguments: argparse.Namespace) -> str:
    """The command to repeat, without places on this machine, which are nobody else's."""
    words = ["python", f"benchmarks/peers/{Path(sys.argv[0]).name}"]
    for name, value in vars(arguments).items():
        flag = [] if name == "algorithm" else [f"--{name.replace('_', '-')}"]  # the one that has no flag
        if value is True:
            words += flag
        elif isinstance(value, list):
            words += [*flag, *map(str, value)] if value else []
        elif value is not None and value is not False and name not in ("output", "corl"):
            words += [*flag, value.name if isinstance(value, Path) else str(value)]
    return shlex.join([*words, "--output", "results.json"])


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _hardware() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "platform": platform.platform(),
        "backend": "cpu",
    }
