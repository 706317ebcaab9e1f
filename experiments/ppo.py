"""PPO: one agent, many seeds or a sweep, on any environment.

    python experiments/ppo.py
    python experiments/ppo.py --env pendulum --seeds 4
    python experiments/ppo.py --env acrobot --sweep learning_rate=1e-4,3e-4,1e-3 --seeds 2
    python experiments/ppo.py --env t_maze --memory 32
    python experiments/ppo.py --env half_cheetah --video
    python experiments/ppo.py --env half_cheetah --engine warp

Everything is left in runs/ppo/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any

import rljax
from rljax import experiment
from rljax.algorithms import ppo


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains a PPO agent. The defaults of all flags depend on --env, and for MuJoCo on whether there is a GPU."""

    env: str = "cartpole"
    """The task, as rljax.make takes it."""
    engine: str = "auto"
    """Physics of MuJoCo tasks: native (the C library), mjx, warp; auto is native on a CPU and mjx on accelerators."""
    total_steps: int = 200_000
    """Environment steps of each member, rounded up to whole iterations."""
    action_repeat: int = 1
    """Steps for which each action is held, to explore further; steps are still counted one by one."""
    anneal: bool = True
    """Whether the learning rate falls linearly to 0 over the run (unless anneal_steps is given)."""
    config: ppo.Config = dataclasses.field(default_factory=ppo.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


MUJOCO = Settings(
    total_steps=1_000_000,
    config=ppo.Config(
        num_envs=64,
        rollout_length=32,
        num_epochs=5,
        num_minibatches=16,
        normalize_observation=True,
        normalize_reward=True,
    ),
)


def tuned(settings: Settings, total_steps: int | None = None, **config: Any) -> Settings:
    """The settings with these changes."""
    changed = dataclasses.replace(settings.config, **config)
    return dataclasses.replace(settings, config=changed, total_steps=total_steps or settings.total_steps)


# Fewer environments, longer rollouts, larger batches: slower, but the double pendulum and the swimmer need them. The
# swimmer's stroke pays late: with a discount of 0.99 it settles for wriggling (Franceschetti et al. 2022).
LONGER = tuned(MUJOCO, num_envs=16, rollout_length=256, num_epochs=10, learning_rate=6e-4)

# CartPole: once every episode lasts 500 steps all advantages are noise, and scaling them to deviation 1 makes a
# policy that solved the task drift away from it; so rewards are normalised and advantages are not. Minibatches of 128
# stay in a core's cache, which makes a step 1.4 times as fast as minibatches of 512.
# The mountain cars pay nothing on the way: one random action held for 4 steps finds the goal by chance, where a new
# one at every step never does. Return and episode length are still those of single steps.
TASKS = {
    "cartpole": Settings(
        total_steps=200_000,
        config=ppo.Config(num_minibatches=16, learning_rate=1e-3, normalize_reward=True, normalize_advantage=False),
    ),
    "acrobot": Settings(
        total_steps=1_000_000,
        config=ppo.Config(
            learning_rate=1e-3, entropy_coefficient=0.01, normalize_observation=True, normalize_reward=True
        ),
    ),
    "pendulum": Settings(
        total_steps=2_000_000,
        config=ppo.Config(num_epochs=10, learning_rate=1e-3, discount=0.95, normalize_reward=True),
    ),
    "mountain_car": Settings(
        total_steps=1_000_000,
        action_repeat=4,
        config=ppo.Config(
            num_envs=64,
            rollout_length=50,
            num_epochs=8,
            learning_rate=1e-3,
            discount=0.999,
            gae_lambda=0.98,
            entropy_coefficient=0.01,
            normalize_observation=True,
            normalize_reward=True,
        ),
    ),
    "mountain_car_continuous": Settings(
        total_steps=300_000,
        action_repeat=4,
        config=ppo.Config(
            num_envs=64, rollout_length=50, learning_rate=1e-3, normalize_observation=True, normalize_reward=True
        ),
    ),
    "t_maze": Settings(
        total_steps=500_000,
        config=ppo.Config(learning_rate=3e-3, entropy_coefficient=0.05, hidden=(32,), memory=32),
    ),
    "half_cheetah": MUJOCO,
    "hopper": tuned(MUJOCO, initial_log_std=-0.5),
    "walker2d": MUJOCO,
    "inverted_pendulum": MUJOCO,
    "inverted_double_pendulum": tuned(LONGER, num_minibatches=32, initial_log_std=-0.5),
    "reacher": MUJOCO,
    "pusher": MUJOCO,
    "swimmer": tuned(LONGER, discount=0.9999, gae_lambda=0.98),
    "ant": tuned(MUJOCO, total_steps=10_000_000),
    "humanoid": tuned(MUJOCO, total_steps=10_000_000),
    "playground:CartpoleBalance": tuned(MUJOCO, 2_000_000, num_epochs=4, num_minibatches=8, learning_rate=1e-3),
    "brax:fast": tuned(
        MUJOCO, 200_000, num_envs=32, rollout_length=64, num_epochs=4, num_minibatches=4, learning_rate=1e-3
    ),
    "brax:inverted_pendulum": tuned(MUJOCO, 600_000, num_minibatches=8, learning_rate=1e-3),
}

# With the physics on a GPU: large batches, short rollouts, and a hundred times the steps in the same time. Not tuned on
# a GPU yet. `python -m benchmarks.ppo --tasks half_cheetah` on such a machine measures them.
GPU = Settings(
    total_steps=50_000_000,
    config=ppo.Config(
        num_envs=4096,
        rollout_length=16,
        num_epochs=4,
        num_minibatches=32,
        learning_rate=1e-3,
        hidden=(256, 256),
        activation="silu",
        normalize_observation=True,
        normalize_reward=True,
        target_kl=0.01,
        kl_response="adapt_learning_rate",
    ),
)
ACCELERATED = {
    **dict.fromkeys(("half_cheetah", "hopper", "walker2d", "ant", "humanoid"), GPU),
    "swimmer": tuned(GPU, discount=0.9999),
    **{
        task: tuned(GPU, total_steps=10_000_000, num_envs=1024)
        for task in (
            "inverted_pendulum",
            "inverted_double_pendulum",
            "reacher",
            "pusher",
        )
    },
}


def make(settings: Settings) -> ppo.Algorithm:
    engine: dict[str, Any] = {} if settings.engine == "auto" else {"engine": settings.engine}
    config = settings.config
    if settings.anneal and not config.anneal_steps:
        config = dataclasses.replace(config, anneal_steps=settings.total_steps)
    return ppo.make(rljax.make(settings.env, action_repeat=settings.action_repeat, **engine), config)


def main(settings: Settings) -> experiment.Result:
    return experiment.run("ppo", lambda: make(settings), settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS, ACCELERATED)
