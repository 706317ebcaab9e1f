"""One page about a run, or about several: curves, evaluations, settings, versions, film, and how to go on.

The page is one file: it needs no network, no script, and nothing beside it.
"""

import base64
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from rljax.analysis import page, plots
from rljax.analysis.lineages import lineages
from rljax.analysis.runs import RETURN_METRICS, Run, final_rows, number, read_run, return_metric
from rljax.analysis.settings import defaults_of, differing, flat
from rljax.analysis.statistics import FEWEST, interquartile_mean, spread_in_words
from rljax.paths import local
from rljax.types import Refused


def write_report(
    folders: Sequence[str | Path],
    path: str | Path | None = None,
    *,
    metric: str | None = None,
    largest_film: float = 20.0,
) -> Path:
    """Writes the page, whole or not at all, and returns its path.

    Args:
      folders: run folders.
      path: the file; by default report.html, in the folder of a single run, or else in the current one.
      metric: the metric by which several runs are compared, and the first of each run; the return by default.
      largest_film: megabytes of a film that are still put into the page; a larger one is left out.

    Raises:
      Refused, OSError: a folder holds no run, or its files are damaged.
    """
    runs = [read_run(folder) for folder in folders]
    if not runs:
        raise Refused("report needs at least one run")
    if path is None:
        path = runs[0].folder / "report.html" if len(runs) == 1 else Path("report.html")
    path = local(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise Refused(f"report writes a page, .html, and {path.name!r} does not end so")
    numbers = count()
    if len(runs) == 1:
        title = runs[0].name
        parts = list(_run(runs[0], 1, numbers, metric, largest_film))
    else:
        title = f"{len(runs)} runs: {', '.join(dict.fromkeys(run.task for run in runs))}"
        parts = list(_comparison(title, runs, numbers, metric))
        for run in runs:
            parts += _run(run, 2, numbers, metric, largest_film)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page.page(title, *parts), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _comparison(title: str, runs: list[Run], numbers: Iterator[int], metric: str | None) -> Iterator[str]:
    yield page.heading(1, title)
    by = metric or return_metric(runs)
    figure = plots.compare(runs, by)
    yield page.picture(figure, f"Learning curves of {len(runs)} runs: {by} over environment steps", next(numbers))
    yield page.heading(2, "Final results")
    rows = []
    for label, trained, values, source in (row for run in runs for row in final_rows(run, metric)):
        middle = number(float(interquartile_mean(values)))
        interval = spread_in_words(values, number, interquartile_mean).strip() or "–"
        steps, mean = f"{trained.steps:,}", number(values.mean())
        rows.append((label, steps, str(len(values)), mean, middle, interval, source))
    columns = ("run", "steps", "seeds", "mean", "IQM", f"95 % interval of IQM (below {FEWEST} seeds: range)", "from")
    yield page.table(columns, rows)
    if differences := differing(runs):
        yield page.heading(2, "Settings that differ")
        cells = [(name, *values) for name, values in differences.items()]
        yield page.table(("setting", *(run.name for run in runs)), cells, text=1 + len(runs))


def _run(run: Run, level: int, numbers: Iterator[int], metric: str | None, largest_film: float) -> Iterator[str]:
    """The parts of one run, with a heading of the given level."""
    members = len(run.members)
    total = run.config.get("total_steps")
    machine = _machine(run)
    yield page.heading(level, run.name)
    of = f" of {total:,}" if isinstance(total, int) and run.steps < total else ""
    each = f"{members} members trained together, each for" if members > 1 else "trained for"
    yield page.paragraph(f"{run.algorithm} on {run.task}, {each} {run.steps:,} steps{of}.")
    yield page.tiles(_figures(run, metric))
    if (by := metric or _first_metric(run)) is not None:
        description = f"Learning curve: {by} over environment steps"
        yield page.picture(plots.learning_curve(run, by), description, next(numbers))
    yield from _evaluation(run, level + 1)
    yield from _film(run, level + 1, largest_film)
    if (run.folder / "population.csv").is_file():
        yield page.heading(level + 1, "Population")
        description = "Scores and hyperparameters of all members over environment steps, and who copied whom"
        yield page.picture(lineages(run, metric), description, next(numbers))
    elif run.hyper and by is not None:
        yield page.heading(level + 1, "Sweep")
        figures = [
            page.picture(plots.sweep(run, name, metric), f"Final return against {name}", next(numbers))
            for name in run.hyper
        ]
        yield f'<div class="grid">{"".join(figures)}</div>'
    others = [name for name in run.metric_names if name != by]
    if others:
        yield page.heading(level + 1, "Other metrics")
        figures = [
            page.picture(plots.learning_curve(run, name, title=name), f"{name} over environment steps", next(numbers))
            for name in others
        ]
        yield page.details(f"{len(others)} metrics: {', '.join(others)}", f'<div class="grid">{"".join(figures)}</div>')
    yield page.heading(level + 1, "How to go on")
    yield page.code(_commands(run, machine))
    yield from _settings(run, level + 1)
    yield page.heading(level + 1, "Versions and hardware")
    rows = [(name.partition(".")[2], value) for name, value in flat(machine).items() if name.startswith(("v", "h"))]
    yield page.table(("what", "value"), rows, text=2) if rows else page.paragraph("versions.json is missing.")
    if resumed := machine.get("resumed"):
        yield page.paragraph(f"Resumed {len(resumed)} times; versions.json tells the versions of each.")


def _figures(run: Run, metric: str | None) -> list[tuple[str, str, str]]:
    found = []
    try:  # seeds of different settings have no common mean
        rows = final_rows(run, metric)
        label, _, values, source = max(rows, key=lambda row: row[2].mean())
        words = (label.removeprefix(run.name).strip(" []"), spread_in_words(values, number).strip(), source)
        name = (metric or "final return") + (f", best of {len(rows)} settings" if len(rows) > 1 else "")
        found.append((name, number(values.mean()), "; ".join(filter(None, words))))
    except Refused:  # nothing was evaluated
        pass
    found.append(("steps of each member" if len(run.members) > 1 else "steps", f"{run.steps:,}", ""))
    if run.seconds > 0:  # not so where they were not logged
        rate = run.steps * len(run.members) / run.seconds
        found.append(("seconds of training", number(run.seconds), ""))
        found.append(("steps per second", number(rate), "all members together" if len(run.members) > 1 else ""))
    return found


def _first_metric(run: Run) -> str | None:
    """The return, or else the first metric that there is."""
    return next((name for name in (*RETURN_METRICS, *run.metric_names) if name in run.metric_names), None)


def _evaluation(run: Run, level: int) -> Iterator[str]:
    yield page.heading(level, "Final evaluation")
    if run.evaluation is None:
        yield page.paragraph("There is none: the run has not ended, or was not to be evaluated.")
        return
    rows = []
    for member in run.evaluation["members"]:
        who = {"seed": member.get("seed", member["member"])} | (member.get("hyper") or {})
        for mode in ("deterministic", "stochastic", "scores"):
            if measured := member.get(mode):
                rows.append(who | ({"actions": mode} if mode != "scores" else {}) | measured)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    names = [name.removeprefix("mean_").replace("_", " ") for name in columns]
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    episodes = run.evaluation.get("episodes")
    played = f"over {episodes} episodes " if episodes else ""
    yield page.table(names, cells, f"Each member, {played}after {run.steps:,} steps")


def _film(run: Run, level: int, largest: float) -> Iterator[str]:
    path = run.folder / "video.mp4"
    if not path.is_file():
        return
    yield page.heading(level, "One episode")
    if path.stat().st_size > largest * 1e6:
        size = f"{path.stat().st_size / 1e6:.0f} MB"
        yield page.paragraph(f"The film, {size}, is too large for this page: it is {path.name} in the run folder.")
        return
    data = base64.b64encode(path.read_bytes()).decode()
    label = page.escape(f"Film of one episode of {run.task}")
    yield f'<video controls loop muted playsinline aria-label="{label}" src="data:video/mp4;base64,{data}"></video>'


def _settings(run: Run, level: int) -> Iterator[str]:
    given, default = flat(run.config.get("config") or {}), defaults_of(run)
    changed = [bool(default) and default.get(name) != value for name, value in given.items()]
    yield page.heading(level, "Settings")
    rows = [
        (name, value, default.get(name, "–"), "changed" if other else "")
        for (name, value), other in zip(given.items(), changed, strict=True)
    ]
    columns = ("setting", "value", "default", "")
    if default:
        yield page.paragraph(f"{sum(changed)} of {len(rows)} settings of {run.algorithm} are not its defaults.")
        few = [row for row, other in zip(rows, changed, strict=True) if other]
        if few:
            yield page.table(columns[:3], [row[:3] for row in few], text=3)
    marked = [index for index, other in enumerate(changed) if other]
    yield page.details(f"All {len(rows)} settings", page.table(columns, rows, marked=marked, text=4))
    outside = {part: run.config.get(part) for part in ("env", "data", "settings", "total_steps", "keys")}
    others = flat({part: value for part, value in outside.items() if value not in (None, {})})
    yield page.details(
        "Task, data, and what else config.json says", page.table(("what", "value"), others.items(), text=2)
    )


def _commands(run: Run, machine: dict[str, Any]) -> str:
    folder = shlex.quote(str(run.folder))
    lines = []
    if command := machine.get("command"):
        lines += ["# this run", command]
        if not {"--resume", "--overwrite"} & set(shlex.split(command)):
            lines.append(f"{command} --resume    # goes on, after an interruption")
    lines += [
        "# its policy",
        f"rljax play {folder}",
        f"rljax video {folder}",
        f"rljax export {folder} policy.onnx",
        f"python -c 'import rljax; print(rljax.load({json.dumps(str(run.folder))}))'",
    ]
    return "\n".join(lines)


def _machine(run: Run) -> dict[str, Any]:
    """versions.json; empty where it is missing or damaged, for nothing else depends on it."""
    try:
        content = json.loads((run.folder / "versions.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return number(value) if isinstance(value, float) else str(value)
