"""A2C: one agent, many seeds or a sweep, on any environment.

    python experiments/a2c.py
    python experiments/a2c.py --env acrobot --seeds 4
    python experiments/a2c.py --env pendulum
    python experiments/a2c.py --sweep entropy_coefficient=0,0.01 --seeds 2

Everything is left in runs/a2c/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses

import rljax
from rljax import experiment
from rljax.algorithms import a2c


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains an A2C agent. The defaults of all flags depend on --env."""

    env: str = "cartpole"
    """The task, as rljax.make takes it."""
    total_steps: int = 500_000
    """Environment steps of each member, rounded up to whole iterations."""
    action_repeat: int = 1
    """Steps for which each action is held, which explores further; steps are still counted one by one."""
    anneal: bool = True
    """The learning rate falls linearly to 0 over the run (unless anneal_steps says otherwise)."""
    config: a2c.Config = dataclasses.field(default_factory=a2c.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


TASKS = {
    "cartpole": Settings(total_steps=100_000, config=a2c.Config(learning_rate=1e-3, entropy_coefficient=0.0)),
}


def make(settings: Settings) -> a2c.Algorithm:
    config = settings.config
    if settings.anneal and not config.anneal_steps:
        config = dataclasses.replace(config, anneal_steps=settings.total_steps)
    return a2c.make(rljax.make(settings.env, action_repeat=settings.action_repeat), config)


def main(settings: Settings) -> experiment.Result:
    return experiment.run("a2c", lambda: make(settings), settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS)
