"""Scores of diffusion policies and RL in their noise: the runs of all seeds, their table and their curves.

`python -m benchmarks.steering --parts scores` runs it; runs are found by the names that it gives them.
"""

import dataclasses
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import campaign
from benchmarks.campaign import with_interval
from experiments.gr_rl import Settings as Pipeline
from rljax.analysis.runs import curve, read_run
from rljax.analysis.statistics import spread_band
from rljax.analysis.tables import run_by
from rljax.nn.precision import Precision

STEERED: dict[str, dict[str, Any]] = {
    "dsrl_sac": {},
    "dsrl_na": {"hidden": (256, 256, 256)},
    "grrl_steer": {},
    "residual": {},
}
"""Flags of a steering method beyond its defaults; no CPU can afford the width of dsrl_na's networks."""
ALONE = ("--num-envs", "16", "--num-updates", "16", "--normalize-observation", "--layer-norm")
FROM_NOTHING = {"sac": ALONE, "rlpd": (*ALONE, "--policy-delay", "4")}
"""Flags of methods with single actions; PushT's demonstrations have the sparse reward, and so has RLPD."""
PIPELINE = Pipeline()
HISTORY = ("--history", str(PIPELINE.policy.history), "--executed", str(PIPELINE.policy.executed))
NORMALIZED = ("--normalize-observation", "--action-normalization", "minmax")
IN_CHUNKS = {"rlpd_chunks": (*HISTORY, "--mirror", *NORMALIZED, "--discount", str(PIPELINE.online.discount))}
"""Flags of RLPD like for like with RL in the noise: of the lace's filtered and mirrored demonstrations, in chunks as
those of the policy that is steered, with the 20 updates for each decision that are RLPD's own."""
METHODS = (*STEERED, *FROM_NOTHING, *IN_CHUNKS, "gr_rl")
MISMATCH = PIPELINE.mismatch
"""Mismatch of the lace: the pipeline's, for all that learn online."""
REWARDS = {"push_t": "dense", "lace": "staged", "lace_either_hand": "staged"}
LEFT_FIRST = {"lace": 1.0, "lace_either_hand": 0.5}
"""Of the demonstrations of a lace. Policies start with either hand: what a mirror adds to those of one hand is the half
that they do not show, which is a gain by construction; what it adds to those of either hand is not."""
STEERED_STAGE = "and RL in its noise"
"""Name of a pipeline's last stage."""
COVERAGE = "highest_coverage"
"""Name in the runs of the highest coverage in an episode of PushT."""
SHARES = {
    "success": "success",
    "deterministic": "deterministic",
    "without mismatch": "as_asked",
    "highest coverage": "coverage",
}
"""Quantities of the table, by the titles of their columns."""
TARGETS = {"to +20 points": lambda base: base + 0.2, "to 90 %": lambda base: 0.9}


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings that choose the runs."""

    seeds: int = 3
    """Number of seeds of each method, for scores; 0 runs nothing."""
    tasks: tuple[str, ...] = tuple(REWARDS)
    """Tasks, for scores; the lace's demonstrations are of one hand, lace_either_hand's of both. Policies and
    demonstrations of a lace are gr_rl's, whose last stage is dsrl_sac there."""
    methods: tuple[str, ...] = METHODS
    """Methods to run for scores, or whose loop to time for speed."""
    demos: Path | None = None
    """File of PushT's demonstrations (Chi et al. 2023), for scores; without it only sac runs there."""
    policy_updates: int = 30_000
    """Updates of PushT's diffusion policy, for scores."""
    online_steps: int = 300_000
    """Environment steps of online learning, for scores."""
    reward: str = REWARDS["push_t"]
    """Reward of PushT, for scores of all but rlpd: dense, staged or sparse. A lace's is staged."""
    precision: Precision = "bfloat16"
    """Precision of the hidden layers' matrix products, in the runs and in the timed loop."""
    pattern: str = "*-seed*"
    """Pattern of the names of the run folders that count, for scores."""
    committed: bool = False
    """Whether seeds in benchmarks/results, from other machines, are not run again, and stay in the table."""


def pipeline_folder(settings: Settings, task: str, seed: int) -> Path:
    """Folder of a lace's stages."""
    return settings.runs / "gr_rl" / f"{task}-seed{seed}"


def base_folder(settings: Settings, task: str, seed: int) -> Path:
    """Folder of the steered policy."""
    if task in LEFT_FIRST:
        return pipeline_folder(settings, task, seed) / "3-mirrored"
    return settings.runs / "diffusion_policy" / f"push_t-seed{seed}"


def left(settings: Settings, task: str, seed: int) -> list[str]:
    """The methods of a task that were not run elsewhere and have what they need."""
    done = {run["method"] for run in earlier(settings) if (run["task"], run["seed"]) == (task, seed)}
    able = set(settings.methods) - done - ({"dsrl_sac"} if task in LEFT_FIRST else {"gr_rl", *IN_CHUNKS})
    if task == "lace_either_hand":
        able -= {"sac"}  # which sees no demonstrations, so that the lace's is its own
    if task == "push_t" and settings.demos is None:
        able &= {"sac"}
    return [method for method in settings.methods if method in able]


def base_jobs(settings: Settings) -> Iterator[list[str]]:
    """Unfinished bases of the other methods: PushT's diffusion policies, the lace's pipelines."""
    for seed in range(settings.seeds):
        methods = {task: left(settings, task, seed) for task in settings.tasks}
        if set(methods.get("push_t", ())) & set(STEERED):
            flags = ("--dataset", str(settings.demos))
            yield from _job(settings, base_folder(settings, "push_t", seed), seed, settings.policy_updates, flags)
        for task, left_first in LEFT_FIRST.items():
            folder = pipeline_folder(settings, task, seed)
            if set(methods.get(task, ())) - {"sac"} and not _complete(folder):
                command = [sys.executable, "experiments/gr_rl.py", "--task", "lace", "--left-first", str(left_first)]
                command += ["--seed", str(seed), "--name", folder.name, "--no-progress", "--runs", str(settings.runs)]
                command += ["--online-steps", str(settings.online_steps)]
                yield [*command, "--policy.precision", settings.precision, "--online.precision", settings.precision]


def own_jobs(settings: Settings) -> Iterator[list[str]]:
    """Commands of the online methods, seed after seed."""
    steps = settings.online_steps
    common = ["--evaluation-episodes", "50", "--evaluate-every", str(max(1, steps // 20))]
    for seed, task in itertools.product(range(settings.seeds), settings.tasks):
        lace, stages = task in LEFT_FIRST, pipeline_folder(settings, task, seed)
        reward = ["--reward", REWARDS[task] if lace else settings.reward]
        executed = flags_of(dataclasses.asdict(MISMATCH)) if lace else []
        demos = stages / "demonstrations.hdf5" if lace else settings.demos
        for method in left(settings, task, seed):
            if method == "gr_rl":
                continue
            folder = settings.runs / method / f"{task}-seed{seed}"
            if method in STEERED:
                folder = settings.runs / "steer" / f"{task}-{method}-seed{seed}"
                what = ["--base", str(base_folder(settings, task, seed)), "--method", method, *reward]
                what += flags_of(STEERED[method])
            elif method in IN_CHUNKS:
                folder = settings.runs / "rlpd" / f"{task}-{method}-seed{seed}"
                what = ["--dataset", str(demos), "--weight", str(stages / "0-progress" / "weight.npy"), *reward]
                what += IN_CHUNKS[method]
            elif method == "rlpd":
                what = ["--dataset", str(demos), *(reward if lace else []), *FROM_NOTHING[method]]
            else:
                what = ["--env", task, *reward, *FROM_NOTHING[method]]
            yield from _job(settings, folder, seed, steps, (*what, *executed, *common))


def flags_of(settings: dict[str, Any]) -> list[str]:
    """The settings as flags of a command line."""
    flags: list[str] = []
    for name, value in settings.items():
        flags += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return flags


def _job(settings: Settings, folder: Path, seed: int, steps: int, flags: Sequence[str]) -> Iterator[list[str]]:
    """The command of a run that is not finished, with these steps and the precision and reward that are asked for."""
    wanted: dict[str, Any] = {"total_steps": steps, "config": {"precision": settings.precision}}
    if "--reward" in flags:
        wanted["env"] = {"reward": flags[flags.index("--reward") + 1]}
    if campaign.finished(folder, [seed], **wanted) is None:
        lengths = ("--total-steps", steps, "--final-episodes", 200, "--precision", settings.precision)
        yield campaign.experiment(folder, seed, *lengths, *flags)


def earlier(settings: Settings) -> list[dict[str, Any]]:
    """Runs of the committed file, where they are asked for."""
    return campaign.earlier(settings, "steering-scores").get("runs", []) if settings.committed else []


def results(settings: Settings) -> Iterator[dict[str, Any]]:
    """Every finished seed: task, method, stage, reward, steps, success, and the curve of what learned online."""
    found = {key_of(run): run for run in (*earlier(settings), *_finished(settings))}
    yield from sorted(found.values(), key=lambda run: run["task"])


def key_of(run: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(run[name] for name in ("task", "method", "stage", "reward", "seed"))


def _finished(settings: Settings) -> Iterator[dict[str, Any]]:
    """The finished seeds among the run folders."""
    for experiment in ("diffusion_policy", "steer", *FROM_NOTHING):
        for folder in sorted((settings.runs / experiment).glob(settings.pattern)):
            if (evaluation := campaign.read(folder / "evaluation.json")) is not None:
                yield from _results_of(folder, evaluation)
    for folder in sorted((settings.runs / "gr_rl").glob(settings.pattern)):
        stages = campaign.read(folder / "result.json")
        if stages is None:
            continue
        seed = int(re.findall(r"seed(\d+)", folder.name)[-1])
        # In the order of the stages, the last of which may be missing; what the filter took is the filtered policy's.
        made = sorted(folder.glob("[1-4]-*"))[: len(stages["stages"])]
        env = json.loads((made[-1] / "config.json").read_text())["env"]
        taken = [_seconds(stage) for stage in made]
        taken[1] += _seconds(folder / "0-progress")
        for (stage, row), seconds, of in zip(stages["stages"].items(), taken, made, strict=True):
            online = stage == STEERED_STAGE
            steps, points = _curve(folder / "4-steered", 0) if online else (None, None)
            yield {
                "task": task_of(folder, env["name"]),
                "method": "gr_rl",
                "stage": stage,
                "seed": seed,
                "steps": steps,
                "reward": env.get("reward") if online else None,
                "success": row["executed"]["success"],
                "as_asked": row["asked"]["success"],
                "curve": points,
                "seconds": seconds,
                "versions": ran_by(of),
            }


def _results_of(folder: Path, evaluation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    description = json.loads((folder / "config.json").read_text())
    config, env, online = description["config"], description["env"], description["algorithm"] != "diffusion"
    method = config.get("method", folder.parent.name)
    if method == "rlpd" and config.get("executed", 1) > 1:
        method = "rlpd_chunks"
    for position, member in enumerate(evaluation["members"]):
        sampled = member["stochastic"]
        if "success" in sampled:
            yield {
                "task": task_of(folder, env["name"]),
                "method": method,
                "stage": "",
                "seed": member["seed"],
                "steps": evaluation["steps"] if online else None,
                "reward": env.get("reward", "sparse") if online else None,
                "success": sampled["success"],
                "deterministic": member["deterministic"]["success"],
                **({"coverage": sampled[COVERAGE]} if COVERAGE in sampled else {}),
                "curve": _curve(folder, position)[1] if online else None,
                "seconds": _seconds(folder),
                "versions": ran_by(folder),
            }


def _complete(folder: Path) -> bool:
    """Whether a pipeline has gone through all its stages."""
    return STEERED_STAGE in (campaign.read(folder / "result.json") or {"stages": {}})["stages"]


def task_of(folder: Path, name: str) -> str:
    """The task of a run, by the name of its folder; what is made of demonstrations of either hand is another's."""
    return "lace_either_hand" if folder.name.startswith("lace_either_hand") else name


def ran_by(folder: Path) -> dict[str, Any]:
    """Release and commit of the code that made a run."""
    versions = json.loads((folder / "versions.json").read_text())["versions"]
    return {name: versions.get(name) for name in ("rljax", "jax", "commit")}


def _seconds(folder: Path) -> float:
    """Seconds that a run trained, with compilation and evaluations."""
    return campaign.logged(folder, "seconds")[-1][1]


def _curve(folder: Path, position: int) -> tuple[int, list[list[float]]]:
    """How many steps a run made, and success [step, share] on the way, of a policy that samples."""
    run, metric = read_run(folder), "evaluation/stochastic_success"
    if metric not in run.metric_names:
        return int(run.steps), []
    steps, values = curve(run, metric)
    return int(run.steps), [[int(s), float(v)] for s, v in zip(steps, values[position]) if np.isfinite(v)]


def reached(points: list[list[float]], level: float) -> int | None:
    """The step from which on three evaluations in a row are at this level on average."""
    steps, success = np.array(points).reshape(-1, 2).T
    means = np.convolve(success, np.ones(3) / 3, "valid") if len(success) >= 3 else np.zeros(0)
    above = np.flatnonzero(means >= level - 1e-9)
    return int(steps[above[0]]) if len(above) else None


def groups(found: list[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Results by task, method, stage, reward and whether they were run before 0.2, in the order of discovery."""
    kinds: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in found:
        before = run_by(r.get("versions")).endswith("†")
        kinds.setdefault((r["task"], r["method"], r["stage"], r["reward"], before), []).append(r)
    return kinds


def bases(found: list[dict[str, Any]]) -> dict[tuple[str, bool], float]:
    """How often the policy that RL began from succeeds, by task and whether it is gr_rl's: the last only imitated."""
    kinds = groups([r for r in found if r["curve"] is None])
    return {(task, how == "gr_rl"): float(np.mean([r["success"] for r in of])) for (task, how, *_), of in kinds.items()}


def record(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Record for benchmarks/results: the tables and the runs that they were made of."""
    return {"records": [table(found), gains(found)], "runs": found}


def table(found: list[dict[str, Any]]) -> dict[str, Any]:
    base, rows = bases(found), []
    for (task, method, stage, reward, _), of in groups(found).items():
        online, curve_of = of[0]["steps"], of[0]["curve"]
        row = {
            "task": task,
            "method": method,
            "stage": stage or "–",
            "reward": reward or "–",
            "environment steps": f"{max(r['steps'] for r in of):,}" if online else "–",
        }
        for title, quantity in SHARES.items():
            row[title] = with_interval([100 * r[quantity] for r in of if quantity in r])
        for name, level in TARGETS.items():
            goal = level(base.get((task, method == "gr_rl"), base.get((task, True), np.nan)))
            at = [step for r in of if r["curve"] and (step := reached(r["curve"], goal)) is not None]
            said = f"{np.mean(at):,.0f} ({len(at)} of {len(of)})" if at else f"no ({len(of)})"
            row[f"steps {name}"] = "–" if curve_of is None or not goal <= 1 else said
        row["minutes"] = f"{np.mean([r['seconds'] for r in of]) / 60:.0f}"
        row["commits"] = ", ".join(sorted({run_by(r.get("versions")) for r in of}))
        rows.append(row)
    return campaign.table(
        "steering",
        "Diffusion policies and RL in their noise: success in %",
        rows,
        "Means over seeds [95 % bootstrap interval; of fewer than four seeds the range] (how many seeds). Success is "
        "that of a policy that samples; of gr_rl, where what is executed differs from what is asked for. Highest "
        "coverage: of an episode, on average. Steps to a level: of the seeds that reach it, to the first of three "
        "evaluations in a row that are there on average; +20 points are over the task's policy that was only "
        "imitated. lace: one hand starts in all demonstrations, either in all episodes, so that the mirror's gain "
        "there is the half that was not shown, by construction; lace_either_hand: either hand starts in both. The "
        "last stage of gr_rl is dsrl_sac. rlpd_chunks: RLPD of the filtered and mirrored demonstrations, in the "
        "chunks that dsrl_sac has, with 20 updates for each chunk. The other baselines were not tuned: rlpd and sac "
        "make an update a step from single actions and one observation, rlpd from all demonstrations as they are; "
        "residual has a bound of 0.1. Learning rates were chosen on seed 0 of PushT and on the lace's before its "
        "first published seed. Minutes of training on one core, with compilation and evaluations; of the filtered "
        "policy with the filter's.",
    )


def ladders(found: list[dict[str, Any]]) -> dict[str, tuple[list[str], np.ndarray]]:
    """By task, gr_rl's stages in their order, and the success [seeds, stages] of each seed that went through all."""
    made: dict[str, tuple[list[str], np.ndarray]] = {}
    for task in dict.fromkeys(r["task"] for r in found if r["method"] == "gr_rl"):
        of = [r for r in found if (r["task"], r["method"]) == (task, "gr_rl")]
        stages = list(dict.fromkeys(r["stage"] for r in of))
        success = {(r["seed"], r["stage"]): r["success"] for r in of}
        seeds = sorted({r["seed"] for r in of if all((r["seed"], stage) in success for stage in stages)})
        made[task] = stages, np.array([[success[seed, stage] for stage in stages] for seed in seeds])
    return made


def steered(found: list[dict[str, Any]]) -> Iterator[tuple[str, tuple[list[str], np.ndarray]]]:
    """The same of each method that begins from a policy of diffusion_policy.py: of that policy, and of the method."""
    for (task, method, _, reward, _), of in groups(found).items():
        before = {r["seed"]: r["success"] for r in found if (r["task"], r["method"]) == (task, "diffusion_policy")}
        pairs = [(before[r["seed"]], r["success"]) for r in of if r["seed"] in before]
        if method in STEERED and pairs:
            yield task, (["diffusion_policy", f"{method}, {reward} reward"], np.array(pairs))


def gains(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The gains of each stage of the pipeline over the one before, and of steering over a policy, seed by seed."""
    from scipy import stats

    rows = []
    for task, (stages, success) in itertools.chain(ladders(found).items(), steered(found)):
        for stage, before, gain in zip(stages[1:], stages, np.diff(success, axis=1).T):
            chance = "–"
            if len(gain) > 1:
                # Exact: every way to give the differences their signs.
                how: dict[str, Any] = {"permutation_type": "samples", "alternative": "greater", "n_resamples": np.inf}
                test = stats.permutation_test((gain,), np.mean, **how)
                chance = f"{test.pvalue:.3f}"
            row = {"task": task, "stage": stage, "after": before, "gain": with_interval(list(100 * gain), "+.1f")}
            rows.append(row | {"seeds that gain": f"{(gain > 0).sum()} of {len(gain)}", "p": chance})
    return campaign.table(
        "steering",
        "Percentage points of success that a stage adds: of GR-RL's as executed under the mismatch",
        rows,
        "Means over seeds of the differences within a seed [95 % bootstrap interval; of fewer than four seeds the "
        "range] (how many seeds). p: how likely so large a mean is if a stage changed nothing, by the exact "
        "sign-flip test, one-sided; of 5 seeds the least that it can be is 1 in 32.",
    )


def draw(settings: Settings, found: list[dict[str, Any]]) -> None:
    """Success after the pipeline's stages, and over environment steps: seeds, means and bands; dotted what was."""
    online = [r for r in found if r["curve"]]
    if not online:
        return
    tasks, base, stages_of = list(dict.fromkeys(r["task"] for r in online)), bases(found), ladders(found)
    figure, panels = campaign.panels(len(stages_of) + len(tasks), 2, 5.2, 3.6)
    axes = list(panels)
    for axis, (task, (stages, success)) in zip(axes, stages_of.items()):
        names = [textwrap.fill(stage, 12) for stage in stages]
        axis.plot(names, success.T, color="tab:blue", alpha=0.35, linewidth=1, marker=".")
        axis.plot(names, success.mean(0), color="tab:blue", linewidth=2.2, marker="o")
        seeds = f"{len(success)} seed{'s' if len(success) > 1 else ''}"
        axis.set(title=f"{task}, stage by stage ({seeds})", ylabel="success", ylim=(-0.02, 1.02))
    for axis, task in zip(axes[len(stages_of) :], tasks):
        for (_, method, _, reward, _), of in groups([r for r in online if r["task"] == task]).items():
            steps = sorted({step for r in of for step, _ in r["curve"]})
            values = np.array([[dict(map(tuple, r["curve"])).get(step, np.nan) for step in steps] for r in of])
            label = f"{method}, {reward} reward ({len(of)} seed{'s' if len(of) > 1 else ''})"
            (line,) = axis.plot(steps, np.nanmean(values, 0), label=label)
            if len(of) > 1:
                axis.fill_between(steps, *spread_band(values), color=line.get_color(), alpha=0.2, linewidth=0)
        for (_, mismatch), value in ((kind, value) for kind, value in base.items() if kind[0] == task):
            label = "imitation alone" + ", as gr_rl executes it" * mismatch
            axis.axhline(value, color="grey", linestyle="--" if mismatch else ":", label=label)
        axis.set(title=task, xlabel="environment steps", ylabel="success", ylim=(0, 1.02))
        axis.xaxis.set_major_formatter(lambda step, _: f"{step / 1e3:g}k")
        axis.legend(fontsize=8)
    campaign.save_figure(settings, "steering", figure)
