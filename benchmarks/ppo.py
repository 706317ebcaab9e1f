"""Measures PPO: returns of the default settings over seeds, speed alone and together, and where the time goes.

    python -m benchmarks.ppo                        # everything; about an hour on 2 cores
    python -m benchmarks.ppo --tasks cartpole       # one task; also ant, humanoid and tasks behind adapters
    python -m benchmarks.ppo --tasks reacher --engine mjx
    python -m benchmarks.ppo --tasks --profile      # the profile alone

Writes benchmarks/results/ppo-<task>-<backend>.json and ppo-profile-<backend>.json; `make tables` makes the page.
Every task runs in a process of its own, with the compilation cache off, so that compile time and memory are its own.
"""

import dataclasses
import itertools
import shlex
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import rljax
from benchmarks.common import peak_memory_mb, time_of, write
from benchmarks.physics import own as measure_physics
from experiments.ppo import ACCELERATED, TASKS
from rljax import training
from rljax.algorithms import ppo
from rljax.algorithms.core.contract import Algorithm
from rljax.envs import AutoReset, EpisodeStatistics, Guard
from rljax.spaces import Discrete
from rljax.training import program as programs
from rljax.training.versions import hardware, versions

TARGETS = {
    "cartpole": 490.0,
    "acrobot": -86.0,
    "pendulum": -180.0,
    "mountain_car_continuous": 92.0,
    "mountain_car": -120.0,
    "t_maze": 3.9,
}
# At 1M steps: CleanRL's and SLM-Lab's published rows (v4 and v5), and what counts as solved.
MUJOCO = {
    "half_cheetah": 1443.0,
    "hopper": 2383.0,
    "walker2d": 2288.0,
    "inverted_pendulum": 960.0,
    "inverted_double_pendulum": 8000.0,
    "reacher": -6.0,
    "swimmer": 282.0,
    "pusher": -40.0,
}
# No published row has these budgets, or, of `fast`, no published row at all.
LARGE = {"ant": None, "humanoid": None}
ADAPTED = {"playground:CartpoleBalance": 990.0, "brax:inverted_pendulum": 950.0, "brax:fast": None}
KNOWN = TARGETS | MUJOCO | LARGE | ADAPTED


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurements."""

    tasks: tuple[str, ...] = (*TARGETS, *MUJOCO)
    """Tasks, with the defaults of experiments/ppo.py."""
    seeds: int | None = None
    """Number of seeds of the returns; by default 10, or 4 where the physics is MuJoCo's or Brax's."""
    together: int | None = None
    """Number of seeds trained together for the speed; by default 64, or 8 where the physics is MuJoCo's or Brax's."""
    engine: str = "auto"
    """Physics of MuJoCo tasks: auto, native, mjx or warp."""
    speed: bool = True
    """Whether to measure speed too; without it a busy machine does no harm."""
    profile: bool = True
    """Whether to profile too, where the time goes."""
    child: bool = False
    """Whether to measure in this process instead of one for each task."""


def main(settings: Settings) -> None:
    if unknown := set(settings.tasks) - set(KNOWN):
        sys.exit(f"error: unknown tasks {', '.join(sorted(unknown))}; known: {', '.join(KNOWN)}")
    if settings.child:
        return child(settings)
    jobs = [["--tasks", task, "--no-profile"] for task in settings.tasks]
    jobs += [["--tasks", "--profile"]] if settings.profile else []
    for job in jobs:
        command = [sys.executable, "-m", "benchmarks.ppo", "--child", *job]
        command += [f"--seeds={settings.seeds}"] if settings.seeds else []
        command += [f"--together={settings.together}"] if settings.together else []
        command += ["--engine", settings.engine, "--speed" if settings.speed else "--no-speed"]
        print(f"== {shlex.join(job)}", flush=True)
        subprocess.run(command, check=True)
    return None


def child(settings: Settings) -> None:
    training.use_cpu_cores()
    jax.config.update("jax_enable_compilation_cache", False)
    for task in settings.tasks:
        engine = "" if settings.engine == "auto" else f"-{settings.engine}"
        write(f"ppo-{task.replace(':', '-')}{engine}", benchmark(task, settings))
    if settings.profile:
        write("ppo-profile", profile(settings))


def make(task: str, engine: str = "auto") -> tuple[Algorithm, int]:
    """The algorithm and the steps of the experiment's defaults."""
    accelerated = engine != "native" and jax.default_backend() != "cpu"
    settings = (ACCELERATED if accelerated and task in ACCELERATED else TASKS)[task]
    config = dataclasses.replace(settings.config, anneal_steps=settings.total_steps)
    options: dict[str, Any] = {} if engine == "auto" else {"engine": engine}
    return ppo.make(rljax.make(task, action_repeat=settings.action_repeat, **options), config), settings.total_steps


def benchmark(task: str, settings: Settings) -> dict[str, Any]:
    """One record: speed of one run, speed of many, and returns of the seeds."""
    algorithm, steps = make(task, settings.engine)
    classic = task in TARGETS
    seeds = settings.seeds or (10 if classic else 4)
    together = settings.together or (64 if classic else 8)
    options = training.Options(evaluate_every=0, progress=False)
    speed: dict[str, Any] = {}
    if settings.speed:
        # Where a run takes minutes, a fifth of it tells its speed.
        short = steps if classic else steps // 5
        alone = dataclasses.replace(options, devices=1, final_episodes=0)
        one = training.train(algorithm, jax.random.key(0), short, alone)
        speed = {
            "compile_seconds": one.compile_seconds,
            "training_seconds": one.seconds,
            "steps_per_second_one_run": one.steps / one.seconds,
            "steps_per_second_all_seeds": rate_of_members(algorithm, together),
            "num_seeds_together": together,
        }
    keys = jax.vmap(jax.random.key)(np.arange(seeds, dtype=np.uint32))
    result = training.train(algorithm, keys, steps, options)
    assert result.evaluation is not None
    means = {
        kind: [member[kind]["mean"] for member in result.evaluation["members"]]
        for kind in ("deterministic", "stochastic")
    }
    record = {
        "algorithm": "ppo",
        "task": task,
        "engine": "jax",
        "implementation": "rljax",
        "seeds": list(range(seeds)),
        "steps": result.steps,
        **speed,
        "evaluation_episodes": result.evaluation["episodes"],
        "returns_deterministic": means["deterministic"],
        "returns_stochastic": means["stochastic"],
        "target": {"return": KNOWN[task]},
        "peak_memory_mb": peak_memory_mb(),
        "config": dataclasses.asdict(algorithm.config),
        "hardware": hardware(),
        "versions": versions(),
        "command": f"python -m benchmarks.ppo --tasks {task} --no-profile --seeds {seeds} --together {together}"
        + ("" if settings.engine == "auto" else f" --engine {settings.engine}")
        + ("" if settings.speed else " --no-speed"),
    }
    if task in MUJOCO | LARGE:
        record["engine"] = engine = algorithm.env.unwrapped.engine.name  # type: ignore[attr-defined]
        if speed:
            # Random actions of as many environments in a compiled loop, resets included.
            record["physics_steps_per_second"], _ = measure_physics(task, engine, algorithm.config.num_envs, 5.0)
            record["share_of_physics_rate"] = speed["steps_per_second_one_run"] / record["physics_steps_per_second"]
    rates = {name: round(value) for name, value in speed.items() if name.startswith("steps_")}
    print(f"{task}: returns {means['deterministic']}, {rates}")
    return record


def rate_of_members(algorithm: Algorithm, members: int, seconds: float = 10.0) -> float:
    """Steps per second of all members together, compilation and a warm-up apart."""
    program = programs.build(algorithm, members, None, "threefry2x32")
    keys = jax.vmap(jax.random.key)(np.arange(members, dtype=np.uint32))
    state, totals = program.init(np.asarray(jax.random.key_data(keys)), {})

    def run(state: Any, totals: Any, count: int) -> tuple[Any, Any, float]:
        begin = time.perf_counter()
        state, totals, finite = program.run(state, totals, np.int32(0), np.int32(count))
        jax.block_until_ready(finite)
        return state, totals, time.perf_counter() - begin

    state, totals, _ = run(state, totals, 1)
    state, totals, elapsed = run(state, totals, 1)
    count = max(1, round(seconds / elapsed))
    _, _, elapsed = run(state, totals, count)
    return count * algorithm.per_iteration * members / elapsed


def profile(settings: Settings) -> dict[str, Any]:
    """Where the time of one CartPole iteration goes, how near the update is to the machine, and what sharing brings."""
    algorithm, _ = make("cartpole")
    config = algorithm.config
    steps = algorithm.per_iteration
    state = jax.jit(algorithm.init)(jax.random.key(0))
    envs = AutoReset(EpisodeStatistics(Guard.around(algorithm.env)), config.num_envs)
    agent: Any = algorithm.agent
    iterations = 50

    def step_envs(env_state: Any, action: jax.Array) -> Any:
        def step(env_state: Any, _: None) -> tuple[Any, None]:
            return envs.step(env_state, action), None

        return jax.lax.scan(step, env_state, None, config.rollout_length)[0]

    def act(env_state: Any, params: Any) -> Any:
        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            output: Any = agent.apply(params, carry.obs[None], (), jnp.zeros((1, config.num_envs), bool))
            return envs.step(carry, output[0].sample(key)[0]), None

        keys = jax.random.split(jax.random.key(0), config.rollout_length)
        return jax.lax.scan(step, env_state, keys)[0]

    env_state = jax.jit(envs.reset)(jax.random.key(0))
    action = jnp.zeros(config.num_envs, jnp.int32)
    env_seconds = time_of(lambda s: step_envs(s, action), env_state, iterations)
    act_seconds = time_of(lambda s: act(s, state.params["policy"]), env_state, iterations)
    whole_seconds = time_of(lambda s: algorithm.step(s)[0], state, iterations)
    update_seconds = whole_seconds - act_seconds
    policy_seconds = act_seconds - env_seconds

    # Multiplications and additions of one sample, forward; backward costs twice that.
    actions = algorithm.env.action_space
    assert isinstance(actions, Discrete)
    widths = [agent.obs_size, *config.hidden]
    layers = sum(a * b for a, b in itertools.pairwise(widths))
    heads = config.hidden[-1] * (actions.n + 1)
    forward = 2 * (2 * layers + heads)
    update_flops = 3 * forward * config.num_epochs * steps
    batch = steps // config.num_minibatches
    matmul_rate = measure_matmul(batch, config.hidden[-1])
    one_rate = steps / whole_seconds
    rows: list[list[Any]] = [
        ["environments, auto-reset and statistics", env_seconds * 1e6 / steps, env_seconds / whole_seconds],
        ["policy network and sampling", policy_seconds * 1e6 / steps, policy_seconds / whole_seconds],
        ["advantages and update", update_seconds * 1e6 / steps, update_seconds / whole_seconds],
        ["whole iteration", whole_seconds * 1e6 / steps, 1.0],
    ]  # fmt: skip
    achieved = update_flops / update_seconds
    shape = f"[{batch}, {config.hidden[-1]}] x [{config.hidden[-1]}, {config.hidden[-1]}]"
    notes = (
        f"One run on one device: {one_rate:,.0f} steps/s. "
        f"An update of {update_flops / steps / 1e6:.2f} MFLOP a step in {update_seconds * 1e6 / steps:.2f} µs is "
        f"{achieved / 1e9:.1f} GFLOP/s, {achieved / matmul_rate:.0%} of the {matmul_rate / 1e9:.1f} GFLOP/s measured "
        f"here for a chain of {shape} products."
    )
    notes += sharing(algorithm, one_rate, settings.together or 64)
    return {
        "kind": "profile",
        "title": f"PPO on CartPole, {jax.default_backend()}: where the time of one step goes",
        "columns": ["part", "µs a step", "share"],
        "rows": [[name, round(time, 3), f"{share:.0%}"] for name, time, share in rows],
        "notes": notes,
        "matmul_gflops": matmul_rate / 1e9,
        "update_gflops": achieved / 1e9,
        "hardware": hardware(),
        "versions": versions(),
        "command": "python -m benchmarks.ppo --tasks --profile",
    }


def sharing(algorithm: Algorithm, one_rate: float, members: int) -> str:
    """The gain from several devices for one run and for many, in words."""
    devices = jax.device_count()
    if devices == 1:
        return ""
    program = programs.build(algorithm, None, devices, "threefry2x32")
    state, totals = program.init(np.asarray(jax.random.key_data(jax.random.key(0))), {})
    seconds = time_of(lambda s, t: program.run(s, t, np.int32(0), np.int32(1))[:2], (state, totals), 50)
    split = algorithm.per_iteration / seconds
    turns = rate_of_members(algorithm, members)
    keys = jax.random.split(jax.random.key(0), members)
    together = jax.jit(jax.vmap(algorithm.init))(keys)
    vmapped = time_of(lambda s: jax.vmap(algorithm.step)(s)[0], together, 5)
    vmap_rate = members * algorithm.per_iteration / vmapped
    return (
        f" Splitting the environments of one run over {devices} devices: {split:,.0f} steps/s "
        f"({split / one_rate:.2f} of one device). {members} seeds by vmap on one device: {vmap_rate:,.0f} steps/s; "
        f"split over {devices} devices as the runner does: {turns:,.0f}."
    )


def measure_matmul(batch: int, width: int) -> float:
    """FLOP per second of products [batch, width] x [width, width], the update's own shape."""
    weights = jnp.eye(width) + 1e-3

    def chain(x: jax.Array) -> jax.Array:
        for _ in range(16):
            x = x @ weights
        return x

    seconds = time_of(chain, jnp.ones((batch, width)) / width, 50)
    return 16 * 2 * batch * width * width / seconds


if __name__ == "__main__":
    main(tyro.cli(Settings))
