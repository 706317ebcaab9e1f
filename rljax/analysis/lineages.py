"""A figure of a population: scores and hyperparameters of all members, and who went on as whose copy."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rljax.analysis.plots import LABELS, TEXT, colors_of, format_steps, save, style, subtitle
from rljax.analysis.runs import Run, curve, read_run, return_metric
from rljax.types import Refused

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Lineages(NamedTuple):
    """The rounds of a population, each of which ends with an evaluation.

    Fields:
      steps: of the evaluations, [rounds].
      scores: [rounds, members]; NaN where a member diverged.
      hyper: by name, the values in force during a round, [rounds, members].
      source: int [rounds, members], as whose copy each member begins a round; itself where it is none's.
      founder: int [rounds, members], the member from which a lineage comes, at the very beginning.
      lasting: bool [rounds, members], whether a member's round led to the best of the last evaluation.
    """

    steps: np.ndarray
    scores: np.ndarray
    hyper: dict[str, np.ndarray]
    source: np.ndarray
    founder: np.ndarray
    lasting: np.ndarray


def read_lineages(run: Run | str | Path, metric: str | None = None) -> Lineages:
    """The lineages of a run folder, from metrics.csv and population.csv.

    Raises:
      Refused: the run was no population, or population.csv is damaged.
    """
    run = run if isinstance(run, Run) else read_run(run)
    path = run.folder / "population.csv"
    if not path.is_file():
        raise Refused(f"{run.folder} was no population: it has no population.csv")
    steps, values = curve(run, metric or return_metric([run]))
    scores = values.T
    names = [name for name in run.metrics if name.startswith("hyper/")]
    hyper = {name.removeprefix("hyper/"): _at(run, name, steps) for name in names}
    everyone = np.arange(scores.shape[1])
    source = np.tile(everyone, (len(steps), 1))
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                begun = np.searchsorted(steps, int(row["step"]), side="right")
                if begun < len(steps):
                    source[begun, int(row["member"])] = int(row["source"])
    except (KeyError, ValueError, TypeError, IndexError):
        raise Refused(f"{path} is damaged: it must have step, member and source, whole numbers") from None
    founder, lasting = np.tile(everyone, (len(steps), 1)), np.zeros(scores.shape, bool)
    for i in range(1, len(steps)):
        founder[i] = founder[i - 1][source[i]]
    member = int(np.nanargmax(np.append(scores[-1], -np.inf))) % scores.shape[1]
    for i in reversed(range(len(steps))):
        lasting[i, member] = True
        member = source[i, member]
    return Lineages(steps, scores, hyper, source, founder, lasting)


def _at(run: Run, name: str, steps: np.ndarray) -> np.ndarray:
    """A column at some steps, [steps, members]."""
    found = np.full((len(steps), len(run.members)), np.nan)
    step, member = run.metrics["step"], run.metrics["member"]
    there = np.isin(step, steps)
    found[np.searchsorted(steps, step[there]), np.searchsorted(run.members, member[there])] = run.metrics[name][there]
    return found


def lineages(
    run: Run | str | Path, metric: str | None = None, path: str | Path | None = None, *, title: str | None = None
) -> Figure:
    """Scores, and below them each hyperparameter, over steps; a lineage has the colour of the member it began with.

    The lineage of the best member at the end is drawn thick. A cross is where a member was given up; its place goes on
    from its source, to which a thin line leads.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    run = run if isinstance(run, Run) else read_run(run)
    metric = metric or return_metric([run])
    found = read_lineages(run, metric)
    figure = Figure(figsize=(7.2, 3.0 + 2.1 * len(found.hyper)), dpi=150, layout="constrained", facecolor="white")
    count = 1 + len(found.hyper)
    axes = figure.subplots(count, 1, sharex=True, squeeze=False, height_ratios=[1.25] + [1.0] * (count - 1))[:, 0]
    colors = colors_of(found.scores.shape[1])
    for axis in axes:
        style(axis)
    axes[0].set_title(
        title or f"{run.algorithm} on {run.task}", loc="left", fontsize=12, fontweight="bold", color=TEXT, pad=22
    )
    copies = int((found.source != np.arange(found.source.shape[1])).sum())
    left = len(np.unique(found.founder[-1]))
    members = found.scores.shape[1]
    subtitle(axes[0], f"{members} members, {copies} copies, lineages left: {left}; the best member's is thick")
    axes[0].set_ylabel(LABELS.get(metric, metric))
    _draw_scores(axes[0], found, colors)
    for axis, (name, values) in zip(axes[1:], found.hyper.items(), strict=True):
        axis.set_ylabel(name)
        if values.min() > 0 and values.max() >= 10 * values.min():
            axis.set_yscale("log")
        _draw_hyper(axis, found, values, colors)
    axes[-1].set_xlabel("Environment steps")
    axes[-1].set_xlim(0, found.steps[-1] * 1.02)
    axes[-1].xaxis.set_major_formatter(FuncFormatter(format_steps))
    save(figure, path)
    return figure


def _look(found: Lineages, colors: list[Any], i: int, member: int) -> dict[str, Any]:
    lasting = bool(found.lasting[i, member])
    width, opacity, order = (2.4, 1.0, 4) if lasting else (1.0, 0.75, 3)
    color = colors[found.founder[i, member]]
    return {"color": color, "lw": width, "alpha": opacity, "zorder": order, "solid_capstyle": "round"}


def _draw_scores(axes: Axes, found: Lineages, colors: list[Any]) -> None:
    for i, step in enumerate(found.steps):
        for member, score in enumerate(found.scores[i]):
            look, source = _look(found, colors, i, member), found.source[i, member]
            if i:
                line = [found.scores[i - 1, source], score]
                axes.plot([found.steps[i - 1], step], line, **look | ({} if source == member else {"ls": ":"}))
                if source != member:
                    given_up = colors[found.founder[i - 1, member]]
                    at = found.steps[i - 1], found.scores[i - 1, member]
                    axes.plot(*at, "x", color=given_up, ms=5, mew=1.2, zorder=5)
            else:
                axes.plot(step, score, "o", color=look["color"], ms=3, zorder=3)


def _draw_hyper(axes: Axes, found: Lineages, values: np.ndarray, colors: list[Any]) -> None:
    for i, step in enumerate(found.steps):
        begin = found.steps[i - 1] if i else 0
        for member, value in enumerate(values[i]):
            look, source = _look(found, colors, i, member), found.source[i, member]
            axes.plot([begin, step], [value, value], **look)
            if i and source != member:
                axes.plot([begin, begin], [values[i - 1, source], value], **look | {"lw": look["lw"] / 2, "ls": ":"})
                given_up = colors[found.founder[i - 1, member]]
                axes.plot(begin, values[i - 1, member], "x", color=given_up, ms=5, mew=1.2, zorder=5)
