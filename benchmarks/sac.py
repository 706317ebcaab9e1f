"""Benchmark of SAC: returns of many seeds, and speed beside sbx, stable-baselines3 and the bare update.

    python -m benchmarks.sac                                  # everything; goes on where it was interrupted
    python -m benchmarks.sac --tasks pendulum --no-speed
    python -m benchmarks.sac --tasks                          # speed alone

The returns are those of the defaults in experiments/sac.py. Speed is like for like: one environment, one update a step,
batches of 256, 256 x 256 units, float32 unless a row says otherwise, on HalfCheetah and in one session with the peers
(which need `make install-peers`).
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import optax

import rljax
from benchmarks import campaign, off_policy
from benchmarks.campaign import timed
from rljax.algorithms import sac
from rljax.algorithms.core.experience import Loop
from rljax.data import Batch
from rljax.envs import RescaleAction
from rljax.nn.ensemble import over_ensemble
from rljax.types import PyTree

# SLM-Lab's and rl-zoo's rows for the classic tasks; CleanRL's at 1M steps (Gymnasium v4) for MuJoCo.
TARGETS: dict[str, float | None] = {
    "pendulum": -151.0,
    "mountain_car_continuous": 92.0,
    "half_cheetah": 9600.0,
    "hopper": 2300.0,
    "walker2d": 3591.0,
    "inverted_pendulum": 909.0,
    "ant": None,
    "humanoid": None,
}
ITERATIONS = 200
"""Updates of one timing."""
ROUNDS = 6
"""Timings of each program, in turn; the best counts, since a busy machine only makes them longer."""


@dataclasses.dataclass(frozen=True)
class Settings(off_policy.Settings):
    """Settings of the measurements."""

    peers_python: Path = campaign.ROOT / ".venv-peers" / "bin" / "python"
    """The interpreter of the peers; without it their last results are compared with."""


def main(settings: Settings) -> None:
    off_policy.main("sac", TARGETS, dataclasses.replace(settings, speed=False))
    if settings.speed:
        campaign.write(settings, "sac-profile", speed(settings))


def speed(settings: Settings) -> dict[str, Any]:
    """The parts of a step's time, the gains of the update's choices, and the ratio to the peers."""
    config = sac.Config(learning_starts=ITERATIONS)
    narrow = dataclasses.replace(config, precision="bfloat16")
    programs = {
        "bare update, in a scan": bare(config),
        "update and sampling from 1,000,000 transitions": sampled(config),
        "whole step: environment, replay, update": whole(config),
        "acting, environment and replay, without updates": whole(dataclasses.replace(config, learning_starts=10**9)),
        "bare update, bfloat16 products": bare(narrow),
        "whole step, bfloat16 products": whole(narrow),
        "four steps, then four updates; of one step": whole(four(config), 4),
        "four steps, then four updates; of one step, bfloat16 products": whole(four(narrow), 4),
        "bare update, one critic after the other": bare(config, ensemble=one_by_one),
        "bare update, Adam over one flat vector": bare(config, adam=flat_adam),
    }
    best = dict.fromkeys(programs, float("inf"))
    peers: dict[str, float] = {}
    for number in range(ROUNDS):
        for name, program in programs.items():
            best[name] = min(best[name], program())
        if number in (ROUNDS // 3, 2 * ROUNDS // 3):  # twice, among our own
            peers = {peer: max(rate, peers.get(peer, 0.0)) for peer, rate in measure_peers(settings).items()}
    update, step = best["bare update, in a scan"], best["whole step: environment, replay, update"]
    whole_steps = {
        "one step, one update": (step, best["whole step, bfloat16 products"]),
        "four steps, four updates": tuple(time for name, time in best.items() if name.startswith("four steps")),
    }
    bare_updates = update, best["bare update, bfloat16 products"]
    seconds = best | {f"{peer}, whole step": 1 / rate for peer, rate in peers.items()}
    rows = [
        {
            "program": name,
            "µs": 1e6 * time,
            "per second": 1 / time,
            "of the bare update's rate": f"{update / time:.0%}",
            "rljax (float32) over it": "–" if name in best else f"{time / step:.2f}×",
        }
        for name, time in seconds.items()
    ]
    flops = update_flops(config)
    notes = (
        f"One update is {flops / 1e6:.0f} MFLOP of products: {flops / update / 1e9:.0f} GFLOP/s in float32, where "
        f"a [256, 256] x [256, 256] product alone makes {campaign.matmul_rate(256, 256) / 1e9:.0f}. "
        + "".join(
            f"In turns of {turns}, in {kind}: {bare / time:.0%} of the rate of the bare update"
            + "".join(f", {1 / time / rate:.2f}× {peer}" for peer, rate in peers.items())
            + ". "
            for turns, times in whole_steps.items()
            for kind, time, bare in zip(("float32", "bfloat16 products"), times, bare_updates, strict=True)
        )
        + memory_note()
    )
    return campaign.table(
        "sac",
        f"SAC on HalfCheetah, {jax.default_backend()}: where the time of one step goes",
        rows,
        notes,
        shares_of_bare_update={
            turns: [bare / time for bare, time in zip(bare_updates, times, strict=True)]
            for turns, times in whole_steps.items()
        },
        ratios={
            turns: {peer: [1 / time / rate for time in times] for peer, rate in peers.items()}
            for turns, times in whole_steps.items()
        },
        peak_memory_mb=campaign.peak_memory_mb(),
    )


def whole(config: sac.Config, steps: int = 1) -> Callable[[], float]:
    """The whole algorithm: seconds of one of its `steps` environment steps per iteration."""
    algorithm = sac.make(rljax.make("half_cheetah"), config)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    run = timed(lambda state: algorithm.step(state)[0], state, ITERATIONS)
    return lambda: run() / steps


def four(config: sac.Config) -> sac.Config:
    """As many updates as steps, taken in turns of four: the program leaves XLA for the physics a quarter as often."""
    return dataclasses.replace(config, rollout_length=4, num_updates=4)


def bare(config: sac.Config, ensemble: Any = None, adam: Any = None) -> Callable[[], float]:
    """The update alone, on one batch."""
    agent, learner, hyper, key = _learner(config, adam)
    draw = functools.partial(jax.random.normal, key)
    batch = Batch(
        obs=draw((1, 256, 17)),
        action=jnp.tanh(draw((1, 256, 6))),
        reward=draw((1, 256)),
        next_obs=draw((1, 256, 17)),
        discount=jnp.full((1, 256), 0.99),
        index=jnp.zeros((1, 256), jnp.int32),
        weight=jnp.ones((1, 256)),
    )

    def update(state: PyTree) -> PyTree:
        learner, key = state
        key, learn_key = jax.random.split(key)
        return agent.learn(learner, batch, learn_key, hyper)[0], key

    with mock.patch.object(sac, "over_ensemble", ensemble or sac.over_ensemble), _optimizer(adam):
        return timed(update, (learner, key), ITERATIONS)


def sampled(config: sac.Config) -> Callable[[], float]:
    """The update on batches from a full-size buffer that nobody adds to."""
    agent, learner, hyper, key = _learner(config)
    loop = Loop("sac", RescaleAction(rljax.make("half_cheetah")), agent)
    experience = jax.jit(loop.init)(key).experience

    def update(state: PyTree) -> PyTree:
        learner, experience, key = state
        key, sample_key, learn_key = jax.random.split(key, 3)
        batches = loop.draw(learner, experience, sample_key, hyper)
        return agent.learn(learner, batches, learn_key, hyper)[0], experience, key

    replay = experience.replay.replace(count=jnp.int32(config.replay_size))
    return timed(update, (learner, experience.replace(replay=replay), key), ITERATIONS)


def one_by_one(function: Any, members: int, _: str) -> Any:
    """One member after the other, as `over_ensemble` does for bfloat16."""
    return over_ensemble(function, members, "bfloat16")


def _learner(config: sac.Config, adam: Any = None) -> tuple[sac.Agent, Any, sac.Hyper, jax.Array]:
    agent: Any = sac.make(rljax.make("half_cheetah"), config).agent
    with _optimizer(adam):
        return agent, agent.init(jax.random.key(0)), agent.hyper(), jax.random.key(2)


def _optimizer(adam: Any) -> Any:
    return mock.patch.object(optax, "adam", adam or optax.adam)


_adam = optax.adam


def flat_adam(learning_rate: Any) -> optax.GradientTransformation:
    """Adam on all parameters as one vector, which makes one kernel of many."""
    return optax.flatten(_adam(learning_rate))


def update_flops(config: sac.Config) -> float:
    """Multiplications and additions of the products of one update, of 17 observations and 6 actions."""
    h = config.hidden[0]
    critic, actor = 2 * (2 * (23 * h + h * h + h)), 2 * (17 * h + h * h + 12 * h)
    # Critics: for the target, forward and backward; for the policy forward, and backward to the action alone.
    return config.batch_size * (critic * (1 + 3 + 2) + actor * (1 + 3))


def memory_note() -> str:
    """The memory that the compiled step allocates beside the state, at a million transitions."""
    algorithm = sac.make(rljax.make("half_cheetah"), sac.Config())
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.experience.replay))

    def steps(state: PyTree) -> PyTree:
        return jax.lax.fori_loop(0, 100, lambda _, s: algorithm.step(s)[0], state)

    memory = jax.jit(steps, donate_argnums=0).lower(state).compile().memory_analysis()
    assert memory is not None
    return (
        f"A buffer of 1,000,000 transitions is {size / 1e6:.0f} MB; the compiled loop of steps writes into the "
        f"{memory.alias_size_in_bytes / 1e6:.0f} MB of the state that it is given, and allocates "
        f"{memory.temp_size_in_bytes / 1e6:.1f} MB besides."
    )


def measure_peers(settings: Settings) -> dict[str, float]:
    """Steps per second of the peers, after their warm-up."""
    rates = {}
    for peer, name in (("sbx", "sbx"), ("sb3", "stable-baselines3")):
        path = settings.results / f"sac-half_cheetah-{peer}.json"
        flags = ("--task", "half_cheetah", "--steps", 3000, "--learning-starts", 500, "--episodes", 1)
        if settings.peers_python.exists():
            campaign.run(campaign.peer(settings.peers_python, f"{peer}_sac", path, *flags))
        if found := campaign.read(path):
            rates[name] = found["steps_per_second_one_run"]
    return rates


if __name__ == "__main__":
    campaign.main(main, Settings(tasks=tuple(task for task, target in TARGETS.items() if target is not None)))
