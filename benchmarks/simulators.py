"""Measures simulators that are not JAX: steps per second behind `gymnasium:`, beside the simulators alone.

    python -m benchmarks.simulators
    python -m benchmarks.simulators --tasks LunarLander-v3 --before ../before    # a checkout of an earlier rljax

Writes benchmarks/results/simulators-<backend>.json. Every measurement has a process of its own, all take turns, and the
fastest slice of each counts: what else runs on the machine slows all of them, but never makes one faster.
"""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import campaign
from rljax.types import Refused

TASKS = ("LunarLander-v3", "CartPole-v1", "Pong-v5")
SOURCES = {
    "gymnasium loop": "Gymnasium alone: one environment in a loop",
    "envpool": "EnvPool alone",
    "default": "rljax",
    "before": "rljax before",
    "vector": 'rljax, vector="envpool"',
    "ppo default": "rljax, training PPO",
    "ppo before": "rljax before, training PPO",
    "ppo vector": 'rljax, training PPO, vector="envpool"',
}


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    tasks: tuple[str, ...] = TASKS[:2]
    """Tasks, with one-dimensional choices as actions."""
    sources: tuple[str, ...] = tuple(SOURCES)
    """What to measure: of gymnasium loop, envpool, default, before, vector, and PPO on the last three."""
    num_envs: tuple[int, ...] = (32, 128)
    """Numbers of environments stepped together."""
    rounds: int = 3
    """Times that every measurement is made."""
    seconds: float = 4.0
    """Seconds of a measurement, in eight slices."""
    before: Path | None = None
    """Folder of another checkout of rljax, whose rates are those before."""


def main(settings: Settings) -> None:
    campaign.require_known("sources", settings.sources, SOURCES)
    if settings.before is not None and not (settings.before / "rljax").is_dir():
        raise Refused(f"before = {settings.before} is no checkout of rljax")
    rows = []
    for task, num_envs in itertools.product(settings.tasks, settings.num_envs):
        sources = [s for s in settings.sources if settings.before is not None or not s.endswith("before")]
        best: dict[str, dict[str, float]] = {}
        for _ in range(settings.rounds):
            for source in sources:
                found = measured(task, source, num_envs, settings)
                if found and found["rate"] > best.get(source, {"rate": 0.0})["rate"]:
                    best[source] = found
        for source, found in best.items():
            reference = best.get(("ppo " if source.startswith("ppo") else "") + "before")
            row = {
                "task": task,
                "environments": num_envs,
                "source": SOURCES[source],
                "steps/s": round(found["rate"]),
                "of before": f"{found['rate'] / reference['rate']:.2f}×" if reference else "–",
                "CPU, µs a step": f"{1e6 * found['cpu']:.1f}",
            }
            campaign.show(row)
            rows.append(row)
    title = "Simulators that are not JAX: the fastest of many slices"
    campaign.write(settings, "simulators", campaign.table("simulators", title, rows, ""))


def measured(task: str, source: str, num_envs: int, settings: Settings) -> dict[str, float] | None:
    """The rate of a source in the tree that has it; None, and a line, where it fails."""
    tree = settings.before.resolve() if settings.before and source.endswith("before") else campaign.ROOT
    arguments = [task, source, str(num_envs), str(settings.seconds)]
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--child", *arguments]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True)
    if done.returncode:
        print(f"{task} {source}: failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def child(task: str, source: str, num_envs: int, seconds: float) -> None:
    """Prints the rate of the fastest slice, and the seconds of a processor for a step in the one that took least."""
    run = {"gymnasium loop": gymnasium_loop, "envpool": envpool_alone}.get(source)
    step = run(task, num_envs) if run else ours(task, source, num_envs)
    steps = step()
    begin = time.perf_counter()
    steps = step()
    times = max(1, round(seconds / 8 / (time.perf_counter() - begin)))
    best = {"rate": 0.0, "cpu": float("inf")}
    for _ in range(8):
        begin, cpu = time.perf_counter(), time.process_time()
        for _ in range(times):
            step()
        best["rate"] = max(best["rate"], times * steps / (time.perf_counter() - begin))
        best["cpu"] = min(best["cpu"], (time.process_time() - cpu) / (times * steps))
    print(json.dumps(best))


def gymnasium_loop(task: str, _: int) -> Callable[[], int]:
    import gymnasium
    import numpy as np

    env, generator = gymnasium.make(task, disable_env_checker=True), np.random.default_rng(0)
    env.reset(seed=0)

    def step() -> int:
        for _ in range(1000):
            *_, terminated, truncated, _ = env.step(generator.integers(env.action_space.n))  # type: ignore[attr-defined]
            if terminated or truncated:
                env.reset()
        return 1000

    return step


def envpool_alone(task: str, num_envs: int) -> Callable[[], int]:
    import envpool
    import numpy as np

    pool = envpool.make(task, env_type="gymnasium", num_envs=num_envs, num_threads=os.cpu_count(), seed=0)
    generator = np.random.default_rng(0)
    pool.reset()

    def step() -> int:
        for _ in range(20):
            pool.step(generator.integers(pool.action_space.n, size=num_envs).astype(np.int32))
        return 20 * num_envs

    return step


def ours(task: str, source: str, num_envs: int) -> Callable[[], int]:
    """Random actions, or training by PPO, with functions that earlier versions have too."""
    import jax

    import rljax
    from rljax.algorithms import ppo
    from rljax.envs import AutoReset

    how: dict[str, Any] = {"vector": "envpool"} if source.endswith("vector") else {}
    env = rljax.make(f"gymnasium:{task}", **how)
    if source.startswith("ppo"):
        algorithm = ppo.make(env, ppo.Config(num_envs=num_envs, rollout_length=64))
        reset, once, length = algorithm.init, lambda state: algorithm.step(state)[0], 64
    else:
        envs, length = AutoReset(env, num_envs), 20
        reset = envs.reset

        def once(state: Any) -> Any:
            def body(state: Any, key: jax.Array) -> tuple[Any, None]:
                return envs.step(state, jax.random.randint(key, (num_envs,), 0, envs.action_space.n)), None  # type: ignore

            return jax.lax.scan(body, state, jax.random.split(jax.random.key(1), length))[0]

    compiled = jax.jit(once, donate_argnums=0)
    kept = [jax.jit(reset)(jax.random.key(0))]

    def step() -> int:
        kept[0] = jax.block_until_ready(compiled(kept[0]))
        return length * num_envs

    return step


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.path[0] = os.getcwd()
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
    else:
        campaign.main(main, Settings())
