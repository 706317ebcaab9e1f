"""Learning curve, or speed, of an algorithm of stable-baselines3, sb3-contrib or sbx on HalfCheetah.

Settings are those that rl-baselines3-zoo tuned for HalfCheetah, and the library's defaults where it has none. The
curve is written at each evaluation, so that a run that is cut short leaves one too; the speed is measured apart, with
--speed and in seconds of the processor, since those on the wall depend on which other programs run.
"""

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import record
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize

TASK = "half_cheetah"
MODULES = {"sb3": "stable_baselines3", "sb3-contrib": "sb3_contrib", "sbx": "sbx"}
PACKAGES = {
    "sb3": ("stable-baselines3", "torch"),
    "sb3-contrib": ("sb3-contrib", "stable-baselines3", "torch"),
    "sbx": ("sbx-rl", "stable-baselines3", "jax", "jaxlib"),
}
ON_POLICY = ("ppo", "trpo")
OFF_POLICY: dict[str, Any] = {"learning_starts": 10_000}
# The zoo's HalfCheetah-v4; "normalize" means observations and rewards, "noise" is the actions' standard deviation.
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {
        "normalize": True,
        "batch_size": 64,
        "n_steps": 512,
        "gamma": 0.98,
        "learning_rate": 2.0633e-05,
        "ent_coef": 0.000401762,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.92,
        "max_grad_norm": 0.8,
        "vf_coef": 0.58096,
        "policy_kwargs": {"log_std_init": -2.0, "ortho_init": False, "activation_fn": "relu", "net_arch": [256, 256]},
    },
    "trpo": {
        "normalize": True,
        "n_envs": 2,
        "batch_size": 128,
        "n_steps": 1024,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "sub_sampling_factor": 1,
        "cg_max_steps": 25,
        "cg_damping": 0.1,
        "n_critic_updates": 20,
        "learning_rate": 1e-3,
        "target_kl": 0.04,
    },
    "sac": OFF_POLICY,
    "td3": OFF_POLICY
    | {"noise": 0.1, "learning_rate": 1e-3, "batch_size": 256, "policy_kwargs": {"net_arch": [400, 300]}},
    "tqc": OFF_POLICY,
    # The zoo has none: its package's defaults, the policy that it calls SimbaPolicy, and the README's AdamW.
    "crossq": OFF_POLICY,
    "simba": OFF_POLICY
    | {
        "policy": "SimbaPolicy",
        "policy_kwargs": {"optimizer_class": "adamw", "net_arch": {"pi": [128], "qf": [256, 256]}},
    },
}


class Curve(BaseCallback):
    """Evaluates before the first cycle that begins with another `every` steps done, and notes when cycles begin."""

    def __init__(self, every: int, evaluate: Callable[[int], None]) -> None:
        super().__init__()
        self.every, self.evaluate = every, evaluate
        self.begins: list[tuple[int, float]] = []

    def _on_rollout_start(self) -> None:
        self.note()

    def _on_training_end(self) -> None:
        self.note()

    def _on_step(self) -> bool:
        return True

    def note(self) -> None:
        before = self.begins[-1][0] if self.begins else 0
        self.begins.append((self.num_timesteps, time.process_time()))
        if self.every and self.num_timesteps // self.every > before // self.every:
            self.evaluate(self.num_timesteps)


def make(library: str, algorithm: str, seed: int, learning_starts: int | None) -> tuple[Any, Any, dict[str, Any]]:
    """The model, its environments and its settings in words."""
    settings = dict(SETTINGS[algorithm])
    if learning_starts is not None and "learning_starts" in settings:
        settings["learning_starts"] = learning_starts
    said = dict(settings)
    env = make_vec_env(common.TASKS[TASK], n_envs=settings.pop("n_envs", 1), seed=seed)
    if settings.pop("normalize", False):
        env = VecNormalize(env, gamma=settings["gamma"])
    if noise := settings.pop("noise", None):
        size = env.action_space.shape
        settings["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, noise))
    if "policy_kwargs" in settings:
        settings["policy_kwargs"] = named(library, settings["policy_kwargs"])
    name = {"simba": "SAC", "crossq": "CrossQ"}.get(algorithm, algorithm.upper())
    kind = getattr(importlib.import_module(MODULES[library]), name)
    model = kind(settings.pop("policy", "MlpPolicy"), env, seed=seed, device="cpu", **settings)
    return model, env, said


def named(library: str, policy: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the policy, with the functions that are given by name."""
    policy = dict(policy)
    if policy.get("activation_fn") == "relu":
        policy["activation_fn"] = importlib.import_module("flax.linen").relu if library == "sbx" else torch.nn.ReLU
    if policy.get("optimizer_class") == "adamw":
        policy["optimizer_class"] = importlib.import_module("optax").adamw
    return policy


def main() -> None:
    parser = record.parser(__doc__ or "", [TASK], task=TASK, num_envs=None)
    parser.add_argument("--library", choices=MODULES, default="sb3", help="library of the algorithm")
    parser.add_argument("--algorithm", choices=SETTINGS, default="sac", help="algorithm, in lower case")
    parser.add_argument("--every", type=int, default=5000, help="steps between evaluations; 0 for none")
    parser.add_argument("--speed", action="store_true", help="measure the speed alone, in --steps steps that learn")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    (speed if arguments.speed else curve)(arguments)


def curve(arguments: argparse.Namespace) -> None:
    """Trains, and writes the curve so far at each evaluation."""
    model, env, settings = make(arguments.library, arguments.algorithm, arguments.seed, None)
    points: list[tuple[int, float]] = []

    def act(observations: np.ndarray) -> np.ndarray:
        if isinstance(env, VecNormalize):
            observations = env.normalize_obs(observations)
        return model.predict(observations, deterministic=True)[0]

    def evaluate(step: int) -> None:
        points.append((step, round(float(np.mean(common.evaluate(TASK, act, arguments.episodes))), 1)))
        print(*points[-1], flush=True)
        write(arguments, settings, steps=step, curve=points)

    model.learn(arguments.steps, callback=Curve(arguments.every, evaluate))


def speed(arguments: argparse.Namespace) -> None:
    """Measures seconds to compile, and steps a second before learning starts and after."""
    off_policy = arguments.algorithm not in ON_POLICY
    random_steps = 1000 if off_policy else 0
    model, _, settings = make(arguments.library, arguments.algorithm, arguments.seed, random_steps)
    clock = Curve(0, lambda step: None)
    model.learn(arguments.steps + random_steps, callback=clock)
    steps, times = map(np.array, zip(*clock.begins, strict=True))
    rates: dict[str, float | None] = {"random_steps_per_second": None}
    if off_policy:
        start = int(np.searchsorted(steps, random_steps))
        rates["random_steps_per_second"] = float((steps[start] - steps[0]) / (times[start] - times[0]))
    else:
        start = 0
    # The first cycles that learn compile what there is to compile, every network of it.
    warm = min(start + (50 if off_policy else 1), len(steps) - 2)
    rate = float((steps[-1] - steps[warm]) / (times[-1] - times[warm]))
    compiling = float(times[warm] - times[start] - (steps[warm] - steps[start]) / rate)
    write(
        arguments,
        settings,
        steps_per_second=rate,
        compile_seconds=max(0.0, compiling) if arguments.library == "sbx" else 0.0,
        **rates,
    )
    print(f"{arguments.library} {arguments.algorithm}: {rate:.0f} steps/s, {compiling:.1f} s to compile", flush=True)


def write(arguments: argparse.Namespace, settings: dict[str, Any], **measured: Any) -> None:
    packages = ("gymnasium", "mujoco", "numpy", *PACKAGES[arguments.library])
    found = {
        "library": arguments.library,
        "algorithm": arguments.algorithm,
        "task": TASK,
        "seed": arguments.seed,
        **measured,
        "episodes": arguments.episodes,
        "config": settings,
    }
    record.save(arguments, found, packages)


if __name__ == "__main__":
    main()
