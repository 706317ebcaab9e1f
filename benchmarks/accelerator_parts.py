"""The parts of `benchmarks.accelerator`: each measures one thing in a process of its own.

A part is called with keyword arguments that say all about what it measures, and yields tables' rows; what it has
yielded is written at once, so that a part which is cut short leaves the rows before. It imports what it alone needs:
minutes of an accelerator are few.
"""

import dataclasses
import importlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import rljax
from benchmarks import campaign
from rljax import training
from rljax.training.callbacks import Callback
from rljax.training.folder import write_json
from rljax.training.versions import hardware
from rljax.types import Refused

Row = dict[str, Any]
Rows = Iterator[Row]


def row(what: str, size: int | str, rate: float, unit: str, compile_seconds: float | None = None, **more: Any) -> Row:
    compiled = "–" if compile_seconds is None else f"{compile_seconds:.1f}"
    return {"what": what, "size": size, "rate": rate, "unit": unit, "compile, s": compiled} | more


def stepping(task: str, engine: str, num_envs: int, seconds: float) -> Rows:
    """Environment steps per second with random actions, finished episodes reset."""
    from benchmarks import physics

    found = physics.measure(task, engine, num_envs, seconds)
    yield row(f"physics, {task}, {engine}", num_envs, found["rate"], "steps/s", found["compile_seconds"])


def products(size: int, dtype: str, operations: float) -> Rows:
    """Floating-point operations per second of products of square matrices."""
    iterations = max(1, round(operations / (32 * size**3)))
    rate = campaign.matmul_rate(size, size, jnp.dtype(dtype), iterations)
    yield row(f"product of matrices, {dtype}", size, rate / 1e12, "TFLOP/s")


class Clock(Callback):
    """Notes the return of the episodes in training at each log, and stops when its seconds are over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begin: float | None = None
        self.curve: list[tuple[float, int, float | None]] = []

    def on_slice(self, steps: int, state: Any) -> str | None:
        now = time.monotonic()
        self.begin = now if self.begin is None else self.begin
        return f"{self.seconds:g} seconds have passed" if now - self.begin >= self.seconds else None

    def on_log(self, steps: int, rows: list[dict[str, Any]]) -> None:
        value = rows[0].get("episode/return")
        self.curve.append((round(float(rows[0]["seconds"]), 2), steps, None if value is None else round(value, 1)))


def learning(algorithm: str, task: str, engine: str, seconds: float, logs: int, **config: Any) -> Rows:
    """Return of the episodes in training after some seconds, and steps per second, with ACCELERATED settings."""
    if importlib.util.find_spec(f"experiments.{algorithm}") is None:
        raise Refused(f"there is no experiments/{algorithm}.py")
    experiment = importlib.import_module(f"experiments.{algorithm}")
    defaults = dataclasses.replace(experiment.ACCELERATED[task], env=task, engine=engine)
    if config:
        defaults = dataclasses.replace(defaults, config=dataclasses.replace(defaults.config, **config))
    trained = experiment.make(defaults)
    clock = Clock(seconds)
    log_every = max(1, defaults.total_steps // logs)
    options = training.Options(evaluate_every=0, final_episodes=0, log_every=log_every, progress=False)
    result = training.train(trained, jax.random.key(0), defaults.total_steps, options, callbacks=[clock])
    known = [(at, value) for at, _, value in clock.curve if value is not None]
    marks = [seconds / 4, seconds / 2, seconds]
    passed = [[(at, value) for at, value in known if at <= 1.1 * mark][-1:] for mark in marks]
    returns = "; ".join(f"{value:,.0f} at {at:.0f} s" for ((at, value),) in filter(None, passed))
    rate = result.steps / result.seconds
    name = f"{algorithm}, {task}, {engine}"
    size = trained.config.num_envs
    yield row(name, size, rate, "steps/s", result.compile_seconds, returns=returns or "–", curve=clock.curve)


def updates(precision: str, rounds: int) -> Rows:
    """Updates of SAC per second: alone, and with environment and replay, one update per step."""
    from benchmarks import sac

    config = sac.sac.Config(learning_starts=sac.ITERATIONS, precision=precision)  # type: ignore[arg-type]
    for name, make in (("bare update", sac.bare), ("update and sampling", sac.sampled)):
        timing = make(config)
        rate = 1 / min(timing() for _ in range(rounds))
        yield row(f"SAC, {name}, {precision}", config.batch_size, rate, "updates/s")


def sampler(network: str, objective: str, counts: tuple[int, ...], seconds: float) -> Rows:
    """Chunks of actions per second that a diffusion policy of PushT samples."""
    from benchmarks import steering
    from rljax.algorithms import diffusion

    width = 512 if network == "mlp" else 128
    config = diffusion.Config(network=network, objective=objective, width=width)  # type: ignore[arg-type]
    agent: Any = diffusion.make(rljax.make("push_t"), config).agent
    params = agent.init(jax.random.key(0)).params["policy"]
    for count in counts:
        obs, noise = jnp.zeros((count, 12)), jax.random.normal(jax.random.key(1), (count, *agent.chunk_shape))
        begin = time.perf_counter()
        program = jax.jit(agent.sample_chunk).lower(params, obs, noise).compile()
        compile_seconds = time.perf_counter() - begin
        best = min(steering.milliseconds(program, (params, obs, noise), seconds))
        yield row(f"sampler, {network}, {objective}", count, 1e3 * count / best, "chunks/s", compile_seconds)


def offline(algorithm: str, seconds: float, transitions: int) -> Rows:
    """Updates per second of an offline algorithm; its data are made up, since their values do not change the rate."""
    from benchmarks import offline_speed

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "half_cheetah-made-up.npz"
        made_up(path, transitions)
        rate, compile_seconds = offline_speed.rate_of(path, algorithm, "float32", 1, seconds)
    yield row(f"{algorithm}, float32", 256, rate, "updates/s", compile_seconds)


def made_up(path: Path, transitions: int) -> None:
    """A dataset of HalfCheetah's shapes with normal values, in episodes of 1,000 steps."""
    import numpy as np

    rng = np.random.default_rng(0)
    ends = np.arange(1, transitions + 1) % 1000 == 0
    np.savez(
        path,
        observations=rng.normal(size=(transitions, 17)).astype(np.float32),
        actions=np.tanh(rng.normal(size=(transitions, 6))).astype(np.float32),
        rewards=rng.normal(size=transitions).astype(np.float32),
        next_observations=rng.normal(size=(transitions, 17)).astype(np.float32),
        terminals=np.zeros(transitions, bool),
        timeouts=ends,
    )


def brax(task: str, backend: str, steps: int, num_envs: int) -> Rows:
    """Steps per second of Brax's PPO on its own robot, with the same driver as on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "brax.json"
        flags = ("--task", task, "--backend", backend, "--steps", steps, "--num-envs", num_envs, "--episodes", 16)
        campaign.run(campaign.peer(Path(sys.executable), "brax_ppo", path, *flags, "--accelerator"))
        found = json.loads(path.read_text())
    returns = f"{found['returns_deterministic'][0]:,.0f} at {found['training_seconds']:.0f} s"
    name, rate = f"PPO of Brax, {task}, its {backend}", found["steps_per_second_one_run"]
    yield row(name, num_envs, rate, "steps/s", found["compile_seconds"], returns=returns)


def machine() -> Rows:
    """The hardware, told by a process that ends: one that holds an accelerator would take its memory from the parts."""
    yield hardware()


FUNCTIONS: dict[str, Callable[..., Rows]] = {
    function.__name__: function for function in (stepping, products, learning, updates, sampler, offline, brax, machine)
}


def main(function: str, arguments: str, output: str, parent: str) -> None:
    """Runs a part, and writes its rows, after each of them, to a file; ends when the process `parent` has ended."""
    end_with(int(parent))
    rows = []
    for found in FUNCTIONS[function](**json.loads(arguments)):
        rows.append(found)
        write_json(Path(output), {"rows": rows})


def end_with(parent: int) -> None:
    """Ends this process, and what it has started, when the one that started it has ended, however it was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
