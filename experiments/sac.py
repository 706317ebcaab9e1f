"""SAC: one agent, many seeds or a sweep, on any environment with continuous actions.

    python experiments/sac.py
    python experiments/sac.py --env half_cheetah --seeds 4
    python experiments/sac.py --sweep initial_temperature=0.01,0.1,1 --no-learn-temperature
    python experiments/sac.py --env hopper --num-updates 20 --policy-delay 20 --layer-norm --dropout 0.01

Everything is left in runs/sac/<name>: settings, metrics, checkpoints, evaluation, learning curve.
"""

import dataclasses

import rljax
from rljax import experiment
from rljax.algorithms import sac


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains a SAC agent. The defaults of all flags depend on --env, and for MuJoCo on whether there is a GPU."""

    env: str = "pendulum"
    """The task, as rljax.make takes it."""
    engine: str = "auto"
    """Of MuJoCo tasks: native (the C library), mjx, warp; auto is native on a CPU and mjx on accelerators."""
    total_steps: int = 20_000
    """Environment steps of each member."""
    action_repeat: int = 1
    """Holds each action for this many steps, which explores further; steps are still counted one by one."""
    config: sac.Config = dataclasses.field(default_factory=sac.Config)
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)


MUJOCO = Settings(
    total_steps=1_000_000,
    config=sac.Config(
        num_envs=8, num_updates=2, policy_delay=2, learning_starts=10_000, critic_learning_rate=1e-3,
        precision="bfloat16",
    ),
)  # fmt: skip

TASKS = {
    "pendulum": Settings(config=sac.Config(learning_starts=1_000, replay_size=100_000)),
    "half_cheetah": MUJOCO,
    "hopper": dataclasses.replace(MUJOCO, config=dataclasses.replace(MUJOCO.config, num_envs=16)),
}
ACCELERATED: dict[str, Settings] = {}


def main(settings: Settings) -> experiment.Result:
    def make() -> sac.Algorithm:
        engine = {} if settings.engine == "auto" else {"engine": settings.engine}
        return sac.make(rljax.make(settings.env, action_repeat=settings.action_repeat, **engine), settings.config)

    return experiment.run("sac", make, settings.total_steps, settings.run)


if __name__ == "__main__":
    experiment.main(main, Settings, TASKS, ACCELERATED)
