"""RLPD: SAC that learns from demonstrations beside what it does, from the first update on and without pre-training.

Ball et al. 2023, "Efficient online reinforcement learning with offline data" (arXiv 2302.02948): half of each batch
from the dataset, layer normalisation in the critics, an ensemble of which a random pair gives the target, and many
updates a step.
"""

import dataclasses
from typing import get_args

from rljax.algorithms import sac
from rljax.algorithms.base import Algorithm, require
from rljax.algorithms.off_policy import continuous
from rljax.algorithms.offline import OfflineConfig, assemble
from rljax.data import Dataset
from rljax.data.prepared import ActionNormalization, Prepared, prepare
from rljax.envs import Environment
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, sac.Config):
    """Settings of RLPD, those of its code for locomotion; further ones are SAC's."""

    normalize_observation: bool = False
    """Observations are shifted and scaled by the dataset's mean and deviation."""
    action_normalization: ActionNormalization = "bounds"
    """What the policy acts in: bounds, all that the environment declares; minmax or quantiles, what the demonstrations
    use of it, beyond which it then never acts."""
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
        allowed = get_args(ActionNormalization)
        require(self, "action_normalization", self.action_normalization in allowed, f"one of {', '.join(allowed)}")


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    online: bool = True,
    axis_name: str | None = None,
) -> Algorithm:
    """RLPD in `env`, with demonstrations.

    Args:
      env: one environment; actions a bounded one-dimensional `Box`, observations a vector.
      config: settings; the defaults where None.
      dataset: the demonstrations; without, the algorithm can only load a policy.
      online: must be True.
      axis_name: mesh axis over which the functions run under `shard_map`.

    Raises:
      ValueError: the environment's spaces do not fit, or the dataset does not fit them.
    """
    if not online:
        raise Refused("rlpd has no offline phase: online must be True")
    c = config or Config()
    continuous(env, "rlpd")
    prepared = prepare(dataset, env.observation_space, env.action_space, c, c.action_normalization)
    return assemble(
        "rlpd", env, c, sac.Agent, sac.Hyper, make, prepared, online, axis_name, random_start=True
    )  # fmt: skip
