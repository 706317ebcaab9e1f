"""Search for hyperparameters with Optuna: many values in one program, many processes on one study.

    python experiments/search.py
    python experiments/search.py --algorithm sac --envs pendulum --trials 32
    python experiments/search.py --space learning_rate=1e-5..1e-2:log hidden=64,128 --members 8 --seeds 2
    python experiments/search.py --envs cartpole acrobot --trials 64 --pruner hyperband
    python experiments/search.py --fixed num_envs=16 total_steps=50000 --storage sqlite:///search.db

Values that can be swept are members of one program: it is compiled once for a batch of trials. Other values, such as
widths, take a program for each. Start it again, in as many processes as you like, on machines that share a folder: all
work on one study, and the trials of one that was killed are done again. `optuna-dashboard` shows the study, which lies
in `runs/search/<name>/`. Needs `pip install 'rljax[search]'`.
"""

import dataclasses
import runpy
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rljax import experiment, paths, training
from rljax.algorithms.core.contract import Algorithm
from rljax.config import Config, Count, Whole, require
from rljax.envs.registry import canonical
from rljax.experiment import keys_of
from rljax.experiment.references import normalized, random_return, solved_return
from rljax.experiment.space import Range, changed, flags, parse
from rljax.experiment.study import Study
from rljax.training.members import check_members
from rljax.types import Refused

SPACES = {
    "a2c": {"learning_rate": "1e-4..1e-2:log", "entropy_coefficient": "0..0.02", "value_coefficient": "0.25..2:log"},
    "crossq": {"learning_rate": "1e-4..3e-3:log", "critic_learning_rate": "1e-4..3e-3:log"},
    "dqn": {"learning_rate": "1e-4..3e-3:log", "exploration_end": "0.01..0.2:log"},
    "ppo": {"learning_rate": "1e-4..1e-2:log", "gae_lambda": "0.8..0.99", "clip_range": "0.1..0.4"},
    "pqn": {"learning_rate": "1e-4..3e-3:log", "q_lambda": "0.5..0.99"},
    "sac": {
        "learning_rate": "1e-4..3e-3:log",
        "critic_learning_rate": "1e-4..3e-3:log",
        "target_rate": "1e-3..0.05:log",
    },
    "td3": {
        "learning_rate": "1e-4..3e-3:log",
        "critic_learning_rate": "1e-4..3e-3:log",
        "exploration_noise": "0.05..0.3",
    },
}


@dataclasses.dataclass(frozen=True)
class Settings(Config):
    """Searches for hyperparameters; those that are not searched for are the experiment's own for the task."""

    algorithm: str = "ppo"
    """Name of a file in experiments/ whose algorithm acts in environments, such as ppo, sac, td3 or dqn."""
    envs: tuple[str, ...] = ("cartpole",)
    """Tasks; with several, a trial's score is the mean of returns on which random actions have 0, and 1 solves."""
    space: tuple[str, ...] = ()
    """Hyperparameters and their values, as in learning_rate=1e-4..1e-2:log hidden=64,128x64; the algorithm's entry at
    the top of the file where not given."""
    fixed: tuple[str, ...] = ()
    """Settings of the experiment or its config that all trials share, as in total_steps=50000 num_envs=16."""
    trials: Count = 16
    """Number of trials of the study, over all processes; a later call with a greater one goes on."""
    members: Count | None = None
    """Number of trials trained in one program, which differ in values that can be swept; where not given, 4, or 1 where
    the space has no such value."""
    seed: Whole = 1_000_000
    """First seed of every trial: far from 0, so that settings are not chosen on the seeds that they are shown on."""
    seeds: Count = 1
    """Number of seeds of every trial, whose mean is its score."""
    solved: tuple[str, ...] = ()
    """Returns at which tasks count as solved, as in pendulum=-150; Gymnasium's reward_threshold where not given."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Choice of values: by the trials so far (tpe, with those of running trials), or at random."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Rule by which trials are stopped early, which with several members ends a program where it stops them all."""
    evaluation_episodes: Count = 20
    """Episodes of each evaluation on the way, of which there are ten."""
    final_episodes: Count = 100
    """Episodes of the evaluation that gives a trial its score."""
    devices: Count | None = None
    """Number of devices; where not given, as many as divide the members."""
    runs: Path = Path("runs")
    """Folder of all run folders."""
    name: str | None = None
    """Name of the study; the algorithm and the tasks where not given."""
    storage: str | None = None
    """Address of a database, such as sqlite:///search.db; a file in the study's folder where not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "envs", len(self.envs) > 0, "at least one task")


class Tasks(NamedTuple):
    """The tasks of a search: by name, the settings that each is trained with, and its scale, if there are several."""

    make: Any
    settings: dict[str, Any]
    scale: dict[str, tuple[float, float]]

    def algorithm(self, env: str, values: dict[str, Any]) -> tuple[Algorithm, int]:
        """The algorithm with these values, and its steps."""
        settings = changed(self.settings[env], values)
        return self.make(settings), settings.total_steps

    def score(self, env: str, value: float) -> float:
        return normalized(value, *self.scale[env]) if self.scale else value


class Reports(training.Callback):
    """Reports every trial's score at every evaluation, and stops the program once all of its trials should be."""

    def __init__(self, trials: list[Any], seeds: int, score: Any, before: np.ndarray):
        self.trials, self.seeds, self.score = trials, seeds, score
        self.before = before
        """Scores in the tasks before, [trials, tasks]."""
        self.count = 0
        self.rows: list[dict[str, Any]] = []

    def on_log(self, steps: int, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def on_evaluate(self, steps: int, score: float | None, state: Any) -> str | None:
        means = np.array([row["evaluation/return"] for row in self.rows]).reshape(-1, self.seeds).mean(1)
        self.count += 1
        stop = []
        for trial, mean, before in zip(self.trials, means, self.before):
            trial.report(float(np.mean([*before, self.score(mean)])), self.before.shape[1] * 100 + self.count)
            stop.append(bool(trial.should_prune()))
        return "worse than other trials" if all(stop) else None


def train(tasks: Tasks, how: Settings, trials: list[Any], swept: list[str]) -> Any:
    """Trains trials that differ in swept values alone, as members of one program.

    Returns:
      Their scores [trials], NaN for one that diverged; None where they were stopped early; a `Result` on a signal.
    """
    fixed = {name: value for name, value in trials[0].params.items() if name not in swept} | _named(how.fixed)
    scores = np.zeros((len(trials), 0))
    keys = keys_of([*range(how.seed, how.seed + how.seeds)] * len(trials))
    hyper = {name: np.repeat([float(trial.params[name]) for trial in trials], how.seeds) for name in swept}
    for env in how.envs:
        algorithm, steps = tasks.algorithm(env, fixed)
        options = training.Options(
            evaluation_episodes=how.evaluation_episodes,
            final_episodes=how.final_episodes,
            devices=how.devices,
            progress=False,
        )
        reports = Reports(trials, how.seeds, lambda value, env=env: tasks.score(env, value), scores)
        result = training.train(algorithm, keys, steps, options, hyper=hyper, callbacks=[reports])
        if result.interrupted is not None:
            return result
        if result.stopped is not None:
            return None
        assert result.evaluation is not None
        means = np.array([member["deterministic"]["mean"] for member in result.evaluation["members"]])
        means = means.reshape(len(trials), how.seeds).mean(1)
        scores = np.column_stack([scores, [tasks.score(env, value) for value in means]])
    return scores.mean(1)


def main(how: Settings) -> experiment.Result | None:
    script = Path(__file__).parent / f"{how.algorithm}.py"
    module = runpy.run_path(str(script)) if how.algorithm.isidentifier() and script.exists() else {}
    if not {"make", "TASKS", "Settings"} <= set(module):
        raise Refused(f"algorithm = {how.algorithm!r} is not allowed; it must be one of {', '.join(SPACES)}")
    if not how.space and how.algorithm not in SPACES:
        raise Refused(f"{how.algorithm} has no space of its own: give one, as in --space learning_rate=1e-4..1e-2:log")
    space = parse(how.space or SPACES[how.algorithm])
    if both := sorted(set(space) & set(_named(how.fixed))):
        raise Refused(f"fixed = {how.fixed} is not allowed; {both[0]} is in the space")
    seeds, batch = how.seeds, how.members or 4
    training.use_cpu_cores(how.devices, batch * seeds)
    envs = [canonical(env) for env in how.envs]
    known = module["TASKS"] | (module.get("ACCELERATED", {}) if training.expect_accelerator() else {})
    settings = {
        env: dataclasses.replace(known.get(name, module["Settings"]()), env=env)
        for env, name in zip(how.envs, envs, strict=True)
    }
    tasks = Tasks(module["make"], settings, {})
    swept = _swept(tasks, how, space)
    if how.members is not None and how.members > 1 and not swept:
        raise Refused(f"members = {how.members} needs a value in the space that can be swept; --seeds trains several")
    batch = batch if swept else 1
    name = how.name or "-".join([how.algorithm, *(env.replace(":", "-").replace("/", "-") for env in envs)])
    folder = paths.local(how.runs) / "search" / name
    about = {
        "algorithm": how.algorithm,
        "envs": envs,
        "space": {name: list(values) for name, values in space.items()},
        "fixed": _named(how.fixed),
        "seeds": [how.seed, how.seeds],
    }
    with Study.opened(folder, name, how.storage, about, how.sampler, how.pruner) as study:
        if len(how.envs) > 1:
            scale = study.remembered("scale", lambda: _scale(tasks, how))
            tasks = tasks._replace(scale={env: (low, high) for env, (low, high) in scale.items()})
        while trials := study.ask(space, min(batch, how.trials), how.trials, swept):
            began = time.perf_counter()
            try:
                outcome = train(tasks, how, trials, swept)
            except (Refused, training.Diverged) as error:
                print(f"trials {[trial.number for trial in trials]} are given up: {error}", flush=True)
                outcome = None
            except BaseException:
                study.give_back(trials)
                raise
            if isinstance(outcome, training.Result):
                study.give_back(trials)
                return outcome
            study.tell(trials, outcome)
            for line in study.lines(trials):
                print(f"{line}   ({time.perf_counter() - began:.0f} s for {len(trials)})", flush=True)
        print(study.summary())
        best = study.best()
        if best is None:
            return None
        print(f"chosen on the seeds {how.seed} to {how.seed + seeds - 1}: show it on others, such as")
        for env in how.envs:
            given = flags(settings[env], _named(how.fixed) | best)
            print(f"  python experiments/{how.algorithm}.py --env {env} {given} --seeds 4")
    return None


def _swept(tasks: Tasks, how: Settings, space: dict[str, Range | tuple[str, ...]]) -> list[str]:
    """The names in the space that members may differ in; refuses values that a config refuses, before any trial."""
    ends = {n: [str(x) for x in v[:2]] if isinstance(v, Range) else list(v) for n, v in space.items()}
    for env in how.envs:
        for name, values in ends.items():
            for value in values:
                changed(tasks.settings[env], {name: value})
        algorithm, _ = tasks.algorithm(env, _named(how.fixed))
        known = jax.eval_shape(algorithm.init, jax.random.key(0)).hyper.__dataclass_fields__
        bound = getattr(algorithm.config, "fixed", ())
        swept = [name for name, values in space.items() if name in known and name not in bound]
        swept = [name for name in swept if _numbers(ends[name])]
        for name in swept:
            check_members(algorithm, jax.random.key(0), {name: [float(value) for value in ends[name]]})
    return swept


def _numbers(values: list[str]) -> bool:
    try:
        return all(np.isfinite(float(value)) for value in values)
    except ValueError:
        return False


def _scale(tasks: Tasks, how: Settings) -> dict[str, tuple[float, float]]:
    """The returns of random actions and of a solved task, by task."""
    given = _named(how.solved)
    if bad := [env for env, value in given.items() if env not in how.envs or not _numbers([value])]:
        raise Refused(f"solved = {how.solved} is not allowed; it must be a task of --envs and a number, not {bad[0]}")
    solved = {env: float(given[env]) if env in given else solved_return(env) for env in how.envs}
    random = {env: random_return(tasks.algorithm(env, _named(how.fixed))[0].env) for env in how.envs}
    for env, low in random.items():
        if not low < solved[env]:
            raise Refused(f"{env}: solved = {solved[env]:g} is not allowed; random actions have a return of {low:.1f}")
    return {env: (low, solved[env]) for env, low in random.items()}


def _named(texts: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE, by name."""
    pairs = [text.partition("=") for text in texts]
    if bad := [name for name, equals, value in pairs if not (name and equals and value)]:
        raise Refused(f"{bad[0]!r} is not allowed here; it must look like NAME=VALUE")
    return {name.strip(): value.strip() for name, _, value in pairs}


if __name__ == "__main__":
    experiment.main(main, Settings, {})
