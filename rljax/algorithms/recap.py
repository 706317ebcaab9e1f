"""Recap: a policy conditioned on whether imitated actions were better than usual, and then asked for better ones.

Physical Intelligence 2025, "π*0.6: a VLA that learns from experience" (arXiv 2511.14759). A distributional value of
returns (-1 a step, 0 at success, less C_fail at failure; eq. 1, over the longest episode, so that it lies in (-1, 0)),
learned by cross-entropy to the data's returns; advantages over the next N steps; an indicator of advantages above a
quantile; and a policy of all data, conditioned on the indicator, which is withheld now and then (diffusion.py).

`contrastive` weights are a named ablation that the paper does not have: towards good steps and away from bad ones.
Its objective has no lower bound.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.agent import Acted, Hyper
from rljax.algorithms.core.blocks import DenseNetwork
from rljax.algorithms.core.contract import Algorithm
from rljax.algorithms.core.experience import ReplayConfig
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.algorithms.core.offline import OfflineConfig, assemble, in_batches
from rljax.algorithms.progress import successes
from rljax.config import Atoms, Fraction, NonNegative, Whole
from rljax.data import Dataset, OfflineBatch
from rljax.data.prepared import Prepared
from rljax.envs import Environment
from rljax.nn.networks import MLP, apply
from rljax.nn.precision import dot_general_of
from rljax.ops import categorical, running_statistics
from rljax.types import Key, Metrics, PyTree, Refused

NEGATIVE, POSITIVE = 0, 1
"""The labels of the policy's data; it acts with the second."""


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, DenseNetwork, ReplayConfig):
    """Settings of Recap's value."""

    learns_from_rewards: ClassVar[bool] = False

    num_atoms: Atoms = 201
    """Number of bins of the distribution on [-1, 0] (the paper: 201)."""
    failure_cost: NonNegative = 1.0
    """Cost C_fail of a failure, as a share of the longest episode."""
    longest: Whole = 0
    """Steps of the task's longest episode; 0 takes the data's."""
    discount: Fraction = 1.0
    """Discount γ of the returns; the paper has none."""
    layer_norm: bool = True
    """Layer normalisation in the value network."""


class Agent(core.Agent):
    """The value and its update; it has no policy, and stands still where one is asked for."""

    hyper_type = Hyper
    config: Config

    def build(self, network: nn.Module | None) -> None:
        c = self.config
        product = dot_general_of(c.precision)
        self.network: nn.Module = MLP(c.hidden, c.activation, c.num_atoms, layer_norm=c.layer_norm, dot_general=product)
        self.support = categorical.support(-1.0, 0.0, c.num_atoms)

    def init(self, key: Key) -> Learner:
        return Learner.init({"value": self.network.init(key, self.example_obs)}, self.optimizers(self.hyper()))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        return {"value": optax.adam(hyper.learning_rate)}

    def acting(self, learner: Learner, hyper: Hyper) -> dict[str, PyTree]:
        return {"params": learner.params["value"]}

    def act(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        return jnp.zeros((*obs.shape[:-1], *self.action_space.shape), jnp.float32), memory, ()

    def logits(self, params: PyTree, obs: jax.Array) -> jax.Array:
        """Logits [..., num_atoms] for observations [..., n]."""
        return apply(self.network, params, obs)

    def update(self, learner: Learner, batch: OfflineBatch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step on the cross-entropy to the returns that followed (eq. 2)."""
        target = categorical.project(
            self.support, batch.return_to_go[:, None], jnp.ones((*batch.return_to_go.shape, 1), jnp.float32)
        )

        def loss(params: PyTree) -> jax.Array:
            return categorical.cross_entropy(self.logits(params, batch.obs), target).mean()

        error, gradient = jax.value_and_grad(loss)(learner.params["value"])
        learner = learner.descend("value", devices.mean(gradient), self.optimizers(hyper)["value"])
        return learner, {"loss/value": error}

    def values(self, params: PyTree, obs: jax.Array) -> jax.Array:
        """V(s) [...], in (-1, 0), of observations [..., n]."""
        return categorical.mean(self.support, self.logits(params, obs))


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    succeeded: Any = None,
) -> Algorithm:
    """Recap's value of a dataset.

    Args:
      env: the dataset's task; used for its spaces and `terminates_at_success`.
      config: settings; the defaults where None.
      dataset: episodes.
      succeeded: bool [episodes], which of them have succeeded; where None, those that terminate, in a task that
        terminates at success alone.

    Raises:
      Refused: the environment's spaces do not fit, or the dataset does not fit them, or success is unknown.
    """
    c = config or Config()
    if isinstance(dataset, Dataset):
        dataset = costed(dataset, c, successes(dataset, env, succeeded))
    return assemble("recap", env, c, Agent, make, dataset, vectors=True)


def costed(dataset: Dataset, config: Config, succeeded: Any = None) -> Dataset:
    """The dataset with the rewards of eq. 1, over the longest episode and clipped so that no return is below -1.

    Args:
      succeeded: bool [episodes]; those that terminate where None.
    """
    last, failed = np.zeros(dataset.size, bool), np.zeros(dataset.size, bool)
    last[dataset.ends - 1] = True
    failed[dataset.ends - 1] = ~(dataset.terminated[dataset.ends - 1] if succeeded is None else np.asarray(succeeded))
    longest = config.longest or int((dataset.ends - dataset.starts).max())
    reward = np.where(last, 0.0, -1.0) / longest - failed * config.failure_cost
    costed = dataset.replace(reward=reward.astype(np.float32)).discounted(config.discount)
    to_go = np.maximum(costed.return_to_go, -1.0)
    # Rewards that add up to the clipped returns, so that advantages stay within the range of values.
    after = np.where(last, 0.0, np.append(to_go[1:], 0.0))
    return costed.replace(return_to_go=to_go, reward=np.float32(to_go - config.discount * after))


def values(algorithm: Algorithm, state: Any, obs: Any, batch_size: int = 4096) -> np.ndarray:
    """V(s) [N], in (-1, 0), of observations [N, n] as the environment has them."""
    agent: Any = algorithm.agent
    normalize = algorithm.config.normalize_observation

    @jax.jit
    def value(obs: jax.Array) -> jax.Array:
        obs = running_statistics.normalize(state.obs_statistics, obs) if normalize else obs
        return agent.values(state.params["value"], obs)

    return in_batches(value, batch_size, obs)


def advantages(dataset: Dataset, values: Any, next_values: Any, steps: int = 50) -> np.ndarray:
    """How much better the next N steps went than expected: [N] (eq. 3).

    Args:
      dataset: with the rewards of `costed`.
      values, next_values: V of its observations and next observations.
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
