"""TRPO of sb3-contrib (PyTorch) with the settings of experiments/trpo.py, on one thread.

It has no equal of `max_grad_norm`, its value loss is the whole squared error, and it bounds KL(new ‖ old).
"""

import argparse
from typing import Any

import common
import numpy as np
import stable_baselines
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

ROLLOUT_LENGTH = 64
SETTINGS: dict[str, dict[str, Any]] = {
    "cartpole": {"observation": False, "gae_lambda": 0.98},
    "half_cheetah": {"observation": True, "gae_lambda": 0.95},
    "walker2d": {"observation": True, "gae_lambda": 0.95},
}


def parse_arguments(description: str) -> argparse.Namespace:
    parser = common.record.parser(description, SETTINGS, task="half_cheetah", num_envs=16)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; on networks this small more are slower")
    return parser.parse_args()


def train(arguments: argparse.Namespace) -> common.Trained:
    settings, batch = SETTINGS[arguments.task], arguments.num_envs * ROLLOUT_LENGTH
    made = make_vec_env(common.TASKS[arguments.task], n_envs=arguments.num_envs, seed=arguments.seed)
    envs = VecNormalize(made, norm_obs=settings["observation"], gamma=0.99)
    config: dict[str, Any] = {
        "learning_rate": 1e-3,
        "n_steps": ROLLOUT_LENGTH,
        "batch_size": batch,
        "gamma": 0.99,
        "gae_lambda": settings["gae_lambda"],
        "cg_max_steps": 10,
        "cg_damping": 0.1,
        "line_search_max_iter": 10,
        "line_search_shrinking_factor": 0.8,
        "n_critic_updates": 20,
        "target_kl": 0.01,
        "policy_kwargs": {"net_arch": [64, 64], "log_std_init": -0.5},
    }
    model = TRPO("MlpPolicy", envs, seed=arguments.seed, device="cpu", **config)
    iterations = stable_baselines.learn(model, arguments.steps)

    def act(observations: np.ndarray) -> np.ndarray:
        return model.predict(envs.normalize_obs(observations), deterministic=True)[0]

    return common.Trained(
        act=act,
        steps=model.num_timesteps,
        compile_seconds=None,
        training_seconds=float(iterations.sum()),
        config=config | {"norm_obs": settings["observation"], "norm_reward": True},
    )


if __name__ == "__main__":
    common.run("trpo", "sb3-contrib", ("sb3-contrib", "stable-baselines3", "torch"), train, parse_arguments)
