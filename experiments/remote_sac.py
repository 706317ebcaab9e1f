"""SAC or RLPD from the experience of other processes: robots, or simulators that are not JAX, over a socket.

    openssl rand -hex 32 > token && chmod 600 token
    python experiments/remote_sac.py learner --env pendulum --port 7777 --token-file token
    python experiments/remote_sac.py act --env pendulum --port 7777 --token-file token --name left
    python experiments/remote_sac.py act --env gymnasium:Pendulum-v1 --port 7777 --token-file token --name right
    python experiments/remote_sac.py act --env pendulum --port 7777 --token-file token --name real-time --rate 20

One learner, and as many actors as there are, which may come and go. A learner without a simulator is told the sizes,
and with --dataset it is RLPD, which takes half of each batch from demonstrations:

    python experiments/remote_sac.py learner --env none --observation-size 14 --action-low -1 -1 --action-high 1 1
    python experiments/remote_sac.py learner --env hopper --dataset runs/datasets/hopper-expert-v0.hdf5

The learner leaves everything in runs/remote_sac/<name>: settings, metrics, checkpoints with the replay, evaluation, and
actors.csv and actors.log. docs/robots_remote.md shows an actor on a robot of one's own.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import ClassVar, Literal

import jax

import rljax
from rljax import experiment
from rljax.algorithms import rlpd, sac
from rljax.algorithms.core.contract import Algorithm
from rljax.config import Count, Whole
from rljax.envs import Environment
from rljax.remote import Actor, play, read_token
from rljax.training.signals import caught_signals
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Address:
    """Where the learner is, and who may speak with it."""

    host: str = "127.0.0.1"
    """Address of the learner. Nothing is encrypted: from elsewhere, come through an SSH tunnel."""
    port: int = 7777
    """Port of the learner."""
    token_file: Path | None = None
    """File with the secret that learner and actors share; the variable RLJAX_TOKEN where not given."""


@dataclasses.dataclass(frozen=True)
class LearnerSettings(Address):
    """Trains SAC from what actors send."""

    env: str = "pendulum"
    """The task, as rljax.make takes it, in which policies are evaluated; none where there is no simulator."""
    observation_size: int = 0
    """Size of the observations, which are vectors; for --env none."""
    action_low: tuple[float, ...] = ()
    """Lower bounds of the actions; for --env none."""
    action_high: tuple[float, ...] = ()
    """Upper bounds of the actions; for --env none."""
    total_steps: int = 20_000
    """Transitions to learn from, of all actors together."""
    queue_size: Count = 256
    """Transitions that may wait for the learner; actors keep all further ones."""
    publish_every: float = 0.25
    """Least number of seconds between two policies that actors are given."""
    config: sac.Config = dataclasses.field(default_factory=lambda: sac.Config(learning_starts=1_000))
    run: experiment.Run = dataclasses.field(default_factory=experiment.Run)

    def make(self, env: Environment) -> Algorithm:
        """The algorithm."""
        return sac.make(env, self.config)


@dataclasses.dataclass(frozen=True)
class RlpdSettings(LearnerSettings):
    """Trains RLPD from what actors send, and from demonstrations."""

    dataset: Path = Path("dataset.hdf5")
    """Demonstrations: a file of D4RL's layout (HDF5), a folder of Minari's, or OGBench's npz."""
    max_episode_steps: int | None = None
    """Time limit of the episodes in D4RL's oldest files, which do not mark it."""
    config: rlpd.Config = dataclasses.field(default_factory=lambda: rlpd.Config(learning_starts=1_000))

    rewards: ClassVar[Literal["required", "optional"]] = "required"

    def make(self, env: Environment) -> Algorithm:
        """The algorithm."""
        data = experiment.in_form_of(env, experiment.dataset_of(self), self)  # type: ignore[arg-type]
        return rlpd.make(env, self.config, data)


@dataclasses.dataclass(frozen=True)
class ActSettings(Address):
    """Acts with the learner's policy, and sends it what happens."""

    env: str = "pendulum"
    """The task to act in, as rljax.make takes it; with the learner's observations and actions."""
    name: str = "actor"
    """Name of this actor, which no other has at the same time."""
    rate: float | None = None
    """Steps per second, for a simulator that stands in for a robot; as many as possible where not given."""
    steps: int | None = None
    """Steps after which the actor leaves; it stays until the learner has finished where not given."""
    capacity: Count | None = None
    """Transitions kept while the learner does not take them. Where not given, 128, after which a simulator waits; with
    --rate 100,000, after which the oldest are dropped and counted."""
    give_up_after: float | None = None
    """Seconds without a learner after which the actor ends; it never does where not given."""
    seed: Whole | None = None
    """Seed of the episodes and of the exploration; another one at each start where not given."""


# An update for each transition, in rounds of four; as experiments/sac.py has it for its own simulator.
TASKS = {
    "pendulum": LearnerSettings(
        config=sac.Config(
            num_envs=4,
            num_updates=4,
            batch_size=128,
            hidden=(64, 64),
            learning_rate=1e-3,
            critic_learning_rate=1e-3,
            temperature_learning_rate=1e-3,
            learning_starts=800,
            replay_size=100_000,
        ),
        run=experiment.Run(final_episodes=1_000),
    )
}


def learner(settings: LearnerSettings) -> experiment.Result:
    from rljax.remote.learner import Actors

    run = settings.run
    if run.seeds > 1 or run.sweep:
        raise Refused("actors act with one policy: --seeds 1, and no --sweep")
    if settings.env == "none":
        run = dataclasses.replace(run, evaluate_every=0, final_episodes=0)
    name = run.name or f"{settings.env.replace(':', '-').replace('/', '-')}-seed{run.seed}"
    run = dataclasses.replace(run, name=name, devices=1)
    token = read_token(settings.token_file)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with Actors(
        token,
        settings.host,
        settings.port,
        folder=run.runs / "remote_sac" / name,
        publish_every=settings.publish_every,
        queue_size=settings.queue_size,
        say=say,
    ) as actors:
        result = experiment.run(
            "remote_sac",
            lambda: actors.feed(settings.make(environment(settings))),
            settings.total_steps,
            run,
            callbacks=[actors],
        )
        if result.interrupted is None:
            actors.close(f"the learner has finished its {result.steps:,} steps")
    return result


def environment(settings: LearnerSettings) -> Environment:
    """The task; or its spaces alone, where the learner has no simulator."""
    if settings.env != "none":
        return rljax.make(settings.env)
    if settings.observation_size < 1 or not settings.action_low:
        raise Refused("--env none needs --observation-size, --action-low and --action-high")
    low, high = list(settings.action_low), list(settings.action_high)
    return rljax.make("spaces_only", observation_size=settings.observation_size, action_low=low, action_high=high)


def act(settings: ActSettings) -> None:
    from rljax.envs.adapters.to_gymnasium import GymnasiumEnv

    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")  # a small policy, and the learner may have the GPU
    waits = settings.rate is None
    with caught_signals() as received:
        actor = Actor(
            settings.host,
            settings.port,
            read_token(settings.token_file),
            settings.name,
            capacity=settings.capacity or (128 if waits else 100_000),
            wait_when_full=waits,
            seed=settings.seed,
            give_up_after=settings.give_up_after,
            stop=lambda: bool(received),
        )
        robot = GymnasiumEnv(rljax.make(settings.env))
        if settings.seed is not None:
            robot.reset(seed=settings.seed)
        played = play(actor, robot, settings.steps, settings.rate)
        actor.close()
    late = f", {played.overruns:,} of them late" if settings.rate else ""
    why = actor.over or ("stopped by a signal" if received else "all steps made")
    print(
        f"{played.steps:,} steps{late} and {played.episodes:,} episodes, mean return {played.mean_return:.1f}; "
        f"{actor.dropped:,} transitions were dropped; {why}"
    )


if __name__ == "__main__":
    role = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if role == "learner":
        demonstrations = any(argument.partition("=")[0] == "--dataset" for argument in sys.argv)
        kind, tasks = (RlpdSettings, {}) if demonstrations else (LearnerSettings, TASKS)
        experiment.main(learner, kind, tasks)
    elif role == "act":
        experiment.main(act, ActSettings, {})
    else:
        sys.exit("error: the first word must be learner or act, as in: python experiments/remote_sac.py learner --help")
