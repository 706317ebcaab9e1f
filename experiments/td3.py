"""TD3: one agent, many seeds or a sweep, on any environment with continuous actions.

    python experiments/td3.py
    python experiments/td3.py --env half_cheetah --seeds 4
    python experiments/td3.py --env pendulum --sweep exploration_noise=0.05,0.1,0.3 --seeds 2
    python experiments/td3.py --env hopper --num-atoms 101 --value-min -50 --value-max 500

Everything is left in runs/td3/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any

import rljax
from rljax import experiment
from rljax.algorithms import td3


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains a TD3 agent. The defaults of all flags depend on --env, and for MuJoCo on whether there is a GPU."""

    env: str = "pendulum"
    """The task, as rljax.make takes it."""
    engine: str = "auto"
    """Physics of MuJoCo tasks: native (the C library), mjx, warp; auto is native on a CPU and mjx on accelerators."""
    total_steps: int = 20_000
    """Environment steps of each member, rounded up to whole iterations."""
    action_repeat: int = 1
    """Steps for which each action is held, to explore further; steps are still counted one by one."""
    anneal: bool = False
    """Whether the learning rates fall linearly to 0 over the run (unless anneal_steps is given)."""
    config: td3.Config = dataclasses.field(default_factory=td3.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


# As in experiments/sac.py: an update for every fourth step, of eight environments. `Config()` has the authors'
# settings: one environment and an update for each step.
MUJOCO = Settings(
    total_steps=1_000_000,
    config=td3.Config(
        num_envs=8, rollout_length=1, learning_starts=10_000, critic_learning_rate=1e-3, precision="bfloat16"
    ),
)
WALKERS = Settings(
    total_steps=500_000, anneal=True, config=dataclasses.replace(MUJOCO.config, layer_norm=True, policy_layer_norm=True)
)

# Environments together, and networks that stay in a core's cache.
SMALL = Settings(
    config=td3.Config(
        num_envs=4,
        rollout_length=1,
        num_updates=4,
        batch_size=128,
        hidden=(64, 64),
        learning_rate=1e-3,
        critic_learning_rate=1e-3,
        learning_starts=800,
        replay_size=100_000,
    ),
)

# The mountain car pays nothing on the way: one random action held for 4 steps finds the goal by chance, where a new one
# at every step never does; and it takes more noise to keep finding it until its value has spread. A learning rate of
# 1e-3 unlearns it again.
TASKS = {
    "pendulum": dataclasses.replace(SMALL, run=experiment.Run(final_episodes=1_000)),
    "mountain_car_continuous": Settings(
        total_steps=100_000,
        action_repeat=4,
        config=td3.Config(learning_starts=2_500, replay_size=100_000, exploration_noise=0.5),
    ),
    "half_cheetah": MUJOCO,
    "hopper": WALKERS,
    "walker2d": WALKERS,
    "inverted_pendulum": dataclasses.replace(
        SMALL, total_steps=30_000, config=dataclasses.replace(SMALL.config, learning_starts=2_000)
    ),
}


def fast(value_min: float, value_max: float, total_steps: int = 50_000_000, **config: Any) -> Settings:
    """FastTD3's settings, with atoms from the least to the largest discounted return of a task, at γ = 0.99."""
    config = {"discount": 0.99, "value_min": value_min, "value_max": value_max} | config
    return Settings(total_steps=total_steps, config=dataclasses.replace(td3.FAST_TD3, **config))


# With the physics on a GPU: many environments, large batches, critics that give distributions. Not tuned on a GPU yet.
ACCELERATED = {
    "half_cheetah": fast(-100.0, 1500.0),
    "hopper": fast(-10.0, 500.0),
    "walker2d": fast(-10.0, 700.0),
    "inverted_pendulum": fast(0.0, 100.0, total_steps=5_000_000),
}


def make(settings: Settings) -> td3.Algorithm:
    engine: dict[str, Any] = {} if settings.engine == "auto" else {"engine": settings.engine}
    config = settings.config
    if settings.anneal and not config.anneal_steps:
        config = dataclasses.replace(config, anneal_steps=settings.total_steps)
    return td3.make(rljax.make(settings.env, action_repeat=settings.action_repeat, **engine), config)


def main(settings: Settings) -> experiment.Result:
    return experiment.run("td3", lambda: make(settings), settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS, ACCELERATED)
