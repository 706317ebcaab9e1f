"""Measures physics: environment steps per second by task, engine and number of environments, beside other libraries.

    python -m benchmarks.physics                          # all that this machine can run; 15 minutes on 2 cores
    python -m benchmarks.physics --tasks half_cheetah     # one task
    python -m benchmarks.physics --soak 10                # ten minutes of native stepping: memory and threads
    python -m benchmarks.physics --resets                 # what auto-reset adds to a step

Writes benchmarks/results/physics-<backend>.json (or physics-soak-<backend>.json, physics-resets-<backend>.json);
`make tables` makes the page. On a machine with a GPU the same command measures MJX and Warp there. Actions are
random, and finished environments are reset, everywhere but in bare `mujoco.rollout` and MuJoCo Playground. Every
measurement has a process of its own; those of the same machine that are not repeated stay in the file. EnvPool and
MuJoCo Playground are measured where they are installed: pip install envpool playground
"""

import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import psutil

import rljax
from benchmarks import campaign
from rljax.algorithms import sac
from rljax.envs import AutoReset, Guard
from rljax.envs.auto_reset import ResetPolicy
from rljax.training.versions import hardware

TASKS = {
    "half_cheetah": "HalfCheetah",
    "hopper": "Hopper",
    "walker2d": "Walker2d",
    "ant": "Ant",
    "humanoid": "Humanoid",
    "swimmer": "Swimmer",
    "reacher": "Reacher",
    "pusher": "Pusher",
    "inverted_pendulum": "InvertedPendulum",
    "inverted_double_pendulum": "InvertedDoublePendulum",
}
BRAX = {"half_cheetah": "halfcheetah", "inverted_double_pendulum": "inverted_double_pendulum"} | {
    name: name for name in TASKS if name not in ("half_cheetah", "swimmer", "inverted_double_pendulum")
}
PLAYGROUND = {"half_cheetah": "CheetahRun", "hopper": "HopperHop", "walker2d": "WalkerRun", "humanoid": "HumanoidRun"}
# MJX on a CPU takes a minute to compile for the larger models: enough to see the ratio on these.
ON_CPU = ("half_cheetah", "reacher", "inverted_pendulum")


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Tasks of rljax to measure."""
    num_envs: tuple[int, ...] = ()
    """Numbers of environments; by default 16, 64 and 256 on a CPU, 1024, 4096 and 8192 on an accelerator."""
    sources: tuple[str, ...] = ()
    """Engines and libraries; by default all that are installed and suit this machine."""
    seconds: float = 4.0
    """Seconds for which each is measured."""
    soak: float = 0.0
    """Minutes of continuous stepping with 256 native environments, instead of the table."""
    resets: bool = False
    """Whether to measure what auto-reset adds to a step of 32 pendulums, instead of the table."""


def main(settings: Settings) -> None:
    campaign.require_known("tasks", settings.tasks, TASKS)
    campaign.require_known("sources", settings.sources, SOURCES)
    if settings.soak:
        campaign.write(settings, "physics-soak", soak(settings.soak))
    elif settings.resets:
        campaign.write(settings, "physics-resets", resets(settings.seconds))
    else:
        campaign.write(settings, "physics", record(merged(settings, measurements(settings))))


def measurements(settings: Settings) -> list[dict[str, Any]]:
    """A measurement of each task, source and number of environments; what fails is left out, and said."""
    cpu, found = jax.default_backend() == "cpu", []
    for task in settings.tasks:
        for source in settings.sources or sources_for(task, cpu):
            for num_envs in settings.num_envs or ((16, 64, 256) if cpu else (1024, 4096, 8192)):
                if source == "gymnasium async" and num_envs > 16:
                    continue  # a process for each: they would only wait for each other
                try:
                    result = campaign.alone(measure, task, source, num_envs, settings.seconds)
                except Exception as error:  # whatever another library raises
                    print(f"{task} {source} {num_envs}: failed: {error}", flush=True)
                    continue
                found.append({"task": task, "source": source, "num_envs": num_envs} | result)
                print(f"{task:25s} {source:22s} {num_envs:6d}: {result['rate']:12,.0f} steps/s", flush=True)
    return found


def sources_for(task: str, cpu: bool) -> list[str]:
    """The engines and libraries that have the task and are installed."""
    chosen = ["native"] if cpu else ["mjx", "warp"]
    if cpu and task in ON_CPU:
        chosen.append("mjx")
    if not cpu and (importlib.util.find_spec("warp") is None or task in ("ant", "humanoid")):
        chosen.remove("warp")
    if cpu:
        chosen += ["mujoco.rollout", "gymnasium sync", "gymnasium async"]
        chosen += ["envpool"] if importlib.util.find_spec("envpool") else []
    if task in BRAX and (not cpu or task in ON_CPU):
        chosen += ["brax spring", "brax mjx"]
    if task in PLAYGROUND and importlib.util.find_spec("mujoco_playground") and (not cpu or task in ON_CPU):
        chosen.append("playground jax")
    return chosen


def measure(task: str, source: str, num_envs: int, seconds: float) -> dict[str, Any]:
    """Environment steps per second of one source, what compiling took, and the peak of memory."""
    jax.config.update("jax_enable_compilation_cache", False)
    rate, compile_seconds = SOURCES[source](task, source.partition(" ")[2], num_envs, seconds)
    return {"rate": rate, "compile_seconds": compile_seconds, "peak_memory_mb": campaign.peak_memory_mb()}


def of_program(reset: Callable, step: Callable, action_size: int, num_envs: int, seconds: float) -> tuple[float, float]:
    """A compiled loop of random actions in [-1, 1]: the rate, and the seconds to compile and run it once."""

    def roll(state: Any, key: jax.Array, length: int) -> Any:
        def body(state: Any, key: jax.Array) -> tuple[Any, None]:
            return step(state, jax.random.uniform(key, (num_envs, action_size), minval=-1.0)), None

        return jax.lax.scan(body, state, jax.random.split(key, length))[0]

    begin = time.perf_counter()
    state = jax.block_until_ready(jax.jit(reset)(jax.random.key(0)))
    compiled = jax.jit(roll, static_argnums=2)
    length = 10
    for _ in range(2):  # the second time too, where a reset gives other types than a step
        state = jax.block_until_ready(compiled(state, jax.random.key(1), length))
    compile_seconds = time.perf_counter() - begin
    key = jax.random.key(2)

    def rolls(count: int) -> None:
        nonlocal state, key
        for _ in range(count):
            key, roll_key = jax.random.split(key)
            state = jax.block_until_ready(compiled(state, roll_key, length))

    return campaign.rate(rolls, seconds) * length * num_envs, compile_seconds


def of_loop(step: Callable[[], None], num_envs: int, seconds: float) -> float:
    """The rate of calls that step all environments once."""

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    return campaign.rate(steps, seconds, warm_up=5) * num_envs


def own(task: str, engine: str, num_envs: int, seconds: float) -> tuple[float, float | None]:
    options: dict[str, Any] = {"worlds": num_envs} if engine == "warp" else {}
    env = AutoReset(rljax.make(task, engine=engine, **options), num_envs)
    scale = jnp.asarray(env.action_space.high)  # type: ignore[union-attr]
    size = int(np.prod(env.action_space.shape))  # type: ignore[union-attr]
    return of_program(env.reset, lambda state, action: env.step(state, action * scale), size, num_envs, seconds)


def bare_rollout(task: str, _: str, num_envs: int, seconds: float) -> tuple[float, None]:
    """`mujoco.rollout` on its own thread pool, going on from where each call ended; no rewards, no resets."""
    import mujoco
    from mujoco.rollout import Rollout

    engine = rljax.make(task, engine="native").unwrapped.engine  # type: ignore[attr-defined]
    model, substeps = engine.model, engine.substeps
    datas = [mujoco.MjData(model) for _ in range(engine.threads)]
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    state = np.zeros((num_envs, size))
    for row in state:
        mujoco.mj_getState(model, datas[0], row, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    generator = np.random.default_rng(0)
    low, high = model.actuator_ctrlrange.T
    output = np.zeros((num_envs, substeps, size))
    with Rollout(nthread=engine.threads) as pool:

        def step() -> None:
            control = np.repeat(generator.uniform(low, high, (num_envs, 1, model.nu)), substeps, axis=1)
            pool.rollout(model, datas, state, control, state=output)
            state[:] = output[:, -1]

        return of_loop(step, num_envs, seconds), None


def gymnasium_vector(task: str, mode: str, num_envs: int, seconds: float) -> tuple[float, None]:
    import gymnasium

    envs = gymnasium.make_vec(f"{TASKS[task]}-v5", num_envs=num_envs, vectorization_mode=mode)
    envs.reset(seed=0)
    generator = np.random.default_rng(0)
    space = envs.action_space
    assert isinstance(space, gymnasium.spaces.Box)

    def step() -> None:
        envs.step(generator.uniform(space.low, space.high).astype(np.float32))

    rate = of_loop(step, num_envs, seconds)
    envs.close()
    return rate, None


def envpool_pool(task: str, _: str, num_envs: int, seconds: float) -> tuple[float, None]:
    import envpool

    envs = envpool.make(f"{TASKS[task]}-v4", env_type="gymnasium", num_envs=num_envs, num_threads=os.cpu_count())
    envs.reset()
    generator = np.random.default_rng(0)
    space = envs.action_space

    def step() -> None:
        envs.step(generator.uniform(space.low, space.high, (num_envs, *space.shape)))

    return of_loop(step, num_envs, seconds), None


def brax_task(task: str, backend: str, num_envs: int, seconds: float) -> tuple[float, float]:
    from brax import envs

    env = envs.create(BRAX[task], backend=backend, batch_size=num_envs, episode_length=1000, auto_reset=True)
    return of_program(env.reset, env.step, env.action_size, num_envs, seconds)


def playground_task(task: str, implementation: str, num_envs: int, seconds: float) -> tuple[float, float]:
    from mujoco_playground import registry

    env = registry.load(PLAYGROUND[task], config_overrides={"impl": implementation})

    def reset(key: jax.Array) -> Any:
        return jax.vmap(env.reset)(jax.random.split(key, num_envs))

    return of_program(reset, jax.vmap(env.step), env.action_size, num_envs, seconds)


def _engine(name: str) -> Callable:
    return lambda task, _, num_envs, seconds: own(task, name, num_envs, seconds)


SOURCES: dict[str, Callable[[str, str, int, float], tuple[float, float | None]]] = {
    **{name: _engine(name) for name in ("native", "mjx", "warp")},
    "mujoco.rollout": bare_rollout,
    **{f"gymnasium {mode}": gymnasium_vector for mode in ("sync", "async")},
    "envpool": envpool_pool,
    **{f"brax {backend}": brax_task for backend in ("spring", "mjx")},
    **{f"playground {implementation}": playground_task for implementation in ("jax", "warp")},
}
LABELS = {name: f"rljax, {name}" for name in ("native", "mjx", "warp")} | {"mujoco.rollout": "bare mujoco.rollout"}
TASK_OF_OTHERS = (
    "EnvPool's tasks are v4, Brax's and Playground's are their own versions of the robots, with their own physics "
    "rates: Brax's HalfCheetah makes control steps of 0.05 s as Gymnasium's does, Playground's CheetahRun of 0.01 s."
)


def merged(settings: Settings, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The measurements, with this machine's earlier ones that were not repeated, ordered by task, source and size."""

    def place(m: dict[str, Any]) -> tuple[int, int, int]:
        return list(TASKS).index(m["task"]), list(SOURCES).index(m["source"]), m["num_envs"]

    before = campaign.earlier(settings, "physics")
    known = before.get("measurements", []) if before.get("hardware") == hardware() else []
    together = {place(m): m for m in [*known, *found]}
    return [together[key] for key in sorted(together)]


def record(measurements: list[dict[str, Any]]) -> dict[str, Any]:
    def rate(task: str, source: str, num_envs: int) -> float | None:
        found = [m["rate"] for m in measurements if (m["task"], m["source"], m["num_envs"]) == (task, source, num_envs)]
        return found[0] if found else None

    rows = []
    for m in measurements:
        theirs = [rate(m["task"], f"gymnasium {mode}", m["num_envs"]) for mode in ("sync", "async")]
        best = max((r for r in theirs if r), default=None)
        bare = rate(m["task"], "mujoco.rollout", m["num_envs"])
        rows.append(
            {
                "task": m["task"],
                "source": LABELS.get(m["source"], m["source"]),
                "environments": str(m["num_envs"]),
                "steps/s": round(m["rate"]),
                "of Gymnasium's best": f"{m['rate'] / best:.2f}×" if best else "–",
                "of bare rollout": f"{m['rate'] / bare:.0%}" if bare and m["source"] == "native" else "–",
                "compile, s": "–" if m["compile_seconds"] is None else f"{m['compile_seconds']:.1f}",
                "peak memory, MB": round(m["peak_memory_mb"]),
            }
        )
    title = f"Physics, {jax.default_backend()}: environment steps per second"
    return campaign.table("physics", title, rows, TASK_OF_OTHERS, measurements=measurements)


def soak(minutes: float) -> dict[str, Any]:
    """Memory and threads over minutes of HalfCheetah with 256 native environments."""
    env = AutoReset(rljax.make("half_cheetah", engine="native"), 256)
    process = psutil.Process()

    @jax.jit
    def roll(state: Any, key: jax.Array) -> Any:
        def body(state: Any, key: jax.Array) -> tuple[Any, None]:
            return env.step(state, jax.random.uniform(key, (256, 6), minval=-1.0)), None

        return jax.lax.scan(body, state, jax.random.split(key, 500))[0]

    state, key, steps = jax.jit(env.reset)(jax.random.key(0)), jax.random.key(1), 0
    rows: list[dict[str, Any]] = []
    begin = time.perf_counter()
    while True:
        key, roll_key = jax.random.split(key)
        state = jax.block_until_ready(roll(state, roll_key))
        steps += 256 * 500
        elapsed = (time.perf_counter() - begin) / 60
        if elapsed >= minutes * len(rows) / 10:
            memory = process.memory_info().rss / 2**20
            row = {
                "minutes": f"{elapsed:.1f}",
                "environment steps": steps,
                "resident memory, MB": round(memory, 1),
                "threads": process.num_threads(),
            }
            rows.append(row)
            campaign.show(row)
        if elapsed >= minutes:
            break
    title = f"Soak, {jax.default_backend()}: HalfCheetah, 256 native environments stepped without a pause"
    return campaign.table("physics", title, rows, "")


def resets(seconds: float) -> dict[str, Any]:
    """Microseconds of a step of 32 pendulums, without resets and with each kind, beside those of a step of SAC."""
    num_envs = 32
    env, config = rljax.make("pendulum"), sac.Config(num_envs=32, learning_starts=64, replay_size=100_000)
    guarded, algorithm = Guard.around(env), sac.make(env, config)
    action, keys = jnp.zeros((num_envs, 1)), jax.random.split(jax.random.key(0), num_envs)

    def stepping(reset: Callable[..., Any], step: Callable[..., Any], key: jax.Array) -> Callable[[], float]:
        return campaign.timed(lambda state: step(state, action), jax.jit(reset)(key), 1000)

    programs = {"no resets": stepping(jax.vmap(guarded.reset), jax.vmap(guarded.step), keys)}
    for policy in get_args(ResetPolicy):
        envs = AutoReset(env, num_envs, policy)
        programs[f"resets: {policy}"] = stepping(envs.reset, envs.step, keys[0])
    programs["SAC"] = campaign.timed(lambda state: algorithm.step(state)[0], jax.jit(algorithm.init)(keys[0]), 20)
    best = dict.fromkeys(programs, np.inf)
    begin = time.perf_counter()
    while time.perf_counter() - begin < 5 * seconds:  # in turn, so that a busy machine slows all of them
        for name, program in programs.items():
            best[name] = min(best[name], 1e6 * program())
    rows = []
    for name, time_of_step in best.items():
        added, reset = time_of_step - best["no resets"], name.startswith("resets:")
        rows.append(
            {
                "program": name,
                "µs a step": f"{time_of_step:.2f}",
                "added, µs": f"{added:.2f}" if reset else "–",
                "added, of a step of SAC": f"{added / best['SAC']:.2%}" if reset else "–",
            }
        )
    title = f"Auto-reset, {jax.default_backend()}: 32 pendulums, the fastest of many slices"
    return campaign.table("physics", title, rows, "")


if __name__ == "__main__":
    campaign.main(main, Settings())
