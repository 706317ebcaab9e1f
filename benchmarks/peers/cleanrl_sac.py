"""SAC as CleanRL does it (PyTorch): our driver, see `cleanrl_off_policy.py`.

The actor and the temperature are updated on every second update of the critics, twice each. The critics and the
temperature learn faster than the actor.
"""

from typing import Any

import cleanrl_off_policy as cleanrl
import gymnasium as gym
import numpy as np
import off_policy
import torch
from torch import Tensor

CONSTANTS = {"gamma": 0.99, "tau": 0.005, "critic_learning_rate": 1e-3, "actor_every": 2}
MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0


class Agent:
    """Actor, two critics and the temperature, which aims at an entropy of minus the number of actions."""

    def __init__(self, envs: gym.vector.VectorEnv, settings: dict[str, Any]) -> None:
        observations, actions = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
        self.middle, self.half = cleanrl.bounds(envs.single_action_space)
        self.actor = cleanrl.network(observations, 2 * actions)
        self.critics = cleanrl.Critics(observations + actions)
        self.targets = cleanrl.frozen_copy(self.critics)
        self.log_temperature = torch.zeros(1, requires_grad=True)
        self.target_entropy = -actions
        fast = CONSTANTS["critic_learning_rate"]
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=settings["learning_rate"])
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=fast)
        self.temperature_optimizer = torch.optim.Adam([self.log_temperature], lr=fast)
        self.updates = 0

    def sample(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [n, ...] and the logarithms of their probability densities [n]."""
        mean, raw = self.actor(observations).chunk(2, -1)
        log_std = MIN_LOG_STD + 0.5 * (MAX_LOG_STD - MIN_LOG_STD) * (torch.tanh(raw) + 1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        unbounded = normal.rsample()
        squashed = torch.tanh(unbounded)
        log_prob = normal.log_prob(unbounded) - torch.log(self.half * (1 - squashed**2) + 1e-6)
        return squashed * self.half + self.middle, log_prob.sum(-1)

    def explore(self, observations: Tensor, random: np.ndarray, progress: float) -> np.ndarray:
        return self.sample(observations)[0].numpy()

    def act(self, observations: Tensor) -> Tensor:
        return torch.tanh(self.actor(observations).chunk(2, -1)[0]) * self.half + self.middle

    def stepped(self, step: int) -> None:
        pass

    def update(self, batch: cleanrl.Batch) -> None:
        self.updates += 1
        with torch.no_grad():
            temperature = self.log_temperature.exp()
            next_action, log_prob = self.sample(batch["next_obs"])
            next_value = torch.min(*self.targets(batch["next_obs"], next_action)) - temperature * log_prob
            target = batch["reward"] + (1 - batch["terminated"]) * CONSTANTS["gamma"] * next_value
        values = self.critics(batch["obs"], batch["action"])
        cleanrl.descend(self.critic_optimizer, sum(torch.nn.functional.mse_loss(value, target) for value in values))
        if self.updates % CONSTANTS["actor_every"] == 0:
            for _ in range(CONSTANTS["actor_every"]):
                self.update_actor(batch["obs"])
        cleanrl.follow(self.targets, self.critics, CONSTANTS["tau"])

    def update_actor(self, observations: Tensor) -> None:
        """One update of the actor, and one of the temperature."""
        action, log_prob = self.sample(observations)
        temperature = self.log_temperature.detach().exp()
        value = torch.min(*self.critics(observations, action))
        cleanrl.descend(self.actor_optimizer, (temperature * log_prob - value).mean())
        with torch.no_grad():
            _, log_prob = self.sample(observations)
        surplus = -log_prob - self.target_entropy
        cleanrl.descend(self.temperature_optimizer, (self.log_temperature.exp() * surplus).mean())


if __name__ == "__main__":
    off_policy.run(
        "sac", "cleanrl (our driver)", ("torch",), lambda *training: cleanrl.train(Agent, *training, CONSTANTS)
    )
