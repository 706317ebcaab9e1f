"""Benchmark of the progress critics as filters of faulty demonstrations: precision and recall of what they drop.

    python -m benchmarks.progress                                   # everything; goes on where it was interrupted
    python -m benchmarks.progress --seeds 1 --tasks lace --critics distributional
    python -m benchmarks.progress --parts table                     # of what is there, and benchmarks/progress.png

Scripted demonstrations with labelled faults, as experiments/gr_rl.py makes them, and its settings of the critic. A step
is dropped if progress falls by more than δ in the next k steps; for precision and recall see `progress.detection`.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import rljax
from benchmarks import campaign
from benchmarks.campaign import with_interval
from experiments.gr_rl import Settings as Pipeline
from rljax import pipeline, training
from rljax.algorithms import progress
from rljax.data import Dataset, concatenate
from rljax.envs.manipulation import demonstrators

GR_RL = Pipeline()
COMMON: dict[str, Any] = {"precision": "bfloat16"}
"""Settings of all critics, besides those of experiments/gr_rl.py: they evaluate the policy that imitates the data, and
their targets follow fast, since values propagate back over a whole demonstration."""
TD3_BC: dict[str, Any] = {"value_weight": 2.5}
CRITICS: dict[str, dict[str, Any]] = {
    "distributional": {},
    "distributional, relative": {},
    "no distribution": {"num_atoms": 0},
    "share of time": {"target": "time"},
    "joint": {},
    "joint, relative": {},
    "distributional, TD3+BC": TD3_BC,
    "no distribution, TD3+BC": TD3_BC | {"num_atoms": 0},
    "distributional, TD3+BC, slow": TD3_BC | {"target_rate": 0.005},
}
"""Differences from COMMON. Relative is the same critic, with δ as a share of the progress made; joint the
distributional one of all tasks at once. TD3+BC's evaluate a policy that also maximises their value, as GR-RL's does;
slow are targets that follow as slowly as TD3's."""
DROPS = np.geomspace(0.001, 0.9, 45)
"""Thresholds δ."""
SURE = 0.9
"""Precision that may be asked for."""
KINDS = {
    demonstrators.SLIP: ("slip", "tab:red"),
    demonstrators.HESITATION: ("hesitation", "tab:grey"),
    demonstrators.WRONG_APPROACH: ("wrong approach", "tab:orange"),
}


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    parts: tuple[str, ...] = ("critics", "table")
    """Parts of the benchmark: critics, their training; table, the results of all that are trained."""
    tasks: tuple[str, ...] = ("lace", "pick_and_place")
    """Tasks with scripted demonstrators."""
    critics: tuple[str, ...] = tuple(CRITICS)
    """Critics to train, of CRITICS."""
    seeds: int = 3
    """Number of seeds, each with its own demonstrations."""
    demonstrations: int = 150
    """Number of demonstrations per task and seed."""
    updates: int = 6_000
    """Updates of a critic; the joint one has as many for each task."""


def main(settings: Settings) -> None:
    campaign.require_known("critics", settings.critics, CRITICS)
    if "critics" in settings.parts:
        for seed in range(settings.seeds):
            data = {task: demonstrations(settings, task, seed) for task in settings.tasks}
            for name in settings.critics:
                learn(settings, name, data, seed)
    if "table" in settings.parts:
        found = results(settings)
        campaign.write(settings, "progress", table(settings, found))
        draw(settings, found)


def folder(settings: Settings, task: str, seed: int) -> Path:
    return settings.runs / "progress" / f"{task}-{settings.demonstrations}-seed{seed}"


def demonstrations(settings: Settings, task: str, seed: int) -> tuple[Dataset, np.ndarray]:
    """The demonstrations of a seed, and the label of each step's fault."""
    env, key = rljax.make(task, reward=GR_RL.reward), jax.random.key(seed)
    return pipeline.scripted(env, task, pipeline.FAULTS, key, settings.demonstrations, folder(settings, task, seed))


def progress_path(settings: Settings, name: str, task: str, seed: int) -> Path:
    name = name.removesuffix(", relative")
    file = f"{name.replace(', ', '-').replace(' ', '_')}-{settings.updates}.npy"
    return folder(settings, task, seed) / file


def learn(settings: Settings, name: str, data: dict[str, Any], seed: int) -> None:
    """Trains a critic, for each task or for all, and saves its progress at each step."""
    tasks = list(data)
    for group in [tasks] if name.startswith("joint") else [[task] for task in tasks]:
        paths = [progress_path(settings, name, task, seed) for task in group]
        if all(path.exists() for path in paths):
            continue
        print(f"seed {seed}, {name}, {' and '.join(group)}", flush=True)
        config = dataclasses.replace(GR_RL.critic, **COMMON | CRITICS[name])
        env: Any = rljax.make(group[0])
        parts = [data[task][0] for task in group]
        if name.startswith("joint"):
            env, parts = progress.joined([rljax.make(task) for task in group], parts)
        learned = [progress.with_failures(x, pipeline.retries(x, data[task][1])) for x, task in zip(parts, group)]
        algorithm = progress.make(env, config, concatenate(learned))
        options = training.Options(evaluate_every=0, final_episodes=0, progress=False)
        result = training.train(algorithm, jax.random.key(seed), settings.updates * len(group), options)
        if result.interrupted is not None:
            sys.exit(128 + result.interrupted)
        for path, part in zip(paths, parts):
            temporary = path.with_name(f"half-{path.name}")  # which no later run takes for the whole
            np.save(temporary, progress.progress(algorithm, result.state, part).astype(np.float32))
            temporary.replace(path)


# Results


def results(settings: Settings) -> dict[tuple[str, str], list[np.ndarray]]:
    """Results by task and critic, for each seed: a `Measure` for each δ, as rows [δ, field]."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for task in settings.tasks:
        for seed in range(settings.seeds):
            paths = {name: progress_path(settings, name, task, seed) for name in settings.critics}
            if not any(path.exists() for path in paths.values()):
                continue
            data, fault = demonstrations(settings, task, seed)
            for name in (name for name, path in paths.items() if path.exists()):
                values, relative = np.load(paths[name], allow_pickle=False), name.endswith("relative")
                measures = [measure(values, data.ends, fault, drop, relative) for drop in DROPS]
                found.setdefault((task, name), []).append(np.array(measures))
    return found


class Measure(NamedTuple):
    """Measures of one δ: F1, precision, recall, the share of dropped steps, and the recall of each kind of fault."""

    f1: float
    precision: float
    recall: float
    dropped: float
    slip: float
    hesitation: float
    wrong_approach: float


def measure(values: np.ndarray, ends: np.ndarray, fault: np.ndarray, drop: float, relative: bool = False) -> Measure:
    dropped = progress.drops(values, ends, drop, GR_RL.within, relative)
    of = progress.detection(dropped, fault > 0, ends, GR_RL.within)
    kinds = [progress.detection(dropped, fault == kind, ends, GR_RL.within).recall for kind in KINDS]
    f1 = 2 * of.precision * of.recall / (of.precision + of.recall) if of.recall > 0 else 0.0
    return Measure(f1, *of, *kinds)


def best(runs: list[np.ndarray]) -> int:
    """The index of the δ with the highest F1, on average over the seeds."""
    return int(np.nanargmax(np.mean([run[:, 0] for run in runs], 0)))


def table(settings: Settings, found: dict[tuple[str, str], list[np.ndarray]]) -> dict[str, Any]:
    """Tasks and critics in rows, and a row for dropping everything."""
    rows = []
    for task in settings.tasks:
        of = [(name, found[task, name]) for name in settings.critics if (task, name) in found]
        sure_of = f"recall at precision {SURE:g}"
        if of:
            everything = np.array([measure(*everything_dropped(settings, task, s)) for s in range(len(of[0][1]))])
            cells = {"δ": "–", sure_of: f"0 ({len(everything)})"}
            rows.append({"task": task, "critic": "everything dropped", **_cells(everything), **cells})
        for name, runs in of:
            at = best(runs)
            sure = [np.where(run[:, 1] >= SURE, run[:, 2], 0).max() for run in runs]
            cells = {"δ": f"{DROPS[at]:.3f}", sure_of: with_interval(sure, ".2f")}
            rows.append({"task": task, "critic": name, **_cells(np.array([run[at] for run in runs])), **cells})
    return campaign.table(
        "progress",
        f"Progress critics, {jax.default_backend()}: which demonstrated faults their filter finds",
        rows,
        f"{settings.demonstrations} scripted demonstrations and {settings.updates:,} updates (joint: for each "
        f"task), γ = {GR_RL.critic.discount:g}, k = {GR_RL.within}; at the δ with the best F1 on these demonstrations: "
        "means over the seeds [bootstrap interval] (how many). A step counts as faulty if it lies in a fault or in the "
        "k steps before one, and a fault as found if one of those is dropped: dropping everything is what has to be "
        "beaten.",
    )


def everything_dropped(settings: Settings, task: str, seed: int) -> tuple[Any, ...]:
    data, fault = demonstrations(settings, task, seed)
    return np.ones(data.size), data.ends, fault, -1.0


def _cells(measures: np.ndarray) -> dict[str, str]:
    """F1 with its interval over the seeds, and the means of the rest; of measures [seed, field]."""
    names = ("precision", "recall", "steps dropped", "of slips", "of hesitations", "of wrong approaches")
    means = (f"{x:.2f}" for x in measures[:, 1:].mean(0))
    return {"F1": with_interval(list(measures[:, 0]), ".2f"), **dict(zip(names, means, strict=True))}


def draw(settings: Settings, found: dict[tuple[str, str], list[np.ndarray]]) -> None:
    """Precision over recall, a point for each δ, the mean over the seeds; and progress along one demonstration."""
    import matplotlib.pyplot as plt

    shown = [name for name in ("distributional", "no distribution", "share of time") if name in settings.critics]
    colors = dict(zip(CRITICS, plt.rcParams["axes.prop_cycle"].by_key()["color"]))
    columns = 1 + len(shown)
    figure, panels = campaign.panels(
        len(settings.tasks) * columns, columns, 3.6, 3.0, width_ratios=[1.5, *[1] * len(shown)]
    )
    axes = np.reshape(list(panels), (-1, columns))
    for row, task in zip(axes, settings.tasks):
        data, fault = demonstrations(settings, task, 0)
        for name in settings.critics:
            if (task, name) in found:
                runs = np.array(found[task, name])
                with np.errstate(invalid="ignore"):
                    _, precision, recall, *_ = np.moveaxis(runs.mean(0), 1, 0)
                style = ":" if name.endswith("slow") else "--" if "TD3+BC" in name else "-"
                look: dict[str, Any] = {"markersize": 3, "linewidth": 1.2, "color": colors[name], "label": name}
                row[0].plot(recall, precision, style, marker=".", **look)
        chance = measure(*everything_dropped(settings, task, 0)).precision
        row[0].axhline(chance, color="grey", linewidth=0.8, label="everything dropped")
        row[0].set(xlim=(0, 1.02), ylim=(chance - 0.15, 1.02), xlabel="recall of faults", ylabel="precision of steps")
        row[0].set_title(task.replace("_", " "), fontsize=10)
        episode = example(data, fault)
        at = np.arange(data.starts[episode], data.ends[episode])
        for axis, name in zip(row[1:], shown):
            if not (path_of := progress_path(settings, name, task, 0)).exists():
                continue
            values = np.load(path_of)
            drop = DROPS[best(found[task, name])]
            dropped = progress.drops(values, data.ends, drop, GR_RL.within)[at]
            axis.plot(at - at[0], values[at], color=colors[name], linewidth=1.2)
            axis.plot((at - at[0])[dropped], values[at][dropped], "k.", markersize=3)
            for kind, (label, color) in KINDS.items():
                look = {"color": color, "alpha": 0.3, "linewidth": 0, "label": label}
                across = axis.get_xaxis_transform()
                axis.fill_between(at - at[0], 0, 1, where=fault[at] == kind, step="mid", transform=across, **look)
            low, high = min(0.0, values[at].min()), max(1.0, values[at].max())  # without distributions beyond [0, 1]
            axis.set(ylim=(low - 0.02, high + 0.02), xlabel="step", ylabel="progress")
            axis.set_title(f"{name}, δ = {drop:.3f}", fontsize=10)
    handles: dict[str, Any] = {}
    for axis in [*axes[:, 0], *axes[:, -1]]:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels())))
    handles["dropped"] = plt.Line2D([], [], color="k", marker=".", linestyle="")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8)
    campaign.save_figure(settings, "progress", figure)


def example(data: Dataset, fault: np.ndarray) -> int:
    """A demonstration that succeeds after most kinds of faults; of those the shortest."""
    succeeds = np.asarray(data.terminated)[data.ends - 1]
    kinds = [len(set(fault[a:b])) * good for a, b, good in zip(data.starts, data.ends, succeeds)]
    return int(np.lexsort([data.ends - data.starts, -np.array(kinds)])[0])


if __name__ == "__main__":
    campaign.main(main, Settings())
