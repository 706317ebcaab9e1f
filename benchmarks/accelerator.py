"""Measures what an accelerator is for: physics, training with thousands of environments, updates, samplers, products.

    python -m benchmarks.accelerator --minutes 10        # the most telling parts first; goes on where it stopped
    python -m benchmarks.accelerator --parts physics     # those whose names begin so
    python -m benchmarks.accelerator --smallest          # every part at its least, to see that it runs; also on a CPU

Writes benchmarks/results/accelerator-<backend>.json (--smallest: accelerator-smallest-<backend>.json) after each part,
with the hardware and the versions; `make tables` makes the page. A part that is in the file, of the same hardware and
settings, is not measured again; one that failed is, after all others. A part begins only if the minutes left are
enough for what it is expected to take.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import campaign
from rljax.training.folder import write_json
from rljax.training.versions import versions
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    minutes: float = 10.0
    """Minutes after which no further part begins, and a running one is ended."""
    parts: tuple[str, ...] = ()
    """Beginnings of the names of the parts to measure; all where empty."""
    smallest: bool = False
    """Whether to measure every part at its least, in seconds and on any machine: its figures mean nothing."""
    list: bool = False
    """Whether to print the parts, and measure nothing."""


class Part(NamedTuple):
    """A measurement, made by a function of `accelerator_parts` in a process of its own."""

    name: str
    seconds: float
    """Seconds that it is expected to take, start and compilation included; it is ended after three times as many."""
    function: str
    arguments: dict[str, Any]
    """All that it depends on: a part with other arguments is another one."""


# Guesses for one large GPU, of which none has been measured; compilation is most of them.
STEPPING, LEARNING = 45.0, 120.0
TASKS = ("half_cheetah", "ant", "humanoid")
ALGORITHMS = ("ppo", "reppo", "flash_sac")
SMALL_LEARNING: dict[str, dict[str, Any]] = {
    "ppo": {"num_envs": 4, "rollout_length": 8, "num_minibatches": 2, "hidden": [8, 8]},
    "reppo": {"num_envs": 4, "rollout_length": 8, "num_minibatches": 2, "hidden": [8], "critic_hidden": [8]},
    "flash_sac": {
        "num_envs": 4,
        "batch_size": 8,
        "replay_size": 400,
        "learning_starts": 16,
        "width": 8,
        "critic_width": 8,
        "blocks": 1,
        "num_atoms": 11,
    },
}
"""Settings in place of ACCELERATED ones for --smallest."""


def parts(smallest: bool = False) -> list[Part]:
    """All parts, in the order of their worth."""
    if smallest:
        return [
            stepping("half_cheetah", "native", 2, 0.05),
            *(learning(name, "half_cheetah", "native", 0.5, **SMALL_LEARNING[name]) for name in ALGORITHMS),
            Part("updates of SAC", 120, "updates", {"precision": "float32", "rounds": 1}),
            Part("sampler", 60, "sampler", {"network": "mlp", "objective": "flow", "counts": [1], "seconds": 0.05}),
            Part("offline, iql", 60, "offline", {"algorithm": "iql", "seconds": 0.1, "transitions": 2000}),
            Part("products, float32", 30, "products", {"size": 64, "dtype": "float32", "operations": 1e8}),
            brax("half_cheetah", "spring", 1000, 8),
        ]
    bare = [stepping(task, engine, 4096) for task in TASKS for engine in ("warp", "mjx")]
    trained = {name: [learning(name, task, "warp") for task in TASKS] for name in ALGORITHMS}
    firsts, others = [of[0] for of in trained.values()], [part for of in trained.values() for part in of[1:]]
    return [
        *bare[:2],
        *firsts,
        learning("ppo", "half_cheetah", "mjx"),
        *bare[2:],
        *sorted(others, key=lambda part: part.arguments["task"] != "humanoid"),
        *(Part(f"updates of SAC, {kind}", 40, "updates", {"precision": kind, "rounds": 6}) for kind in PRECISIONS),
        *(
            Part(f"products, {kind}", 20, "products", {"size": 8192, "dtype": kind, "operations": 1e14})
            for kind in PRECISIONS
        ),
        *(
            Part(
                f"sampler, {network}, {objective}",
                40,
                "sampler",
                {"network": network, "objective": objective, "counts": [1, 256, 4096], "seconds": 1.0},
            )
            for network, objective in (("mlp", "flow"), ("transformer", "diffusion"))
        ),
        Part("offline, iql", 45, "offline", {"algorithm": "iql", "seconds": 8.0, "transitions": 1_000_000}),
        brax("half_cheetah", "mjx", 20_000_000, 2048),
        brax("half_cheetah", "spring", 20_000_000, 2048),
        *(stepping(task, engine, count) for count in (8192, 1024) for task in TASKS for engine in ("warp", "mjx")),
    ]


PRECISIONS = ("float32", "bfloat16")


def stepping(task: str, engine: str, num_envs: int, seconds: float = 4.0) -> Part:
    arguments = {"task": task, "engine": engine, "num_envs": num_envs, "seconds": seconds}
    return Part(f"physics, {task}, {engine}, {num_envs}", STEPPING, "stepping", arguments)


def learning(algorithm: str, task: str, engine: str, seconds: float = 60.0, **config: Any) -> Part:
    arguments = {"algorithm": algorithm, "task": task, "engine": engine, "seconds": seconds, "logs": 500, **config}
    return Part(f"training, {algorithm}, {task}, {engine}", LEARNING, "learning", arguments)


def brax(task: str, backend: str, steps: int, num_envs: int) -> Part:
    arguments = {"task": task, "backend": backend, "steps": steps, "num_envs": num_envs}
    return Part(f"Brax's PPO, {task}, {backend}", 150, "brax", arguments)


def main(settings: Settings) -> None:
    begin, chosen = time.monotonic(), parts(settings.smallest)
    if settings.parts:
        chosen = [part for part in chosen if part.name.startswith(settings.parts)]
        if not chosen:
            raise Refused(f"no part begins with {' or '.join(settings.parts)}; --list prints them")
    if settings.list:
        print(*(f"{part.name}: {part.seconds:.0f} s" for part in chosen), sep="\n")
        return
    found, error = measure(Part("machine", 120, "machine", {}), 60 * settings.minutes)
    if not found:
        raise Refused(f"JAX does not start here: {error}")
    machine = found[0]
    name = "accelerator-smallest" if settings.smallest else "accelerator"
    path = settings.results / f"{name}-{machine['backend']}.json"
    kept = known(path, machine)
    waiting = [part for part in chosen if not done(kept, part)]
    # Those that failed come last: what made them fail may be there still.
    for part in sorted(waiting, key=lambda part: part.name in kept):
        left = 60 * settings.minutes - (time.monotonic() - begin)
        if part.seconds > left:
            print(f"{part.name}: left for another call, since it takes {part.seconds:.0f} s of {left:.0f}", flush=True)
            continue
        since = time.monotonic()
        rows, error = measure(part, min(3 * part.seconds, left))
        kept[part.name] = {"arguments": part.arguments, "rows": rows, "error": error, "versions": versions()}
        kept[part.name]["seconds"] = round(time.monotonic() - since, 1)
        for row in rows:
            campaign.show({title: cell for title, cell in row.items() if title != "curve"})
        if error:
            print(f"{part.name}: {error}", flush=True)
        write(path, machine, kept)


def known(path: Path, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The parts in a file of results, if it is of the same hardware."""
    record = campaign.read(path)
    if record is None and path.exists():
        raise Refused(f"{path} is damaged; what it holds would be lost")
    if not record or "parts" not in record:
        return {}
    if record["hardware"] != json.loads(json.dumps(machine)):
        print(f"{path.name} is of other hardware, and is replaced", flush=True)
        return {}
    return record["parts"]


def done(kept: Mapping[str, Any], part: Part) -> bool:
    entry = kept.get(part.name, {})
    return entry.get("arguments") == part.arguments and not entry.get("error")


def measure(part: Part, limit: float) -> tuple[list[dict[str, Any]], str | None]:
    """The rows of a part, and in one line why there are no more; it is killed after `limit` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        output, said = Path(folder) / "rows.json", Path(folder) / "stderr"
        command = [sys.executable, "-m", "benchmarks.accelerator_parts", part.function, json.dumps(part.arguments)]
        error = None
        with said.open("w") as stderr:
            # A session of its own: what the part has started ends with it, and does not hold the accelerator.
            process = subprocess.Popen(
                [*command, str(output), str(os.getpid())],
                cwd=campaign.ROOT,
                stderr=stderr,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                if process.wait(limit):
                    error = why(said.read_text(errors="replace"))
            except subprocess.TimeoutExpired:
                error = f"ended after {limit:.0f} s, before it had done"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return (campaign.read(output) or {"rows": []})["rows"], error


def why(text: str) -> str:
    """The line of what a process wrote that says why it ended: the last that an exception begins."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if line.partition(":")[0].endswith(("Error", "Refused", "Exception", "Interrupt"))]
    return (raised or lines or ["it ended without a word"])[-1][:300]


def write(path: Path, machine: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Writes the table of all parts, whole or not at all."""
    order = [part.name for part in [*parts(), *parts(smallest=True)]]
    rows: list[dict[str, Any]] = []
    for name in sorted(kept, key=lambda name: order.index(name) if name in order else len(order)):
        rows += [{title: cell for title, cell in row.items() if title != "curve"} for row in kept[name]["rows"]]
        if kept[name]["error"]:
            rows.append({"what": name, "returns": f"failed: {kept[name]['error']}"})
    columns = ["what", "size", "rate", "unit", "compile, s", "returns"]
    record = {
        "kind": "profile",
        "title": f"Accelerator, {machine['backend']}: physics, training, updates, samplers and products",
        "columns": columns,
        "rows": [[row.get(title, "–") for title in columns] for row in rows],
        "notes": "Each part has a process of its own. Returns are those of the episodes in training, which explore, "
        "after seconds of training without compilation; of Brax's PPO those of its deterministic policy on its own "
        "robot, which is another. Sizes are numbers of environments or observations, or of rows of a batch or matrix.",
        "parts": kept,
        "hardware": machine,
        "versions": versions(),
        "command": campaign.command_of("accelerator"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    campaign.say_written(path)


if __name__ == "__main__":
    campaign.main(main, Settings())
