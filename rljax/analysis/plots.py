"""Figures from run folders: learning curves, comparisons and sweeps.

Drawn with matplotlib's `Figure` objects and never with pyplot: no global state, no display needed. Every function
returns the figure, and writes it where a `path` is given (its suffix picks the format: .png, .pdf, .svg).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rljax.analysis.runs import Run, curve, final_values, format_value, read_run, return_metric
from rljax.analysis.statistics import FEWEST, Statistic, interquartile_mean, spread, spread_band
from rljax.paths import local
from rljax.types import Refused

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B", "#4D4D4D")
"""Told apart by colour-blind readers: Okabe and Ito 2008, without its yellow, which is faint on white."""

TEXT, FAINT = "#262626", "#8C8C8C"
"""Colours of what is no line."""
LABELS = {"evaluation/return": "Evaluation return", "episode/return": "Return of training episodes"}
_STATISTICS = {np.mean: "mean", interquartile_mean: "interquartile mean", np.median: "median"}


def learning_curve(
    run: Run | str | Path,
    metric: str | None = None,
    path: str | Path | None = None,
    *,
    target: float | None = None,
    title: str | None = None,
    statistic: Statistic = interquartile_mean,
    confidence: float = 0.95,
) -> Figure:
    """One run: the statistic over members with its band (`statistics.spread`), and each member as a thin line.

    `metric` is "evaluation/return" by default, or "episode/return" where the run has no evaluations. A run with swept
    hyperparameters gets one line per setting. `target` draws a dashed horizontal line.
    """
    run = _read(run)
    metric = metric or return_metric([run])
    steps, values = curve(run, metric)
    settings = run.settings()
    figure, axes = _axes(title or f"{run.algorithm} on {run.task}", metric)
    for (label, positions), color in zip(settings, colors_of(len(settings)), strict=True):
        _draw(axes, steps, values[positions], color, label, statistic, confidence, members=len(settings) == 1)
    subtitle(axes, _describe(max(len(positions) for _, positions in settings), statistic, confidence))
    return _finish(figure, axes, path, target, legend=len(settings) > 1)


def compare(
    runs: Sequence[Run | str | Path],
    metric: str | None = None,
    path: str | Path | None = None,
    *,
    labels: Sequence[str] | None = None,
    target: float | None = None,
    title: str | None = None,
    statistic: Statistic = interquartile_mean,
    confidence: float = 0.95,
) -> Figure:
    """Several runs in one axes, all by the same metric: the statistic over members with its band (`statistics.spread`).

    `labels` are the runs' names by default; a run with swept hyperparameters gets one line per setting.
    """
    read = [_read(run) for run in runs]
    if not read:
        raise Refused("compare needs at least one run")
    if labels is not None and len(labels) != len(read):
        raise Refused(f"compare: labels must be as many as runs, got {len(labels)} for {len(read)}")
    metric = metric or return_metric(read)
    lines = []
    for run, name in zip(read, labels or [run.name for run in read], strict=True):
        steps, values = curve(run, metric)
        for setting, positions in run.settings():
            lines.append((f"{name}, {setting}" if setting else name, steps, values[positions]))
    tasks = list(dict.fromkeys(run.task for run in read))
    figure, axes = _axes(title or ", ".join(tasks), metric)
    for (label, steps, values), color in zip(lines, colors_of(len(lines)), strict=True):
        _draw(axes, steps, values, color, label, statistic, confidence, members=False)
    counts = sorted({len(values) for _, _, values in lines})
    subtitle(axes, _describe(counts[-1], statistic, confidence, fewest=counts[0]))
    return _finish(figure, axes, path, target, legend=True)


def sweep(
    run: Run | str | Path,
    hyper: str,
    metric: str | None = None,
    path: str | Path | None = None,
    *,
    target: float | None = None,
    title: str | None = None,
    statistic: Statistic = interquartile_mean,
    confidence: float = 0.95,
) -> Figure:
    """Final return against a swept hyperparameter: every member a dot, the statistic a line with intervals.

    The axis is logarithmic where the values are positive and span at least a decade. Other swept hyperparameters give
    one line per setting. Without a metric the figures are those of the final evaluation, where there is one.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    run = _read(run)
    hyper = hyper.removeprefix("hyper/")
    if hyper not in run.hyper:
        raise Refused(f"{run.folder} did not sweep {hyper!r}; it swept: {', '.join(run.hyper) or 'nothing'}")
    final, source = final_values(run, metric)
    swept = run.hyper[hyper]
    ticks, index = np.unique(swept, return_inverse=True)
    numeric = ticks.dtype.kind == "f" and bool(np.isfinite(ticks).all())
    x = swept if numeric else index.astype(np.float64)
    settings = run.settings(without=hyper)

    figure, axes = _axes(title or f"{run.algorithm} on {run.task}", metric or "return")
    axes.set_xlabel(hyper)
    axes.set_ylabel(f"Final {LABELS.get(metric or 'return', metric or 'return').lower()}")
    log = bool(numeric and ticks[0] > 0 and ticks[-1] >= 10 * ticks[0])
    most = 1
    for number, ((label, positions), color) in enumerate(zip(settings, colors_of(len(settings)), strict=True)):
        places = np.unique(x[positions])
        scores = [final[positions][x[positions] == place] for place in places]
        centre = np.array([statistic(score, axis=0) for score in scores])
        low, high = np.array([spread(score, statistic, confidence) for score in scores]).T
        # A percentile interval can end beside the statistic in a tiny skewed sample; a bar's length cannot be negative
        errors = np.nan_to_num(np.maximum([centre - low, high - centre], 0.0))
        # Side by side, or the intervals of two settings would hide each other
        shift = 0.012 * (number - (len(settings) - 1) / 2)
        axes.errorbar(
            _beside(places, x, shift, log),
            centre,
            errors,
            color=color,
            label=label or None,
            zorder=3,
            lw=2,
            marker="o",
            ms=6,
            mec="white",
            capsize=3,
            elinewidth=1.4,
        )
        most = max(most, *map(len, scores))
        if max(map(len, scores)) > 1:
            beside = _beside(x[positions], x, shift + (0.012 if len(settings) == 1 else 0.0), log)
            axes.plot(beside, final[positions], "o", color=color, ms=4, mew=0, alpha=0.4, zorder=2)
    subtitle(axes, f"{source}; {_describe(most, statistic, confidence)}")
    if log:
        axes.set_xscale("log")
    axes.margins(x=0.06)
    if not numeric or len(ticks) <= 8:  # label the values that were tried; no others exist
        axes.xaxis.set_major_locator(FixedLocator(list(np.unique(x))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(np.unique(x), [format_value(tick) for tick in ticks])
    return _finish(figure, axes, path, target, legend=len(settings) > 1, from_zero=False)


def _read(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else read_run(run)


def _beside(places: np.ndarray, x: np.ndarray, shift: float, log: bool) -> np.ndarray:
    """`places` moved by the fraction `shift` of the axis that shows all of `x`."""
    if log:
        return places * (x.max() / x.min()) ** shift
    return places + (x.max() - x.min()) * shift


def _describe(most: int, statistic: Statistic, confidence: float, fewest: int | None = None) -> str:
    """A description of line and band: "interquartile mean of 8 seeds, 95% interval"."""
    if most == 1:
        return "1 seed"
    name = "mean" if statistic is interquartile_mean and most < 4 else _STATISTICS.get(statistic, "statistic")
    count = str(most) if fewest in (None, most) else f"{fewest} to {most}"
    spread = f"{confidence:.0%} interval" if most >= FEWEST else "range"
    return f"{name} of {count} seeds, {spread}"


def colors_of(count: int) -> list[Any]:
    """The first colours of the palette; a dark-to-light scale where there are more lines than colours."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0.0, 0.92, count)))


def _axes(title: str, metric: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.3), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    style(axes)
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=TEXT, pad=22)
    axes.set_xlabel("Environment steps")
    axes.set_ylabel(LABELS.get(metric, metric))
    return figure, axes


def style(axes: Axes) -> None:
    """The look of all figures: a faint grid and no box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=TEXT, labelsize=9, color=FAINT)
    axes.grid(True, color="#E6E6E6", lw=0.8)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=10, color=TEXT)


def subtitle(axes: Axes, text: str) -> None:
    """A small line between the title and the axes; the title leaves room for it."""
    axes.annotate(text, (0, 1), (0, 7), "axes fraction", "offset points", fontsize=8.5, color=FAINT)


def _draw(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    color: Any,
    label: str,
    statistic: Statistic,
    confidence: float,
    members: bool,
) -> None:
    """One line with its band; values [members, L] may hold NaN where a member has none."""
    present = np.isfinite(values)
    any_present = present.any(axis=0)
    steps, values, present = steps[any_present], values[:, any_present], present[:, any_present]
    marker = "o" if len(steps) == 1 else ""  # a line of one point would not be seen
    if members and len(values) > 1:
        for row, mask in zip(values, present, strict=True):
            axes.plot(steps[mask], row[mask], color=color, lw=0.8, alpha=0.35, marker=marker, ms=3, zorder=2)
    if len(values) > 1:
        low, high = spread_band(values, statistic, confidence)
        axes.fill_between(steps, low, high, color=color, alpha=0.18, lw=0, zorder=1)
    centre = [statistic(column[mask], axis=0) for column, mask in zip(values.T, present.T, strict=True)]
    axes.plot(steps, centre, color=color, lw=2, label=label, marker=marker, solid_capstyle="round", zorder=3)


def _finish(
    figure: Figure,
    axes: Axes,
    path: str | Path | None,
    target: float | None,
    legend: bool,
    from_zero: bool = True,
) -> Figure:
    from matplotlib.ticker import FuncFormatter

    if target is not None:
        axes.axhline(target, color=TEXT, lw=1.1, ls=(0, (5, 4)), zorder=2.5, label=f"target {target:g}")
        legend = True
    if from_zero:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(format_steps))
    low, high = axes.get_ylim()
    if max(abs(low), abs(high)) >= 10_000:
        axes.yaxis.set_major_formatter(FuncFormatter(format_steps))
    if legend:
        handles, labels = axes.get_legend_handles_labels()
        outside = len(handles) > 6 or max(map(len, labels)) > 60  # a big box inside would hide the lines
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": 1 if max(map(len, labels)) > 36 else 3}
        owner: Any = figure if outside else axes
        owner.legend(
            handles,
            labels,
            **(place if outside else {"loc": "best"}),
            frameon=True,
            framealpha=0.85,
            edgecolor="none",
            facecolor="white",
            fontsize=8.5,
            labelcolor=TEXT,
        )
    save(figure, path)
    return figure


def save(figure: Figure, path: str | Path | None) -> None:
    """Writes a figure where there is a path; its suffix says as what."""
    if path is not None:
        path = local(path)
        known = figure.canvas.get_supported_filetypes()
        if path.suffix and path.suffix[1:].lower() not in known:
            raise Refused(f"{path.name}: no such kind of picture; allowed are {', '.join(sorted(known))}")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def format_steps(value: float, _: int | None = None) -> str:
    """1500 to "1.5k", 2000000 to "2M"."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}".replace("-", "\N{MINUS SIGN}")
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")
