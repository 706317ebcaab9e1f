"""Recap: a policy that is told whether what it imitates was better than usual, and then asked for what is.

Physical Intelligence 2025, "π*0.6: a VLA that learns from experience" (arXiv 2511.14759). A distributional value of
returns (-1 a step, 0 at success, less C_fail at failure; eq. 1, over the longest episode, so that it lies in (-1, 0)),
learned by cross-entropy to what the data show; advantages over the next N steps; an indicator of those above a
quantile; and a policy of all data, conditioned on that, which is withheld now and then (diffusion.py).

`contrastive` weights are a named ablation that the paper does not have: towards what is good and away from what is bad.
Its objective has no lower bound.
"""

import dataclasses
from typing import Any, ClassVar, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.algorithms.base import Algorithm, Devices, require
from rljax.algorithms.off_policy import Learner, ReplayConfig
from rljax.algorithms.offline import OfflineConfig, assemble, each_batch, in_batches
from rljax.data import Dataset, OfflineBatch
from rljax.data.prepared import Prepared
from rljax.envs import Environment
from rljax.nn.networks import ACTIVATIONS, MLP
from rljax.nn.precision import Precision, dot_general_of
from rljax.ops import categorical, running_statistics
from rljax.types import Key, Metrics, PyTree, Refused

NEGATIVE, POSITIVE = 0, 1
"""The labels of the policy's data; it acts with the second."""


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, ReplayConfig):
    """Settings of Recap's value."""

    learns_from_rewards: ClassVar[bool] = False

    num_atoms: int = 201
    """Bins of the distribution on [-1, 0] (the paper: 201)."""
    failure_cost: float = 1.0
    """C_fail, as a share of the longest episode."""
    longest: int = 0
    """Steps of the task's longest episode; the data's where 0."""
    discount: float = 1.0
    """γ; the paper has none."""
    learning_rate: float = 3e-4
    """Step size of Adam."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    activation: str = "relu"
    """Activation of the hidden layers."""
    layer_norm: bool = True
    """Layer normalisation."""
    precision: Precision = "float32"
    """Precision of the hidden layers' matrix products; bfloat16 is faster on TPUs, GPUs and CPUs that have it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "num_atoms", self.num_atoms >= 2, "at least 2")
        for name in ("failure_cost", "longest"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "discount", 0 <= self.discount <= 1, "in [0, 1]")
        require(self, "learning_rate", self.learning_rate > 0, "positive")
        require(self, "hidden", all(width >= 1 for width in self.hidden), "at least 1 in each layer")
        require(self, "activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        require(self, "precision", self.precision in get_args(Precision), f"one of {get_args(Precision)}")


class Hyper(struct.PyTreeNode):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    learning_rate: jax.Array
    discount: jax.Array


class Agent:
    """The value and its update; it has no policy, and stands still where one is asked for.

    Args:
      config: settings.
      obs_size, action_size: n and d.
      axis_name: mesh axis over whose devices gradients are averaged.
    """

    def __init__(self, config: Config, obs_size: int, action_size: int, axis_name: str | None = None):
        c = config
        self.config, self.obs_size, self.action_size = config, obs_size, action_size
        self.devices = Devices(axis_name)
        product = dot_general_of(c.precision)
        self.network: nn.Module = MLP(c.hidden, c.activation, c.num_atoms, layer_norm=c.layer_norm, dot_general=product)
        self.support = categorical.support(-1.0, 0.0, c.num_atoms)

    def init(self, key: Key, _: Key) -> Learner:
        return Learner.init({"policy": self.network.init(key, jnp.zeros((1, self.obs_size)))}, targets=())

    def act(self, params: PyTree, obs: jax.Array, key: Key, deterministic: bool) -> jax.Array:
        return jnp.zeros((*obs.shape[:-1], self.action_size), jnp.float32)

    def logits(self, params: PyTree, obs: jax.Array) -> jax.Array:
        """[..., num_atoms] of observations [..., n]."""
        return self.network.apply(params, obs)  # type: ignore[return-value]

    def update(self, learner: Learner, batch: OfflineBatch, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step on the cross-entropy to the returns that followed (eq. 2)."""
        target = categorical.project(
            self.support, batch.return_to_go[:, None], jnp.ones((*batch.return_to_go.shape, 1), jnp.float32)
        )

        def loss(params: PyTree) -> jax.Array:
            return categorical.cross_entropy(self.logits(params, batch.obs), target).mean()

        error, gradient = jax.value_and_grad(loss)(learner.params["policy"])
        learner = learner.descend("policy", self.devices.mean(gradient), hyper.learning_rate)
        return learner, {"loss/value": error}

    def learn(self, learner: Learner, batches: OfflineBatch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """All updates of an iteration, from batches [num_updates, batch, …]; the mean of their metrics."""
        learner, metrics = each_batch(
            lambda learner, batch, _: self.update(learner, batch, hyper), learner, batches, key
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
    """Recap's value of a dataset.

    Args:
      env: of its task; only its spaces count.
      config: settings; the defaults where None.
      dataset: episodes, of which those that terminate have succeeded.
      online: must be False.
      axis_name: mesh axis over which the functions run under `shard_map`.

    Raises:
      ValueError: the environment's spaces do not fit, or the dataset does not fit them.
    """
    c = config or Config()
    if online:
        raise Refused("recap learns a value from episodes: online must be False")
    if isinstance(dataset, Dataset):
        dataset = costed(dataset, c)
    return assemble("recap", env, c, Agent, Hyper, make, dataset, False, axis_name)


def costed(dataset: Dataset, config: Config) -> Dataset:
    """The dataset with the rewards of eq. 1, over the longest episode and clipped so that no return is below -1."""
    last = np.zeros(dataset.size, bool)
    last[dataset.ends - 1] = True
    failed = last & ~np.asarray(dataset.terminated)
    longest = config.longest or int((dataset.ends - dataset.starts).max())
    reward = np.where(last, 0.0, -1.0) / longest - failed * config.failure_cost
    costed = dataset.replace(reward=reward.astype(np.float32)).discounted(config.discount)
    return costed.replace(return_to_go=np.maximum(costed.return_to_go, -1.0))


def values(algorithm: Algorithm, state: Any, obs: Any, batch_size: int = 4096) -> np.ndarray:
    """V(s) [N], in (-1, 0), of observations [N, n] as the environment has them."""
    c = algorithm.config
    agent = Agent(c, np.shape(obs)[1], 1)

    @jax.jit
    def value(obs: jax.Array) -> jax.Array:
        obs = running_statistics.normalize(state.obs_statistics, obs) if c.normalize_observation else obs
        return categorical.mean(agent.support, agent.logits(state.params["policy"], obs))

    return in_batches(value, batch_size, obs)


def advantages(dataset: Dataset, values: Any, next_values: Any, steps: int = 50) -> np.ndarray:
    """How much better the next N steps went than expected: [N] (eq. 3).

    Args:
      dataset: with the rewards of `costed`.
      values, next_values: V of its observations and of its next ones.
      steps: N; an episode that ends before has nothing to come.
    """
    values, following = np.asarray(values, np.float64), np.asarray(next_values, np.float64)
    reward = np.concatenate([[0.0], np.cumsum(np.asarray(dataset.reward, np.float64))])
    position = np.arange(dataset.size)
    end = dataset.ends[np.searchsorted(dataset.ends, position, side="right")]
    until = np.minimum(position + steps, end)
    # Whatever ended an episode, nothing followed.
    ahead = np.where(until == end, 0.0, following[until - 1])
    return reward[until] - reward[position] + ahead - values


def indicator(advantages: Any, positive_share: float = 0.3) -> np.ndarray:
    """The label of each step, i32 [N]: POSITIVE for the share with the highest advantages (30 %, later 40 %)."""
    if not 0 < positive_share < 1:
        raise Refused(f"positive_share = {positive_share} is not allowed; it must be in (0, 1)")
    threshold = np.quantile(advantages, 1.0 - positive_share)
    return np.where(np.asarray(advantages) > threshold, POSITIVE, NEGATIVE).astype(np.int32)


def contrastive(label: Any, negative_weight: float = 0.1) -> np.ndarray:
    """The weights [N] of the ablation `recap_contrastive`: 1 for good steps, less than 0 for bad ones."""
    if negative_weight < 0:
        raise Refused(f"negative_weight = {negative_weight} is not allowed; it must be 0 or more")
    return np.where(np.asarray(label) == POSITIVE, 1.0, -negative_weight)


def failures(values: Any, ends: Any, threshold: float, within: int) -> np.ndarray:
    """At which steps a failure shows, bool [N]: V fell by more than `threshold` in the last `within` steps.

    Args:
      ends: where each episode ends, exclusive.
    """
    values, ends = np.asarray(values, np.float64), np.asarray(ends)
    position = np.arange(len(values))
    first = np.concatenate([[0], ends[:-1]])[np.searchsorted(ends, position, side="right")]
    highest = values.copy()
    for back in range(1, within + 1):
        highest = np.maximum(highest, values[np.maximum(position - back, first)])
    return highest - values > threshold
