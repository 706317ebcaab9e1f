"""Reads the folder that a training run leaves: its config, its metrics and its final evaluation.

A damaged or missing file is a `ValueError` or `FileNotFoundError` of one line that names the file.
"""

import csv
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rljax.paths import local
from rljax.training.folder import run_folder
from rljax.types import Refused

RETURN_METRICS = ("evaluation/return", "episode/return")
"""Metrics for a plot without a chosen one: the first of these that a run has."""

_NOT_METRICS = ("step", "member", "seed", "seconds")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run folder. A member is one seed at one hyperparameter setting; members are trained together.

    Fields:
      folder: where it was read from.
      config: config.json.
      metrics: the columns of metrics.csv, each [rows]; NaN where a cell is empty.
      evaluation: evaluation.json, the final evaluation of the last checkpoint; None while there is none, or an
        older one than the last row of metrics.csv.
    """

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, np.ndarray]
    evaluation: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The last two parts of the folder, such as "ppo/cartpole-seed0"."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def algorithm(self) -> str:
        return str(self.config.get("algorithm") or "unknown algorithm")

    @property
    def task(self) -> str:
        env = self.config.get("env")
        return str((env.get("name") if isinstance(env, dict) else env) or "unknown task")

    @property
    def members(self) -> np.ndarray:
        """The members' numbers in order: [members]."""
        return np.unique(self.metrics["member"])

    @property
    def metric_names(self) -> list[str]:
        """Metrics with at least one value."""
        return [
            name
            for name, column in self.metrics.items()
            if name not in _NOT_METRICS and not name.startswith("hyper/") and not np.isnan(column).all()
        ]

    @property
    def steps(self) -> int:
        """Environment steps that each member made."""
        return int((self.evaluation or {}).get("steps") or self.metrics["step"].max())

    @property
    def seconds(self) -> float:
        """Wall-clock seconds at the last log; NaN where they were not logged."""
        seconds = self.metrics.get("seconds", np.array([np.nan]))
        return np.nan if np.isnan(seconds).all() else float(np.nanmax(seconds))

    @property
    def hyper(self) -> dict[str, np.ndarray]:
        """The swept hyperparameters: name (without "hyper/") to the members' values [members].

        Those that the exchanges of a population change are no settings of a member, and not among them.
        """
        settings = self.config.get("settings")
        population = settings.get("population") if isinstance(settings, dict) else None
        if isinstance(population, dict):
            return {}
        first = np.unique(self.metrics["member"], return_index=True)[1]
        return {
            name.removeprefix("hyper/"): column[first]
            for name, column in self.metrics.items()
            if name.startswith("hyper/")
        }

    def settings(self, without: str | None = None) -> list[tuple[str, np.ndarray]]:
        """The distinct hyperparameter settings: (label, positions in `members`); seeds of one setting are together.

        The label is "" where nothing was swept. `without` names a hyperparameter to disregard.
        """
        swept = {name: values for name, values in self.hyper.items() if name != without}
        groups: dict[str, list[int]] = {}
        for position in range(len(self.members)):
            setting = (f"{name}={format_value(values[position])}" for name, values in swept.items())
            groups.setdefault(", ".join(setting), []).append(position)
        return [(label, np.array(positions)) for label, positions in groups.items()]


def read_run(folder: str | Path) -> Run:
    """Reads a run folder. A run still in progress has no evaluation.json, and its `evaluation` is None.

    So it is, with a warning, where evaluation.json is older than the last row: the run went on since then.
    """
    folder = run_folder(folder)
    metrics = read_metrics(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no config.json")
    config = _read_json(folder / "config.json")
    evaluation = _read_json(folder / "evaluation.json") if (folder / "evaluation.json").is_file() else None
    members = [] if evaluation is None else evaluation.get("members")
    if not isinstance(members, list) or not all(isinstance(m, dict) and "member" in m for m in members):
        raise Refused(f"{folder / 'evaluation.json'} is damaged: `members` must list objects with a `member`")
    steps, last = (evaluation or {}).get("steps"), int(metrics["step"].max())
    if steps is not None and steps < last:
        warnings.warn(f"{folder / 'evaluation.json'} is of step {steps:,}, the run at {last:,}: left out", stacklevel=2)
        evaluation = None
    return Run(folder, config, metrics, evaluation)


def read_metrics(run_folder: str | Path) -> dict[str, np.ndarray]:
    """Reads metrics.csv: column name to float64 [rows], NaN for an empty cell.

    A swept hyperparameter that is not a number stays an array of strings. A last line without its line end is being
    written, or its writer was killed: it is left out with a warning.
    """
    folder = local(run_folder)
    path = folder / "metrics.csv"
    if not path.is_file():
        problem = "it has no metrics.csv" if folder.is_dir() else "there is no such folder"
        if str(folder).startswith("zoo:"):
            problem = "a policy of the zoo has no metrics"
        raise FileNotFoundError(f"{folder} is not a run folder: {problem}")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is damaged: byte {error.start} is not text") from None
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        warnings.warn(f"{path}: the unfinished last line is left out", stacklevel=2)
    reader = csv.reader(complete.splitlines(), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise Refused(f"{path} is damaged: line {reader.line_num}: {error}") from None
    header = rows[0][1] if rows else []
    for name in ("step", "member"):
        if name not in header:
            raise Refused(f"{path} is damaged: it has no column `{name}`")
    if len(set(header)) != len(header):
        raise Refused(f"{path} is damaged: a column name occurs twice")
    if len(rows) == 1:
        raise Refused(f"{path} has no rows yet")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise Refused(f"{path} is damaged: line {line} has {len(row)} cells instead of {len(header)}")
    return {name: _column(path, name, [(line, row[i]) for line, row in rows[1:]]) for i, name in enumerate(header)}


def curve(run: Run, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """One metric over training: (steps [L], values [members, L]).

    `steps` are those at which any member has a value; NaN where a member has none. Where a step was logged twice (a
    run that resumed), the later row counts.
    """
    if metric not in run.metric_names:
        raise Refused(f"{run.folder} has no values of {metric!r}; it has: {', '.join(run.metric_names) or 'none'}")
    column = run.metrics[metric]
    present = ~np.isnan(column)
    steps, at_step = np.unique(run.metrics["step"][present], return_inverse=True)
    values = np.full((len(run.members), len(steps)), np.nan)
    values[np.searchsorted(run.members, run.metrics["member"][present]), at_step] = column[present]
    return steps, values


def return_metric(runs: list[Run]) -> str:
    """The first of `RETURN_METRICS` that all of the runs have."""
    for metric in RETURN_METRICS:
        if all(metric in run.metric_names for run in runs):
            return metric
    missing = next(run for run in runs if RETURN_METRICS[-1] not in run.metric_names)
    have = ", ".join(missing.metric_names) or "none"
    raise Refused(f"{missing.folder} has no values of {RETURN_METRICS[-1]!r}; it has: {have}")


def final_values(run: Run, metric: str | None = None) -> tuple[np.ndarray, str]:
    """The members' final values, [members], and their source, in words.

    Without a metric: the mean returns of evaluation.json (deterministic where it has them), else the last logged
    return. With one: the last value that was logged of it.
    """
    if metric is None and run.evaluation is not None:
        by_member = {entry["member"]: entry for entry in run.evaluation["members"]}
        entries = [by_member.get(int(member)) or {} for member in run.members]
        for mode in ("deterministic", "stochastic"):
            means = [(entry.get(mode) or {}).get("mean") for entry in entries]  # null: of a member that diverged
            if any("mean" in (entry.get(mode) or {}) for entry in entries):
                episodes = run.evaluation.get("episodes")
                source = f"final evaluation, {mode}" + (f", {episodes} episodes" if episodes else "")
                return np.array([np.nan if mean is None else mean for mean in means], np.float64), source
    metric = metric or return_metric([run])
    _, values = curve(run, metric)
    last = [row[~np.isnan(row)][-1:] for row in values]
    return np.array([row[0] if row.size else np.nan for row in last]), f"last logged {metric}"


def final_rows(run: Run, metric: str | None = None) -> list[tuple[str, Run, np.ndarray, str]]:
    """One row per hyperparameter setting, since seeds of different settings have no common mean.

    A row is its label, the run, the final values of its members and their source (see `final_values`).
    """
    values, source = final_values(run, metric)
    return [
        (f"{run.name} [{setting}]" if setting else run.name, run, values[positions], source)
        for setting, positions in run.settings()
    ]


def number(value: float) -> str:
    """A result, short: 12,345, 0.5123; a dash where it is not finite."""
    if not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_value(value: Any) -> str:
    """A hyperparameter's value, short: 0.0003, 1e-05, relu."""
    return f"{value:g}" if isinstance(value, float | int | np.number) else str(value)


def _column(path: Path, name: str, cells: list[tuple[int, str]]) -> np.ndarray:
    values = np.full(len(cells), np.nan)
    for i, (line, cell) in enumerate(cells):
        try:
            values[i] = float(cell) if cell else np.nan
        except ValueError:
            if name.startswith("hyper/"):
                return np.array([text for _, text in cells])
            where = f"line {line}, column `{name}`"
            raise Refused(f"{path} is damaged: {where}: {cell[:40]!r} is not a number") from None
        if name in ("step", "member") and not np.isfinite(values[i]):
            raise Refused(f"{path} is damaged: line {line} has no `{name}`")
    return values


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:  # not text, or not JSON
        raise Refused(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise Refused(f"{path} is damaged: it must hold a JSON object, not a {type(content).__name__}")
    return content
