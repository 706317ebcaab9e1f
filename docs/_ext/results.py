"""Directives that show what benchmarks/results holds; no number of these pages is typed.

    ```{results} ppo
    ```
    ```{profiles} Offline, cpu: updates per second
    ```
    ```{curves} sac
    ```

`results` makes an algorithm's tables of returns and speed as benchmarks/README.md has them, `profiles` the tables whose
title begins with the text, `curves` draws the learning curves of every task whose records have them.
"""

from pathlib import Path
from typing import Any

import numpy as np
from docutils import nodes
from docutils.statemachine import StringList
from matplotlib.figure import Figure
from sphinx.util.docutils import SphinxDirective

from rljax.analysis import tables

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


class Generated(SphinxDirective):
    """Parses Markdown that it makes."""

    required_arguments = 1
    final_argument_whitespace = True

    def markdown(self) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        for path in RESULTS.glob("*.json"):
            self.env.note_dependency(str(path))
        text = self.markdown()
        if not text:
            raise self.error(f"benchmarks/results holds nothing of {self.arguments[0]!r}")
        node = nodes.container(classes=["results"])
        self.state.nested_parse(StringList(text.splitlines(), source="benchmarks/results"), self.content_offset, node)
        return [node]


class Results(Generated):
    def markdown(self) -> str:
        return tables.of_algorithm(self.arguments[0], RESULTS)


class Profiles(Generated):
    def markdown(self) -> str:
        return tables.profiles(self.arguments[0], RESULTS)


class Curves(Generated):
    """The returns of evaluations on the way: each seed a thin line, their mean a thick one, the target dashed."""

    def markdown(self) -> str:
        records = [r for r in tables.read_results(RESULTS) if r.get("algorithm") == self.arguments[0]]
        records = [r for r in records if any(r.get("curves") or [])]
        if not records:
            return ""
        path = Path(self.env.app.outdir) / "_curves" / f"{self.arguments[0]}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(records).savefig(path, transparent=False)
        tasks = ", ".join(dict.fromkeys(r["task"] for r in records))
        return (
            f'<img class="curves" src="../_curves/{path.name}" alt="Learning curves on {tasks}">\n\n'
            "*Returns of evaluations on the way, against environment steps: each seed a thin line, the mean a thick "
            "one, the target dashed. Drawn from benchmarks/results when this page was built.*"
        )


def draw(records: list[dict[str, Any]]) -> Figure:
    columns = min(3, len(records))
    rows = -(-len(records) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.6 * rows), layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axis, record in zip(axes, records, strict=False):
        seeds = [np.array(curve) for curve in record["curves"]]
        for seed in seeds:
            axis.plot(*seed.T, color="tab:blue", linewidth=0.8, alpha=0.5)
        begin, end = max(s[0, 0] for s in seeds), min(s[-1, 0] for s in seeds)
        shared = np.unique(np.concatenate([s[:, 0] for s in seeds]))
        shared = shared[(shared >= begin) & (shared <= end)]
        axis.plot(shared, np.mean([np.interp(shared, *s.T) for s in seeds], axis=0), color="tab:blue", linewidth=2)
        if target := (record.get("target") or {}).get("return"):
            axis.axhline(target, color="gray", linestyle="--", linewidth=1)
        axis.set_title(f"{record['task']}, {len(seeds)} seeds", fontsize=9)
        axis.tick_params(labelsize=7)
    for axis in axes[len(records) :]:
        axis.set_visible(False)
    return figure


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("results", Results)
    app.add_directive("profiles", Profiles)
    app.add_directive("curves", Curves)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
