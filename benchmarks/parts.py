"""Benchmark of observations with parts: critics that see what policies do not, and pixels.

    python -m benchmarks.parts                       # everything, ours alone: about half an hour on two cores
    python -m benchmarks.parts --cases "SAC, blind" --seeds 2

`pendulum` with `blind=True` hides its velocity from the policy, which needs the last two observations (SAC) or a memory
(PPO). The symmetric agent's values see what the policy sees; the asymmetric one's see the velocity too. Both have the
same settings and seeds, and stop while there is something left to learn: in the end both find out. `catch` is seen in
pixels alone; its data are of a rule that follows the ball and of random actions, half and half. Scores are those of the
last state, deterministic, over `EPISODES` episodes.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from benchmarks import campaign
from benchmarks.campaign import with_interval
from rljax import training
from rljax.algorithms import bc, diffusion, iql, ppo, sac
from rljax.data import Dataset, Metadata
from rljax.envs import Environment, ObservationHistory
from rljax.envs.episodes import play
from rljax.experiment import keys_of
from rljax.policy import Policy
from rljax.types import Key

EPISODES = 200
PIXELS: dict[str, Any] = {"cnn_channels": (16, 32), "cnn_kernels": (4, 4), "cnn_strides": (4, 2)}
RATES: dict[str, Any] = {"learning_rate": 1e-3, "critic_learning_rate": 1e-3, "temperature_learning_rate": 1e-3}
SAC = sac.Config(
    num_envs=4, num_updates=4, learning_starts=1_000, hidden=(64, 64), batch_size=128, replay_size=100_000, **RATES
)
NORMALIZED: dict[str, Any] = {"normalize_observation": True, "normalize_reward": True}
LENGTHS: dict[str, Any] = {"rollout_length": 64, "memory": 32, "discount": 0.95, "anneal_steps": 60_000}
PPO = ppo.Config(num_envs=32, num_epochs=10, num_minibatches=4, learning_rate=1e-3, **LENGTHS, **NORMALIZED)
PPO_OF_PIXELS = ppo.Config(
    num_envs=32, rollout_length=60, num_minibatches=5, learning_rate=1e-3, hidden=(64, 64), **PIXELS
)
SAC_OF_PIXELS = dataclasses.replace(SAC, replay_size=20_000, discount=0.95, initial_temperature=0.1, **PIXELS)
OFFLINE: dict[str, Any] = {"hidden": (64, 64), "batch_size": 128, "learning_rate": 1e-3, "image_shift": 1, **PIXELS}
DIFFUSION = diffusion.Config(
    width=64, blocks=2, history=1, horizon=4, executed=2, batch_size=128, average_rate=0.02, **PIXELS
)
PRIVILEGED = ("privileged_state",)


@dataclasses.dataclass(frozen=True)
class Case:
    """An algorithm, its settings, its task and how long it learns."""

    module: Any
    config: Any
    env: dict[str, Any]
    steps: int
    history: int = 1
    demonstrations: bool = False


BLIND, CATCH = {"name": "pendulum", "blind": True}, {"name": "catch"}
SEEING = (dataclasses.replace(SAC, value_obs=PRIVILEGED), dataclasses.replace(PPO, value_obs=PRIVILEGED))
CASES = {
    "SAC of two observations, blind": Case(sac, SAC, BLIND, 6_000, history=2),
    "SAC of two observations, blind, values see all": Case(sac, SEEING[0], BLIND, 6_000, history=2),
    "PPO with memory, blind": Case(ppo, PPO, BLIND, 60_000),
    "PPO with memory, blind, values see all": Case(ppo, SEEING[1], BLIND, 60_000),
    "PPO, pixels": Case(ppo, PPO_OF_PIXELS, CATCH, 150_000),
    "SAC, pixels": Case(sac, SAC_OF_PIXELS, CATCH, 15_000),
    "BC, pixels": Case(bc, bc.Config(**OFFLINE), CATCH, 3_000, demonstrations=True),
    "IQL, pixels": Case(
        iql,
        iql.Config(**OFFLINE, discount=0.95, expectile=0.9, advantage_weight=20.0),
        CATCH,
        3_000,
        demonstrations=True,
    ),
    "diffusion, pixels": Case(diffusion, DIFFUSION, CATCH, 3_000, demonstrations=True),
}
"""Settings and numbers of steps were chosen on seeds from 100 on, which are not among the table's."""


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    cases: tuple[str, ...] = tuple(CASES)
    """Cases to run."""
    seeds: int = 5
    """Number of seeds of each case, from first_seed on."""
    first_seed: int = 0
    """The first seed."""


def scores_of(case: Case, seeds: list[int]) -> tuple[list[float], float]:
    """The mean return of the last state for each seed, and the seconds of the training."""
    env = rljax.make(**case.env)
    env = ObservationHistory(env, case.history) if case.history > 1 else env
    data = (demonstrations(env),) if case.demonstrations else ()
    algorithm = case.module.make(env, case.config, *data)
    options = training.Options(evaluate_every=0, final_episodes=EPISODES, progress=False)
    result = training.train(algorithm, keys_of(seeds), case.steps, options)
    assert result.evaluation is not None
    return [member["deterministic"]["mean"] for member in result.evaluation["members"]], result.seconds


def demonstrations(env: Environment, episodes: int = 300) -> Dataset:
    """Episodes of a rule that reads the places of ball and paddle off the image, and as many of random actions."""

    def place(image: jax.Array) -> jax.Array:
        column = jnp.arange(image.shape[-1], dtype=jnp.float32)
        return (image * jnp.broadcast_to(column, image.shape)).sum((-2, -1)) / jnp.maximum(image.sum((-2, -1)), 1.0)

    def follow(_: Any, key: Key, obs: jax.Array, memory: Any, deterministic: bool) -> tuple[jax.Array, Any, Any]:
        light = (obs[..., 0] > 0).astype(jnp.float32)
        return jnp.clip((place(light[..., :-2, :]) - place(light[..., -2:, :]))[..., None] / 3.0, -1.0, 1.0), memory, ()

    def chance(_: Any, key: Key, obs: jax.Array, memory: Any, deterministic: bool) -> tuple[jax.Array, Any, Any]:
        return jax.random.uniform(key, (*obs.shape[:-3], 1), jnp.float32, -1.0), memory, ()

    rules = [Policy((), (), rule) for rule in (follow, chance)]
    played = [play(env, rule, jax.random.key(seed), episodes)[0] for seed, rule in enumerate(rules)]
    return Dataset.of(jax.tree.map(lambda *x: np.concatenate(x), *played), Metadata("catch, by a rule and by chance"))


def main(settings: Settings) -> None:
    seeds = list(range(settings.first_seed, settings.first_seed + settings.seeds))
    training.use_cpu_cores(members=len(seeds))
    earlier = campaign.earlier(settings, "parts").get("scores", {})
    kept = {name: earlier[name] for name in CASES if name in earlier}  # of other cases
    for name in settings.cases:
        begin = time.perf_counter()
        scores, seconds = scores_of(CASES[name], seeds)
        kept[name] = {"seeds": seeds, "scores": scores, "seconds": seconds}
        print(f"{name}: {with_interval(scores)}, {time.perf_counter() - begin:.0f} s", flush=True)
        campaign.write(settings, "parts", record(kept))  # at once, lest an interruption loses it


def record(kept: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {
            "agent": name,
            "steps": CASES[name].steps,
            "return": with_interval(kept[name]["scores"]),
            "seconds of all seeds together": f"{kept[name]['seconds']:.0f}",
        }
        for name in CASES
        if name in kept
    ]
    return campaign.table(
        "parts",
        f"Observations with parts, {jax.default_backend()}: return of the last state",
        rows,
        "A blind pendulum's policy does not see the velocity; where values see all, the critics do, in training alone. "
        "Pixels are 32 × 32, of catch, whose return is the share of balls that are caught. BC, IQL and diffusion learn "
        "from 600 episodes, half of which catch the ball and half of which act at random; their steps are updates. "
        f"Means over seeds, 95 % intervals, {EPISODES} episodes each.",
        scores=kept,
    )


if __name__ == "__main__":
    campaign.main(main, Settings())
