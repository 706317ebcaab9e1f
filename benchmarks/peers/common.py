"""What the drivers of the peers on Gymnasium's tasks share: tasks, command line and evaluation."""

import argparse
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import record
import torch
from record import Trained

MUJOCO_TASKS = {
    "half_cheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "ant": "Ant-v5",
    "humanoid": "Humanoid-v5",
    "swimmer": "Swimmer-v5",
    "reacher": "Reacher-v5",
    "pusher": "Pusher-v5",
    "inverted_pendulum": "InvertedPendulum-v5",
    "inverted_double_pendulum": "InvertedDoublePendulum-v5",
}
TASKS = {
    "cartpole": "CartPole-v1",
    "mountain_car": "MountainCar-v0",
    "mountain_car_continuous": "MountainCarContinuous-v0",
    "acrobot": "Acrobot-v1",
    "pendulum": "Pendulum-v1",
    **MUJOCO_TASKS,
}
# Speed is compared on CartPole with this many passes over each batch; elsewhere with what the library does by itself.
CARTPOLE_EPOCHS = 4


def parse_arguments(description: str) -> argparse.Namespace:
    """The command line of PPO's drivers on Gymnasium's tasks; `off_policy.py` has that of the others."""
    parser = record.parser(description, TASKS, task="cartpole", num_envs=8)
    parser.add_argument("--epochs", type=int, help="passes over a batch (default: 4 on cartpole, else the library's)")
    parser.add_argument(
        "--as-installed", action="store_true", help="the library's own number of passes, and PyTorch's of threads"
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; on networks this small more are slower")
    arguments = parser.parse_args()
    if arguments.as_installed:
        arguments.epochs = arguments.threads = None
    elif arguments.epochs is None and arguments.task == "cartpole":
        arguments.epochs = CARTPOLE_EPOCHS
    return arguments


def evaluate(task: str, act: Callable[[np.ndarray], np.ndarray], episodes: int) -> list[float]:
    """Undiscounted return of each of `episodes` episodes, with the task's own time limit.

    Args:
      act: observations [n, ...] -> deterministic actions [n, ...], in the environment's units.
    """
    envs = [gym.make(TASKS[task]) for _ in range(episodes)]
    observations = np.stack([env.reset(seed=record.EVALUATION_SEED + i)[0] for i, env in enumerate(envs)])
    returns = np.zeros(episodes)
    running = list(range(episodes))
    while running:
        actions = act(observations[running])
        for i, action in zip(list(running), actions, strict=True):
            observations[i], reward, terminated, truncated, _ = envs[i].step(action)
            returns[i] += float(reward)
            if terminated or truncated:
                running.remove(i)
    return returns.tolist()


def run(
    algorithm: str,
    implementation: str,
    packages: tuple[str, ...],
    train: Callable[[argparse.Namespace], Trained],
    parse: Callable[[str], argparse.Namespace] = parse_arguments,
) -> None:
    """Trains, evaluates, and writes the record of both; `parse` makes the arguments, given the description."""
    arguments = parse(
        f"Trains {algorithm.upper()} of {implementation} on a task of Gymnasium and writes what it measured."
    )
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    trained = train(arguments)
    trained.config["torch_threads"] = torch.get_num_threads()
    record.write(
        arguments,
        trained,
        lambda: evaluate(arguments.task, trained.act, arguments.episodes),
        ("gymnasium", *(("mujoco",) if arguments.task in MUJOCO_TASKS else ()), "numpy", *packages),
        algorithm=algorithm,
        engine="gymnasium",
        implementation=implementation + (" (as installed)" if getattr(arguments, "as_installed", False) else ""),
    )
