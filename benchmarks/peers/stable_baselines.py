"""Training with stable-baselines3 or sbx, which share their interface."""

import argparse
import time
from typing import Any

import numpy as np
from common import TASKS, Trained
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


class _IterationClock(BaseCallback):
    """Notes when each iteration (a rollout and the update after it) begins."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[float] = []

    def _on_rollout_start(self) -> None:
        self.starts.append(time.perf_counter())

    def _on_step(self) -> bool:
        return True


def train(ppo: type, arguments: argparse.Namespace, *, compiles: bool) -> Trained:
    """Trains with the library's defaults, in its own vector of environments.

    Where the library compiles, what the first iteration took beyond the median of the others is counted as compilation.
    """
    settings: dict[str, Any] = {"policy_kwargs": {"net_arch": [64, 64]}}  # tanh is what both use by default
    if arguments.epochs is not None:
        settings["n_epochs"] = arguments.epochs
    envs = make_vec_env(TASKS[arguments.task], n_envs=arguments.num_envs, seed=arguments.seed)
    model = ppo("MlpPolicy", envs, seed=arguments.seed, device="cpu", **settings)
    clock = _IterationClock()
    model.learn(arguments.steps, callback=clock)
    iterations = np.diff([*clock.starts, time.perf_counter()])
    compile_seconds = None
    if compiles and len(iterations) > 1:
        compile_seconds = max(0.0, float(iterations[0] - np.median(iterations[1:])))
    return Trained(
        act=lambda observations: model.predict(observations, deterministic=True)[0],
        steps=model.num_timesteps,
        compile_seconds=compile_seconds,
        training_seconds=float(iterations.sum()) - (compile_seconds or 0.0),
        config={
            "n_steps": model.n_steps,
            "batch_size": model.batch_size,
            "n_epochs": model.n_epochs,
            "net_arch": [64, 64],
            "learning_rate": 3e-4,
            "gamma": model.gamma,
            "gae_lambda": model.gae_lambda,
            "ent_coef": model.ent_coef,
        },
    )
