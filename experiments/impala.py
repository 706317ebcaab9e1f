"""IMPALA: one agent, whose environments are stepped by actors in threads of their own, or many seeds or a sweep.

    python experiments/impala.py
    python experiments/impala.py --env gymnasium:LunarLander-v3
    python experiments/impala.py --env gymnasium:LunarLander-v3 --vector None --actors 4
    python experiments/impala.py --env cartpole --actors 0 --seeds 4

Everything is left in runs/impala/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses
from typing import Any, Literal

import rljax
from rljax import experiment, training
from rljax.algorithms import impala
from rljax.config import Count, Whole


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains an IMPALA agent. The defaults of all flags depend on --env."""

    env: str = "gymnasium:CartPole-v1"
    """The task, as rljax.make takes it."""
    vector: Literal["envpool"] | None = None
    """Library that steps many simulations of a gymnasium: task at once; Gymnasium's own are stepped where None."""
    total_steps: int = 1_000_000
    """Environment steps of each member, rounded up to whole iterations."""
    actors: Whole = 2
    """Threads that step num_envs environments each while the learner learns; 0 acts and learns in turn."""
    queue_size: Count = 1
    """Rollouts that may wait for the learner; the longer, the older is what it learns from."""
    action_repeat: int = 1
    """Steps for which each action is held, to explore further; steps are still counted one by one."""
    anneal: bool = True
    """Whether the learning rate falls linearly to 0 over the run (unless anneal_steps is given)."""
    config: impala.Config = dataclasses.field(default_factory=impala.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


CARTPOLE = Settings(
    total_steps=500_000,
    config=impala.Config(num_envs=16, rollout_length=32, learning_rate=1e-3, num_minibatches=4, normalize_reward=True),
)
TASKS = {
    "cartpole": CARTPOLE,
    "gymnasium:CartPole-v1": CARTPOLE,
    # Many passes over a rollout need the clipped objective: with the paper's gradient all trials went on hovering, or
    # fell back. To hover costs fuel, which a discount of 0.99 hardly sees.
    "gymnasium:LunarLander-v3": Settings(
        vector="envpool",
        total_steps=800_000,
        config=impala.Config(
            num_envs=16,
            rollout_length=256,
            num_epochs=4,
            num_minibatches=32,
            learning_rate=5e-4,
            discount=0.999,
            vtrace_lambda=0.98,
            clip_range=0.2,
            normalize_reward=True,
            normalize_advantage=True,
        ),
    ),
}


def make(settings: Settings) -> impala.Algorithm:
    config = settings.config
    if settings.anneal and not config.anneal_steps:
        config = dataclasses.replace(config, anneal_steps=settings.total_steps)
    how: dict[str, Any] = {} if settings.vector is None else {"vector": settings.vector, "threads": 1}

    def one() -> impala.Algorithm:
        return impala.make(rljax.make(settings.env, action_repeat=settings.action_repeat, **how), config)

    return training.with_actors(one, settings.actors, settings.queue_size) if settings.actors else one()


def main(settings: Settings) -> experiment.Result:
    return experiment.run("impala", lambda: make(settings), settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS)
