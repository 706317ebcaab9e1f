"""DQN and what was added to it: one agent, many seeds or a sweep, on any environment with discrete actions.

    python experiments/dqn.py
    python experiments/dqn.py --env acrobot --seeds 4
    python experiments/dqn.py --double --dueling --n-step 3 --prioritized
    python experiments/dqn.py --head quantile --sweep learning_rate=5e-4,1e-3,2e-3
    python experiments/dqn.py --env gymnax:Breakout-MinAtar

Everything is left in runs/dqn/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses

import rljax
from rljax import experiment
from rljax.algorithms import dqn


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains a DQN agent. The defaults of all flags depend on --env."""

    env: str = "cartpole"
    """The task, as rljax.make takes it."""
    total_steps: int = 100_000
    """Environment steps of each member, rounded up to whole iterations."""
    action_repeat: int = 1
    """Steps for which each action is held, to explore further; steps are still counted one by one."""
    anneal: bool = True
    """Whether the learning rate falls linearly to 0 over the run (unless anneal_steps is given)."""
    config: dqn.Config = dataclasses.field(default_factory=dqn.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


# rl-baselines3-zoo's settings, made faster (several steps at a time) and stable (the double estimator, and a learning
# rate that falls to 0: with a constant one, policies that balance CartPole in all episodes still come and go).
CLASSIC = dqn.Config(
    num_envs=4,
    rollout_length=64,
    num_updates=128,
    batch_size=64,
    replay_size=100_000,
    learning_starts=1_000,
    learning_rate=2e-3,
    target_period=128,
    exploration_end=0.04,
    exploration_steps=8_000,
    double=True,
    n_step=5,
)
TASKS = {
    "cartpole": Settings(total_steps=50_000, config=CLASSIC),
    "acrobot": Settings(total_steps=75_000, config=dataclasses.replace(CLASSIC, learning_rate=1e-3)),
    # Young and Tian 2019 (arXiv 1903.03176), with Adam; MinAtar's pixels are 0 or 1.
    "gymnax:Breakout-MinAtar": Settings(
        total_steps=1_000_000,
        config=dqn.Config(
            num_envs=8,
            rollout_length=4,
            num_updates=8,
            replay_size=100_000,
            storage="uint8",
            hidden=(128,),
            target_period=1_000,
            exploration_steps=100_000,
            exploration_end=0.05,
        ),
    ),
}


def make(settings: Settings) -> dqn.Algorithm:
    config = settings.config
    if settings.anneal and not config.anneal_steps:
        config = dataclasses.replace(config, anneal_steps=settings.total_steps)
    return dqn.make(rljax.make(settings.env, action_repeat=settings.action_repeat), config)


def main(settings: Settings) -> experiment.Result:
    return experiment.run("dqn", lambda: make(settings), settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS)
