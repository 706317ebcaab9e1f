"""RLPD: SAC that learns from demonstrations beside what it does, from the first update on and without pre-training.

Ball et al. 2023, "Efficient online reinforcement learning with offline data" (arXiv 2302.02948): half of each batch
from the dataset, layer normalisation in the critics, an ensemble of which a random pair gives the target, and many
updates a step.
"""

import dataclasses
from typing import Any, get_args

import jax
import numpy as np

from rljax.algorithms import diffusion, sac
from rljax.algorithms.base import Algorithm, Policy, require
from rljax.algorithms.off_policy import continuous
from rljax.algorithms.offline import OfflineConfig, assemble
from rljax.data import Dataset
from rljax.data.chunks import in_chunks
from rljax.data.prepared import ActionNormalization, Prepared, prepare
from rljax.envs import ActionChunk, Environment, ObservationHistory
from rljax.ops import running_statistics
from rljax.spaces import Box
from rljax.types import Key, PyTree, Refused


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, sac.Config):
    """Settings of RLPD, those of its code for locomotion; further ones are SAC's."""

    normalize_observation: bool = False
    """Observations are shifted and scaled by the dataset's mean and deviation."""
    action_normalization: ActionNormalization = "bounds"
    """What the policy acts in: bounds, all that the environment declares; minmax or quantiles, what the demonstrations
    use of it, beyond which it then never acts."""
    history: int = 1
    """Observations that it sees, the newest and those before."""
    executed: int = 1
    """Actions that it chooses at once, a chunk; steps of its critics are chunks (Li et al. 2025, arXiv 2507.07969,
    section 4, without their constraint)."""
    num_updates: int = 20
    """Updates after each rollout (section 4.4)."""
    policy_delay: int = 20
    """Critic updates for each update of policy and temperature."""
    num_critics: int = 10
    """Critics of the ensemble (section 4.3)."""
    policy_value: str = "mean"  # type: ignore[assignment]
    """What the policy maximises: the critics' minimum, or their mean."""
    layer_norm: bool = True
    """Layer normalisation in the critics, which keeps values beyond the data in bounds (section 4.2)."""
    target_entropy_per_dim: float = -0.5
    """Target entropy in nats for each dimension of an action."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("history", "executed"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "reward_bias", self.executed == 1 or self.reward_bias == 0, "0 where executed is not 1")
        allowed = get_args(ActionNormalization)
        require(self, "action_normalization", self.action_normalization in allowed, f"one of {', '.join(allowed)}")


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    kept: Any = None,
    online: bool = True,
    axis_name: str | None = None,
) -> Algorithm:
    """RLPD in `env`, with demonstrations.

    Args:
      env: one environment; actions a bounded one-dimensional `Box`, observations a vector.
      config: settings; the defaults where None.
      dataset: the demonstrations; without, the algorithm can only load a policy.
      kept: bool [N]; what was done from another step of the demonstrations on is not learned from.
      online: must be True.
      axis_name: mesh axis over which the functions run under `shard_map`.

    Raises:
      ValueError: the environment's spaces do not fit, or the dataset does not fit them.
    """
    if not online:
        raise Refused("rlpd has no offline phase: online must be True")
    c = config or Config()
    continuous(env, "rlpd")
    chunked = (c.history, c.executed) != (1, 1)
    prepared = prepare(dataset, env.observation_space, env.action_space, c, c.action_normalization)
    acts_in = ActionChunk(ObservationHistory(env, c.history), c.executed) if chunked else env
    if not isinstance(dataset, Prepared) and (chunked or kept is not None):
        prepared = _in_chunks(prepared, c, kept)
    algorithm = assemble(
        "rlpd", acts_in, c, sac.Agent, sac.Hyper, make, prepared, online, axis_name, random_start=True
    )  # fmt: skip
    if not chunked:
        return algorithm
    spaces: Any = (acts_in.observation_space, acts_in.action_space)
    agent = sac.Agent(c, *(space.shape[0] for space in spaces))

    def chunk_of(variables: PyTree, obs: jax.Array, key: Key, deterministic: bool) -> jax.Array:
        if c.normalize_observation:
            obs = running_statistics.normalize(variables["obs_statistics"], obs)
        chunk = agent.act(variables["params"], obs, key, deterministic)
        return chunk.reshape(*obs.shape[:-1], c.executed, -1)

    def policy(state: Any) -> Policy:
        variables = algorithm.policy(state).variables
        one = tuple(x[: len(x) // c.executed] for x in variables["action_range"])
        return diffusion.in_turn(env, c.history, c.executed, False, variables | {"action_range": one}, chunk_of)

    return algorithm._replace(policy=policy, env=env)


def _in_chunks(prepared: Prepared, config: Config, kept: Any) -> Prepared:
    """What was prepared step by step, as `ActionChunk(ObservationHistory(env))` has it."""

    def tiled(x: Any, times: int) -> Any:
        return jax.tree.map(lambda x: np.tile(x, times) if np.ndim(x) else x, x)

    box, dataset = prepared.actions, prepared.dataset
    return dataclasses.replace(
        prepared,
        dataset=None if dataset is None else in_chunks(dataset, config.history, config.executed, kept),
        statistics=tiled(prepared.statistics, config.history),
        actions=None if box is None else Box(tiled(box.low, config.executed), tiled(box.high, config.executed)),
    )
