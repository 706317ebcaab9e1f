"""What the drivers of SAC, TD3 and DQN share: settings that are like for like, the command line and the clock."""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
from common import MUJOCO_TASKS, Trained

HIDDEN = [256, 256]  # with ReLU; the libraries' defaults for TD3 and DQN are others
# One gradient update for each environment step.
_CONTINUOUS: dict[str, Any] = {
    "learning_rate": 3e-4,
    "batch_size": 256,
    "buffer_size": 1_000_000,
    "train_freq": 1,
    "gradient_steps": 1,
}
_CONTINUOUS_TASKS = ("pendulum", "mountain_car_continuous", *MUJOCO_TASKS)
# The names are those of stable-baselines3. For TD3, 3e-4 is the default of sbx and CleanRL, not of stable-baselines3.
# DQN's are those of rl-baselines3-zoo, which tuned them for each task.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "sac": dict.fromkeys(_CONTINUOUS_TASKS, _CONTINUOUS),
    "td3": dict.fromkeys(_CONTINUOUS_TASKS, _CONTINUOUS | {"exploration_noise": 0.1}),  # in half ranges of the action
    "dqn": {
        "cartpole": {
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1000,
            "gamma": 0.99,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
        },
        "acrobot": {
            "learning_rate": 6.3e-4,
            "batch_size": 128,
            "buffer_size": 50_000,
            "learning_starts": 0,
            "gamma": 0.99,
            "target_update_interval": 250,
            "train_freq": 4,
            "gradient_steps": -1,  # as many as there were steps
            "exploration_fraction": 0.12,
            "exploration_final_eps": 0.1,
        },
    },
}
# Steps after learning starts that are not timed, in which everything that the library compiles has been run: every
# network by SAC and TD3; by DQN also the greedy action, which is rare at first, and the copy of the target network.
WARM_UP = {"sac": 50, "td3": 50, "dqn": 1000}
CURVE_EPISODES = 10


class Clock:
    """Times the regime in which a library both acts and updates, and draws the learning curve.

    It ticks before each cycle (some environment steps and the updates after them) and after the last. A cycle learns if
    it ends with more than `learning_starts` steps. Timed is what follows the first `warm_up` steps of those that learn,
    so whole cycles; what these first took beyond what as many took later is counted as compilation. Random steps before
    learning starts are in neither, nor are the evaluations.
    """

    def __init__(self, arguments: argparse.Namespace, warm_up: int) -> None:
        self.arguments = arguments
        self.timed_from = arguments.learning_starts + warm_up
        # Steps and seconds, when learning started, when the timing did, and at the last tick.
        self.learning = self.timed = self.last = (0, 0.0)
        self.curve: list[tuple[int, float]] = []
        self.evaluating = 0.0

    def tick(self, step: int, act: Callable[[np.ndarray], np.ndarray]) -> None:
        """`act` is the deterministic policy, for the curve."""
        now = time.perf_counter()
        self.last = (step, now - self.evaluating)
        if step <= self.arguments.learning_starts:
            self.learning = self.last
        if self.timed[0] < self.timed_from:
            self.timed = self.last
        every = self.arguments.curve
        if every and step // every > (self.curve[-1][0] // every if self.curve else 0):
            self.curve.append((step, float(np.mean(common.evaluate(self.arguments.task, act, CURVE_EPISODES)))))
            self.evaluating += time.perf_counter() - now

    def trained(self, act: Callable[[np.ndarray], np.ndarray], config: dict[str, Any], *, compiles: bool) -> Trained:
        """The result, once training has ended."""
        timed_steps, seconds = (end - start for start, end in zip(self.timed, self.last))
        warm_up_steps, warm_up_seconds = (end - start for start, end in zip(self.learning, self.timed))
        return Trained(
            act=act,
            steps=self.last[0],
            compile_seconds=max(0.0, warm_up_seconds - warm_up_steps * seconds / timed_steps) if compiles else None,
            training_seconds=seconds,
            config=config,
            timed_steps=int(timed_steps),
            curve=self.curve or None,
        )


def parse_arguments(algorithm: str, description: str) -> argparse.Namespace:
    """The command line of every driver of this algorithm."""
    tasks, warm_up = SETTINGS[algorithm], WARM_UP[algorithm]
    parser = common.record.parser(description, tasks, task=next(iter(tasks)), num_envs=None)
    parser.add_argument(
        "--learning-starts", type=int, help="random steps before (default: 10,000 on MuJoCo, 100, or DQN's settings)"
    )
    parser.add_argument("--curve", type=int, help=f"evaluate every so many steps, for {CURVE_EPISODES} episodes")
    # On batches of 256, two cores are a fifth or more faster than one (HalfCheetah), unless something else
    # runs, when they can be several times slower. On the batches of DQN they are not faster.
    threads = 1 if algorithm == "dqn" else None
    parser.add_argument("--threads", type=int, default=threads, help="of PyTorch (default: its own number, DQN 1)")
    arguments = parser.parse_args()
    if arguments.learning_starts is None:
        default = 10_000 if arguments.task in MUJOCO_TASKS else 100
        arguments.learning_starts = tasks[arguments.task].get("learning_starts", default)
    if arguments.steps < (least := arguments.learning_starts + 2 * warm_up):
        parser.error(f"--steps {arguments.steps} is not allowed: at least {least}, since the first are not timed")
    return arguments


def run(
    algorithm: str,
    implementation: str,
    packages: tuple[str, ...],
    train: Callable[[argparse.Namespace, dict[str, Any], Clock], Trained],
) -> None:
    """Trains, evaluates, and writes the record of both."""

    def timed(arguments: argparse.Namespace) -> Trained:
        settings = SETTINGS[algorithm][arguments.task] | {"learning_starts": arguments.learning_starts}
        return train(arguments, settings, Clock(arguments, WARM_UP[algorithm]))

    common.run(algorithm, implementation, packages, timed, functools.partial(parse_arguments, algorithm))
