"""FlashSAC: one agent, many seeds or a sweep, on any environment with bounded continuous actions.

    python experiments/flash_sac.py
    python experiments/flash_sac.py --env half_cheetah
    python experiments/flash_sac.py --env hopper --sweep target_deviation=0.1,0.15,0.2

Everything is left in runs/flash_sac/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any

import rljax
from rljax import experiment
from rljax.algorithms import flash_sac


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains a FlashSAC agent. The defaults of all flags depend on --env."""

    env: str = "pendulum"
    """The task, as rljax.make takes it."""
    engine: str = "auto"
    """Physics of MuJoCo tasks: native (the C library), mjx, warp; auto is native on a CPU and mjx on accelerators."""
    total_steps: int = 20_000
    """Environment steps of each member, rounded up to whole iterations."""
    action_repeat: int = 1
    """Steps for which each action is held, to explore further; steps are still counted one by one."""
    anneal: bool = True
    """Whether the learning rate falls to its half over total_steps, as in the paper, where no anneal_steps is given."""
    config: flash_sac.Config = dataclasses.field(default_factory=flash_sac.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


MUJOCO = ("half_cheetah", "hopper", "walker2d", "ant", "humanoid")
TASKS = {
    "pendulum": Settings(
        # Few steps, from each of which more is learned, by networks that stay in a core's cache.
        config=dataclasses.replace(
            flash_sac.LAPTOP,
            num_envs=4,
            learning_rate=1e-3,
            learning_starts=1_000,
            replay_size=100_000,
            width=32,
            critic_width=64,
        ),
        run=experiment.Run(final_episodes=1_000),
    ),
    **dict.fromkeys(MUJOCO, Settings(total_steps=500_000, config=flash_sac.LAPTOP)),
    **dict.fromkeys(("ant", "humanoid"), Settings(total_steps=300_000, config=flash_sac.LAPTOP)),
}
# A thousand environments at once, and the networks of the paper.
ACCELERATED = dict.fromkeys(MUJOCO, Settings(total_steps=50_000_000, config=flash_sac.PARALLEL))


def make(settings: Settings) -> flash_sac.Algorithm:
    engine: dict[str, Any] = {} if settings.engine == "auto" else {"engine": settings.engine}
    config = settings.config
    if settings.anneal and not config.anneal_steps:
        config = dataclasses.replace(config, anneal_steps=settings.total_steps)
    return flash_sac.make(rljax.make(settings.env, action_repeat=settings.action_repeat, **engine), config)


def main(settings: Settings) -> experiment.Result:
    return experiment.run("flash_sac", lambda: make(settings), settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS, ACCELERATED)
