"""DQN as CleanRL does it (PyTorch): our driver, see `cleanrl_off_policy.py`.

Its loss is the squared error, unclipped, where that of the other peers is Huber's.
"""

from typing import Any

import cleanrl_off_policy as cleanrl
import gymnasium as gym
import numpy as np
import off_policy
import torch
from torch import Tensor

CONSTANTS = {"exploration_initial_eps": 1.0, "tau": 1.0}


class Agent:
    """One network of the values of all actions, and its copy of some steps ago."""

    def __init__(self, envs: gym.vector.VectorEnv, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.values = cleanrl.network(envs.single_observation_space.shape[0], int(envs.single_action_space.n))
        self.target = cleanrl.frozen_copy(self.values)
        self.optimizer = torch.optim.Adam(self.values.parameters(), lr=settings["learning_rate"])

    def explore(self, observations: Tensor, random: np.ndarray, progress: float) -> np.ndarray:
        first, last = CONSTANTS["exploration_initial_eps"], self.settings["exploration_final_eps"]
        epsilon = max(last, first + (last - first) * progress / self.settings["exploration_fraction"])
        return random if torch.rand(()) < epsilon else self.act(observations).numpy()

    def act(self, observations: Tensor) -> Tensor:
        return self.values(observations).argmax(-1)

    def stepped(self, step: int) -> None:
        if step % self.settings["target_update_interval"] == 0:
            cleanrl.follow(self.target, self.values, CONSTANTS["tau"])

    def update(self, batch: cleanrl.Batch) -> None:
        with torch.no_grad():
            next_value = self.target(batch["next_obs"]).max(-1).values
            target = batch["reward"] + (1 - batch["terminated"]) * self.settings["gamma"] * next_value
        value = self.values(batch["obs"]).gather(-1, batch["action"][:, None]).squeeze(-1)
        cleanrl.descend(self.optimizer, torch.nn.functional.mse_loss(value, target))


if __name__ == "__main__":
    off_policy.run(
        "dqn", "cleanrl (our driver)", ("torch",), lambda *training: cleanrl.train(Agent, *training, CONSTANTS)
    )
