"""CrossQ: one agent, many seeds or a sweep, on any environment with bounded continuous actions.

    python experiments/crossq.py
    python experiments/crossq.py --env hopper
    python experiments/crossq.py --sweep learning_rate=3e-4,1e-3

Everything is left in runs/crossq/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any

import rljax
from rljax import experiment
from rljax.algorithms import crossq


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains a CrossQ agent. The defaults of all flags depend on --env."""

    env: str = "pendulum"
    """The task, as rljax.make takes it."""
    engine: str = "auto"
    """Physics of MuJoCo tasks: native (the C library), mjx, warp; auto is native on a CPU and mjx on accelerators."""
    total_steps: int = 20_000
    """Environment steps of each member, rounded up to whole iterations."""
    action_repeat: int = 1
    """Steps for which each action is held, to explore further; steps are still counted one by one."""
    config: crossq.Config = dataclasses.field(default_factory=crossq.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


# Four environments at a time, and networks that stay in a core's cache.
SMALL = Settings(
    config=crossq.Config(
        num_envs=4,
        rollout_length=1,
        batch_size=128,
        hidden=(64, 64),
        critic_hidden=(128, 128),
        norm_warm_up=2_000,
        learning_starts=800,
        replay_size=100_000,
    ),
)
TASKS = {
    "pendulum": dataclasses.replace(SMALL, run=experiment.Run(final_episodes=1_000)),
    # The paper's settings, at an update for each step.
    **dict.fromkeys(
        ("half_cheetah", "hopper", "walker2d", "ant", "humanoid", "inverted_pendulum"), Settings(total_steps=1_000_000)
    ),
}


def make(settings: Settings) -> crossq.Algorithm:
    engine: dict[str, Any] = {} if settings.engine == "auto" else {"engine": settings.engine}
    return crossq.make(rljax.make(settings.env, action_repeat=settings.action_repeat, **engine), settings.config)


def main(settings: Settings) -> experiment.Result:
    return experiment.run("crossq", lambda: make(settings), settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS)
