"""PPO as CleanRL does it (PyTorch), since CleanRL itself no longer installs on the Pythons that rljax needs.

Written for this benchmark, not copied: the algorithm, the order of its operations and the default settings are those of
CleanRL's `ppo.py` (discrete actions) and `ppo_continuous_action.py` (Huang et al. 2022, JMLR 23(274);
https://docs.cleanrl.dev/rl-algorithms/ppo/). As there, a time limit counts as the end of the task.

It differs where it says so below: the number of environments comes from the command line, and observation and reward
statistics are shared by all environments where CleanRL keeps some for each (it trains with one).
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Callable

import common
import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal


@dataclasses.dataclass(frozen=True)
class Settings:
    """CleanRL's defaults for discrete actions; `CONTINUOUS` has the others."""

    num_steps: int = 128
    num_minibatches: int = 4
    epochs: int = 4
    learning_rate: float = 2.5e-4
    entropy_coefficient: float = 0.01
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5


DISCRETE = Settings()
CONTINUOUS = Settings(num_steps=2048, num_minibatches=32, epochs=10, learning_rate=3e-4, entropy_coefficient=0.0)


class RunningMoments:
    """Mean and variance of all that was seen, as gymnasium's wrappers keep them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self.variance, self.count = np.zeros(shape), np.ones(shape), 1e-4

    def update(self, batch: np.ndarray) -> None:
        """Merges a batch [n, ...] (Chan et al.'s parallel formula)."""
        n = len(batch)
        total = self.count + n
        delta = batch.mean(0) - self.mean
        squares = self.variance * self.count + batch.var(0) * n + delta**2 * self.count * n / total
        self.mean, self.variance, self.count = self.mean + delta * n / total, squares / total, total


class Environments:
    """A vector of environments that CleanRL's wrappers stand before, for continuous actions."""

    def __init__(self, task: str, num_envs: int, seed: int, discount: float) -> None:
        name = common.TASKS[task]
        # What gymnasium did when CleanRL was written: the step that ends an episode returns the next one's first
        # observation.
        self.envs = gym.vector.SyncVectorEnv(
            [lambda: gym.make(name)] * num_envs, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
        )
        self.actions = self.envs.single_action_space
        self.continuous = isinstance(self.actions, gym.spaces.Box)
        self.observation_size = self.envs.single_observation_space.shape[0]
        self.moments = RunningMoments((self.observation_size,))
        self.return_moments = RunningMoments(())
        self.discounted = np.zeros(num_envs)
        self.discount = discount
        self.seed = seed

    def normalize(self, observations: np.ndarray) -> np.ndarray:
        """With the statistics so far, which it leaves as they are."""
        if self.continuous:
            scaled = (observations - self.moments.mean) / np.sqrt(self.moments.variance + 1e-8)
            observations = np.clip(scaled, -10, 10)
        return observations.astype(np.float32)

    def reset(self) -> np.ndarray:
        """First observations [n, size]."""
        observations, _ = self.envs.reset(seed=self.seed)
        self.moments.update(observations)
        return self.normalize(observations)

    def clip_actions(self, actions: np.ndarray) -> np.ndarray:
        """Into the bounds of a continuous space."""
        return np.clip(actions, self.actions.low, self.actions.high) if self.continuous else actions

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations [n, size], rewards [n] and whether the episode ended [n]."""
        observations, rewards, terminated, truncated, _ = self.envs.step(self.clip_actions(actions))
        if self.continuous:
            self.moments.update(observations)
            self.discounted = self.discounted * self.discount * ~terminated + rewards
            self.return_moments.update(self.discounted)
            rewards = np.clip(rewards / np.sqrt(self.return_moments.variance + 1e-8), -10, 10)
        return self.normalize(observations), rewards.astype(np.float32), (terminated | truncated).astype(np.float32)


def network(sizes: list[int], last_gain: float) -> nn.Sequential:
    """Tanh layers with orthogonal weights and no bias to begin with."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        last = i == len(sizes) - 2
        layer = nn.Linear(before, after)
        nn.init.orthogonal_(layer.weight, last_gain if last else 2**0.5)
        nn.init.zeros_(layer.bias)
        layers += [layer] if last else [layer, nn.Tanh()]
    return nn.Sequential(*layers)


class Agent(nn.Module):
    """Separate networks for the policy and the value."""

    def __init__(self, observation_size: int, actions: gym.Space) -> None:
        super().__init__()
        self.continuous = isinstance(actions, gym.spaces.Box)
        outputs = int(np.prod(actions.shape)) if self.continuous else int(actions.n)
        self.critic = network([observation_size, 64, 64, 1], last_gain=1.0)
        self.actor = network([observation_size, 64, 64, outputs], last_gain=0.01)
        self.log_std = nn.Parameter(torch.zeros(1, outputs)) if self.continuous else None

    def value(self, observations: Tensor) -> Tensor:
        """[n]."""
        return self.critic(observations).squeeze(-1)

    def distribution(self, observations: Tensor) -> Categorical | Independent:
        """Of actions, for each observation."""
        outputs = self.actor(observations)
        if self.log_std is None:
            return Categorical(logits=outputs)
        return Independent(Normal(outputs, self.log_std.expand_as(outputs).exp()), 1)

    def best_action(self, observations: Tensor) -> Tensor:
        """The most likely one."""
        outputs = self.actor(observations)
        return outputs if self.continuous else outputs.argmax(-1)


def advantages_of(rewards: Tensor, values: Tensor, dones: Tensor, last_value: Tensor, c: Settings) -> Tensor:
    """Generalised advantage estimates [T, n]; `dones[t]` says that the step before observation t ended an episode."""
    advantages = torch.zeros_like(rewards)
    advantage = torch.zeros_like(last_value)
    for t in reversed(range(len(rewards))):
        alive = 1.0 - dones[t + 1]
        next_value = last_value if t == len(rewards) - 1 else values[t + 1]
        delta = rewards[t] + c.discount * next_value * alive - values[t]
        advantage = delta + c.discount * c.gae_lambda * alive * advantage
        advantages[t] = advantage
    return advantages


def loss_of(agent: Agent, batch: dict[str, Tensor], c: Settings) -> Tensor:
    """The clipped objective, the clipped value loss and the entropy bonus, on one minibatch."""
    distribution = agent.distribution(batch["obs"])
    ratio = (distribution.log_prob(batch["action"]) - batch["log_prob"]).exp()
    advantage = batch["advantage"]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    policy_loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - c.clip, 1 + c.clip)).mean()

    target = batch["advantage"] + batch["value"]
    value = agent.value(batch["obs"])
    near = batch["value"] + (value - batch["value"]).clamp(-c.clip, c.clip)
    value_loss = 0.5 * torch.max((value - target) ** 2, (near - target) ** 2).mean()
    return policy_loss - c.entropy_coefficient * distribution.entropy().mean() + c.value_coefficient * value_loss


def train(arguments: argparse.Namespace) -> common.Trained:
    """All of training. As in CleanRL, the steps are rounded down to whole iterations (but not to none)."""
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    discount = Settings.discount
    envs = Environments(arguments.task, arguments.num_envs, arguments.seed, discount)
    c = CONTINUOUS if envs.continuous else DISCRETE
    if arguments.epochs is not None:
        c = dataclasses.replace(c, epochs=arguments.epochs)
    agent = Agent(envs.observation_size, envs.actions)
    optimizer = torch.optim.Adam(agent.parameters(), lr=c.learning_rate, eps=1e-5)
    n = arguments.num_envs
    batch_size = c.num_steps * n
    num_iterations = max(1, arguments.steps // batch_size)

    start = time.perf_counter()
    obs = torch.from_numpy(envs.reset())
    done = torch.zeros(n)
    for iteration in range(num_iterations):
        optimizer.param_groups[0]["lr"] = c.learning_rate * (1 - iteration / num_iterations)
        storage = _rollout(agent, envs, obs, done, c.num_steps)
        obs, done = storage.pop("last_obs"), storage["done"][-1]
        with torch.no_grad():
            last_value = agent.value(obs)
        reward, dones = storage.pop("reward"), storage.pop("done")
        storage["advantage"] = advantages_of(reward, storage["value"], dones, last_value, c)
        data = {name: x.flatten(0, 1) for name, x in storage.items()}
        for _ in range(c.epochs):
            for indices in np.split(rng.permutation(batch_size), c.num_minibatches):
                loss = loss_of(agent, {name: x[indices] for name, x in data.items()}, c)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), c.max_grad_norm)
                optimizer.step()
    seconds = time.perf_counter() - start
    return common.Trained(
        act=_policy(agent, envs),
        steps=num_iterations * batch_size,
        compile_seconds=None,
        training_seconds=seconds,
        config=dataclasses.asdict(c),
    )


@torch.no_grad()
def _rollout(agent: Agent, envs: Environments, obs: Tensor, done: Tensor, num_steps: int) -> dict[str, Tensor]:
    """`num_steps` of every environment: arrays [T, n, ...], but `done`, which is [T + 1, n] and starts with `done`."""
    columns: dict[str, list[Tensor]] = {name: [] for name in ("obs", "action", "log_prob", "value", "reward")}
    dones = [done]
    for _ in range(num_steps):
        distribution = agent.distribution(obs)
        action = distribution.sample()
        next_obs, reward, ended = envs.step(action.numpy())
        row = (obs, action, distribution.log_prob(action), agent.value(obs), torch.from_numpy(reward))
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
        dones.append(torch.from_numpy(ended))
        obs = torch.from_numpy(next_obs)
    return {**{name: torch.stack(x) for name, x in columns.items()}, "done": torch.stack(dones), "last_obs": obs}


def _policy(agent: Agent, envs: Environments) -> Callable[[np.ndarray], np.ndarray]:
    @torch.no_grad()
    def act(observations: np.ndarray) -> np.ndarray:
        normalized = torch.from_numpy(envs.normalize(observations))
        return envs.clip_actions(agent.best_action(normalized).numpy())

    return act


if __name__ == "__main__":
    common.run("ppo", "cleanrl (our driver)", ("torch",), train)
