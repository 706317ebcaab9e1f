"""Shared code of the benchmarks: the place of results, runs of many seeds, and measurements of time and memory."""

import concurrent.futures
import json
import os
import platform
import queue
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax import training
from rljax.analysis.statistics import spread_in_words
from rljax.training.versions import hardware, versions

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def write(name: str, record: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}-{jax.default_backend()}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {path.relative_to(RESULTS.parent.parent)}", flush=True)


def committed(name: str) -> dict[str, Any]:
    """The contents of a table's file in benchmarks/results, perhaps from another machine."""
    path = RESULTS / f"{name}-{jax.default_backend()}.json"
    return json.loads(path.read_text()) if path.exists() else {"runs": [], "datasets": {}}


def profile(
    module: str, title: str, columns: list[str], rows: list[list[Any]], notes: str, **more: Any
) -> dict[str, Any]:
    """A table with where and how it was made, as `make tables` shows it; `module` is what was run."""

    def shortened(argument: str) -> str:
        # A path outside of the repository means nothing elsewhere.
        path = Path(argument)
        if not path.is_absolute():
            return argument
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name

    command = " ".join(["python -m", module, *map(shortened, sys.argv[1:])])
    about = {"hardware": hardware(), "versions": versions(), "command": command}
    return {"kind": "profile", "title": title, "columns": columns, "rows": rows, "notes": notes, **more, **about}


def run_all(jobs: Iterable[list[str]]) -> None:
    """Runs commands, each on a core of its own; on an accelerator one after the other."""
    alone = training.expect_accelerator() or not hasattr(os, "sched_getaffinity")
    cores: queue.Queue[Any] = queue.Queue()
    for core in [None] if alone else os.sched_getaffinity(0):
        cores.put(core)

    def take_core() -> None:
        # Of the thread, whose children inherit it.
        if (core := cores.get()) is not None:
            os.sched_setaffinity(0, {core})

    def run(command: list[str]) -> None:
        print(" ".join(command[1:]), flush=True)
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": "."})

    with concurrent.futures.ThreadPoolExecutor(cores.qsize(), initializer=take_core) as pool:
        for job in [pool.submit(run, command) for command in jobs]:
            job.result()


def with_interval(scores: Sequence[float], form: str = ".1f") -> str:
    """The mean over seeds, [its 95 % interval] or, of fewer than four, their range, and (how many)."""
    if not scores:
        return "–"
    return f"{np.mean(scores):{form}}{spread_in_words(scores, lambda x: format(x, form))} ({len(scores)})"


def time_of(function: Callable[..., Any], argument: Any, iterations: int) -> float:
    """Seconds of one application, from a compiled loop of them; the best of three."""
    arguments = argument if isinstance(argument, tuple) else (argument,)

    def loop(*carry: Any) -> Any:
        def body(_: Any, carry: tuple) -> tuple:
            out = function(*carry)
            return out if isinstance(argument, tuple) else (out,)

        return jax.lax.fori_loop(0, iterations, body, carry)

    compiled = jax.jit(loop).lower(*arguments).compile()
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append((time.perf_counter() - begin) / iterations)
    return min(times[1:])


def peak_memory_mb() -> float:
    """Peak memory of this process; on an accelerator, of the device."""
    statistics = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)
