"""RLPD: SAC that learns from demonstrations and its own experience, from the first update on, without pre-training.

Ball et al. 2023, "Efficient online reinforcement learning with offline data" (arXiv 2302.02948): half of each batch
from the dataset, layer normalisation in the critics, an ensemble of which a random pair gives the target, and many
updates a step.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from rljax.algorithms import diffusion, sac
from rljax.algorithms.core.contract import Algorithm, continuous
from rljax.algorithms.core.experience import assemble
from rljax.algorithms.core.offline import OfflineConfig
from rljax.config import Count, require
from rljax.data import Dataset
from rljax.data.chunks import in_chunks
from rljax.data.prepared import ActionNormalization, Prepared, prepare
from rljax.envs import ActionChunk, Environment, ObservationHistory, RescaleAction
from rljax.ops import running_statistics
from rljax.ops.history import tiled
from rljax.policy import Policy
from rljax.spaces import Box
from rljax.types import Key, PyTree


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, sac.Config):
    """Settings of RLPD, by default its code's for locomotion; further ones are SAC's."""

    normalize_observation: bool = False
    """Whether observations are shifted and scaled by the dataset's mean and deviation."""
    action_normalization: ActionNormalization = "bounds"
    """Range of the policy's actions: bounds, the environment's; minmax or quantiles, the demonstrations', which the
    policy then never leaves."""
    history: Count = 1
    """Observations that the policy sees, the newest included."""
    executed: Count = 1
    """Actions that the policy chooses at once: a chunk, which is one step of its critics (Li et al. 2025, arXiv
    2507.07969, section 4, without their constraint)."""
    num_updates: Count = 20
    """Updates after each rollout (section 4.4)."""
    policy_delay: int = 20
    """Critic updates for each update of policy and temperature."""
    num_critics: Count = 10
    """Number of critics (section 4.3)."""
    policy_value: str = "mean"  # type: ignore[assignment]
    """Objective of the policy: the critics' minimum (min), or their mean (mean)."""
    layer_norm: bool = True
    """Layer normalisation in the critics, which keeps values beyond the data in bounds (section 4.2)."""
    target_entropy_per_dim: float = -0.5
    """Target entropy in nats for each dimension of an action."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "policy_value", self.policy_value in ("min", "mean"), "one of min, mean")
        require(self, "reward_bias", self.executed == 1 or self.reward_bias == 0, "0 where executed is not 1")


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    kept: Any = None,
    network: nn.Module | None = None,
) -> Algorithm:
    """RLPD in `env`, with demonstrations.

    Args:
      env: one environment; actions a bounded one-dimensional `Box`, observations of any kind.
      config: settings; the defaults where None.
      dataset: the demonstrations; without, the algorithm can only load a policy.
      kept: bool [N]; chunks that begin at other steps of the demonstrations are not learned from.
      network: a flax module in place of convolutions (see `nn.encoder.encode`), of histories of observations.

    Raises:
      ValueError: the environment's spaces do not fit, or the dataset does not fit them.
    """
    c = config or Config()
    chunked = (c.history, c.executed) != (1, 1)
    continuous(env, "rlpd")
    prepared = prepare(dataset, env.observation_space, env.action_space, c, c.action_normalization)
    acts_in = ActionChunk(ObservationHistory(env, c.history), c.executed) if chunked else env
    if not isinstance(dataset, Prepared) and (chunked or kept is not None):
        prepared = _in_chunks(prepared, c, kept)
    in_unit = RescaleAction(acts_in, prepared.actions)
    agent = sac.Agent(c, in_unit.observation_space, in_unit.action_space, network)

    def remake(config: Config) -> Algorithm:
        return make(env, config, prepared, network=network)

    algorithm = assemble("rlpd", acts_in, agent, remake, prepared, random_start=True, acts_in=in_unit, network=network)
    if not chunked:
        return algorithm

    def chunk_of(variables: PyTree, obs: PyTree, key: Key, deterministic: bool) -> jax.Array:
        if c.normalize_observation:
            obs = running_statistics.normalize(variables["obs_statistics"], obs)
        chunk, _, _ = agent.act(variables, obs, (), key, deterministic)
        return chunk.reshape(*chunk.shape[:-1], c.executed, -1)

    def policy(state: Any) -> Policy:
        variables = algorithm.policy(state).variables
        one = tuple(x[: len(x) // c.executed] for x in variables["action_range"])
        return diffusion.in_turn(env, c.history, c.executed, False, variables | {"action_range": one}, chunk_of)

    return algorithm._replace(policy=policy, env=env)


def _in_chunks(prepared: Prepared, config: Config, kept: Any) -> Prepared:
    """A dataset prepared step by step, in the form of `ActionChunk(ObservationHistory(env))`."""
    history, executed, box, dataset = config.history, config.executed, prepared.actions, prepared.dataset
    of_one = prepared.statistics
    return dataclasses.replace(
        prepared,
        dataset=None if dataset is None else in_chunks(dataset, history, executed, kept),
        statistics=of_one.replace(mean=tiled(of_one.mean, history), m2=tiled(of_one.m2, history)),
        actions=None if box is None else Box(np.tile(box.low, executed), np.tile(box.high, executed)),
    )
