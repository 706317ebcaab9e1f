"""Benchmark of the offline algorithms: normalised scores on our datasets beside CORL's PyTorch, and updates per second.

    python experiments/collect.py --env hopper                      # first: the datasets, also half_cheetah, walker2d
    python -m benchmarks.offline                                    # everything; goes on where it was interrupted
    python -m benchmarks.offline --committed                        # and counts what benchmarks/results has as done
    python -m benchmarks.offline --parts scores --datasets hopper-medium --algorithms iql --seeds 1
    python -m benchmarks.offline --parts speed --corl ../CORL       # beside CORL (and `make install-peers`)
    python -m benchmarks.offline --parts million --datasets half_cheetah-medium-replay     # on a GPU: five minutes
    python -m benchmarks.offline --parts table                      # of what is there, and benchmarks/offline.png

Scores are the last state's over 100 episodes. A seed is one run of `experiments/<algorithm>.py` on one core, as
many at a time as there are cores; on an accelerator all seeds of a dataset are one program. CORL runs for as many
updates as ours with what it publishes for the kind of dataset, but for what `CORL` below changes on both sides.
"""

import csv
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from benchmarks import offline_speed
from benchmarks.common import RESULTS, ROOT, committed, profile, run_all, with_interval, write
from benchmarks.offline_speed import dataset_path
from rljax import training
from rljax.analysis.tables import run_by
from rljax.data import formats, normalized_score

TASKS = ("half_cheetah", "hopper", "walker2d")
KINDS = ("medium", "medium-replay", "medium-expert")
UPDATES = {
    "bc": 50_000, "bc_10": 50_000, "td3_bc": 50_000, "cql": 10_000, "cql_long": 80_000, "iql": 50_000,
    "iql_corl": 50_000, "iql_far": 50_000,
}  # fmt: skip
"""Updates of a run here, a hundredth to a twelfth of the published numbers: on two cores a million updates take CQL a
night, and CORL's a day and a half."""
FIRST = ("iql_corl", "iql", "cql")
"""First columns of the tables: the algorithm with CORL's settings, and those that CORL has as well."""
LABELS = {
    "bc": "BC", "bc_10": "BC, best 10 %", "td3_bc": "TD3+BC", "cql": "CQL", "cql_long": "CQL, longer", "iql": "IQL",
    "iql_corl": "IQL, set as CORL's", "iql_far": "IQL, γ = 0.997",
}  # fmt: skip
WHERE_NAMED = ("cql_long", "iql_far")
"""Algorithms that run only where they are named."""
DISCOUNT = 0.99
"""γ of all but `iql_far`."""
IQL = ("--learning-rate", "1e-3", "--critic-learning-rate", "1e-3")
CQL = ("--learning-rate", "3e-4", "--num-actions", "4")
FLAGS = {
    "bc_10": ("--top", "0.1"),
    "cql": CQL,
    "cql_long": (*CQL, "--critic-learning-rate", "1e-3", "--target-rate", "0.02"),
    "iql": IQL,
    "iql_corl": (*IQL, "--initialization", "uniform"),
    "iql_far": (*IQL, "--discount", "0.997", "--target-rate", "0.02", "--advantage-weight", "1"),
}
"""Of ours, beyond the settings of the task: the best tenth of the episodes; rates that so few updates suffice; for CQL
4 candidate actions of each kind, not 10, since CORL's would take hours more; CQL once more, for eight times as many
updates, with critics and targets that move faster, for after 10,000 its values on half_cheetah-medium-expert are less
than half of what they come to; IQL once more, set as CORL's: with networks that start as PyTorch's do, and what it
publishes for the dataset (`IQL_OF_CORL`); and IQL with a horizon of 333 steps, not 100, targets that move faster for
it, and a third of the weight on values that are three times as large: at γ = 0.99 a hopper that leaps and falls after
300 steps is worth as much as one that never falls."""
IQL_OF_CORL = {
    "hopper-medium": ("--deterministic-policy", "--target-rate", "1e-3"),
    "hopper-medium-replay": ("--deterministic-policy", "--target-rate", "1e-3"),
    "hopper-medium-expert": ("--reward-scale", "none", "--advantage-weight", "6", "--expectile", "0.5"),
}
"""Settings that CORL publishes for Hopper, where ours differ; it leaves the rewards of the other two as they are."""
Run = tuple[str, str, str, int]
"""Implementation, algorithm, dataset and seed."""
PLACE = "buffer_size=3000000"  # for medium-expert
CORL = {
    "bc": (),
    "td3_bc": (),
    "cql": ("--set", "policy_lr=3e-4", "cql_n_actions=4", PLACE),
    "iql": ("--set", "actor_lr=1e-3", "qf_lr=1e-3", "vf_lr=1e-3", PLACE),
}
"""Changes of CORL's published settings: our rates, with which few updates suffice, and 4 candidates."""


@dataclasses.dataclass(frozen=True)
class Settings(offline_speed.Settings):
    """Settings of the measurements."""

    parts: tuple[str, ...] = ("scores", "peers", "speed", "table")
    """Parts of the benchmark: scores, our seeds; peers, CORL's; speed, updates per second of both; table, the results
    of all runs; only if named, million, IQL and CQL for a million updates by the clock, hours on a CPU."""
    datasets: tuple[str, ...] = tuple(f"{task}-{kind}" for kind in KINDS for task in TASKS)
    """Datasets of experiments/collect.py, as <task>-<kind>."""
    algorithms: tuple[str, ...] = tuple(name for name in UPDATES if name not in WHERE_NAMED)
    """Algorithms, ours and CORL's; only if named, cql_long, half an hour a seed on a core, and iql_far."""
    seeds: int = 5
    """Number of our seeds."""
    peer_seeds: int = 1
    """Number of CORL's seeds, which take hours each."""
    committed: bool = False
    """Whether seeds in benchmarks/results, from other machines, are not run again, and stay in the table."""


def main(settings: Settings) -> None:
    if unknown := set(settings.algorithms) - set(UPDATES):
        sys.exit(f"error: unknown algorithms {', '.join(sorted(unknown))}; known: {', '.join(UPDATES)}")
    made = () if set(settings.parts) == {"table"} else settings.datasets
    if missing := [path for name in made if not (path := dataset_path(settings, name)).exists()]:
        sys.exit(f"error: {missing[0]} is not there; make it with experiments/collect.py")
    jobs: list[list[str]] = []
    if "scores" in settings.parts:
        jobs += own_jobs(settings)
    if "peers" in settings.parts:
        jobs += peer_jobs(settings)
    run_all(jobs)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # this process need not keep a GPU to itself
    if "million" in settings.parts:
        write("offline-million", offline_speed.million(settings))
    if "speed" in settings.parts:
        write("offline-speed", offline_speed.speed(settings))
    if "table" in settings.parts:
        write("offline-scores", record(settings))
        draw(settings)


def updates_of(settings: Settings, algorithm: str) -> int:
    return settings.updates or UPDATES[algorithm]


def own_folder(settings: Settings, algorithm: str, name: str, seed: int) -> Path:
    """Folder of one seed; on an accelerator, of all."""
    own = "seeds" if training.expect_accelerator() else f"seed{seed}"
    experiment = {"bc_10": "bc", "cql_long": "cql", "iql_corl": "iql", "iql_far": "iql"}.get(algorithm, algorithm)
    return settings.runs / "offline" / experiment / f"{algorithm}-{name}-{own}"


def peer_result(settings: Settings, algorithm: str, name: str, seed: int) -> Path:
    return settings.runs / "offline" / "corl" / f"{algorithm}-{name}-seed{seed}.json"


def own_jobs(settings: Settings) -> Iterable[list[str]]:
    """One command for each seed that is not finished, seed after seed; on an accelerator one for all seeds."""
    together = training.expect_accelerator()
    for seed in range(1 if together else settings.seeds):
        for algorithm in settings.algorithms:
            for name in settings.datasets:
                folder = own_folder(settings, algorithm, name, seed)
                if (folder / "evaluation.json").exists() or ("rljax", algorithm, name, seed) in earlier(settings):
                    continue
                command = [sys.executable, f"experiments/{folder.parent.name}.py", "--seed", str(seed), "--resume"]
                command += ["--dataset", str(dataset_path(settings, name)), "--no-progress", "--name", folder.name]
                command += ["--total-steps", str(updates_of(settings, algorithm)), "--runs", str(folder.parent.parent)]
                command += ["--seeds", str(settings.seeds)] if together else []
                if algorithm == "iql_corl":
                    command += IQL_OF_CORL.get(name, ("--reward-scale", "none"))
                yield [*command, *FLAGS.get(algorithm, ())]


def peer_jobs(settings: Settings) -> Iterable[list[str]]:
    for seed in range(settings.peer_seeds):
        for algorithm in (name for name in settings.algorithms if name in CORL):
            for name in settings.datasets:
                result = peer_result(settings, algorithm, name, seed)
                if result.exists() or ("CORL", algorithm, name, seed) in earlier(settings):
                    continue
                result.parent.mkdir(parents=True, exist_ok=True)
                updates = updates_of(settings, algorithm)
                task, _, kind = name.partition("-")
                command = [str(settings.peers_python), "benchmarks/peers/corl.py", algorithm, "--task", task]
                command += ["--dataset", str(dataset_path(settings, name)), "--kind", kind.replace("-", "_")]
                command += ["--updates", str(updates), "--seed", str(seed), "--threads", "1", "--resume"]
                command += ["--curve", str(updates // 10), "--corl", str(settings.corl), "--output", str(result)]
                yield [*command, *CORL[algorithm]]


# Scores


def own_result(settings: Settings, algorithm: str, name: str, seed: int) -> dict[str, Any] | None:
    """Score, updates and curve of a run that is finished."""
    folder = own_folder(settings, algorithm, name, seed)
    if not (folder / "evaluation.json").exists():
        return None
    evaluation, task = json.loads((folder / "evaluation.json").read_text()), name.partition("-")[0]
    with (folder / "metrics.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r.get("evaluation/return") and int(r["seed"]) == seed]
    member = next((member for member in evaluation["members"] if member["seed"] == seed), None)
    if member is None:
        return None
    config = json.loads((folder / "config.json").read_text())["config"]
    versions = json.loads((folder / "versions.json").read_text())["versions"]
    return {
        "implementation": "rljax", "algorithm": algorithm, "dataset": name, "seed": seed,
        "data": facts(settings, name)["sha256"], "updates": evaluation["steps"], "episodes": evaluation["episodes"],
        "score": float(normalized_score(task, member["deterministic"]["mean"])),
        "stochastic_score": float(normalized_score(task, member["stochastic"]["mean"])),
        "discount": config["discount"], "discounted": member["deterministic"].get("mean_discounted"),
        "curve": [[int(r["step"]), float(normalized_score(task, float(r["evaluation/return"])))] for r in rows],
        "versions": {name: versions.get(name) for name in ("rljax", "jax", "commit")},
    }  # fmt: skip


def corl_result(settings: Settings, algorithm: str, name: str, seed: int) -> dict[str, Any] | None:
    path = peer_result(settings, algorithm, name, seed)
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    return {
        "implementation": "CORL", "algorithm": algorithm, "dataset": name, "seed": seed,
        "data": facts(settings, name)["sha256"], "updates": record["updates"],
        "episodes": record["evaluation_episodes"], "score": record["normalized_scores"][0],
        "curve": record.get("curve"), "config": record["config"], "versions": record["versions"],
    }  # fmt: skip


def facts(settings: Settings, name: str) -> dict[str, Any]:
    """Facts about a dataset from experiments/collect.py, or if it was made elsewhere, from the committed file."""
    task, _, kind = name.partition("-")
    path = settings.runs / "datasets" / f"{task}.json"
    if path.exists():
        known = json.loads(path.read_text())[kind]
        best = float(normalized_score(task, known["best_return"]))
        return {"sha256": known["sha256"], "score": known["normalized_score"], "best_score": best} | discounted(
            settings, name
        )
    return committed("offline-scores")["datasets"][name]


def discounted(settings: Settings, name: str) -> dict[str, Any]:
    """Mean discounted returns of a dataset's episodes: of all, or of the medium policy's and of the expert's."""
    data = formats.load(dataset_path(settings, name)).discounted(DISCOUNT)
    returns, late = data.return_to_go[data.starts], data.starts >= data.size // 2  # the expert's come second
    parts = [returns[~late], returns[late]] if name.endswith("-expert") else [returns]
    return {"discounted": [float(part.mean()) for part in parts]}


def earlier(settings: Settings) -> dict[Run, dict[str, Any]]:
    """Runs of as many updates in the committed file, where they are asked for."""
    runs = committed("offline-scores")["runs"] if settings.committed else []
    return {key_of(run): run for run in runs if run["updates"] == updates_of(settings, run["algorithm"])}


def key_of(run: dict[str, Any]) -> Run:
    return run["implementation"], run["algorithm"], run["dataset"], run["seed"]


def results(settings: Settings) -> list[dict[str, Any]]:
    """All results, ordered by dataset, algorithm, ours before CORL's, and seed."""
    before = earlier(settings)
    found = [
        of(settings, algorithm, name, seed) or before.get((implementation, algorithm, name, seed))
        for name in settings.datasets
        for algorithm in UPDATES
        for implementation, of in (("rljax", own_result), ("CORL", corl_result))
        for seed in range(settings.seeds)
    ]
    return [result for result in found if result is not None]


def record(settings: Settings) -> dict[str, Any]:
    """Record for benchmarks/results: the tables, the runs that they were made of, and facts about the datasets."""
    found, data = results(settings), {name: facts(settings, name) for name in settings.datasets}
    tables = [table(settings, found, data)]
    if any(recorded(run) for run in found):
        tables.append(discounted_table(settings, [run for run in found if recorded(run)], data))
    return {"records": tables, "runs": found, "datasets": data}


def commits(runs: list[dict[str, Any]]) -> str:
    """Commits of the code that made the runs of a row, marked where they came before the mends of 0.2."""
    return ", ".join(sorted({run_by(run.get("versions")) for run in runs if run["implementation"] == "rljax"}))


def table(settings: Settings, found: list[dict[str, Any]], data: dict[str, Any]) -> dict[str, Any]:
    """Datasets in rows; ours and CORL's scores, with intervals over seeds, in columns."""
    kinds = [
        (i, a)
        for a in sorted(UPDATES, key=lambda a: FIRST.index(a) if a in FIRST else len(FIRST))
        for i in ("rljax", "CORL")
        if any((r["implementation"], r["algorithm"]) == (i, a) for r in found)
    ]
    rows = []
    for name in settings.datasets:
        row: list[Any] = [name, f"{data[name]['score']:.1f}", f"{data[name]['best_score']:.1f}"]
        for implementation, algorithm in kinds:
            row.append(with_interval([r["score"] for r in found if key_of(r)[:3] == (implementation, algorithm, name)]))
        rows.append([*row, commits([r for r in found if r["dataset"] == name])])
    columns = [LABELS[a] + ("" if i == "rljax" else " of CORL") for i, a in kinds]
    lengths = {a: sorted({r["updates"] for r in found if r["algorithm"] == a}) for a in UPDATES}
    said = ", ".join(f"{LABELS[a]} {' and '.join(f'{n:,}' for n in n)}" for a, n in lengths.items() if n)
    return profile(
        "benchmarks.offline",
        f"Offline, {jax.default_backend()}: normalised scores (D4RL's references) on generated datasets",
        ["dataset", "its policy", "its best episode", *columns, "commits"],
        rows,
        f"Updates: {said}: a twentieth to a hundredth of what is published with, so that these compare beginnings. "
        "Scores of the last state over 100 episodes of the deterministic policy: the mean over seeds [its 95 % "
        "bootstrap interval; of fewer than four seeds the range] (how many). Like for like are 'IQL, set as CORL's' "
        "and 'IQL of CORL': what CORL publishes for the dataset, networks that start as PyTorch's do, and one change "
        "on both sides, rates of 1e-3 in place of 3e-4. 'IQL' differs from CORL's: it scales rewards by returns "
        "everywhere, which CORL leaves out for HalfCheetah, Walker2d and hopper-medium-expert, and its policy is "
        "Gaussian with targets at a rate of 5e-3, where CORL's is deterministic at 1e-3 on two of the Hopper sets. "
        "CQL: a policy rate of 3e-4 in place of 3e-5, and 4 candidates in place of 10, on both sides; ours takes the "
        "penalty's gradient from one candidate, and does not normalise rewards on hopper-medium, where CORL's does. "
        "Of BC and TD3+BC CORL was not run. CQL, longer: critics at a rate of 1e-3 and targets at one of 0.02, not "
        "3e-4 and 0.005; IQL, γ = 0.997: targets at a rate of 0.02, and the weight of advantages 1, not 3: each on "
        "three sets, where the base did badly, and tuned on these, seeds of the table among them.",
    )


def recorded(run: dict[str, Any]) -> bool:
    """Whether its evaluation has the discounted return that all but `iql_far` maximise."""
    return run.get("discounted") is not None and run["discount"] == DISCOUNT


def discounted_table(settings: Settings, found: list[dict[str, Any]], data: dict[str, Any]) -> dict[str, Any]:
    """Datasets in rows; in columns the discounted returns, which algorithms maximise, of the data and of our runs."""
    kinds = [a for a in UPDATES if any(run["algorithm"] == a for run in found)]
    rows = []
    for name in (n for n in settings.datasets if any(run["dataset"] == n for run in found)):
        of = [run for run in found if run["dataset"] == name]
        row: list[Any] = [name, " and ".join(f"{mean:.1f}" for mean in data[name]["discounted"])]
        row += [with_interval([run["discounted"] for run in of if run["algorithm"] == kind]) for kind in kinds]
        rows.append([*row, commits(of)])
    return profile(
        "benchmarks.offline",
        f"Offline, {jax.default_backend()}: discounted returns (γ = {DISCOUNT}) on generated datasets",
        ["dataset", "its episodes", *(LABELS[kind] for kind in kinds), "commits"],
        rows,
        "What TD3+BC, CQL and IQL maximise: the rewards of an episode, discounted from its start, of the same "
        "runs and episodes as the scores, but only of runs that recorded it; of the data those of the medium policy "
        "and of the expert where there are both. What follows after 300 steps hardly counts here, and most in a score.",
    )


def draw(settings: Settings, path: Path = RESULTS.parent / "offline.png") -> None:
    """Learning curves of every dataset: seeds thin, their mean thick; CORL's dashed, the data's own policy dotted."""
    import matplotlib.pyplot as plt

    found, data = results(settings), {name: facts(settings, name) for name in settings.datasets}
    colors = dict(zip(UPDATES, plt.rcParams["axes.prop_cycle"].by_key()["color"]))
    columns = len(TASKS)
    figure, axes = plt.subplots(
        -(-len(settings.datasets) // columns), columns, figsize=(3.8 * columns, 2.8 * len(settings.datasets) / columns),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, name in zip(axes.flat, settings.datasets):
        axis.axhline(data[name]["score"], color="k", linestyle=":", linewidth=1)
        for implementation, algorithm in itertools.product(("rljax", "CORL"), UPDATES):
            of = [r for r in found if key_of(r)[:3] == (implementation, algorithm, name) and r["curve"]]
            if not of:
                continue
            look = {"color": colors[algorithm], "linestyle": "-" if implementation == "rljax" else "--"}
            for run in of if len(of) > 1 else ():
                axis.plot(*np.transpose(run["curve"]), **look, linewidth=0.7, alpha=0.3)
            curves = [dict(run["curve"]) for run in of]
            steps = sorted(set(curves[0]).intersection(*curves))  # a run that was lengthened has more of its own
            mean = [np.mean([curve[step] for curve in curves]) for step in steps]
            axis.plot(steps, mean, **look, linewidth=1.6, alpha=0.9)
        axis.set_title(name, fontsize=10)
        axis.xaxis.set_major_formatter(lambda step, _: f"{step / 1e3:g}k")
        axis.tick_params(labelsize=8)
    drawn = {result["algorithm"] for result in found}
    handles = [plt.Line2D([], [], color=color, label=LABELS[name]) for name, color in colors.items() if name in drawn]
    handles += [
        plt.Line2D([], [], color="k", linestyle="--", label="CORL"),
        plt.Line2D([], [], color="k", linestyle=":", label="the data's policy"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("updates", fontsize=9)
    figure.supylabel("normalised score", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main(tyro.cli(Settings, config=(tyro.conf.OmitArgPrefixes,)))
