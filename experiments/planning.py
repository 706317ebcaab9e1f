"""Planning: the exact solution of a named world, or of a grid drawn in a text file.

    python experiments/planning.py
    python experiments/planning.py --world taxi --method policy_iteration
    python experiments/planning.py --map my_map.txt --slip 0.2 --discount 0.95

A map has a letter for each cell: S start, G goal (pays 1 and ends), H hole (ends), # wall; F, a dot or a space is free.
The policy is printed as arrows, and everything is left in runs/planning/<name>: solution.npz, residuals and a heat map.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from rljax import experiment, paths
from rljax.algorithms import planning
from rljax.envs.finite import MDP, world
from rljax.envs.finite.worlds import FROZEN_LAKE_8X8
from rljax.types import Refused

ARROWS = {"frozen_lake": "←↓→↑", "gridworld": "←↓→↑", "cliff_walking": "↑→↓←"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Solves a finite MDP."""

    world: str = "frozen_lake"
    """The world, one of rljax.envs.finite.worlds.WORLDS."""
    map: Path | None = None
    """A text file with a grid, in place of a named world."""
    slip: float | None = None
    """Probability of going to a side instead (grids only); the world's own where not given."""
    discount: float | None = None
    """Discount γ; the world's own where not given."""
    method: Literal["value_iteration", "policy_iteration", "modified_policy_iteration", "soft_value_iteration"] = (
        "value_iteration"
    )
    """Algorithm that solves the world."""
    temperature: float = 0.1
    """Temperature α of soft value iteration."""
    tolerance: float = 1e-5
    """Certified error at which value iteration stops."""
    double: bool = False
    """Whether to compute in float64."""
    runs: Path = Path("runs")
    """Folder in which run folders lie."""
    name: str | None = None
    """Name of the run folder; the world's where not given."""
    overwrite: bool = False
    """Move a run of that name aside (to NAME.1, NAME.2, …)."""


def make(settings: Settings) -> tuple[MDP, list[str] | None]:
    """The process, and the drawing of its grid if it has one."""
    name, options = settings.world, {}
    rows: list[str] | None = None
    if settings.map is not None:
        if not settings.map.is_file():
            raise Refused(f"map = {settings.map} is not a file")
        try:
            rows = settings.map.read_text(encoding="utf-8").strip("\n").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"map = {settings.map} cannot be read: {error}") from None
        name, options = "gridworld", {"rows": rows}
    elif name == "frozen_lake":
        rows = list(FROZEN_LAKE_8X8)
    elif name == "cliff_walking":
        rows = ["F" * 12] * 3 + ["S" + "C" * 10 + "G"]
    elif name == "gridworld":
        raise Refused("world gridworld is drawn in a text file; give it by --map")
    for option in ("slip", "discount"):
        if getattr(settings, option) is not None:
            options[option] = getattr(settings, option)
    return world(name, dtype=np.float64 if settings.double else np.float32, **options), rows


def main(settings: Settings) -> planning.Solution:
    if settings.double:
        jax.config.update("jax_enable_x64", True)
    if not settings.temperature > 0:
        raise Refused(f"temperature must be above 0, got {settings.temperature}")
    name = settings.name or (settings.map.stem if settings.map else settings.world)
    folder = settings.runs / "planning" / name
    paths.require_writable(folder)
    if folder.exists() and not settings.overwrite:
        raise Refused(f"{folder} holds a run already: --overwrite moves it aside, another --name starts beside it")
    mdp, rows = make(settings)
    solve = getattr(planning, settings.method)
    options = {} if settings.method == "policy_iteration" else {"tolerance": settings.tolerance}
    if settings.method == "soft_value_iteration":
        options["temperature"] = settings.temperature
    begin = time.perf_counter()
    solution = jax.block_until_ready(jax.jit(lambda mdp: solve(mdp, **options))(mdp))
    seconds = time.perf_counter() - begin
    if not solution.converged and not np.isfinite(solution.bound):
        raise Refused(
            f"with discount = 1 the values do not settle in {int(solution.sweeps)} sweeps, as where a loop pays for "
            "ever; give a discount below 1"
        )

    experiment.set_aside(folder)
    folder.mkdir(parents=True)
    count = int(solution.sweeps)
    np.savez(
        folder / "solution.npz",
        values=solution.values,
        action_values=solution.action_values,
        policy=solution.policy,
        residuals=solution.residuals[:count],
        bound=solution.bound,
    )
    summary = {
        "world": name,
        "states": mdp.num_states,
        "actions": mdp.num_actions,
        "method": settings.method,
        "sweeps": count,
        "bound": float(solution.bound) if np.isfinite(solution.bound) else None,
        "value_of_start": float(mdp.start @ solution.values),
        "seconds": seconds,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    if rows is not None:
        policy = np.asarray(solution.policy if solution.policy.ndim == 1 else solution.policy.argmax(-1))
        policy = policy.reshape(len(rows), -1)
        print(arrows(rows, policy, ARROWS["gridworld" if settings.map else settings.world]))
        heat_map(rows, np.asarray(solution.values), folder / "values.png")
    certainty = f"certain to {solution.bound:.1e}" if np.isfinite(solution.bound) else "not certified, for γ = 1"
    print(
        f"{mdp.num_states:,} states, {mdp.num_actions} actions: V(start) = {summary['value_of_start']:.6f}, "
        f"{certainty}, after {count} sweeps in {seconds:.2f} s with compilation\nrun folder: {folder}"
    )
    return solution


def arrows(rows: list[str], policy: np.ndarray, symbols: str) -> str:
    """The policy [height, width] on the grid; cells where nothing is decided keep their letter."""
    return "\n".join(
        " ".join(letter if letter in "GHC#" else symbols[action] for letter, action in zip(row, actions, strict=True))
        for row, actions in zip(rows, policy, strict=True)
    )


def heat_map(rows: list[str], values: np.ndarray, path: Path) -> None:
    """V on the grid."""
    from matplotlib.figure import Figure

    grid = values.reshape(len(rows), -1)
    figure = Figure(figsize=(0.6 * grid.shape[1] + 2, 0.6 * grid.shape[0] + 1), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.ma.array(grid, mask=np.array([[c == "#" for c in row] for row in rows])), cmap="viridis")
    figure.colorbar(image, label="value")
    if grid.size <= 400:
        for (row, column), value in np.ndenumerate(grid):
            letter = rows[row][column]
            axes.text(
                column, row, letter if letter in "GH#" else f"{value:.2f}", ha="center", va="center", size=7, color="w"
            )
    axes.set_xticks([])
    axes.set_yticks([])
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    experiment.main(main, Settings, {})
