"""Benchmark of memory: a long T-maze, and the time of a sequence, with each cell that `ppo.Config.memory_cell` has.

    python -m benchmarks.memory                                     # everything, on one core
    python -m benchmarks.memory --cells mingru --seeds 1 --lengths
    python -m benchmarks.memory --cells --lengths 64 256            # the times of sequences alone

The T-maze's corridor has 100 steps, so that a sign must be remembered for 100 steps of 100 observations that are alike.
Without memory the best return is 1.95 of 4, and half of the episodes end at the right side. All cells have the same
settings, but "gru, long" starts with gates that are closed as those of minGRU are (see `nn.recurrent.MinGRU`), to tell
what the cell does from what its first gates do. Seconds are those of one core's work, without compilation, so that a
busy machine changes them little.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from benchmarks import campaign
from rljax.algorithms import ppo
from rljax.nn.recurrent import CELLS, MinGRU
from rljax.training import evaluate
from rljax.types import PyTree

LONG = "gru, long"
LENGTH, EPISODES, SLICE = 100, 200, 5
STEPS, SOLVED = 2_000_000, 3.5
CONFIG = ppo.Config(
    num_envs=64,
    rollout_length=256,
    num_minibatches=16,
    learning_rate=2e-3,
    gae_lambda=0.98,
    entropy_coefficient=0.01,
    normalize_advantage=False,
    hidden=(32,),
    memory=32,
)
BATCH, UNITS, INPUTS = 32, 64, 64


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    cells: tuple[str, ...] = ("mingru", "gru", "lstm", LONG)
    """Cells that learn the T-maze."""
    seeds: int = 3
    """Number of seeds of each cell, from 1 on; the settings were chosen with seed 0."""
    steps: int = STEPS
    """Environment steps of each seed."""
    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Lengths of the sequences that are timed."""


def closed(params: PyTree) -> PyTree:
    """The parameters of a policy with GRUs whose update gates begin as minGRU's do: z there is 1 - z here."""

    def changed(path: Any, x: jax.Array) -> jax.Array:
        if not jax.tree_util.keystr(path).endswith("['GRU_0']['cell']['iz']['bias']"):
            return x
        cell = MinGRU(x.shape[0])
        return -cell.init(jax.random.key(x.shape[0]), cell.initial_carry(), jnp.ones(1))["params"]["gate"]["bias"]

    return jax.tree_util.tree_map_with_path(changed, params)


@functools.cache
def compiled(cell: str) -> tuple[Callable[..., Any], ...]:
    """Of a cell: how training begins, some iterations and their last return, and the returns of the policy."""
    env = rljax.make("t_maze", length=LENGTH, max_episode_steps=50 * LENGTH)
    algorithm = ppo.make(env, dataclasses.replace(CONFIG, memory_cell=cell))

    def sliced(state: Any) -> tuple[Any, Any]:
        state, metrics = jax.lax.scan(lambda s, _: algorithm.step(s), state, None, SLICE)
        return state, metrics["episode/return"].value[-1]

    def returns(state: Any) -> jax.Array:
        return evaluate(env, algorithm.policy(state), jax.random.key(9), EPISODES).returns

    init = jax.jit(algorithm.init)
    return init, jax.jit(sliced).lower(init(jax.random.key(0))).compile(), jax.jit(returns)


def learned(name: str, seed: int, steps: int) -> dict[str, float | None]:
    """One seed: the share of episodes that turn the right way in the end, and what it took."""
    init, step, returns = compiled(name.partition(",")[0])
    state = init(jax.random.key(seed))
    if name == LONG:
        state = state.replace(learner=state.learner.replace(params=closed(state.learner.params)))
    begin, solved, taken = time.process_time(), None, 0
    while taken < steps:
        state, returned = step(state)
        taken += SLICE * CONFIG.steps_per_iteration
        if solved is None and float(returned) > SOLVED:
            solved = time.process_time() - begin
    jax.block_until_ready(state)
    seconds = time.process_time() - begin
    success = float((returns(state) > 0).astype(jnp.float32).mean())
    return {"steps": taken, "success": success, "solved": solved, "seconds": seconds}


def microseconds(cell: str, length: int, gradient: bool) -> float:
    """One core's work on a batch of sequences, the least of several slices; for the gradient too where asked."""
    module = CELLS[cell](UNITS)
    xs, reset = jnp.ones((length, BATCH, INPUTS)), jnp.zeros((length, BATCH), bool)
    carry = module.initial_carry((BATCH,))
    params = jax.jit(module.init)(jax.random.key(0), carry, xs[0])

    def unrolled(params: PyTree, xs: jax.Array) -> jax.Array:
        output: Any = module.apply(params, carry, xs, reset, method="unroll")
        return jnp.square(output[1]).mean()

    function: Callable[..., Any] = jax.jit(jax.grad(unrolled) if gradient else unrolled)
    jax.block_until_ready(function(params, xs))
    best, count = float("inf"), max(2, 8192 // length)
    for _ in range(7):
        begin = time.process_time()
        for _ in range(count):
            jax.block_until_ready(function(params, xs))
        best = min(best, (time.process_time() - begin) / count)
    return 1e6 * best


def main(settings: Settings) -> None:
    campaign.require_known("cells", settings.cells, (*CELLS, LONG))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    kept = campaign.earlier(settings, "memory-t_maze").get("runs", {})
    for seed in range(1, settings.seeds + 1):
        for name in settings.cells:
            runs = kept.setdefault(name, {})
            if runs.get(str(seed), {}).get("steps", 0) < settings.steps:
                runs[str(seed)] = learned(name, seed, settings.steps)
                print(name, seed, runs[str(seed)], flush=True)
                campaign.write(settings, "memory-t_maze", of_maze(kept))  # at once, lest an interruption loses it
    if settings.lengths:
        rows = []
        for length in settings.lengths:
            row: dict[str, Any] = {"steps": length}
            for suffix in ("", ", gradient"):
                gru, mingru = (microseconds(cell, length, bool(suffix)) for cell in ("gru", "mingru"))
                row |= {f"gru{suffix}": f"{gru:,.0f}", f"mingru{suffix}": f"{mingru:,.0f}"}
                row[f"gru over mingru{suffix}"] = f"{gru / mingru:.1f}"
            rows.append(row)
            campaign.show(row)
        campaign.write(settings, "memory-unroll", of_lengths(rows))


def of_maze(kept: dict[str, Any]) -> dict[str, Any]:
    def seconds(values: list[Any]) -> str:
        return ", ".join("never" if value is None else f"{value:.0f}" for value in values)

    rows = []
    for name, by_seed in kept.items():
        runs = list(by_seed.values())
        rows.append(
            {
                "cell": name,
                "seeds": len(runs),
                "steps": f"{max(run['steps'] for run in runs):,}",
                "right turns, by seed": ", ".join(f"{run['success']:.2f}" for run in runs),
                f"seconds to a return of {SOLVED}, by seed": seconds([run["solved"] for run in runs]),
                "seconds in all, mean": f"{np.mean([run['seconds'] for run in runs]):.0f}",
            }
        )
    return campaign.table(
        "memory",
        f"PPO in a T-maze of {LENGTH} steps, {jax.default_backend()}, one core",
        rows,
        f"Shares of {EPISODES} episodes, deterministic, at the end; 0.5 is what a policy without memory can do. The "
        'seconds are those of one core\'s work. "gru, long" begins with gates that are closed as those of minGRU are. '
        "The settings were chosen by minGRU with another seed.",
        runs=kept,
    )


def of_lengths(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return campaign.table(
        "memory",
        f"Microseconds of one sequence by its number of steps, {jax.default_backend()}, one core",
        rows,
        f"{BATCH} sequences together, {INPUTS} inputs, {UNITS} units; the least of 7 slices, in one core's work.",
    )


if __name__ == "__main__":
    campaign.main(main, Settings())
