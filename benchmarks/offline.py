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

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import campaign, offline_speed
from benchmarks.campaign import with_interval
from benchmarks.offline_speed import dataset_path
from rljax import training
from rljax.analysis.tables import run_by
from rljax.data import formats, normalized_score
from rljax.types import Refused

TASKS = ("half_cheetah", "hopper", "walker2d")
KINDS = ("medium", "medium-replay", "medium-expert")


class Variant(NamedTuple):
    """An algorithm as it is run here."""

    label: str
    updates: int
    """Updates of a run here, a hundredth to a twelfth of the published numbers: on two cores a million updates take CQL
    a night, and CORL's a day and a half."""
    experiment: str
    """Name of the script in experiments/."""
    flags: tuple[str, ...] = ()
    """Flags beyond the settings of the task."""


IQL = ("--learning-rate", "1e-3", "--critic-learning-rate", "1e-3")
CQL = ("--learning-rate", "3e-4", "--num-actions", "4")
LONGER = (*CQL, "--critic-learning-rate", "1e-3", "--target-rate", "0.02")
FAR = (*IQL, "--discount", "0.997", "--target-rate", "0.02", "--advantage-weight", "1")
OURS = {
    "bc": Variant("BC", 50_000, "bc"),
    "bc_10": Variant("BC, best 10 %", 50_000, "bc", ("--top", "0.1")),
    "td3_bc": Variant("TD3+BC", 50_000, "td3_bc"),
    "cql": Variant("CQL", 10_000, "cql", CQL),
    "cql_long": Variant("CQL, longer", 80_000, "cql", LONGER),
    "iql": Variant("IQL", 50_000, "iql", IQL),
    "iql_corl": Variant("IQL, set as CORL's", 50_000, "iql", (*IQL, "--initialization", "uniform")),
    "iql_far": Variant("IQL, γ = 0.997", 50_000, "iql", FAR),
}
"""Ours, by name: the best tenth of the episodes; rates that so few updates suffice; for CQL
4 candidate actions of each kind, not 10, since CORL's would take hours more; CQL once more, for eight times as many
updates, with critics and targets that move faster, for after 10,000 its values on half_cheetah-medium-expert are less
than half of what they come to; IQL once more, set as CORL's: with networks that start as PyTorch's do, and what it
publishes for the dataset (`IQL_OF_CORL`); and IQL with a horizon of 333 steps, not 100, targets that move faster for
it, and a third of the weight on values that are three times as large: at γ = 0.99 a hopper that leaps and falls after
300 steps is worth as much as one that never falls."""
FIRST = ("iql_corl", "iql", "cql")
"""First columns of the tables: the algorithm with CORL's settings, and those that CORL has as well."""
WHERE_NAMED = ("cql_long", "iql_far")
"""Algorithms that run only where they are named."""
DISCOUNT = 0.99
"""γ of all but `iql_far`."""
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
    algorithms: tuple[str, ...] = tuple(name for name in OURS if name not in WHERE_NAMED)
    """Algorithms, ours and CORL's; only if named, cql_long, half an hour a seed on a core, and iql_far."""
    seeds: int = 5
    """Number of our seeds."""
    peer_seeds: int = 1
    """Number of CORL's seeds, which take hours each."""
    committed: bool = False
    """Whether seeds in benchmarks/results, from other machines, are not run again, and stay in the table."""


def main(settings: Settings) -> None:
    campaign.require_known("algorithms", settings.algorithms, OURS)
    made = () if set(settings.parts) == {"table"} else settings.datasets
    if missing := [path for name in made if not (path := dataset_path(settings, name)).exists()]:
        raise Refused(f"{missing[0]} is not there; make it with experiments/collect.py")
    jobs: list[list[str]] = []
    if "scores" in settings.parts:
        jobs += own_jobs(settings)
    if "peers" in settings.parts:
        jobs += peer_jobs(settings)
    campaign.run_all(jobs)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # this process need not keep a GPU to itself
    if "million" in settings.parts:
        campaign.write(settings, "offline-million", offline_speed.million(settings))
    if "speed" in settings.parts:
        campaign.write(settings, "offline-speed", offline_speed.speed(settings))
    if "table" in settings.parts:
        campaign.write(settings, "offline-scores", record(settings))
        draw(settings)


def updates_of(settings: Settings, algorithm: str) -> int:
    return settings.updates or OURS[algorithm].updates


def own_folder(settings: Settings, algorithm: str, name: str, seed: int) -> Path:
    """Folder of one seed; on an accelerator, of all."""
    own = "seeds" if training.expect_accelerator() else f"seed{seed}"
    return settings.runs / "offline" / OURS[algorithm].experiment / f"{algorithm}-{name}-{own}"


def own_evaluation(settings: Settings, algorithm: str, name: str, seeds: Sequence[int]) -> dict[str, Any] | None:
    """The evaluation of a run that is finished, of as many updates as are asked for."""
    folder = own_folder(settings, algorithm, name, seeds[0])
    return campaign.finished(folder, seeds, total_steps=updates_of(settings, algorithm))


def peer_result(settings: Settings, algorithm: str, name: str, seed: int) -> Path:
    return settings.runs / "offline" / "corl" / f"{algorithm}-{name}-seed{seed}.json"


def peer_record(settings: Settings, algorithm: str, name: str, seed: int) -> dict[str, Any] | None:
    """The record of a run of CORL that is finished, of as many updates as are asked for."""
    record = campaign.read(peer_result(settings, algorithm, name, seed))
    return record if record and record["updates"] == updates_of(settings, algorithm) else None


def own_jobs(settings: Settings) -> Iterator[list[str]]:
    """One command for each seed that is not finished, seed after seed; on an accelerator one for all seeds."""
    seeds, before = range(settings.seeds), earlier(settings)
    for group in [seeds] if training.expect_accelerator() else [[seed] for seed in seeds]:
        for algorithm, name in itertools.product(settings.algorithms, settings.datasets):
            done = all(("rljax", algorithm, name, seed) in before for seed in group)
            if done or own_evaluation(settings, algorithm, name, group) is not None:
                continue
            flags = ["--dataset", str(dataset_path(settings, name))]
            flags += ["--total-steps", str(updates_of(settings, algorithm))]
            flags += ["--seeds", str(len(group))] if len(group) > 1 else []
            if algorithm == "iql_corl":
                flags += IQL_OF_CORL.get(name, ("--reward-scale", "none"))
            flags += OURS[algorithm].flags
            yield campaign.experiment(own_folder(settings, algorithm, name, group[0]), group[0], *flags)


def peer_jobs(settings: Settings) -> Iterator[list[str]]:
    before = earlier(settings)
    kinds = [algorithm for algorithm in settings.algorithms if algorithm in CORL]
    for seed, algorithm, name in itertools.product(range(settings.peer_seeds), kinds, settings.datasets):
        done = ("CORL", algorithm, name, seed) in before
        if done or peer_record(settings, algorithm, name, seed) is not None:
            continue
        updates, output = updates_of(settings, algorithm), peer_result(settings, algorithm, name, seed)
        output.parent.mkdir(parents=True, exist_ok=True)
        flags = ("--seed", str(seed), "--threads", "1", "--resume", "--curve", str(updates // 10), *CORL[algorithm])
        yield offline_speed.corl(settings, algorithm, name, updates, output, *flags)


# Scores


def own_result(settings: Settings, algorithm: str, name: str, seed: int) -> dict[str, Any] | None:
    """Score, updates and curve of a run that is finished."""
    evaluation = own_evaluation(settings, algorithm, name, [seed])
    if evaluation is None:
        return None
    folder, task = own_folder(settings, algorithm, name, seed), name.partition("-")[0]
    member = next(member for member in evaluation["members"] if member["seed"] == seed)
    config = json.loads((folder / "config.json").read_text())["config"]
    versions = json.loads((folder / "versions.json").read_text())["versions"]
    curve = campaign.logged(folder, "evaluation/return", seed)
    return {
        "implementation": "rljax",
        "algorithm": algorithm,
        "dataset": name,
        "seed": seed,
        "data": facts(settings, name)["sha256"],
        "updates": evaluation["steps"],
        "episodes": evaluation["episodes"],
        "score": float(normalized_score(task, member["deterministic"]["mean"])),
        "stochastic_score": float(normalized_score(task, member["stochastic"]["mean"])),
        "discount": config["discount"],
        "discounted": member["deterministic"].get("mean_discounted"),
        "curve": [[step, float(normalized_score(task, value))] for step, value in curve],
        "versions": {name: versions.get(name) for name in ("rljax", "jax", "commit")},
    }


def corl_result(settings: Settings, algorithm: str, name: str, seed: int) -> dict[str, Any] | None:
    record = peer_record(settings, algorithm, name, seed)
    if record is None:
        return None
    return {
        "implementation": "CORL",
        "algorithm": algorithm,
        "dataset": name,
        "seed": seed,
        "data": facts(settings, name)["sha256"],
        "episodes": record["evaluation_episodes"],
        "score": record["normalized_scores"][0],
        "curve": record.get("curve"),
        **{field: record[field] for field in ("updates", "config", "versions")},
    }


def facts(settings: Settings, name: str) -> dict[str, Any]:
    """Facts about a dataset from experiments/collect.py, or if it was made elsewhere, from the committed file."""
    task, _, kind = name.partition("-")
    path = settings.runs / "datasets" / f"{task}.json"
    if path.exists():
        known = json.loads(path.read_text())[kind]
        best = float(normalized_score(task, known["best_return"]))
        about = {"sha256": known["sha256"], "score": known["normalized_score"], "best_score": best}
        return about | discounted(settings, name)
    return campaign.earlier(settings, "offline-scores")["datasets"][name]


def discounted(settings: Settings, name: str) -> dict[str, Any]:
    """Mean discounted returns of a dataset's episodes: of all, or of the medium policy's and of the expert's."""
    data = formats.load(dataset_path(settings, name)).discounted(DISCOUNT)
    returns, late = data.return_to_go[data.starts], data.starts >= data.size // 2  # the expert's come second
    parts = [returns[~late], returns[late]] if name.endswith("-expert") else [returns]
    return {"discounted": [float(part.mean()) for part in parts]}


def earlier(settings: Settings) -> dict[Run, dict[str, Any]]:
    """Runs of as many updates in the committed file, where they are asked for."""
    runs = campaign.earlier(settings, "offline-scores").get("runs", []) if settings.committed else []
    return {key_of(run): run for run in runs if run["updates"] == updates_of(settings, run["algorithm"])}


def key_of(run: dict[str, Any]) -> Run:
    return run["implementation"], run["algorithm"], run["dataset"], run["seed"]


def results(settings: Settings) -> list[dict[str, Any]]:
    """All results, ordered by dataset, algorithm, ours before CORL's, and seed."""
    before = earlier(settings)
    found = [
        of(settings, algorithm, name, seed) or before.get((implementation, algorithm, name, seed))
        for name in settings.datasets
        for algorithm in OURS
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
        for a in sorted(OURS, key=lambda a: FIRST.index(a) if a in FIRST else len(FIRST))
        for i in ("rljax", "CORL")
        if any((r["implementation"], r["algorithm"]) == (i, a) for r in found)
    ]
    rows = []
    for name in settings.datasets:
        row = {
            "dataset": name,
            "its policy": f"{data[name]['score']:.1f}",
            "its best episode": f"{data[name]['best_score']:.1f}",
        }
        for i, a in kinds:
            scores = [r["score"] for r in found if key_of(r)[:3] == (i, a, name)]
            row[OURS[a].label + ("" if i == "rljax" else " of CORL")] = with_interval(scores)
        rows.append(row | {"commits": commits([r for r in found if r["dataset"] == name])})
    lengths = {a: sorted({r["updates"] for r in found if r["algorithm"] == a}) for a in OURS}
    said = ", ".join(f"{OURS[a].label} {' and '.join(f'{n:,}' for n in n)}" for a, n in lengths.items() if n)
    return campaign.table(
        "offline",
        f"Offline, {jax.default_backend()}: normalised scores (D4RL's references) on generated datasets",
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
    kinds = [a for a in OURS if any(run["algorithm"] == a for run in found)]
    rows = []
    for name in (n for n in settings.datasets if any(run["dataset"] == n for run in found)):
        of = [run for run in found if run["dataset"] == name]
        row = {"dataset": name, "its episodes": " and ".join(f"{mean:.1f}" for mean in data[name]["discounted"])}
        for kind in kinds:
            row[OURS[kind].label] = with_interval([run["discounted"] for run in of if run["algorithm"] == kind])
        rows.append(row | {"commits": commits(of)})
    return campaign.table(
        "offline",
        f"Offline, {jax.default_backend()}: discounted returns (γ = {DISCOUNT}) on generated datasets",
        rows,
        "What TD3+BC, CQL and IQL maximise: the rewards of an episode, discounted from its start, of the same "
        "runs and episodes as the scores, but only of runs that recorded it; of the data those of the medium policy "
        "and of the expert where there are both. What follows after 300 steps hardly counts here, and most in a score.",
    )


def draw(settings: Settings) -> None:
    """Learning curves of every dataset: seeds thin, their mean thick; CORL's dashed, the data's own policy dotted."""
    import matplotlib.pyplot as plt

    found, data = results(settings), {name: facts(settings, name) for name in settings.datasets}
    colors = dict(zip(OURS, plt.rcParams["axes.prop_cycle"].by_key()["color"]))
    figure, axes = campaign.panels(len(settings.datasets), len(TASKS), 3.8, 2.8)
    for axis, name in zip(axes, settings.datasets):
        axis.axhline(data[name]["score"], color="k", linestyle=":", linewidth=1)
        for implementation, algorithm in itertools.product(("rljax", "CORL"), OURS):
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
    drawn = {name: colors[name] for name in OURS if any(result["algorithm"] == name for result in found)}
    handles = [plt.Line2D([], [], color=color, label=OURS[name].label) for name, color in drawn.items()]
    handles += [
        plt.Line2D([], [], color="k", linestyle="--", label="CORL"),
        plt.Line2D([], [], color="k", linestyle=":", label="the data's policy"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    for axis in figure.axes[-len(TASKS) :]:
        axis.set_xlabel("updates", fontsize=9)
    figure.supylabel("normalised score", fontsize=9)
    campaign.save_figure(settings, "offline", figure)


if __name__ == "__main__":
    campaign.main(main, Settings())
