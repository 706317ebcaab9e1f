import pytest

import rljax
from rljax.algorithms import ppo


@pytest.fixture(scope="session")
def tiny():
    """A PPO agent that compiles fast; 64 steps an iteration."""
    config = ppo.Config(
        num_envs=8,
        rollout_length=8,
        num_epochs=2,
        num_minibatches=2,
        hidden=(8,),
        normalize_observation=True,
        normalize_reward=True,
        learning_rate=1e-2,
    )
    return ppo.make(rljax.make("cartpole", max_episode_steps=20), config)
