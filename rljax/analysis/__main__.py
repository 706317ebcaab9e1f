"""Compares, plots and tabulates results: `python -m rljax.analysis --help`."""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np

from rljax.analysis.runs import Run, final_rows, number, read_run, return_metric
from rljax.analysis.settings import differing
from rljax.analysis.statistics import FEWEST, interquartile_mean, probability_of_improvement, spread_in_words
from rljax.types import Refused


def main(arguments: list[str] | None = None, prog: str = "python -m rljax.analysis") -> int:
    """Runs one command; 0, or 2 after one line that says what is wrong with the input, or which file cannot be used."""
    options = _parser(prog).parse_args(arguments)
    # A warning reads like an error: one line, without the source line that Python adds
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        options.run(options)
    except (Refused, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    def plot_options(added: argparse.ArgumentParser, output: str) -> None:
        added.add_argument("--metric", help="column of metrics.csv, such as loss/policy (default: the return)")
        added.add_argument("--target", type=float, help="draw a dashed horizontal line here")
        added.add_argument("--output", type=Path, help=f"image to write (default: {output})")

    added = command("compare", _compare, "Print the final returns of runs side by side and plot their learning curves.")
    added.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folder, such as runs/ppo/cartpole-seed0")
    plot_options(added, "compare.png in the current folder")

    added = command("curve", _curve, "Plot the learning curve of one run.")
    added.add_argument("folder", type=Path, metavar="RUN", help="run folder, such as runs/ppo/cartpole-seed0")
    plot_options(added, "RUN/learning_curve.png")

    added = command("sweep", _sweep, "Plot the final return of one run against a hyperparameter that it swept.")
    added.add_argument("folder", type=Path, metavar="RUN", help="run folder, such as runs/ppo/cartpole-sweep")
    added.add_argument("hyper", metavar="HYPER", help="the hyperparameter, such as learning_rate")
    plot_options(added, "RUN/sweep.png")

    added = command("population", _population, "Plot scores and hyperparameters of a population by lineage.")
    added.add_argument("folder", type=Path, metavar="RUN", help="run folder, such as runs/ppo/cartpole-pbt")
    added.add_argument("--metric", help="column of metrics.csv (default: the return)")
    added.add_argument("--output", type=Path, help="image to write (default: RUN/population.png)")

    added = command(
        "tables", _tables, "Write the benchmark page, and tables in docs/, from the benchmarks' JSON files."
    )
    added.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="folder (default: %(default)s)")
    added.add_argument("--output", type=Path, default=Path("benchmarks/README.md"), help="page (default: %(default)s)")
    added.add_argument("--docs", type=Path, default=Path("docs"), help="folder of pages with tables (default: docs)")
    return parser


def _compare(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rljax.analysis import plots

    runs = [read_run(folder) for folder in options.folders]
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a pipe has no width; rich would fold the table to 80 columns

    rows = [row for run in runs for row in final_rows(run, options.metric)]
    sources = {source for _, _, _, source in rows}
    title = f"Final results ({', '.join(sources)})" if len(sources) == 1 else "Final results"
    # A plain string would be read as markup: [learning_rate=0.001], or :memo: in a name.
    table = Table(title=Text(title, style="bold"), title_justify="left")
    table.add_column("run", overflow="fold")
    for name in (
        "steps",
        "seeds",
        "mean",
        "IQM",
        "95% interval of IQM\n(below 4: range)",
        "best",
        "seconds",
        "steps/s,\nall members",
    ):
        table.add_column(name, justify="right")
    if len(sources) > 1:
        table.add_column("from")
    for label, run, values, source in rows:
        mean, middle, best = (number(x) for x in (values.mean(), interquartile_mean(values), values.max()))
        interval = spread_in_words(values, number, interquartile_mean).strip() or "–"
        rate = run.steps * len(run.members) / run.seconds if run.seconds > 0 else np.nan
        table.add_row(
            Text(label),
            f"{run.steps:,}",
            str(len(values)),
            mean,
            middle,
            Text(interval),
            best,
            number(run.seconds),
            number(rate),
            *([Text(source)] if len(sources) > 1 else []),
        )
    console.print(table)
    if differences := differing(runs):
        table = Table(title=Text("Settings that differ", style="bold"), title_justify="left")
        table.add_column("setting", overflow="fold")
        for run in runs:
            table.add_column(Text(run.name), overflow="fold")
        for name, found in differences.items():
            table.add_row(Text(name), *map(Text, found))
        console.print(table)
    if len(rows) == 2:
        _print_improvement(rows)
    metric = options.metric or return_metric(runs)
    output = options.output or Path("compare.png")
    plots.compare(runs, metric, output, target=options.target)
    print(f"wrote {output} ({metric})")


def _print_improvement(rows: list[tuple[str, Run, np.ndarray, str]]) -> None:
    (name_a, run_a, a, source_a), (name_b, run_b, b, source_b) = rows
    if run_a.task != run_b.task or source_a != source_b:
        print(f"No probability of improvement: {run_a.task} ({source_a}) is not {run_b.task} ({source_b})")
        return
    result = probability_of_improvement(a, b)
    enough = np.isfinite(result.low) and min(len(a), len(b)) >= FEWEST
    interval = f", 95% interval [{result.low:.2f}, {result.high:.2f}]" if enough else ""
    print(f"P({name_a} above {name_b}) = {result.probability:.2f}{interval}")


def _curve(options: argparse.Namespace) -> None:
    from rljax.analysis import plots

    output = options.output or options.folder / "learning_curve.png"
    plots.learning_curve(options.folder, options.metric, output, target=options.target)
    print(f"wrote {output}")


def _sweep(options: argparse.Namespace) -> None:
    from rljax.analysis import plots

    output = options.output or options.folder / "sweep.png"
    plots.sweep(options.folder, options.hyper, options.metric, output, target=options.target)
    print(f"wrote {output}")


def _population(options: argparse.Namespace) -> None:
    from rljax.analysis.lineages import lineages

    output = options.output or options.folder / "population.png"
    lineages(options.folder, options.metric, output)
    print(f"wrote {output}")


def _tables(options: argparse.Namespace) -> None:
    from rljax.analysis.tables import fill_pages, write_tables

    write_tables(options.results, options.output)
    for page in (options.output, *fill_pages(options.results, sorted(options.docs.glob("*.md")))):
        print(f"wrote {page}")


if __name__ == "__main__":
    sys.exit(main())
