"""TRPO: one agent, many seeds or a sweep, on any environment.

    python experiments/trpo.py
    python experiments/trpo.py --env half_cheetah --video
    python experiments/trpo.py --env acrobot --sweep max_kl=0.003,0.01,0.03 --seeds 2
    python experiments/trpo.py --npg

Everything is left in runs/trpo/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any

import rljax
from rljax import experiment
from rljax.algorithms import trpo


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains a TRPO agent. The defaults of all flags depend on --env."""

    env: str = "cartpole"
    """The task, as rljax.make takes it."""
    engine: str = "auto"
    """Physics of MuJoCo tasks: native (the C library), mjx, warp; auto is native on a CPU and mjx on accelerators."""
    total_steps: int = 200_000
    """Environment steps of each member, rounded up to whole iterations."""
    action_repeat: int = 1
    """Steps for which each action is held, to explore further; steps are still counted one by one."""
    anneal: bool = True
    """Whether the learning rate of the values falls linearly to 0 over the run (unless anneal_steps is given)."""
    config: trpo.Config = dataclasses.field(default_factory=trpo.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


MUJOCO = Settings(total_steps=1_000_000, config=trpo.Config(normalize_observation=True, normalize_reward=True))
CLASSIC = Settings(total_steps=300_000, config=trpo.Config(normalize_reward=True, gae_lambda=0.98))
TASKS = {
    "cartpole": dataclasses.replace(CLASSIC, total_steps=100_000),
    "acrobot": dataclasses.replace(CLASSIC, total_steps=1_000_000),
    "pendulum": Settings(
        total_steps=1_000_000,
        config=trpo.Config(
            num_envs=8,
            rollout_length=256,
            max_kl=0.03,
            discount=0.95,
            num_minibatches=8,
            initial_log_std=0.0,
            normalize_reward=True,
        ),
    ),
    **dict.fromkeys(("half_cheetah", "hopper", "walker2d", "ant", "humanoid", "swimmer", "reacher", "pusher"), MUJOCO),
    "inverted_pendulum": MUJOCO,
    "inverted_double_pendulum": MUJOCO,
}


def make(settings: Settings) -> trpo.Algorithm:
    engine: dict[str, Any] = {} if settings.engine == "auto" else {"engine": settings.engine}
    config = settings.config
    if settings.anneal and not config.anneal_steps:
        config = dataclasses.replace(config, anneal_steps=settings.total_steps)
    return trpo.make(rljax.make(settings.env, action_repeat=settings.action_repeat, **engine), config)


def main(settings: Settings) -> experiment.Result:
    return experiment.run("trpo", lambda: make(settings), settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS)
