"""The campaign of a benchmark: its command line, what is left to run, its timings, its records and its tables.

The scripts in this folder say what one run measures and what is shown. All else is here, once. A campaign that was
interrupted goes on where it stopped: a run counts as done if its result is there and whole, and says the same settings.
"""

import concurrent.futures
import contextlib
import csv
import dataclasses
import json
import multiprocessing
import os
import platform
import queue
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from rljax import training
from rljax.algorithms.core.contract import Algorithm
from rljax.analysis.statistics import spread_in_words
from rljax.config import config_to_dict, plain
from rljax.paths import localized
from rljax.training.folder import write_json
from rljax.training.program import build
from rljax.training.versions import hardware, versions
from rljax.types import Refused

ROOT = Path(__file__).parents[1]
Record = dict[str, Any]

# The command line


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurements."""

    runs: Path = ROOT / "runs"
    """Folder of the run folders and of the datasets."""
    results: Path = ROOT / "benchmarks" / "results"
    """Folder of the results' JSON files; pictures go beside it."""


def main(benchmark: Callable[[Any], None], settings: Any) -> None:
    """Calls a benchmark with the settings of the command line; a refusal is one line, and exit code 2."""
    try:
        benchmark(localized(tyro.cli(type(settings), default=settings, config=(tyro.conf.OmitArgPrefixes,))))
    except Refused as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def require_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    if unknown := set(names) - set(known):
        raise Refused(f"unknown {what} {', '.join(sorted(unknown))}; known: {', '.join(known)}")


# Runs, each a process of its own


def read(path: Path) -> Record | None:
    """The object in a JSON file; None where there is no file, or only a part of one."""
    with contextlib.suppress(OSError, ValueError):
        return found if isinstance(found := json.loads(path.read_text()), dict) else None
    return None


def finished(folder: Path, seeds: Sequence[int], **settings: Any) -> Record | None:
    """The evaluation of a run; None where it is missing, half-written, or of other seeds or settings.

    Args:
      settings: entries of the run's config.json, such as total_steps=1000 and config={"discount": 0.99}. An entry that
        the run did not record, such as one that is newer than the run, is not compared.
    """
    evaluation, description = read(folder / "evaluation.json"), read(folder / "config.json")
    if evaluation is None or description is None or not _agree(description, plain(settings)):
        return None
    return evaluation if set(seeds) <= {member["seed"] for member in evaluation["members"]} else None


def _agree(held: Any, wanted: Any) -> bool:
    if isinstance(held, dict) and isinstance(wanted, dict):
        return all(_agree(held[name], value) for name, value in wanted.items() if name in held)
    return held == wanted


def experiment(folder: Path, seed: int, *flags: object) -> list[str]:
    """The command of a run of experiments/<experiment>.py that goes on in the folder runs/<experiment>/<name>."""
    command = [sys.executable, f"experiments/{folder.parent.name}.py", "--seed", str(seed), "--name", folder.name]
    return [*command, "--runs", str(folder.parents[1]), "--resume", "--no-progress", *map(str, flags)]


def peer(python: Path, script: str, output: Path, *flags: object) -> list[str]:
    """The command of another library's run, by its driver in benchmarks/peers."""
    return [str(python), f"benchmarks/peers/{script}.py", *map(str, flags), "--output", str(output)]


def run(command: Sequence[str], **options: Any) -> None:
    """Runs one command at the root of the repository."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # and no packages of ours, for the peers have their own
    if code := subprocess.run(command, cwd=ROOT, env=environment, **options).returncode:
        raise Refused(f"{' '.join(command[1:])} ended with exit code {code}")


def run_all(commands: Iterable[list[str]]) -> None:
    """Runs commands, each on a core of its own, on an accelerator one after the other; says at the end which failed."""
    alone = training.expect_accelerator() or not hasattr(os, "sched_getaffinity")
    cores: queue.Queue[Any] = queue.Queue()
    for core in [None] if alone else os.sched_getaffinity(0):
        cores.put(core)

    def take_core() -> None:
        # Of the thread, whose children inherit it: two runs of two threads each on two cores are slower.
        if (core := cores.get()) is not None:
            os.sched_setaffinity(0, {core})

    def start(command: list[str]) -> str | None:
        print(" ".join(command[1:]), flush=True)
        try:
            run(command, stdout=subprocess.DEVNULL)
        except Refused as error:
            return str(error)
        return None

    with concurrent.futures.ThreadPoolExecutor(cores.qsize(), initializer=take_core) as pool:
        jobs = [pool.submit(start, command) for command in commands]
        try:
            failures = [failure for job in jobs if (failure := job.result())]
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # else those that wait would start now
            raise
    if failures:
        raise Refused(f"{len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}")


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own, where JAX starts anew."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def logged(folder: Path, column: str, seed: int | None = None) -> list[tuple[int, float]]:
    """Steps and values of a column of a run's metrics.csv, where it has one; of one seed, or of all."""
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(column) and seed in (None, int(row["seed"]))]
    return [(int(row["step"]), float(row[column])) for row in rows]


# Timings


def rate(
    calls: Callable[[int], Any], seconds: float, warm_up: int = 1, clock: Callable[[], float] | None = None
) -> float:
    """How many calls of a program go into a second, over all of at least `seconds`; `calls(n)` makes n and waits.

    Args:
      clock: seconds of another clock than that on the wall, such as `time.process_time`.
    """
    clock = clock or time.perf_counter
    calls(warm_up)
    count, done, elapsed = 1, 0, 0.0
    while elapsed < seconds:
        begin = clock()
        calls(count)
        done, elapsed = done + count, elapsed + clock() - begin
        count = max(1, round(done / elapsed * seconds / 8))
    return done / elapsed


def training_rate(
    algorithm: Algorithm,
    seconds: float,
    members: int | None = None,
    devices: int | None = None,
    warm_up: int = 1,
    clock: Callable[[], float] | None = None,
) -> tuple[float, float]:
    """Steps per second of training as the runner does it, over all members; and seconds until the first, to compile.

    Args:
      members: number of seeds that are trained together; None for a single run.
      devices: number of devices, chosen as the runner does where None.
      warm_up: iterations before the rate counts.
      clock: seconds of another clock than that on the wall, such as `time.process_time`.
    """
    clock = clock or time.perf_counter
    begin = clock()
    program = build(algorithm, members, devices, "threefry2x32")
    key = jax.random.key(0) if members is None else jax.random.split(jax.random.key(0), members)
    state, totals = program.init(np.asarray(jax.random.key_data(key)), {})
    data = () if algorithm.data is None else (program.place(algorithm.data),)

    def iterations(count: int) -> None:
        nonlocal state, totals
        state, totals, _ = jax.block_until_ready(program.run(state, totals, np.int32(0), np.int32(count), *data))

    iterations(0)
    compile_seconds = clock() - begin
    return rate(iterations, seconds, warm_up, clock) * algorithm.per_iteration * (members or 1), compile_seconds


def timed(function: Callable[[Any], Any], state: Any, count: int) -> Callable[[], float]:
    """A timing of `count` applications in one compiled loop that keeps its state: seconds of one."""
    loop = jax.jit(lambda state: jax.lax.fori_loop(0, count, lambda _, s: function(s), state), donate_argnums=0)
    kept = [jax.block_until_ready(loop(state))]

    def run() -> float:
        begin = time.perf_counter()
        kept[0] = jax.block_until_ready(loop(kept[0]))
        return (time.perf_counter() - begin) / count

    run()
    return run


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


def matmul_rate(rows: int, width: int, dtype: Any = jnp.float32, iterations: int = 50) -> float:
    """FLOP per second of a chain of products [rows, width] x [width, width], 16 in an iteration."""
    weights = (
        jax.random.normal(jax.random.key(0), (width, width), dtype) / width**0.5
    )  # which keeps the size of what it maps

    def chain(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        for _ in range(16):
            x = x @ weights
        return x, weights

    return 16 * 2 * rows * width**2 / time_of(chain, (jnp.ones((rows, width), dtype), weights), iterations)


def peak_memory_mb() -> float:
    """Peak memory of this process; on an accelerator, of the device."""
    statistics = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


# Records and files of results


def provenance(benchmark: str, arguments: Sequence[str] | None = None) -> Record:
    """Hardware, versions, commit, and the command: the given arguments, or those of this process."""
    return {"hardware": hardware(), "versions": versions(), "command": command_of(benchmark, arguments)}


def command_of(benchmark: str, arguments: Sequence[str] | None = None) -> str:
    """The command of a benchmark: the given arguments, or those of this process."""

    def shortened(argument: str) -> str:
        # A path outside of the repository means nothing elsewhere.
        path = Path(argument)
        if not path.is_absolute():
            return argument
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name

    given = map(shortened, sys.argv[1:] if arguments is None else arguments)
    return shlex.join(["python", "-m", f"benchmarks.{benchmark}", *given])


def returns(algorithm: Algorithm, task: str, steps: int, episodes: int, members: Sequence[Record]) -> Record:
    """What a record says of the returns of many seeds; a member has the means, as in evaluation.json."""
    engine = getattr(algorithm.env.unwrapped, "engine", None)
    means = {kind: [member[kind]["mean"] for member in members] for kind in ("deterministic", "stochastic")}
    print(f"{algorithm.name} {task}: {', '.join(f'{mean:.1f}' for mean in means['deterministic'])}", flush=True)
    return {
        "algorithm": algorithm.name,
        "task": task,
        "engine": "jax" if engine is None else engine.name,
        "implementation": "rljax",
        "seeds": list(range(len(members))),
        "steps": steps,
        "evaluation_episodes": episodes,
        "returns_deterministic": means["deterministic"],
        "returns_stochastic": means["stochastic"],
        "config": config_to_dict(algorithm.config),
    }


def table(benchmark: str, title: str, rows: Sequence[Mapping[str, Any]], notes: str, **more: Any) -> Record:
    """A table with where and how it was made; a row has a cell for each column's title, and "–" where it has none."""
    columns = list(dict.fromkeys(title for row in rows for title in row))
    cells = [[row.get(title, "–") for title in columns] for row in rows]
    record = {"kind": "profile", "title": title, "columns": columns, "rows": cells, "notes": notes}
    return record | more | provenance(benchmark)


def show(row: Mapping[str, Any]) -> None:
    """Prints a row of a table on its way."""
    print(*(f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row.values()), sep="  ", flush=True)


def result_path(settings: Settings, name: str) -> Path:
    return settings.results / f"{name}-{jax.default_backend()}.json"


def earlier(settings: Settings, name: str) -> Record:
    """The contents of a file of results, perhaps from another machine; empty where there is none."""
    path = result_path(settings, name)
    if (found := read(path)) is None and path.exists():
        raise Refused(f"{path} is damaged; what it holds would be lost")
    return found or {}


def write(settings: Settings, name: str, record: Record) -> None:
    """Writes a file of results, whole or not at all."""
    settings.results.mkdir(parents=True, exist_ok=True)
    path = result_path(settings, name)
    write_json(path, record)
    say_written(path)


def save_figure(settings: Settings, name: str, figure: Any) -> None:
    import matplotlib.pyplot as plt

    path = settings.results.parent / f"{name}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    say_written(path)


def say_written(path: Path) -> None:
    print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}", flush=True)


def with_interval(scores: Sequence[float], form: str = ".1f") -> str:
    """The mean over seeds, [its 95 % interval] or, of fewer than four, their range, and (how many)."""
    if not scores:
        return "–"
    return f"{np.mean(scores):{form}}{spread_in_words(scores, lambda x: format(x, form))} ({len(scores)})"


def panels(count: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Iterator[Any]]:
    """A figure with `count` panels of that size in rows, and the panels."""
    import matplotlib.pyplot as plt

    rows = -(-count // columns)
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    for axis in axes.flat:
        axis.tick_params(labelsize=8)
    return figure, iter(axes.flat[:count])
