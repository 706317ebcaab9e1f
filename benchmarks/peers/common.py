"""What the drivers of the peers share: tasks, command line, evaluation and the record. Needs nothing of rljax."""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

TASKS = {
    "cartpole": "CartPole-v1",
    "mountain_car": "MountainCar-v0",
    "mountain_car_continuous": "MountainCarContinuous-v0",
    "acrobot": "Acrobot-v1",
    "pendulum": "Pendulum-v1",
}
# Speed is compared on CartPole with this many passes over each batch; elsewhere with what the library does by itself.
CARTPOLE_EPOCHS = 4
EVALUATION_EPISODES = 100
# Far from the seeds that anyone trains with.
EVALUATION_SEED = 1_000_000


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a driver hands back: the trained policy and what training it took."""

    act: Callable[[np.ndarray], np.ndarray]
    """Observations [n, ...] -> deterministic actions [n, ...], in the environment's units."""
    steps: int
    """Environment steps really executed, over all environments."""
    compile_seconds: float | None
    training_seconds: float
    """Without compilation."""
    config: dict[str, Any]


def parse_arguments(description: str) -> argparse.Namespace:
    """The command line of every driver."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--task", choices=TASKS, default="cartpole")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps, over all environments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--epochs", type=int, help="passes over a batch (default: 4 on cartpole, else the library's)")
    parser.add_argument(
        "--as-installed", action="store_true", help="the library's own number of passes, and PyTorch's of threads"
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; on networks this small more are slower")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args()
    if arguments.as_installed:
        arguments.epochs = arguments.threads = None
    elif arguments.epochs is None and arguments.task == "cartpole":
        arguments.epochs = CARTPOLE_EPOCHS
    return arguments


def evaluate(task: str, act: Callable[[np.ndarray], np.ndarray], episodes: int = EVALUATION_EPISODES) -> list[float]:
    """Undiscounted return of each of `episodes` episodes, with the task's own time limit."""
    envs = [gym.make(TASKS[task]) for _ in range(episodes)]
    observations = np.stack([env.reset(seed=EVALUATION_SEED + i)[0] for i, env in enumerate(envs)])
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


def run(implementation: str, packages: tuple[str, ...], train: Callable[[argparse.Namespace], Trained]) -> None:
    """Trains, evaluates, and writes the record of both."""
    arguments = parse_arguments(f"Trains PPO of {implementation} on a classic task and writes what it measured.")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    trained = train(arguments)
    peak_memory_mb = _peak_memory_mb()
    returns = evaluate(arguments.task, trained.act)
    record = {
        "algorithm": "ppo",
        "task": arguments.task,
        "engine": "gymnasium",
        "implementation": implementation + (" (as installed)" if arguments.as_installed else ""),
        "seeds": [arguments.seed],
        "steps": trained.steps,
        "num_envs": arguments.num_envs,
        "compile_seconds": trained.compile_seconds,
        "training_seconds": trained.training_seconds,
        "steps_per_second_one_run": trained.steps / trained.training_seconds,
        "steps_per_second_all_seeds": None,
        "returns_deterministic": [float(np.mean(returns))],  # one for each seed, the mean over its episodes
        "returns_stochastic": None,
        "evaluation_episodes": len(returns),
        "peak_memory_mb": peak_memory_mb,
        "config": {**trained.config, "torch_threads": torch.get_num_threads()},
        "hardware": _hardware(),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in ("gymnasium", "numpy", *packages)},
        },
        "command": _command(arguments),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print(
        f"{implementation} {arguments.task}: {trained.steps:,} steps in {trained.training_seconds:.1f} s, "
        f"{record['steps_per_second_one_run']:,.0f} steps/s, return {np.mean(returns):.1f} "
        f"over {len(returns)} episodes -> {arguments.output}"
    )


def _command(arguments: argparse.Namespace) -> str:
    """The command to repeat, without the place of the output, which is nobody else's."""
    words = ["python", f"benchmarks/peers/{Path(sys.argv[0]).name}"]
    for name, value in vars(arguments).items():
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value is not None and value is not False and name != "output":
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--output", "results.json"])


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _hardware() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "platform": platform.platform(),
        "backend": "cpu",
    }
