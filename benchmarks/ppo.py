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
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from benchmarks import campaign
from benchmarks.campaign import time_of
from benchmarks.physics import own as measure_physics
from experiments.ppo import ACCELERATED, TASKS
from rljax import training
from rljax.algorithms import ppo
from rljax.algorithms.core.contract import Algorithm
from rljax.envs import AutoReset, EpisodeStatistics, Guard
from rljax.spaces import Discrete

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
class Settings(campaign.Settings):
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


def main(settings: Settings) -> None:
    campaign.require_known("tasks", settings.tasks, KNOWN)
    engine = "" if settings.engine == "auto" else f"-{settings.engine}"
    for task in settings.tasks:
        print(f"== {task}", flush=True)
        campaign.alone(cold, settings, f"ppo-{task.replace(':', '-')}{engine}", benchmark, task, settings)
    if settings.profile:
        campaign.alone(cold, settings, "ppo-profile", profile, settings)


def cold(settings: Settings, name: str, measure: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    """Writes a measurement on all cores, in which everything is compiled anew."""
    training.use_cpu_cores()
    jax.config.update("jax_enable_compilation_cache", False)
    campaign.write(settings, name, measure(*arguments))


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
            "steps_per_second_all_seeds": campaign.training_rate(algorithm, 10.0, together)[0],
            "num_seeds_together": together,
        }
    keys = jax.vmap(jax.random.key)(np.arange(seeds, dtype=np.uint32))
    result = training.train(algorithm, keys, steps, options)
    assert result.evaluation is not None
    arguments = ["--tasks", task, "--no-profile", "--seeds", str(seeds), "--together", str(together)]
    arguments += [] if settings.engine == "auto" else ["--engine", settings.engine]
    arguments += [] if settings.speed else ["--no-speed"]
    evaluation = result.evaluation
    record = {
        **campaign.returns(algorithm, task, result.steps, evaluation["episodes"], evaluation["members"]),
        **speed,
        "target": {"return": KNOWN[task]},
        "peak_memory_mb": campaign.peak_memory_mb(),
        **campaign.provenance("ppo", arguments),
    }
    if speed and task in MUJOCO | LARGE:
        # Random actions of as many environments in a compiled loop, resets included.
        rate, _ = measure_physics(task, record["engine"], algorithm.config.num_envs, 5.0)
        record["physics_steps_per_second"] = rate
        record["share_of_physics_rate"] = speed["steps_per_second_one_run"] / rate
    print({name: round(value) for name, value in speed.items() if name.startswith("steps_")}, flush=True)
    return record


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

    # Multiplications and additions of one sample, forward; backward costs twice that.
    actions = algorithm.env.action_space
    assert isinstance(actions, Discrete)
    widths = [agent.obs_size, *config.hidden]
    layers = sum(a * b for a, b in itertools.pairwise(widths))
    heads = config.hidden[-1] * (actions.n + 1)
    forward = 2 * (2 * layers + heads)
    update_flops = 3 * forward * config.num_epochs * steps
    batch = steps // config.num_minibatches
    matmul_rate = campaign.matmul_rate(batch, config.hidden[-1])
    one_rate = steps / whole_seconds
    parts = {
        "environments, auto-reset and statistics": env_seconds,
        "policy network and sampling": act_seconds - env_seconds,
        "advantages and update": update_seconds,
        "whole iteration": whole_seconds,
    }
    rows = [
        {"part": name, "µs a step": round(part * 1e6 / steps, 3), "share": f"{part / whole_seconds:.0%}"}
        for name, part in parts.items()
    ]
    achieved = update_flops / update_seconds
    shape = f"[{batch}, {config.hidden[-1]}] x [{config.hidden[-1]}, {config.hidden[-1]}]"
    notes = (
        f"One run on one device: {one_rate:,.0f} steps/s. "
        f"An update of {update_flops / steps / 1e6:.2f} MFLOP a step in {update_seconds * 1e6 / steps:.2f} µs is "
        f"{achieved / 1e9:.1f} GFLOP/s, {achieved / matmul_rate:.0%} of the {matmul_rate / 1e9:.1f} GFLOP/s measured "
        f"here for a chain of {shape} products."
    )
    notes += sharing(algorithm, one_rate, settings.together or 64)
    return campaign.table(
        "ppo",
        f"PPO on CartPole, {jax.default_backend()}: where the time of one step goes",
        rows,
        notes,
        matmul_gflops=matmul_rate / 1e9,
        update_gflops=achieved / 1e9,
    )


def sharing(algorithm: Algorithm, one_rate: float, members: int) -> str:
    """The gain from several devices for one run and for many, in words."""
    devices = jax.device_count()
    if devices == 1:
        return ""
    split, _ = campaign.training_rate(algorithm, 5.0, devices=devices)
    turns, _ = campaign.training_rate(algorithm, 10.0, members)
    keys = jax.random.split(jax.random.key(0), members)
    together = jax.jit(jax.vmap(algorithm.init))(keys)
    vmapped = time_of(lambda s: jax.vmap(algorithm.step)(s)[0], together, 5)
    vmap_rate = members * algorithm.per_iteration / vmapped
    return (
        f" Splitting the environments of one run over {devices} devices: {split:,.0f} steps/s "
        f"({split / one_rate:.2f} of one device). {members} seeds by vmap on one device: {vmap_rate:,.0f} steps/s; "
        f"split over {devices} devices as the runner does: {turns:,.0f}."
    )


if __name__ == "__main__":
    campaign.main(main, Settings())
