"""Behaviour cloning: imitates a dataset, or the best of its episodes.

Pomerleau 1988, "ALVINN"; as a baseline of offline learning, and with the best episodes alone ("filtered"), Chen et al.
2021, "Decision transformer" (arXiv 2106.01345), section 5.1.
"""

import dataclasses
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct

from rljax.algorithms.base import Algorithm, Devices, require
from rljax.algorithms.iql import Actor
from rljax.algorithms.off_policy import Learner, ReplayConfig, continuous
from rljax.algorithms.offline import OfflineConfig, assemble, each_batch
from rljax.data import Batch, Dataset
from rljax.data.prepared import ActionNormalization, Prepared, prepare
from rljax.envs import Environment
from rljax.nn.networks import ACTIVATIONS
from rljax.nn.precision import Precision
from rljax.types import Key, Metrics, PyTree, Refused

Kind = Literal["deterministic", "gaussian"]


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, ReplayConfig):
    """Settings of behaviour cloning."""

    learns_from_rewards: ClassVar[bool] = False

    policy: Kind = "deterministic"
    """deterministic: a squared distance; gaussian: a likelihood, with one deviation for all observations."""
    top: float = 1.0
    """The share of episodes, those with the highest returns, that is imitated (filtered BC: 0.1)."""
    action_normalization: ActionNormalization = "minmax"
    """What of the actions becomes [-1, 1]: minmax, the range that the data use; quantiles, that without the outermost
    hundredths, which are clipped; bounds, all that the environment declares."""
    learning_rate: float = 3e-4
    """Step size of Adam."""
    discount: float = 0.99
    """γ, of the returns-to-go alone."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    activation: str = "relu"
    """Activation of the hidden layers."""
    dropout: float = 0.0
    """Dropout in training."""
    precision: Precision = "float32"
    """Precision of the hidden layers' matrix products; bfloat16 is faster on TPUs, GPUs and CPUs that have it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "policy", self.policy in get_args(Kind), f"one of {', '.join(get_args(Kind))}")
        require(self, "top", 0 < self.top <= 1, "in (0, 1]")
        allowed = get_args(ActionNormalization)
        require(self, "action_normalization", self.action_normalization in allowed, f"one of {', '.join(allowed)}")
        require(self, "learning_rate", self.learning_rate > 0, "positive")
        require(self, "discount", 0 <= self.discount <= 1, "in [0, 1]")
        require(self, "hidden", all(width >= 1 for width in self.hidden), "at least 1 in each layer")
        require(self, "activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        require(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")
        require(self, "precision", self.precision in get_args(Precision), f"one of {get_args(Precision)}")


class Hyper(struct.PyTreeNode):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    learning_rate: jax.Array
    discount: jax.Array


class Agent:
    """The policy and its update.

    Args:
      config: settings.
      obs_size, action_size: n and d.
      axis_name: mesh axis over whose devices gradients are averaged.
    """

    def __init__(self, config: Config, obs_size: int, action_size: int, axis_name: str | None = None):
        self.config, self.obs_size, self.action_size = config, obs_size, action_size
        self.actor, self.devices = Actor(config, action_size), Devices(axis_name)

    def init(self, actor_key: Key, _: Key) -> Learner:
        return Learner.init({"policy": self.actor.init(actor_key, jnp.zeros((1, self.obs_size)))}, targets=())

    def act(self, params: PyTree, obs: jax.Array, key: Key, deterministic: bool) -> jax.Array:
        """Actions [..., d]; a sample may lie outside of [-1, 1], and is clipped where it is rescaled."""
        distribution: Any = self.actor.apply(params, obs)
        sure = deterministic or self.config.policy == "deterministic"
        return distribution.mode() if sure else jnp.clip(distribution.sample(key), -1.0, 1.0)

    def update(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step on the squared distance to the data's actions, or on their negative log-likelihood."""

        def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
            distribution: Any = self.actor.apply(params, batch.obs, training=True, rngs={"dropout": key})
            distance = jnp.square(distribution.mean - batch.action).sum(-1).mean()
            if self.config.policy == "deterministic":
                return distance, distance
            return -distribution.log_prob(batch.action).mean(), distance

        (error, distance), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["policy"])
        learner = learner.descend("policy", self.devices.mean(gradient), hyper.learning_rate)
        return learner, {"loss/policy": error, "policy/squared_distance": distance}

    def learn(self, learner: Learner, batches: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """All updates of an iteration, from batches [num_updates, batch, …]; the mean of their metrics."""
        learner, metrics = each_batch(
            lambda learner, batch, key: self.update(learner, batch, key, hyper), learner, batches, key
        )
        return learner, self.devices.mean(metrics)


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    online: bool = False,
    axis_name: str | None = None,
) -> Algorithm:
    """Behaviour cloning of a dataset.

    Args:
      env: what is acted in; offline only its spaces count, and evaluation.
      config: settings; the defaults where None.
      dataset: what to learn from; without one, the algorithm can only load a policy.
      online: must be False, for a clone of its own actions learns nothing.
      axis_name: mesh axis over which the functions run under `shard_map`.

    Raises:
      ValueError: the environment's spaces do not fit, or the dataset does not fit them.
    """
    c = config or Config()
    if online:
        raise Refused("bc learns nothing from its own actions: start another algorithm from its policy instead")
    if isinstance(dataset, Dataset) and c.top < 1:
        dataset.require_rewards()
        dataset = dataset.best(c.top)
    continuous(env, "bc")
    dataset = prepare(dataset, env.observation_space, env.action_space, c, c.action_normalization)
    return assemble("bc", env, c, Agent, Hyper, make, dataset, online, axis_name)
