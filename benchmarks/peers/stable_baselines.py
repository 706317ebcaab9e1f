"""Training with stable-baselines3 or sbx, which share their interface."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import TASKS, Trained
from off_policy import HIDDEN, Clock
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise


class _IterationClock(BaseCallback):
    """Notes when each iteration (a rollout and the update after it) begins."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[float] = []

    def _on_rollout_start(self) -> None:
        self.starts.append(time.perf_counter())

    def _on_step(self) -> bool:
        return True


def learn(model: Any, steps: int) -> np.ndarray:
    """Trains an on-policy model: the seconds of each iteration."""
    clock = _IterationClock()
    model.learn(steps, callback=clock)
    return np.diff([*clock.starts, time.perf_counter()])


def train(ppo: type, arguments: argparse.Namespace, *, compiles: bool) -> Trained:
    """Trains with the library's defaults, in its own vector of environments.

    Where the library compiles, what the first iteration took beyond the median of the others is counted as compilation.
    """
    settings: dict[str, Any] = {"policy_kwargs": {"net_arch": [64, 64]}}  # tanh is what both use by default
    if arguments.epochs is not None:
        settings["n_epochs"] = arguments.epochs
    envs = make_vec_env(TASKS[arguments.task], n_envs=arguments.num_envs, seed=arguments.seed)
    model = ppo("MlpPolicy", envs, seed=arguments.seed, device="cpu", **settings)
    iterations = learn(model, arguments.steps)
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


class _Ticks(BaseCallback):
    """Ticks the clock before each cycle (some steps and the updates after them) and after the last."""

    def __init__(self, clock: Clock, act: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self.clock, self.act = clock, act

    def _on_rollout_start(self) -> None:
        self.clock.tick(self.num_timesteps, self.act)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.clock.tick(self.num_timesteps, self.act)


def train_off_policy(
    algorithm: type, arguments: argparse.Namespace, settings: dict[str, Any], clock: Clock, *, compiles: bool
) -> Trained:
    """Trains with the settings given, and the library's defaults for the others, in one environment."""
    env = make_vec_env(TASKS[arguments.task], n_envs=1, seed=arguments.seed)
    model_settings = settings | {"policy_kwargs": {"net_arch": HIDDEN}}
    if "exploration_noise" in settings:  # the libraries' own default is none
        size = env.action_space.shape
        sigma = np.full(size, model_settings.pop("exploration_noise"))
        model_settings["action_noise"] = NormalActionNoise(np.zeros(size), sigma)
    model = algorithm("MlpPolicy", env, seed=arguments.seed, device="cpu", **model_settings)

    def act(observations: np.ndarray) -> np.ndarray:
        return model.predict(observations, deterministic=True)[0]

    model.learn(arguments.steps, callback=_Ticks(clock, act))
    config = settings | {"net_arch": HIDDEN, "gamma": model.gamma, "tau": model.tau}
    return clock.trained(act, config, compiles=compiles)
