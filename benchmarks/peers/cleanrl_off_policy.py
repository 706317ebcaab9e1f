"""What our drivers of CleanRL's SAC, TD3 and DQN share: the replay buffer, the networks and the loop.

Written for this benchmark, not copied: the algorithms and the order of their operations are those of CleanRL's
`sac_continuous_action.py`, `td3_continuous_action.py` and `dqn.py` (Huang et al. 2022, JMLR 23(274);
https://docs.cleanrl.dev). As there, a time limit does not count as the end of the task. The settings in `off_policy.py`
are those of the other peers; the rest, which is at the top of each driver, is CleanRL's.
"""

import argparse
import copy
import itertools
from collections.abc import Callable
from typing import Any, Protocol

import common
import gymnasium as gym
import numpy as np
import torch
from off_policy import HIDDEN, Clock
from torch import Tensor, nn

Batch = dict[str, Tensor]


class Replay:
    """The last `size` transitions, in float32; actions are of their space's type."""

    def __init__(self, size: int, observations: gym.Space, actions: gym.Space) -> None:
        # Nothing but what was written takes memory: the pages of zeros are made when touched.
        self.columns = {
            "obs": np.zeros((size, *observations.shape), np.float32),
            "action": np.zeros((size, *actions.shape), actions.dtype),
            "reward": np.zeros(size, np.float32),
            "next_obs": np.zeros((size, *observations.shape), np.float32),
            "terminated": np.zeros(size, np.float32),
        }
        self.size, self.added = size, 0

    def add(self, *transition: Any) -> None:
        """One transition, in the order of the columns, in place of the oldest if full."""
        for column, value in zip(self.columns.values(), transition, strict=True):
            column[self.added % self.size] = value
        self.added += 1

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """With replacement: arrays [batch_size, ...]."""
        indices = rng.integers(min(self.added, self.size), size=batch_size)
        return {name: torch.from_numpy(column[indices]) for name, column in self.columns.items()}


class Agent(Protocol):
    """Interface of the three agents to the loop."""

    def explore(self, observations: Tensor, random: np.ndarray, progress: float) -> np.ndarray:
        """Actions [1, ...] to learn from, given random ones and what part of the steps is done."""

    def act(self, observations: Tensor) -> Tensor:
        """The best actions [n, ...]."""

    def stepped(self, step: int) -> None:
        """Called after each environment step."""

    def update(self, batch: Batch) -> None:
        """One gradient update of what is due."""


def network(*sizes: int) -> nn.Sequential:
    """ReLU layers with PyTorch's own initial weights, the last without ReLU; `sizes` are those of input and output."""
    first, last = sizes
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([first, *HIDDEN]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN[-1], last))


class Critics(nn.Module):
    """Two networks of the value of an action."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList([network(inputs, 1), network(inputs, 1)])

    def forward(self, observations: Tensor, actions: Tensor) -> list[Tensor]:
        """The values [n] of each."""
        inputs = torch.cat([observations, actions], -1)
        return [critic(inputs).squeeze(-1) for critic in self.networks]

    def first(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The values [n] of the first alone."""
        return self.networks[0](torch.cat([observations, actions], -1)).squeeze(-1)


def frozen_copy(module: nn.Module) -> nn.Module:
    """A target network."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Moves the target's parameters towards the source's."""
    for slow, fast in zip(target.parameters(), source.parameters()):
        slow.lerp_(fast, tau)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of the optimizer on this loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def bounds(actions: gym.spaces.Box) -> tuple[Tensor, Tensor]:
    """Middle and half the range of each action."""
    low, high = torch.from_numpy(actions.low), torch.from_numpy(actions.high)
    return (low + high) / 2, (high - low) / 2


def train(
    make: Callable[[gym.vector.VectorEnv, dict[str, Any]], Agent],
    arguments: argparse.Namespace,
    settings: dict[str, Any],
    clock: Clock,
    constants: dict[str, Any],
) -> common.Trained:
    """All of training, in a vector of one environment, as in CleanRL; `constants` are the driver's own settings."""
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    # The step that ends an episode returns the next one's first observation, as when CleanRL was written.
    envs = gym.vector.SyncVectorEnv(
        [lambda: gym.make(common.TASKS[arguments.task])], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    envs.action_space.seed(arguments.seed)
    agent = make(envs, settings)
    replay = Replay(settings["buffer_size"], envs.single_observation_space, envs.single_action_space)
    cycle, starts = settings["train_freq"], settings["learning_starts"]
    updates = cycle if settings["gradient_steps"] < 0 else settings["gradient_steps"]

    @torch.no_grad()
    def act(observations: np.ndarray) -> np.ndarray:
        return agent.act(torch.from_numpy(observations).float()).numpy()

    observations, _ = envs.reset(seed=arguments.seed)
    step = 0
    while step < arguments.steps:
        clock.tick(step, act)
        for _ in range(cycle):
            actions = envs.action_space.sample()
            if step >= starts:
                with torch.no_grad():
                    actions = agent.explore(torch.from_numpy(observations).float(), actions, step / arguments.steps)
            next_observations, rewards, terminated, truncated, info = envs.step(actions)
            last = info["final_obs"] if terminated[0] or truncated[0] else next_observations
            replay.add(observations[0], actions[0], rewards[0], last[0], terminated[0])
            observations = next_observations
            step += 1
            agent.stepped(step)
        if step > starts:
            for _ in range(updates):
                agent.update(replay.sample(settings["batch_size"], rng))
    clock.tick(step, act)
    return clock.trained(act, settings | {"net_arch": HIDDEN} | constants, compiles=False)
