"""What a finished run shows: the curve, a table, a film."""

import json
import sys
from pathlib import Path

import jax

import rljax
from rljax.envs.environment import Environment
from rljax.envs.registry import is_module
from rljax.experiment.members import keys_of
from rljax.experiment.settings import Run
from rljax.training.result import Result
from rljax.types import Refused


def require_pictures(env: Environment) -> None:
    """Draws one state, so that a user is told before a long training that there can be no video."""
    try:
        import av  # noqa: F401

        env.render(jax.jit(env.reset)(jax.random.key(0)))
    except (RuntimeError, ImportError) as error:  # no drawing (NotImplementedError), no OpenGL
        raise Refused(f"video = True is not possible: {error}") from error


def filmed(folder: Path, env: Environment, settings: Run) -> Path | None:
    """An episode of the newest checkpoint's policy; a run whose film fails is still a run."""
    from rljax.analysis.video import animate

    path = folder / "video.mp4"
    try:
        animate(env, rljax.load(folder, env=env), keys_of([settings.seed])[0], path, progress=settings.progress)
    except (Exception, KeyboardInterrupt) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"warning: {path} could not be made: {reason}", file=sys.stderr)
        return None
    return path


def _code_of(folder: Path | None) -> str:
    """What else `rljax.load` must be told of a run whose environment is code of the user's."""
    if folder is None or not (folder / "config.json").exists():
        return ""
    name = str(json.loads((folder / "config.json").read_text())["env"].get("name"))
    return f", env=rljax.make({name!r})" if is_module(name) else ""


def summarize(result: Result, film: Path | None, unit: str) -> None:
    """Draws the learning curve and a population's lineages; prints the final evaluation and where everything is."""
    from rich.console import Console
    from rich.table import Table

    from rljax.analysis.lineages import lineages
    from rljax.analysis.plots import learning_curve

    assert result.folder is not None
    evaluated = any(row.get("evaluation/return") is not None for row in result.rows)
    if evaluated or (result.evaluation is None and any("episode/return" in row for row in result.rows)):
        learning_curve(result.folder, path=result.folder / "learning_curve.png")
    if (result.folder / "population.csv").exists():
        lineages(result.folder, path=result.folder / "population.png")
    hyper = result.evaluation["members"][0]["hyper"] if result.evaluation is not None else {}
    console = Console()
    if result.evaluation is not None and "scores" in result.evaluation["members"][0]:
        table = Table(title=f"Evaluation after {result.steps:,} {unit}")
        for column in ("seed", *hyper, *result.evaluation["members"][0]["scores"]):
            table.add_column(column, justify="right")
        for member in result.evaluation["members"]:
            values = [*member["hyper"].values(), *member["scores"].values()]
            table.add_row(str(member["seed"]), *(f"{value:g}" for value in values))
        console.print(table)
    elif result.evaluation is not None:
        table = Table(title=f"Return over {result.evaluation['episodes']} episodes after {result.steps:,} {unit}")
        for column in ("seed", *hyper, "deterministic", "stochastic", "episode length"):
            table.add_column(column, justify="right")
        for member in result.evaluation["members"]:
            first, second = member["deterministic"], member["stochastic"]
            table.add_row(
                str(member["seed"]),
                *(f"{value:g}" for value in member["hyper"].values()),
                f"{first['mean']:.1f} ± {first['std']:.1f}",
                f"{second['mean']:.1f} ± {second['std']:.1f}",
                f"{first['mean_length']:.0f}",
            )
        console.print(table)
    # Not by the console, which takes the brackets and colons of a name for markup.
    print(
        f"trained {result.seconds:.1f} s (and {result.compile_seconds:.1f} s to get ready) on {result.placement}\n"
        f"run folder: {result.folder}   policy: rljax.load({str(result.folder)!r}{_code_of(result.folder)})"
        + (f"\nvideo: {film}" if film else "")
    )
