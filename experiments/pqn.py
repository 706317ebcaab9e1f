"""PQN: one agent, many seeds or a sweep, on any environment with discrete actions.

    python experiments/pqn.py
    python experiments/pqn.py --env acrobot --seeds 4
    python experiments/pqn.py --sweep q_lambda=0,0.65,0.95
    python experiments/pqn.py --env gymnax:Breakout-MinAtar

Everything is left in runs/pqn/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses

import rljax
from rljax import experiment
from rljax.algorithms import pqn


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains a PQN agent. The defaults of all flags depend on --env."""

    env: str = "cartpole"
    """The task, as rljax.make takes it."""
    total_steps: int = 500_000
    """Environment steps of each member, rounded up to whole iterations."""
    action_repeat: int = 1
    """Steps for which each action is held, to explore further; steps are still counted one by one."""
    anneal: bool = True
    """Whether the learning rate falls linearly to 0 over the run (unless anneal_steps is given)."""
    exploration: float = 0.1
    """Share of the run over which ε falls (unless exploration_steps is given)."""
    config: pqn.Config = dataclasses.field(default_factory=lambda: pqn.Config(exploration_steps=0))
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


CLASSIC = Settings(
    exploration=0.2,
    config=pqn.Config(
        num_envs=32,
        rollout_length=64,
        num_epochs=4,
        num_minibatches=16,
        q_lambda=0.95,
        hidden=(128, 128),
        learning_rate=5e-4,
        exploration_steps=0,
    ),
)
TASKS = {
    "cartpole": CLASSIC,
    "acrobot": CLASSIC,
    # As published.
    "gymnax:Breakout-MinAtar": Settings(total_steps=10_000_000),
}


def make(settings: Settings) -> pqn.Algorithm:
    config = settings.config
    if settings.anneal and not config.anneal_steps:
        config = dataclasses.replace(config, anneal_steps=settings.total_steps)
    if not config.exploration_steps:
        config = dataclasses.replace(config, exploration_steps=round(settings.exploration * settings.total_steps))
    return pqn.make(rljax.make(settings.env, action_repeat=settings.action_repeat), config)


def main(settings: Settings) -> experiment.Result:
    return experiment.run("pqn", lambda: make(settings), settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS)
