"""Benchmark of diffusion policies and RL in their noise: success, transfer to gym-pusht, and where the time goes.

    python -m benchmarks.steering --demos push_t_human_demos.npz            # everything; goes on where it stopped
    python -m benchmarks.steering --parts scores --seeds 0                  # of the runs that are there
    python -m benchmarks.steering --parts scores --methods grrl_steer gr_rl --seeds 1 --demos …
    python -m benchmarks.steering --parts gym_pusht --policies runs/diffusion_policy/push_t-seed0
    python -m benchmarks.steering --parts speed                             # minutes; on cores with nothing else to do
    python -m benchmarks.steering --parts film                              # the lace, imitated and steered

gym_pusht plays a policy in the PushT of record, beside ours and from the same states. A seed of scores is one run of an
experiment on one core, as many at a time as there are cores: on PushT a diffusion policy of the demonstrations and RL
in its noise, beside SAC from nothing and RLPD; on the lace the pipeline of experiments/gr_rl.py.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from benchmarks import campaign, steering_scores
from benchmarks.campaign import ROOT
from benchmarks.steering_scores import METHODS, REWARDS, STEERED
from rljax.algorithms import diffusion, steering
from rljax.analysis.statistics import bootstrap_interval
from rljax.data import Batch
from rljax.envs import Environment, TimeLimit
from rljax.envs.adapters.gymnasium import GymnasiumEnvironment
from rljax.envs.environment import State
from rljax.envs.manipulation import push_t
from rljax.envs.registry import make_recorded
from rljax.envs.wrappers import Wrapper
from rljax.nn.precision import Precision
from rljax.training.cache import enable_compilation_cache
from rljax.training.evaluate import evaluate
from rljax.training.loading import read_description
from rljax.types import Key, Refused

MODES = {"sampled": False, "deterministic": True}
UPDATES_TIMED = 4
"""Updates of an iteration that are timed: a short program is timed often, and the best counts."""
QUANTITIES = {"coverage": ".3f", "success": ".1%"}


@dataclasses.dataclass(frozen=True)
class Settings(steering_scores.Settings):
    """Settings of the measurements."""

    parts: tuple[str, ...] = ("gym_pusht", "speed", "scores")
    """Parts of the benchmark: gym_pusht, policies in PushT's two engines; speed; scores, which runs missing seeds and
    makes the table and the curves; film, one episode of the lace by a pipeline's first and last policy."""
    policies: tuple[Path, ...] = (
        ROOT / "runs" / "diffusion_policy" / "push_t-seed0",
        ROOT / "runs" / "steer" / "push_t-dsrl_sac-seed0",
    )
    """Run folders of PushT's policies, for gym_pusht."""
    episodes: int = 100
    """Episodes in each engine, for gym_pusht."""
    seconds: float = 2.0
    """Least seconds of one timing, for speed."""


def main(settings: Settings) -> None:
    campaign.require_known("methods", settings.methods, METHODS)
    campaign.require_known("tasks", settings.tasks, REWARDS)
    enable_compilation_cache()
    if "gym_pusht" in settings.parts:
        campaign.write(settings, "steering-gym_pusht", gym_pusht(settings))
    if "speed" in settings.parts:
        campaign.write(settings, "steering-speed", speed(settings))
    if "scores" in settings.parts:
        campaign.run_all(steering_scores.base_jobs(settings))
        campaign.run_all(steering_scores.own_jobs(settings))
        if found := list(steering_scores.results(settings)):
            campaign.write(settings, "steering-scores", steering_scores.record(found))
            steering_scores.draw(settings, found)
        else:
            print(f"no finished run under {settings.runs} is called {settings.pattern}: no table")
    if "film" in settings.parts:
        film(settings)


def film(settings: Settings) -> None:
    """An episode as it is executed, from one and the same state, before and after a pipeline: two GIFs."""
    from rljax.analysis.video import animate

    folder = next(iter(sorted(settings.runs.glob("gr_rl/lace-seed*/4-steered"))), None)
    if folder is None:
        raise Refused(f"there is no lace-seed*/4-steered in {settings.runs / 'gr_rl'}; experiments/gr_rl.py makes it")
    env = make_recorded(read_description(folder)["env"])
    for name, stage in (("imitated", "1-everything"), ("steered", folder.name)):
        policy, path = rljax.load(folder.parent / stage, env=env), settings.results.parent / f"lace-{name}.gif"
        animate(env, policy, jax.random.key(5), path, max_steps=160, deterministic=False)
        campaign.say_written(path)


# gym-pusht


class AsOurs(Wrapper):
    """gym-pusht's state [5] observed as our PushT's [6]; success is what it says, coverage is of the pose it tells."""

    def __init__(self, env: Environment):
        super().__init__(env)
        self.observation_space = rljax.make("push_t").observation_space

    def reset(self, key: Key) -> State:
        return self._seen(self.env.reset(key))

    def step(self, state: State, action: jax.Array) -> State:
        return self._seen(self.env.step(state, action))

    def _seen(self, state: State) -> State:
        metrics = {"coverage": push_t.coverage(state.obs[2:]), "success": state.terminated.astype(jnp.float32)}
        return state.replace(obs=push_t.observation_of(state.obs), metrics=metrics)


def theirs(starts: dict[int, np.ndarray]) -> Environment:
    """gym-pusht's own PushT, through Gymnasium's adapter; a seed that `starts` holds begins there."""
    from gym_pusht.envs.pusht import PushTEnv

    class FromStarts(PushTEnv):
        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(seed=seed, options={"reset_to_state": None if seed is None else starts.get(seed)})

    # Else every step would be drawn.
    env = GymnasiumEnvironment(lambda: FromStarts(render_mode=None), "gym_pusht")
    limit = rljax.make("push_t").max_episode_steps
    assert limit is not None
    return TimeLimit(AsOurs(env), limit)


def start_of(qpos: np.ndarray) -> np.ndarray:
    """The argument of gym-pusht's reset_to_state to begin as ours does: [..., 5] of positions [..., 5].

    It places the block upright, and turns it about its centre of mass.
    """
    return np.concatenate([qpos[..., :2], qpos[..., 2:4] - push_t.CENTRE, qpos[..., 4:]], axis=-1)


def both_engines(key: Key, episodes: int) -> dict[str, Environment]:
    """Ours, and theirs that begins where ours does in `evaluate` with this key."""
    starts: dict[int, np.ndarray] = {}
    engines = {"rljax": rljax.make("push_t"), "gym-pusht": theirs(starts)}
    keys = jax.random.split(jax.random.split(key)[0], episodes)
    ours, other = (jax.jit(jax.vmap(env.reset))(keys) for env in engines.values())
    starts.update(zip(np.asarray(other.physics["seed"]).tolist(), start_of(np.asarray(ours.physics.qpos))))
    return engines


def gym_pusht(settings: Settings) -> dict[str, Any]:
    """A row for each policy and engine, both from the same states and with the same noise; and their difference."""
    key, rows = jax.random.key(0), []
    engines = both_engines(key, settings.episodes)
    for folder in settings.policies:
        policy = rljax.load(folder)
        found: dict[str, dict[Any, np.ndarray]] = {}
        for name, env in engines.items():
            found[name] = {}
            for mode, deterministic in MODES.items():
                play = functools.partial(evaluate, env, num_episodes=settings.episodes, deterministic=deterministic)
                highest = jax.jit(lambda policy, key, play=play: play(policy, key).highest)(policy, key)
                found[name] |= {(mode, quantity): np.asarray(highest[quantity]) for quantity in QUANTITIES}
        ours, other = found.values()
        found["difference"] = {what: other[what] - ours[what] for what in ours}
        for name, values in found.items():
            sign = "+" if name == "difference" else ""
            cells = {
                f"{'highest ' * (quantity == 'coverage')}{quantity}, {mode}": interval(x, sign + QUANTITIES[quantity])
                for (mode, quantity), x in values.items()
            }
            rows.append({"policy": f"{folder.parent.name}/{folder.name}", "engine": name, **cells})
            campaign.show(rows[-1])
    return campaign.table(
        "steering",
        f"PushT, {settings.episodes} episodes: trained in our engine, played in gym-pusht",
        rows,
        f"Means over episodes of at most {engines['rljax'].max_episode_steps} steps [and their bootstrap intervals]; "
        "success is a coverage above 0.95. In both engines episodes begin in the same states, and the policy draws the "
        "same noise; the difference is over these pairs. A policy samples its noise, or has that of its mode.",
    )


def interval(x: np.ndarray, form: str) -> str:
    low, high = bootstrap_interval(x)
    return f"{x.mean():{form}} [{low:{form}}, {high:{form}}]"


# Speed


def speed(settings: Settings) -> dict[str, Any]:
    """Latency of the sampler, and an iteration of steering taken apart."""
    latencies, load = [], os.getloadavg()[0]
    samplers: tuple[tuple[str, diffusion.Objective, Precision], ...] = (
        ("mlp", "diffusion", "float32"),
        ("mlp", "diffusion", "bfloat16"),
        ("mlp", "flow", "float32"),
        ("mlp", "flow", "bfloat16"),
        ("transformer", "diffusion", "float32"),
        ("transformer", "flow", "float32"),
    )
    for network, objective, precision in samplers:
        width = 512 if network == "mlp" else 128
        sampler = diffusion.Config(network=network, objective=objective, precision=precision, width=width)
        agent: Any = diffusion.make(rljax.make("push_t"), sampler).agent
        params = agent.init(jax.random.key(0)).params["policy"]
        row = {"policy": f"{network}, {objective}, {precision}"}
        for count in (1, 16, 256):
            obs, noise = jnp.zeros((count, 12)), jax.random.normal(jax.random.key(1), (count, *agent.chunk_shape))
            program = jax.jit(agent.sample_chunk).lower(params, obs, noise).compile()
            row[str(count)] = f"{min(milliseconds(program, (params, obs, noise), settings.seconds / 2)):.2f}"
        latencies.append(row)
        campaign.show(row)
    rows = []
    for task in ("push_t", "lace"):
        for method in (name for name in STEERED if name in settings.methods):
            rows.append({"task, method": f"{task}, {method}", **loop(task, REWARDS[task], method, settings)})
            campaign.show(rows[-1])
    c, sampler = steering.Config(), diffusion.Config()
    latency = campaign.table(
        "steering",
        "The sampler of a diffusion policy: ms of a call, by the number of observations",
        latencies,
        f"PushT's chunks of {sampler.horizon} actions of 2 in {sampler.sampler_steps} evaluations of the "
        "network (width 512, of a transformer 128; 3 blocks), called from Python; the best of several calls. "
        f"The transformer computes in float32 alone. Load of the machine before: {load:.1f}.",
    )
    iteration = campaign.table(
        "steering",
        "RL in the noise: ms of an iteration, and of its parts alone",
        rows,
        f"Of {c.num_envs} environments, {c.num_updates} updates of {c.batch_size} chunks of "
        f"{sampler.executed} steps (dsrl_na: {steering.DEFAULTS['dsrl_na'].num_envs} and "
        f"{steering.DEFAULTS['dsrl_na'].num_updates}), products in {settings.precision}. Each part is a "
        f"compiled program of its own, the best of several calls (of {UPDATES_TIMED} updates, for all); the "
        "sampler's share of the updates is its time for one batch, as often as they ask. Steps are those of "
        f"the task, without compilation. Load of the machine before: {load:.1f}.",
    )
    return {"records": [latency, iteration]}


def milliseconds(program: Callable[..., Any], arguments: tuple, seconds: float, chained: bool = False) -> list[float]:
    """Milliseconds of each call of a compiled program within `seconds`; chained, a call takes the last result."""
    times: list[float] = []
    while sum(times) < 1e3 * seconds:
        begin = time.perf_counter()
        result = jax.block_until_ready(program(*arguments))
        times.append(1e3 * (time.perf_counter() - begin))
        arguments = (result,) if chained else arguments
    return times


def loop(task: str, reward: str, method: str, settings: Settings) -> dict[str, str]:
    """An iteration of one method on one task: its parts, as in `steering.make`, and the whole."""
    sampler_config = diffusion.Config(precision=settings.precision)
    config = dataclasses.replace(
        steering.DEFAULTS[method], precision=settings.precision, sampler=sampler_config, **STEERED[method]
    )
    env = rljax.make(task, reward=reward)
    algorithm = steering.make(env, config)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    agent: Any = algorithm.agent
    steered = steering.Steered(env, config)
    obs_size, action_size = agent.observation_space.shape[0], steered.action_space.shape[0]
    key = jax.random.key(2)

    def best(function: Callable[..., Any], *arguments: Any, chained: bool = False) -> float:
        return min(milliseconds(jax.jit(function).lower(*arguments).compile(), arguments, settings.seconds, chained))

    obs = jax.random.normal(key, (config.num_envs, obs_size))
    acting = best(
        lambda parts, obs: agent.act(parts, obs, (), key, False), agent.acting(state.learner, state.hyper), obs
    )

    action = jax.random.uniform(key, (config.num_envs, action_size), minval=-1.0)
    begin = jax.jit(jax.vmap(steered.reset))(jax.random.split(key, config.num_envs))
    physics = best(lambda state: jax.vmap(steered.step)(state, action), begin, chained=True)

    size = (UPDATES_TIMED, config.batch_size)
    batches = Batch(
        jax.random.normal(key, (*size, obs_size)),
        jax.random.uniform(key, (*size, action_size), minval=-1.0),
        -jnp.ones(size),
        jax.random.normal(key, (*size, obs_size)),
        jnp.full(size, config.discount),
        jnp.zeros(size, jnp.int32),
        jnp.ones(size),
    )
    learn = best(lambda learner, batches: agent.learn(learner, batches, key, state.hyper)[0], state.learner, batches)
    updates = learn * config.num_updates / UPDATES_TIMED
    # For the target of an update, and for each step of distillation.
    asked = {"dsrl_sac": 0, "residual": 1}.get(method, 1 + config.distillation_steps) * config.num_updates
    noise = jax.random.normal(key, (config.batch_size, *agent.sampler.chunk_shape))
    sampling = (
        asked * best(functools.partial(agent.chunk, state.learner.frozen["base"]), batches.obs[0], noise)
        if asked
        else 0.0
    )

    # As in training, once the buffer has its first chunks.
    step = jax.jit(lambda state: algorithm.step(state)[0], donate_argnums=0).lower(state).compile()
    for _ in range(config.first_learning_iteration):
        state = step(state)
    whole = min(milliseconds(step, (state,), settings.seconds, chained=True))
    rate = algorithm.per_iteration / whole * 1e3
    parts = {
        "acting": acting,
        "physics": physics,
        "updates": updates,
        "sampler in updates": sampling,
        "replay and the rest": whole - acting - physics - updates,
        "iteration": whole,
    }
    rates = {"steps per second": f"{rate:.0f}", "minutes for 300,000 steps": f"{3e5 / rate / 60:.0f}"}
    return {name: f"{part:.1f}" for name, part in parts.items()} | rates


if __name__ == "__main__":
    campaign.main(main, Settings())
