"""SAC: one agent, many seeds or a sweep, on any environment with continuous actions.

    python experiments/sac.py
    python experiments/sac.py --env half_cheetah --seeds 4
    python experiments/sac.py --sweep initial_temperature=0.01,0.1,1 --no-learn-temperature
    python experiments/sac.py --env hopper --num-updates 20 --policy-delay 20 --layer-norm --dropout 0.01

Everything is left in runs/sac/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any

import rljax
from rljax import experiment
from rljax.algorithms import sac


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains a SAC agent. The defaults of all flags depend on --env, and for MuJoCo on whether there is a GPU."""

    env: str = "pendulum"
    """The task, as rljax.make takes it."""
    engine: str = "auto"
    """Physics of MuJoCo tasks: native (the C library), mjx, warp; auto is native on a CPU and mjx on accelerators."""
    reward: str | None = None
    """Reward of a manipulation task: dense, staged or sparse (the default)."""
    total_steps: int = 20_000
    """Environment steps of each member, rounded up to whole iterations."""
    action_repeat: int = 1
    """Steps for which each action is held, to explore further; steps are still counted one by one."""
    anneal: bool = False
    """Whether the learning rates fall linearly to 0 over the run (unless anneal_steps is given)."""
    mismatch: experiment.Mismatch = dataclasses.field(default_factory=experiment.Mismatch)
    config: sac.Config = dataclasses.field(default_factory=sac.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


def tuned(settings: Settings, total_steps: int | None = None, **config: Any) -> Settings:
    """The settings with these changes."""
    changed = dataclasses.replace(settings.config, **config)
    return dataclasses.replace(settings, config=changed, total_steps=total_steps or settings.total_steps)


# Small tasks: four environments at a time, and networks that stay in a core's cache. A pendulum's
# return differs so much from one start to another that 100 episodes tell it to ± 8.
SMALL = Settings(
    config=sac.Config(
        num_envs=4,
        num_updates=4,
        batch_size=128,
        hidden=(64, 64),
        learning_rate=1e-3,
        critic_learning_rate=1e-3,
        temperature_learning_rate=1e-3,
        learning_starts=800,
        replay_size=100_000,
    ),
)

# An update for every fourth step, of eight environments: a million steps in the time of 250,000 updates.
MUJOCO = Settings(
    total_steps=1_000_000,
    config=sac.Config(
        num_envs=8,
        num_updates=2,
        policy_delay=2,
        learning_starts=10_000,
        critic_learning_rate=1e-3,
        precision="bfloat16",
    ),
)

# Robots that fall over when the policy is a little off: at a constant learning rate a good policy comes and goes.
WALKERS = dataclasses.replace(tuned(MUJOCO, 500_000, layer_norm=True), anneal=True)

TASKS = {
    "pendulum": dataclasses.replace(SMALL, run=experiment.Run(final_episodes=1_000)),
    # The goal is found by chance, and by actions that are held (see experiments/ppo.py).
    "mountain_car_continuous": dataclasses.replace(
        tuned(SMALL, 100_000, learning_starts=3_000, n_step=3), action_repeat=4
    ),
    "inverted_pendulum": tuned(SMALL, 30_000, learning_starts=2_000),
    "half_cheetah": MUJOCO,
    "hopper": WALKERS,
    "walker2d": WALKERS,
    **dict.fromkeys(("ant", "humanoid", "swimmer", "reacher", "pusher", "inverted_double_pendulum"), MUJOCO),
}

# With the physics on a GPU: many environments and few updates of large batches. Not tuned on a GPU yet.
GPU = Settings(
    total_steps=10_000_000,
    config=sac.Config(
        num_envs=512,
        num_updates=16,
        batch_size=2048,
        learning_starts=50_000,
        critic_learning_rate=1e-3,
        layer_norm=True,
        normalize_observation=True,
        target_entropy_per_dim=-0.5,
    ),
)
ACCELERATED = dict.fromkeys(("half_cheetah", "hopper", "walker2d", "ant", "humanoid"), GPU)


def make(settings: Settings) -> sac.Algorithm:
    options: dict[str, Any] = {} if settings.engine == "auto" else {"engine": settings.engine}
    options |= {} if settings.reward is None else {"reward": settings.reward}
    options |= settings.mismatch.options()
    config = settings.config
    if settings.anneal and not config.anneal_steps:
        config = dataclasses.replace(config, anneal_steps=settings.total_steps)
    return sac.make(rljax.make(settings.env, action_repeat=settings.action_repeat, **options), config)


def main(settings: Settings) -> experiment.Result:
    return experiment.run("sac", lambda: make(settings), settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS, ACCELERATED)
