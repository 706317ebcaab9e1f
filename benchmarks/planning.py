"""Benchmark of planning: beside other libraries, against the memory's bandwidth, as problems grow; and its bounds.

    python -m benchmarks.planning                      # everything: minutes
    python -m benchmarks.planning --parts peers
    python -m benchmarks.planning --parts grid --cells 10000000

The peers are pymdptoolbox and QuantEcon; they need `make install-peers`. Compilation is apart, and so is what each
library does when a problem is made.
`python -m benchmarks.planning --parts growth` also draws benchmarks/planning.png.
"""

import dataclasses
import functools
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import campaign
from benchmarks.campaign import ROOT
from rljax.algorithms import planning
from rljax.envs.finite import MDP, sparse
from rljax.envs.finite.worlds import garnet, gridworld_of_cells

Part = Literal["peers", "grid", "growth", "together", "certificates"]
METHODS: dict[str, Callable[..., planning.Solution]] = {
    "value_iteration": planning.value_iteration,
    "modified_policy_iteration": planning.modified_policy_iteration,
}
EPSILON = 1e-2
Table = tuple[str, list[dict[str, Any]], str]
"""Title, rows and notes."""


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    parts: tuple[Part, ...] = ("peers", "grid", "growth", "together", "certificates")
    """Parts of the benchmark; each has a result file of its own."""
    cells: int = 10_000_000
    """Number of cells of the large grid."""
    peers_python: Path = ROOT / ".venv-peers" / "bin" / "python"
    """The interpreter of the peers."""
    patience: float = 300.0
    """Seconds after which a peer is stopped."""
    processes: int = 700
    """Number of random processes on which certificates are checked, for each discount and method."""


def main(settings: Settings) -> None:
    parts = {
        "peers": beside_peers,
        "grid": large_grid,
        "growth": growth,
        "together": together,
        "certificates": certificates,
    }
    for part in settings.parts:
        title, rows, notes = parts[part](settings)
        memory = campaign.peak_memory_mb()
        record = campaign.table("planning", title, rows, notes, peak_memory_mb=memory)
        campaign.write(settings, f"planning-{part}", record)


def compiled_for(mdp: MDP, method: str, **options: Any) -> tuple[Any, float]:
    """The program, and the seconds that it took to compile."""
    lowered = jax.jit(lambda mdp: METHODS[method](mdp, **options)).lower(mdp)
    begin = time.perf_counter()
    return lowered.compile(), time.perf_counter() - begin


def solved(mdp: MDP, compiled: Any) -> tuple[float, planning.Solution]:
    """Seconds to solve (the best of three), and the solution."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        solution = jax.block_until_ready(compiled(mdp))
        times.append(time.perf_counter() - begin)
        if times[-1] > 20:
            break
    return min(times), solution


def beside_peers(settings: Settings) -> Table:
    """Random and grid processes of 10^4 and 10^5 states, by two methods of three libraries, to the same ε."""
    problems = {
        "random, 4 actions, 5 successors": lambda n: garnet(n, 4, 5, discount=0.99),
        "grid with slip": lambda n: grid(n, 0.99),
    }
    rows = []
    for name, make in problems.items():
        for states in (10_000, 100_000):
            mdp = m = make(states)
            arrays: tuple[Any, ...] = (m.successors, m.probabilities, m.rewards, m.discount, m.terminal, m.start)
            jax.block_until_ready(sparse(*arrays))  # once, for what JAX does at a first time
            begin = time.perf_counter()
            jax.block_until_ready(sparse(*arrays))
            set_up = time.perf_counter() - begin
            for method in METHODS:
                compiled, compile_seconds = compiled_for(mdp, method, tolerance=EPSILON)
                seconds, solution = solved(mdp, compiled)
                case = {"problem": name, "states": mdp.num_states, "method": method}
                own = {
                    "library": "rljax",
                    "sweeps": int(solution.sweeps),
                    "set-up (s)": set_up,
                    "solution (s)": seconds,
                    "rljax is faster by": f"compiled in {compile_seconds:.1f} s",
                    "with the set-up": "–",
                    "values apart": "–",
                }
                rows.append(case | own)
                campaign.show(rows[-1])
                for library in ("pymdptoolbox", "quantecon"):
                    result = peer(settings, mdp, library, method)
                    if "seconds" in result:
                        took, prepared = result["seconds"], result["set_up_seconds"]
                        apart = np.ptp(np.array(result["values"]) - solution.values[: len(result["values"])])
                        theirs = {
                            "sweeps": result["iterations"],
                            "set-up (s)": prepared,
                            "solution (s)": took,
                            "rljax is faster by": f"{took / seconds:.1f}×",
                            "with the set-up": f"{(took + prepared) / (seconds + set_up):.1f}×",
                            "values apart": float(apart),
                        }
                    else:
                        theirs = {"solution (s)": result["error"]}
                    rows.append(case | {"library": library} | theirs)
                    campaign.show(rows[-1])
    return (
        f"Planning beside other libraries, {jax.default_backend()}, to ε = {EPSILON}",
        rows,
        "rljax computes in float32, the others in float64. pymdptoolbox and rljax stop value iteration by the "
        "span of the last change, QuantEcon by its size; rljax returns values that are certain to ε, pymdptoolbox "
        "those of its last sweep, of which only the differences are. The set-up is what each does with the arrays of a "
        "problem before it can solve it: checks, and in pymdptoolbox's value iteration a bound on the sweeps. How far "
        "the values of the first five states are apart leaves out what is added to all of them.",
    )


def peer(settings: Settings, mdp: MDP, library: str, method: str) -> dict[str, Any]:
    """The output of the peer's driver, or its "error"."""
    # Terminal states as the peers know them: they lead to themselves, for nothing.
    ends, own = np.asarray(mdp.terminal), np.arange(mdp.num_states, dtype=np.int32)
    first = np.arange(mdp.probabilities.shape[1])[:, None] == 0
    arrays: dict[str, Any] = {
        "successors": np.where(ends, own, np.asarray(mdp.successors)),
        "probabilities": np.where(ends, first, mdp.probabilities),
        "rewards": mdp.rewards,
        "discount": mdp.discount,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mdp.npz"
        np.savez(path, **arrays)
        command = [str(settings.peers_python), "benchmarks/peers/planning.py", "--input", str(path)]
        command += ["--library", library, "--method", method, "--epsilon", str(EPSILON)]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=settings.patience)
        except subprocess.TimeoutExpired:
            return {"error": f"stopped after {settings.patience:.0f} s"}
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1].rpartition(": ")[2]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def grid(states: int, discount: float) -> MDP:
    """A square with a goal in a corner, a wall in every tenth cell, and slip."""
    side = round(states**0.5)
    cells = np.where(np.random.default_rng(0).uniform(size=(side, side)) < 0.1, "#", ".")
    cells[0, 0], cells[-1, -1] = "S", "G"
    return gridworld_of_cells(cells, 0.2, discount, None, -0.01, "GH", "#", "S", "", None, np.float32)


def large_grid(settings: Settings) -> Table:
    """Ten million cells: time, memory, and bandwidth against what the memory can do."""
    begin = time.perf_counter()
    mdp = jax.block_until_ready(grid(settings.cells, 0.99))
    build_seconds = time.perf_counter() - begin
    compiled, compile_seconds = compiled_for(mdp, "value_iteration", tolerance=1e-3)
    seconds, solution = solved(mdp, compiled)
    memory = compiled.memory_analysis()
    sweeps = int(solution.sweeps)
    traffic = mdp.num_bytes - mdp.start.nbytes + 2 * 4 * mdp.num_states  # read once, with values read and written
    stream = stream_rate()
    rate = traffic * sweeps / seconds
    quantities = {
        "states": mdp.num_states,
        "size of the problem (MB)": mdp.num_bytes / 1e6,
        "of the solution, with Q (MB)": memory.output_size_in_bytes / 1e6,
        "used by the solver besides (MB)": memory.temp_size_in_bytes / 1e6,
        "making it (s)": build_seconds,
        "compiling (s)": compile_seconds,
        "solving to ε = 1e-3 (s)": seconds,
        "sweeps": sweeps,
        "certified error": float(solution.bound),
        "bandwidth of the sweeps (GB/s)": rate / 1e9,
        "bandwidth of a triad a ← a + s b (GB/s)": stream / 1e9,
        "share": f"{rate / stream:.0%}",
    }
    rows = [{"quantity": name, "value": value} for name, value in quantities.items()]
    for row in rows:
        campaign.show(row)
    return (
        f"Value iteration on a grid of {mdp.num_states:,} cells, {jax.default_backend()}",
        rows,
        "Bandwidth counts each array once for each sweep, and the values as read once and written once.",
    )


def stream_rate() -> float:
    """Bytes per second of a ← a + s b, in a loop, on arrays far larger than the caches."""
    size = 20_000_000
    seconds = campaign.time_of(lambda a, b: (a + 0.5 * b, b), (jnp.ones(size), jnp.ones(size)), 20)
    return 3 * 4 * size / seconds


def growth(settings: Settings) -> Table:
    """Time against states, actions, successors and 1/(1-γ), each alone."""
    base = {"num_states": 10_000, "num_actions": 4, "successors": 5, "discount": 0.9}
    ranges: dict[str, list[Any]] = {
        "num_states": [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000],
        "num_actions": [1, 2, 4, 8, 16, 32],
        "successors": [1, 2, 4, 8, 16, 32],
        "discount": [0.5, 0.9, 0.97, 0.99, 0.997, 0.999],
    }
    rows = []
    for name, values in ranges.items():
        for value in values:
            # Random processes mix at once; how far it is to the goal of a grid is what makes a discount costly.
            mdp = grid(10_000, value) if name == "discount" else garnet(**(base | {name: value}))
            seconds, solution = solved(mdp, compiled_for(mdp, "value_iteration", tolerance=EPSILON)[0])
            sweeps = int(solution.sweeps)
            row = {
                "of": name,
                "value": value,
                "sweeps": sweeps,
                "ms": 1e3 * seconds,
                "µs a sweep": 1e6 * seconds / sweeps,
            }
            rows.append(row)
            campaign.show(row)
    draw(settings, rows)
    return (
        f"Value iteration as problems grow, {jax.default_backend()}",
        rows,
        "Random processes of 10,000 states, 4 actions, 5 successors and γ = 0.9 but for what changes; γ "
        "changes on a grid of 100 x 100 cells.",
    )


def together(settings: Settings) -> Table:
    """Many small processes in one program, by vmap."""
    rows = []
    for number in (1, 16, 256, 4096):
        processes = [garnet(50, 4, 5, discount=0.9, seed=seed) for seed in range(number)]
        mdps = jax.tree.map(lambda *x: jnp.stack(x), *processes)
        for method, solver in METHODS.items():
            compiled = (
                jax.jit(jax.vmap(functools.partial(solver, tolerance=EPSILON, max_sweeps=1_000))).lower(mdps).compile()
            )
            seconds, solution = solved(mdps, compiled)
            row = {
                "method": method,
                "processes": number,
                "sweeps of the slowest": int(solution.sweeps.max()),
                "ms": 1e3 * seconds,
                "µs for each": 1e6 * seconds / number,
                "largest certified error": float(solution.bound.max()),
            }
            rows.append(row)
            campaign.show(row)
    title = f"Many small processes at once, {jax.default_backend()}, to ε = {EPSILON}"
    return title, rows, "Random processes of 50 states, 4 actions, 5 successors, γ = 0.9."


CERTIFIED: dict[str, Callable[[MDP], planning.Solution]] = {
    "value iteration": functools.partial(planning.value_iteration, tolerance=1e-3),
    "Gauss-Seidel": functools.partial(planning.value_iteration, tolerance=1e-3, blocks=4),
    "policy iteration": planning.policy_iteration,
    "modified policy iteration": functools.partial(planning.modified_policy_iteration, tolerance=1e-3),
}


def certificates(settings: Settings) -> Table:
    """Certified bounds in float32 against errors, on random processes solved in float64."""
    rows = []
    for discount in (0.9, 0.99, 0.999, 0.9999):
        for method, error, bound, size in certified(settings.processes, discount):
            ratio, relative = error / bound, bound / size
            row = {
                "γ": discount,
                "method": method,
                "processes": settings.processes,
                "violated": int((error > bound).sum()),
                "largest error/bound": float(ratio.max()),
                "median error/bound": float(np.median(ratio)),
                "median bound, of the largest value": float(np.median(relative)),
                "largest bound, of the largest value": float(relative.max()),
            }
            rows.append(row)
            campaign.show(row)
    return (
        f"Certified bounds against errors, float32, {jax.default_backend()}",
        rows,
        "Random processes of 20 states, 3 actions and 3 successors, half of them with terminal states, with "
        "rewards of size 1e-3 to 1e4, some with 1e4 added or taken away; errors are the largest of all states, "
        "against policy iteration in NumPy's float64. The tolerance asked for is 1e-3.",
    )


def certified(
    number: int, discount: float, methods: Sequence[str] = tuple(CERTIFIED), seed: int = 0
) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """For each method its name, and of each random process the error, the bound and the largest |V*|."""
    states, actions, width = 20, 3, 3
    rng = np.random.default_rng(seed)
    successors = rng.integers(0, states, (number, actions, width, states))
    shares = rng.dirichlet(np.full(width, 0.3), (number, actions, states)).swapaxes(2, 3)
    scale, shift = 10 ** rng.uniform(-3, 4, (number, 1, 1)), rng.choice([0, 0, 1e4, -1e4], (number, 1, 1))
    rewards = rng.normal(size=(number, actions, states)) * scale + shift
    terminal = rng.uniform(size=(number, states)) < rng.choice([0, 0.2], (number, 1))
    terminal[:, 0] = False
    exact = solved_in_float64(successors, shares, rewards, terminal, discount)
    processes = zip(successors, shares, rewards, terminal, strict=True)
    made = [sparse(*process[:3], discount, process[3]) for process in processes]
    mdps = jax.tree.map(lambda *x: jnp.stack(x), *made)
    results = []
    for method in methods:
        solution = jax.jit(jax.vmap(CERTIFIED[method]))(mdps)
        error = np.abs(np.asarray(solution.values, np.float64) - exact).max(1)
        results.append((method, error, np.asarray(solution.bound, np.float64), np.abs(exact).max(1)))
    return results


def solved_in_float64(
    successors: np.ndarray, shares: np.ndarray, rewards: np.ndarray, terminal: np.ndarray, discount: float
) -> np.ndarray:
    """V* [N, S] by policy iteration in NumPy, from [N, A, K, S], rewards [N, A, S] and terminal states [N, S]."""
    number, actions, width, states = shares.shape
    shares = np.where(terminal[:, None, None], 0.0, shares / shares.sum(2, keepdims=True))
    rewards = np.where(terminal[:, None], 0.0, rewards)
    table = np.zeros((number, actions, states, states))
    place = np.ogrid[:number, :actions, :states]
    for k in range(width):
        np.add.at(table, (*place, successors[:, :, k]), shares[:, :, k])
    policy = np.zeros((number, states), int)
    process, state = np.ogrid[:number, :states]
    while True:
        matrix = np.eye(states) - discount * table[process, policy, state]
        values = np.linalg.solve(matrix, rewards[process, policy, state][..., None])[..., 0]
        q = rewards + discount * np.einsum("nast,nt->nas", table, values)
        gain = q.max(1) - q[process, policy, state]
        better = gain > 1e-11 * (1 + np.abs(values).max(1, keepdims=True))
        if not better.any():
            return values
        policy = np.where(better, q.argmax(1), policy)


def draw(settings: Settings, rows: list[dict[str, Any]]) -> None:
    panels = {"num_states": "states", "num_actions": "actions", "successors": "successors", "discount": "1/(1-γ)"}
    figure, all_axes = campaign.panels(4, 4, 3.0, 3.2)
    for axes, (name, label) in zip(all_axes, panels.items(), strict=True):
        of_panel = [row for row in rows if row["of"] == name]
        x = [1 / (1 - row["value"]) if name == "discount" else row["value"] for row in of_panel]
        axes.loglog(x, [row["ms"] for row in of_panel], "o-", color="#0072B2", label="solution")
        axes.loglog(x, [row["µs a sweep"] / 1e3 for row in of_panel], "s--", color="#D55E00", label="one sweep")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("ms")
    figure.axes[0].legend()
    campaign.save_figure(settings, "planning", figure)


if __name__ == "__main__":
    campaign.main(main, Settings())
