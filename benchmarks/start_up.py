"""Seconds until the first training step, and how many programs are compiled: with no cache, with one, at another value.

    python -m benchmarks.start_up

Each start is a process of its own. The first of each algorithm has an empty compilation cache, the second is the same
command again, and the third has another learning rate: the programs take it as an argument, so none is compiled.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

import rljax
from benchmarks import campaign
from rljax import algorithms, training

ALGORITHMS = {"ppo": "cartpole", "sac": "pendulum"}


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurement."""

    rounds: int = 1
    """Number of times that all is measured; the least seconds of each start count."""


def start(name: str, task: str, learning_rate: float) -> dict[str, float]:
    """Seconds until it is ready, and the programs that were compiled: in this process, once."""
    missed: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: missed.append(event))
    module = algorithms.get(name)
    algorithm = module.make(rljax.make(task), module.Config(learning_rate=learning_rate))
    options = training.Options(progress=False, evaluate_every=0, final_episodes=0)
    result = training.train(algorithm, jax.random.key(0), algorithm.per_iteration, options)
    return {
        "ready_seconds": result.compile_seconds,
        "compiled": missed.count("/jax/compilation_cache/cache_misses"),
    }


def measure(name: str, task: str, learning_rate: float, cache: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.start_up", "_start", name, task, str(learning_rate)]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(campaign.ROOT)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(command, cwd=campaign.ROOT, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(settings: Settings) -> None:
    """Measures all starts of all algorithms, prints them, and writes them as JSON."""
    starts = (("no cache", 1e-3), ("the same again", 1e-3), ("another learning rate", 2e-3))
    rows: list[dict[str, Any]] = []
    for name, task in ALGORITHMS.items():
        found: dict[str, list[dict[str, float]]] = {label: [] for label, _ in starts}
        for _ in range(settings.rounds):
            with tempfile.TemporaryDirectory() as cache:
                for label, learning_rate in starts:
                    found[label].append(measure(name, task, learning_rate, Path(cache)))
        for label, several in found.items():
            best = min(several, key=lambda one: one["ready_seconds"])
            rows.append({"algorithm": name, "task": task, "start": label, **best})
            print(
                f"{name} on {task}, {label}: ready after {best['ready_seconds']:.1f} s, "
                f"{best['compiled']:.0f} programs compiled",
                flush=True,
            )
    record = campaign.table(
        "start_up",
        "Time until the first step",
        [
            {
                "algorithm": row["algorithm"],
                "task": row["task"],
                "start": row["start"],
                "ready, s": f"{row['ready_seconds']:.1f}",
                "programs compiled": f"{row['compiled']:.0f}",
            }
            for row in rows
        ],
        "From the call of `training.train` to the first step, each start in a process of its own, without the import.",
        starts=rows,
    )
    campaign.write(settings, "start_up", record)


if __name__ == "__main__":
    if sys.argv[1:2] == ["_start"]:
        print(json.dumps(start(sys.argv[2], sys.argv[3], float(sys.argv[4]))))
    else:
        campaign.main(main, Settings())
