"""Behaviour cloning: imitates a dataset, or the best of its episodes.

Pomerleau 1988, "ALVINN"; as a baseline of offline learning, and with the best episodes alone ("filtered"), Chen et al.
2021, "Decision transformer" (arXiv 2106.01345), section 5.1.
"""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.agent import Acted, Hyper
from rljax.algorithms.core.blocks import DenseNetwork, Encoding, Parts
from rljax.algorithms.core.contract import Algorithm, continuous
from rljax.algorithms.core.experience import ReplayConfig
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.algorithms.core.offline import OfflineConfig, assemble
from rljax.algorithms.iql import Actor
from rljax.config import BelowOne, Fraction, Share
from rljax.data import Batch, Dataset
from rljax.data.prepared import ActionNormalization, Prepared, prepare
from rljax.envs import Environment
from rljax.nn.networks import apply
from rljax.types import Key, Metrics, PyTree

Kind = Literal["deterministic", "gaussian"]


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, DenseNetwork, Encoding, Parts, ReplayConfig):
    """Settings of behaviour cloning."""

    learns_from_rewards: ClassVar[bool] = False

    policy: Kind = "deterministic"
    """Policy and loss: deterministic, with a squared distance; or gaussian, with a likelihood and a constant
    deviation."""
    top: Share = 1.0
    """Share of the episodes that is imitated, the highest returns first (filtered BC: 0.1)."""
    action_normalization: ActionNormalization = "minmax"
    """Range of the actions that becomes [-1, 1]: minmax, the data's; quantiles, the data's without the outermost
    hundredths, which are clipped; bounds, the environment's."""
    discount: Fraction = 0.99
    """Discount γ of the returns-to-go alone."""
    dropout: BelowOne = 0.0
    """Dropout in training."""


class Agent(core.Agent):
    """The policy and its update."""

    hyper_type = Hyper
    config: Config

    def build(self, network: nn.Module | None) -> None:
        self.actor = Actor(self.config, self.action_space.shape[0], self.seen(network), network)

    def init(self, key: Key) -> Learner:
        return Learner.init({"policy": self.actor.init(key, self.example_obs)}, self.optimizers(self.hyper()))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        return {"policy": optax.adam(hyper.learning_rate)}

    def act(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        """Acts; a sample outside of [-1, 1] is clipped."""
        distribution = apply(self.actor, variables["params"], obs)
        sure = deterministic or self.config.policy == "deterministic"
        return distribution.mode() if sure else jnp.clip(distribution.sample(key), -1.0, 1.0), memory, ()

    def log_prob(self, variables: dict[str, PyTree], obs: PyTree, action: jax.Array) -> jax.Array:
        if self.config.policy == "deterministic":
            return super().log_prob(variables, obs, action)
        distribution = apply(self.actor, variables["params"], obs)
        return distribution.log_prob(action)

    def update(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step on the squared distance to the data's actions, or on their negative log-likelihood."""

        def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
            distribution = apply(self.actor, params, batch.obs, training=True, rngs={"dropout": key})
            distance = jnp.square(distribution.mean - batch.action).sum(-1).mean()
            if self.config.policy == "deterministic":
                return distance, distance
            return -distribution.log_prob(batch.action).mean(), distance

        (error, distance), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["policy"])
        learner = learner.descend("policy", devices.mean(gradient), self.optimizers(hyper)["policy"])
        return learner, {"loss/policy": error, "policy/squared_distance": distance}


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    network: nn.Module | None = None,
) -> Algorithm:
    """Behaviour cloning of a dataset.

    Args:
      env: the task; used for its spaces and for evaluation.
      config: settings; the defaults where None.
      dataset: what to learn from; without one, the algorithm can only load a policy.
      network: a flax module in place of convolutions (see `nn.encoder.encode`).

    Raises:
      Refused: the environment's spaces do not fit, or the dataset does not fit them.
    """
    c = config or Config()
    if isinstance(dataset, Dataset) and c.top < 1:
        dataset.require_rewards()
        dataset = dataset.best(c.top)
    continuous(env, "bc")
    dataset = prepare(dataset, env.observation_space, env.action_space, c, c.action_normalization)
    return assemble("bc", env, c, Agent, make, dataset, network=network)
