"""Benchmark of budgets: which algorithm wins after so many steps, and after so many seconds, on HalfCheetah.

    python -m benchmarks.budget                       # everything; goes on where it was interrupted
    python -m benchmarks.budget --algorithms reppo --peers
    python -m benchmarks.budget --no-run              # the tables and the picture of what has been run, and no more

A curve is that of evaluations of the deterministic policy every few thousand steps. Runs share the machine, so their
clock says nothing: the seconds of a curve are those to compile, and steps divided by rates that are measured apart,
each program alone on one core, in turns and in one session. They are seconds of the processor, which another program
that shares the core does not lengthen as it does those on the wall. The peers need `make install-peers`; sb3-contrib's
row also `pip install sb3-contrib` there.
"""

import dataclasses
import importlib
import importlib.util
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import campaign
from rljax.algorithms.core.contract import Algorithm
from rljax.types import Refused

TASK = "half_cheetah"
NAME = f"budget-{TASK}"
OWN = "rljax"
CURVE = "evaluation/return"
EPISODES = 10
# Environment steps of each run; the peers' are fewer, since they take hours.
ALGORITHMS = {
    "ppo": 1_000_000,
    "trpo": 1_000_000,
    "reppo": 1_000_000,
    "sac": 1_000_000,
    "td3": 1_000_000,
    "crossq": 100_000,
    "flash_sac": 100_000,
}
PEERS = {
    "sb3 ppo": 300_000,
    "sb3 sac": 100_000,
    "sb3 td3": 100_000,
    "sb3-contrib trpo": 300_000,
    "sb3-contrib tqc": 100_000,
    "sbx ppo": 300_000,
    "sbx sac": 100_000,
    "sbx td3": 100_000,
    "sbx crossq": 100_000,
    "sbx simba": 100_000,
}
BUDGETS = {
    "steps": (10_000, 30_000, 100_000, 300_000, 1_000_000),
    "seconds": (10, 30, 60, 300, 900, 3600),
}
TITLES = {
    "ppo": "PPO",
    "trpo": "TRPO",
    "reppo": "REPPO",
    "sac": "SAC",
    "td3": "TD3",
    "crossq": "CrossQ",
    "flash_sac": "FlashSAC",
    "tqc": "TQC",
    "simba": "SimBa",
}
COLOURS = dict(zip(TITLES, ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C7", "C9"), strict=True))
STYLES = {OWN: "-", "sb3": "--", "sb3-contrib": "--", "sbx": ":"}
BEST = 3
"""Number of algorithms that are named at each budget."""


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    """Algorithms of rljax to run, with the defaults of their experiments; those that are not there are left out."""
    peers: tuple[str, ...] = tuple(PEERS)
    """Algorithms of other libraries to run, as `<library> <algorithm>`."""
    seeds: int = 2
    """Number of seeds of rljax's algorithms; the peers have one."""
    run: bool = True
    """Whether to run and to measure what is missing; without it, the tables and the picture are made again."""
    measure_again: bool = False
    """Whether to measure all rates again, in one session, also those that are known."""
    seconds: float = 10.0
    """Seconds of the processor for which each rate of rljax is measured in each round."""
    rounds: int = 2
    """Timings of each program, in turn; the best counts, since a busy machine only makes them longer."""
    runs: Path = campaign.ROOT / "runs" / "budget"
    """Folder of the runs."""
    peers_python: Path = campaign.ROOT / ".venv-peers" / "bin" / "python"
    """The interpreter of the peers; without it what is known of them stays."""


def main(settings: Settings) -> None:
    campaign.require_known("algorithms", settings.algorithms, ALGORITHMS)
    campaign.require_known("peers", settings.peers, PEERS)
    found: dict[str, Any] = dict(campaign.earlier(settings, NAME).get("found", {}))
    if settings.run:
        for name in programs(settings):
            collect(settings, found, name)
        try:
            campaign.run_all(command for name in programs(settings) for command in left(settings, found, name))
        finally:
            for name in programs(settings):
                collect(settings, found, name)
            save(settings, found)
        measure(settings, found)
    else:
        for name in programs(settings):
            collect(settings, found, name)
    save(settings, found)
    draw(settings, found)


# Runs


def programs(settings: Settings) -> list[str]:
    """Names as `<library> <algorithm>` of all that can be run here."""
    here = [name for name in settings.algorithms if importlib.util.find_spec(f"experiments.{name}")]
    return [*(f"{OWN} {name}" for name in here), *settings.peers]


def made(algorithm: str, **changes: Any) -> Algorithm:
    """The algorithm with the defaults of its experiment, at the steps of this benchmark."""
    experiment = importlib.import_module(f"experiments.{algorithm}")
    steps = ALGORITHMS[algorithm]
    defaults = dataclasses.replace(experiment.TASKS[TASK], env=TASK, engine="native", total_steps=steps)
    return experiment.make(dataclasses.replace(defaults, config=dataclasses.replace(defaults.config, **changes)))


def wanted(settings: Settings, name: str) -> tuple[int, int, int]:
    """Steps of a run, steps between its evaluations, and number of its seeds."""
    library, _, algorithm = name.partition(" ")
    steps = (ALGORITHMS if library == OWN else PEERS)[algorithm if library == OWN else name]
    return steps, 5_000 if steps <= 100_000 else 10_000, settings.seeds if library == OWN else 1


def whole(curve: Sequence[Sequence[float]], steps: int, every: int) -> bool:
    """Whether a curve has all evaluations, but for one or two that fell between two rollouts."""
    return len(curve) >= steps // every - 2 and curve[-1][0] > steps - 2 * every


def place(settings: Settings, name: str, seed: int) -> Path:
    """The folder of a run of rljax; the JSON file of a peer's."""
    library, _, algorithm = name.partition(" ")
    if library == OWN:
        return settings.runs / algorithm / f"{TASK}-seed{seed}"
    return settings.runs / TASK / f"{library}-{algorithm}-seed{seed}.json"


def collect(settings: Settings, found: dict[str, Any], name: str) -> None:
    """Adds the curves of the runs' folders, and of the algorithm's own results, where they reach further."""
    library, _, algorithm = name.partition(" ")
    results = campaign.earlier(settings, f"{algorithm}-{TASK}") if library == OWN else {}
    for seed in range(wanted(settings, name)[2]):
        path, curve, known = place(settings, name, seed), [], {}
        if path.suffix == ".json" and (record := campaign.read(path)):
            curve, known = record["curve"], {key: record[key] for key in ("config", "versions", "hardware")}
        elif path.suffix != ".json" and (path / "metrics.csv").exists():
            curve = [(step, round(value, 1)) for step, value in campaign.logged(path, CURVE)]
            known = {"config": (campaign.read(path / "config.json") or {}).get("config", {})}
            known |= campaign.read(path / "versions.json") or {}
        candidates = [(curve, known)]
        if seed < len(results.get("curves", [])):
            candidates.append((results["curves"][seed], {key: results[key] for key in ("config", "versions")}))
        for curve, known in candidates:
            entry = found.get(name, {"curves": {}})
            if reach(curve) > reach(entry["curves"].get(str(seed), [])):
                curves = entry["curves"] | {str(seed): [list(point) for point in curve]}
                found[name] = entry | known | {"curves": dict(sorted(curves.items()))}
    if name in found:
        steps, every, seeds = wanted(settings, name)
        curves = [found[name]["curves"].get(str(seed), []) for seed in range(seeds)]
        found[name]["finished"] = all(whole(curve, steps, every) for curve in curves)


def reach(curve: Sequence[Sequence[float]]) -> tuple[float, int]:
    """What makes one curve better than another: its last step, then its number of evaluations."""
    return (curve[-1][0] if curve else 0, len(curve))


def left(settings: Settings, found: Mapping[str, Any], name: str) -> Iterable[list[str]]:
    """The commands of the runs that are not finished."""
    library = name.partition(" ")[0]
    steps, every, seeds = wanted(settings, name)
    for seed in range(seeds):
        if whole(found.get(name, {}).get("curves", {}).get(str(seed), []), steps, every):
            continue
        path = place(settings, name, seed)
        flags = ("--evaluate-every", every, "--log-every", every, "--evaluation-episodes", EPISODES)
        if library == OWN:
            of = ("--env", TASK, "--engine", "native", "--total-steps", steps, "--final-episodes", EPISODES)
            yield campaign.experiment(path, seed, *of, *flags)
        elif settings.peers_python.exists():
            yield peer(settings, name, path, "--steps", steps, "--every", every, "--seed", seed)


def peer(settings: Settings, name: str, output: Path, *flags: object) -> list[str]:
    library, _, algorithm = name.partition(" ")
    which = ("--library", library, "--algorithm", algorithm, "--episodes", EPISODES)
    return campaign.peer(settings.peers_python, "budget", output, *which, *flags)


# Rates


def measure(settings: Settings, found: dict[str, Any]) -> None:
    """Measures the rates that are missing, each program alone on one core, in turns."""
    missing = [n for n in programs(settings) if n in found and (settings.measure_again or "rate" not in found[n])]
    if not settings.peers_python.exists():
        missing = [name for name in missing if name.startswith(OWN)]
    best: dict[str, dict[str, Any]] = {}
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    for _ in range(settings.rounds):
        for name in missing:
            library, _, algorithm = name.partition(" ")
            if library == OWN:
                new = campaign.alone(own_rate, algorithm, settings.seconds, core)
            else:
                new = peer_rate(settings, name)
            old = best.get(name, new)
            best[name] = {
                "rate": max(old["rate"], new["rate"]),
                "random_rate": max(old["random_rate"] or 0, new["random_rate"] or 0) or None,
                "compile_seconds": min(old["compile_seconds"], new["compile_seconds"]),
                "random_steps": new["random_steps"],
            }
            campaign.show({"name": name, **best[name]})
            found[name] = found[name] | best[name]
            save(settings, found)


def own_rate(algorithm: str, seconds: float, core: int | None) -> dict[str, Any]:
    """Seconds to compile, and steps a second of training; before learning starts too, where it has such steps."""
    if core is not None:
        os.sched_setaffinity(0, {core})  # where what one thread waits for, another does: one core's seconds are all
    jax.config.update("jax_enable_compilation_cache", False)
    trained = made(algorithm)
    warm_up = getattr(trained.config, "first_learning_iteration", 0) + 1
    rate, compile_seconds = campaign.training_rate(
        trained, seconds, devices=1, warm_up=warm_up, clock=time.process_time
    )
    random_rate, random_steps = None, getattr(trained.config, "learning_starts", 0)
    if random_steps:
        idle = made(algorithm, learning_starts=10**9)
        random_rate = campaign.training_rate(idle, seconds / 5, devices=1, clock=time.process_time)[0]
    return measured(rate, compile_seconds, random_rate, random_steps)


def peer_rate(settings: Settings, name: str) -> dict[str, Any]:
    path = settings.runs / "rates" / f"{name.replace(' ', '-')}.json"
    # Several iterations of those that collect rollouts.
    steps = 8192 if name.endswith(("ppo", "trpo")) else 1500
    command = peer(settings, name, path, "--steps", steps, "--speed")
    campaign.run(["taskset", "-c", str(max(os.sched_getaffinity(0))), *command])
    record = campaign.read(path) or {}
    starts = record["config"].get("learning_starts", 0) and 10_000
    random_rate = record["random_steps_per_second"]
    return measured(record["steps_per_second"], record["compile_seconds"], random_rate, starts)


def measured(rate: float, compile_seconds: float, random_rate: float | None, random_steps: int) -> dict[str, Any]:
    return {
        "rate": rate,
        "random_rate": random_rate,
        "compile_seconds": compile_seconds,
        "random_steps": random_steps,
    }


def seconds_of(entry: Mapping[str, Any], steps: np.ndarray) -> np.ndarray | None:
    """Seconds until the program has done `steps`, by its rates; None where they have not been measured."""
    if "rate" not in entry:
        return None
    at_random = np.minimum(steps, entry["random_steps"])
    quick = at_random / entry["random_rate"] if entry["random_rate"] else 0.0
    return entry["compile_seconds"] + quick + (steps - at_random) / entry["rate"]


# Tables and picture


def mean_curve(entry: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the mean over seeds then, as far as all seeds have come."""
    curves = [np.array(curve, float) for curve in entry["curves"].values()]
    end = min(curve[-1, 0] for curve in curves)
    steps = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    steps = steps[(steps >= max(curve[0, 0] for curve in curves)) & (steps <= end)]
    return steps, np.mean([np.interp(steps, *curve.T) for curve in curves], axis=0)


def within(entry: Mapping[str, Any], unit: str, budget: float) -> tuple[float, bool] | None:
    """The return of the last evaluation within a budget, and whether the run ended well before it.

    None where there is no evaluation within it, and where the run is unfinished and has not come so far.
    """
    steps, values = mean_curve(entry)
    axis = steps if unit == "steps" else seconds_of(entry, steps)
    if axis is None or not (inside := axis <= 1.001 * budget).any():
        return None
    short = bool(inside.all() and axis[-1] < 0.9 * budget)
    return None if short and not entry["finished"] else (float(values[inside][-1]), short)


def save(settings: Settings, found: Mapping[str, Any]) -> None:
    """Writes the curves with the table of the best, and the table of all."""
    if not found:
        raise Refused("nothing has been run: leave out --no-run")
    rows = [best_row(found, unit, budget) for unit, budgets in BUDGETS.items() for budget in budgets]
    notes = (
        f"Mean return of the deterministic policy over {EPISODES} episodes at the last evaluation within the budget, "
        f"and over {settings.seeds} seeds of rljax, one of the others: differences of a few hundred are chance. ≥ "
        "marks a run that ended before the budget, whose return would have grown. Runs share the machine, so their own "
        "clock says nothing: seconds are those to compile, random steps by their rate and learning steps by theirs, "
        "each measured alone on one core, in turns, in seconds of the processor. rljax has the defaults of "
        "experiments/ (SAC's products are in bfloat16), the others what rl-baselines3-zoo tuned for HalfCheetah, or "
        "their own, in float32; all in one process on one core. The peers' physics is Gymnasium's HalfCheetah-v5, "
        "which rljax follows, on MuJoCo too." + unfinished(found)
    )
    title = "Which algorithm wins at which budget: HalfCheetah, CPU"
    campaign.write(settings, NAME, campaign.table("budget", title, rows, notes, found=dict(found)))
    rows = [row_of_all(name, entry) for name, entry in sorted(found.items(), key=lambda x: order(x[0]))]
    title = "Every algorithm at every budget of steps: HalfCheetah, CPU"
    notes = "Of the curves of the table before; steps per second of the processor, one core each, once it learns."
    campaign.write(settings, f"{NAME}-all", campaign.table("budget", title, rows, notes))


def unfinished(found: Mapping[str, Any]) -> str:
    """A sentence that names what has not been run to its end, or measured, yet; empty where all is there."""
    names = [*(f"{OWN} {name}" for name in ALGORITHMS), *PEERS]
    runs = [titled(name) for name in names if not found.get(name, {}).get("finished")]
    rates = [titled(name) for name in found if "rate" not in found[name]]
    text = f" Not run to the end yet: {', '.join(runs)}." if runs else ""
    return text + (f" No rate yet: {', '.join(rates)}." if rates else "")


def order(name: str) -> tuple[int, list[str]]:
    library, _, algorithm = name.partition(" ")
    return list(TITLES).index(algorithm), [library]


def best_row(found: Mapping[str, Any], unit: str, budget: int) -> dict[str, str]:
    reached = {name: value for name, entry in found.items() if (value := within(entry, unit, budget))}
    ranking = sorted(reached, key=lambda name: -reached[name][0])
    row = {"budget": f"{budget:,} {unit}"}
    for place, name in zip(("best", "second", "third"), [*ranking, *["–"] * BEST][:BEST], strict=True):
        row[place] = "–" if name == "–" else f"{titled(name)} {in_words(reached[name])}"
    return row | {"of": str(len(reached))}


def row_of_all(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"algorithm": titled(name), "seeds": len(entry["curves"])}
    for budget in BUDGETS["steps"]:
        value = within(entry, "steps", budget)
        row[f"{budget:,}"] = in_words(value) if value and not value[1] else "–"
    row["steps/s"] = entry.get("rate", "–")
    row["compile, s"] = f"{entry['compile_seconds']:.1f}" if "rate" in entry else "–"
    return row


def titled(name: str) -> str:
    library, _, algorithm = name.partition(" ")
    return f"{library} {TITLES[algorithm]}"


def in_words(value: tuple[float, bool]) -> str:
    return f"{'≥ ' if value[1] else ''}{value[0]:,.0f}"


def draw(settings: Settings, found: Mapping[str, Any]) -> None:
    """Returns against steps and against seconds, each line named at its end."""
    figure, panels = campaign.panels(2, 2, 8.0, 6.5)
    for axis, unit in zip(panels, BUDGETS, strict=True):
        ends: list[tuple[str, float, float]] = []
        for name in sorted(found, key=order):
            library, _, algorithm = name.partition(" ")
            steps, values = mean_curve(found[name])
            x = steps if unit == "steps" else seconds_of(found[name], steps)
            if x is None or not len(x):
                continue
            axis.plot(x, values, STYLES[library], color=COLOURS[algorithm], linewidth=2 if library == OWN else 1.6)
            ends.append((name, float(x[-1]), float(values[-1])))
        axis.set_xscale("log")
        axis.set_xlabel("environment steps" if unit == "steps" else "seconds of one core, with those to compile")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        label(axis, ends)
    figure.supylabel("return of the deterministic policy, HalfCheetah", fontsize=10)
    figure.suptitle("— rljax    - - stable-baselines3, sb3-contrib    ··· sbx", fontsize=11)
    campaign.save_figure(settings, "budget", figure)


def label(axis: Any, ends: Sequence[tuple[str, float, float]]) -> None:
    """Names at the right of a panel, in the order of the lines' ends, each joined with its own."""
    low, high = axis.get_ylim()
    left, right = axis.get_xlim()
    ranked = sorted(ends, key=lambda end: end[2])
    heights = spread([y for _, _, y in ranked], (high - low) / 28, low, high)
    edge = right * (right / left) ** 0.02
    for (name, x, y), height in zip(ranked, heights, strict=True):
        colour = COLOURS[name.partition(" ")[2]]
        axis.plot([x, edge], [y, height], color=colour, linewidth=0.5, alpha=0.5, clip_on=False)
        axis.text(edge * 1.02, height, titled(name), color=colour, fontsize=9, va="center", clip_on=False)
    axis.set_xlim(left, right)
    axis.set_ylim(low, high)


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Increasing heights near increasing values, at least a gap apart, and between two bounds if there is room."""
    heights: list[float] = []
    for value in values:
        heights.append(max(value, low, heights[-1] + gap if heights else -math.inf))
    for number in reversed(range(len(heights))):
        above = heights[number + 1] - gap if number + 1 < len(heights) else high
        heights[number] = min(heights[number], above)
    return heights


if __name__ == "__main__":
    campaign.main(main, Settings())
