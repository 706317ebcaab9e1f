"""TD3 as CleanRL does it (PyTorch): our driver, see `cleanrl_off_policy.py`."""

from typing import Any

import cleanrl_off_policy as cleanrl
import gymnasium as gym
import numpy as np
import off_policy
import torch
from torch import Tensor

CONSTANTS = {"gamma": 0.99, "tau": 0.005, "target_noise": 0.2, "target_noise_clip": 0.5, "actor_every": 2}


class Agent:
    """Actor and two critics, and slow copies of the three."""

    def __init__(self, envs: gym.vector.VectorEnv, settings: dict[str, Any]) -> None:
        observations, actions = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
        self.middle, self.half = cleanrl.bounds(envs.single_action_space)
        self.low, self.high = self.middle - self.half, self.middle + self.half
        self.noise = settings["exploration_noise"]
        self.actor = cleanrl.network(observations, actions)
        self.critics = cleanrl.Critics(observations + actions)
        self.target_actor, self.target_critics = map(cleanrl.frozen_copy, (self.actor, self.critics))
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=settings["learning_rate"])
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=settings["learning_rate"])
        self.updates = 0

    def scaled(self, outputs: Tensor) -> Tensor:
        """The actions [n, ...] that an actor's outputs mean."""
        return torch.tanh(outputs) * self.half + self.middle

    def explore(self, observations: Tensor, random: np.ndarray, progress: float) -> np.ndarray:
        actions = self.act(observations)
        return (actions + torch.randn_like(actions) * self.half * self.noise).clamp(self.low, self.high).numpy()

    def act(self, observations: Tensor) -> Tensor:
        return self.scaled(self.actor(observations))

    def stepped(self, step: int) -> None:
        pass

    def update(self, batch: cleanrl.Batch) -> None:
        self.updates += 1
        clip = CONSTANTS["target_noise_clip"]
        with torch.no_grad():
            noise = (torch.randn_like(batch["action"]) * CONSTANTS["target_noise"]).clamp(-clip, clip) * self.half
            next_action = self.scaled(self.target_actor(batch["next_obs"])) + noise
            values = self.target_critics(batch["next_obs"], next_action.clamp(self.low, self.high))
            target = batch["reward"] + (1 - batch["terminated"]) * CONSTANTS["gamma"] * torch.min(*values)
        values = self.critics(batch["obs"], batch["action"])
        cleanrl.descend(self.critic_optimizer, sum(torch.nn.functional.mse_loss(value, target) for value in values))
        if self.updates % CONSTANTS["actor_every"] == 0:
            value = self.critics.first(batch["obs"], self.act(batch["obs"]))
            cleanrl.descend(self.actor_optimizer, -value.mean())
            cleanrl.follow(self.target_actor, self.actor, CONSTANTS["tau"])
            cleanrl.follow(self.target_critics, self.critics, CONSTANTS["tau"])


if __name__ == "__main__":
    off_policy.run(
        "td3", "cleanrl (our driver)", ("torch",), lambda *training: cleanrl.train(Agent, *training, CONSTANTS)
    )
