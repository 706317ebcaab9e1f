"""Speed of one iteration beside that of another checkout of rljax: after a change that should cost nothing.

    git worktree add ../before v0.2.0
    python -m benchmarks.before_after ../before

Each program is compiled and timed in processes of its own, in turn here and there; the fastest slice of each counts.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ROUNDS, SLICES, SECONDS = 2, 6, 1.5


def made(name: str) -> Any:
    """An algorithm, by functions that have long been there."""
    import numpy as np

    import rljax
    from rljax import algorithms
    from rljax.data import Dataset, Metadata
    from rljax.types import Transition

    small: dict[str, Any] = {
        "num_envs": 4,
        "num_updates": 4,
        "batch_size": 128,
        "hidden": (64, 64),
        "learning_starts": 8,
    }
    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "ppo": ("cartpole", {"num_envs": 32, "rollout_length": 64}),
        "pqn": ("cartpole", {"num_envs": 32, "rollout_length": 32}),
        "dqn": ("cartpole", small),
        "sac": ("half_cheetah", small | {"replay_size": 50_000}),
        "td3": ("half_cheetah", small | {"replay_size": 50_000}),
        "iql": ("half_cheetah", {}),
        "cql": ("half_cheetah", {"num_actions": 4}),
        "diffusion": ("half_cheetah", {"width": 256}),
    }
    task, config = settings[name]
    env, module = rljax.make(task), algorithms.get(name)
    if name not in ("iql", "cql", "diffusion"):
        return module.make(env, module.Config(**config))
    r, size, never = np.random.default_rng(0), 20_000, np.zeros(20_000, bool)
    obs, action = r.normal(size=(size, 17)).astype(np.float32), r.uniform(-1, 1, (size, 6)).astype(np.float32)
    ends = (np.arange(size) + 1) % 1000 == 0
    rows: Any = (obs, action, r.normal(size=size).astype(np.float32), never, ends, np.roll(obs, -1, 0))
    return module.make(env, module.Config(**config), Dataset.of(Transition(*rows), Metadata("noise", task)))


def microseconds(name: str) -> float:
    """Of one iteration: the fastest of several slices of a compiled loop."""
    import jax

    algorithm = made(name)
    data = () if algorithm.data is None else (jax.device_put(algorithm.data),)

    def loop(state: Any, count: Any, *data: Any) -> Any:
        return jax.lax.fori_loop(0, count, lambda _, s: algorithm.step(s, *data)[0], state)

    run = jax.jit(loop, donate_argnums=0)
    state, count, best = jax.jit(algorithm.init)(jax.random.key(0)), 8, float("inf")
    for _ in range(SLICES + 3):
        begin = time.perf_counter()
        state = jax.block_until_ready(run(state, count, *data))
        seconds = time.perf_counter() - begin
        if seconds > SECONDS / 2:
            best = min(best, seconds / count)
        count = max(8, round(count / seconds * SECONDS))
    return 1e6 * best


def measured(tree: Path, name: str) -> float:
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {name} in {tree} failed: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def main(before: Path, names: list[str]) -> None:
    if not (before / "rljax").is_dir():
        sys.exit(f"error: {before} is no checkout of rljax")
    results = {}
    for name in names or ["ppo", "pqn", "dqn", "sac", "td3", "iql", "cql", "diffusion"]:
        times = [[measured(tree, name) for tree in (before.resolve(), ROOT)] for _ in range(ROUNDS)]
        old, new = (min(column) for column in zip(*times))
        results[name] = {"before": old, "now": new, "ratio": new / old}
        print(f"{name:10} {old:9.1f} us before, {new:9.1f} us now: {new / old - 1:+.1%}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.path[0] = os.getcwd()
        print(microseconds(sys.argv[2]))
    elif len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        main(Path(sys.argv[1]), sys.argv[2:])
    else:
        sys.exit(f"{__doc__}")
