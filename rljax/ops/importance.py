"""Importance sampling of whole episodes: the return of one policy, from episodes in which another one acted.

Arrays are [episodes, time], with a mask of the steps that were made; an episode that is shorter than others is padded
at its end. Weights stay logarithms until they are normalised over episodes, so that a thousand steps neither overflow
nor vanish. Nothing is known of what follows an episode that was cut: estimates are of returns within the data's length.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rljax.types import Key

Estimator = Callable[[jax.Array, jax.Array, jax.Array, Any], jax.Array]
"""Called as `weighted(log_weight, reward, mask, discount)`."""


def log_weights(target_log_prob: jax.Array, behavior_log_prob: jax.Array, mask: jax.Array) -> jax.Array:
    """log Π π(a|s) / μ(a|s) over the steps up to each one, all [episodes, time]; an ended episode keeps its last.

    Args:
      target_log_prob, behavior_log_prob: log π(a|s) and log μ(a|s) of the actions taken; the target's may be -inf.
      mask: bool.
    """
    return jnp.cumsum(jnp.where(mask, target_log_prob - behavior_log_prob, 0.0), axis=1)


def weighted(log_weight: jax.Array, reward: jax.Array, mask: jax.Array, discount: Any) -> jax.Array:
    """The mean of discounted returns, each weighted by the ratio of its whole episode: [] from [episodes, time].

    Precup, Sutton and Singh 2000, "Eligibility traces for off-policy policy evaluation", section 2. It is biased, by
    less with every episode. NaN where the target policy can have made none of the episodes.
    """
    return jax.nn.softmax(log_weight[:, -1]) @ _discounted(reward, mask, discount).sum(1)


def per_decision_weighted(log_weight: jax.Array, reward: jax.Array, mask: jax.Array, discount: Any) -> jax.Array:
    """The sum over time of mean rewards, each weighted by the ratio up to its own step: [] from [episodes, time].

    Thomas and Brunskill 2016, "Data-efficient off-policy policy evaluation for reinforcement learning" (arXiv
    1604.00923): the weights of their weighted doubly robust estimator, which this is where its model is 0. Later
    actions do not weigh on a reward; weights are normalised step by step, over all episodes, ended ones too.
    """
    return (jax.nn.softmax(log_weight, axis=0) * _discounted(reward, mask, discount)).sum()


def effective_sample_size(log_weight: jax.Array) -> jax.Array:
    """(Σ w)² / Σ w² of whole episodes, [] from [episodes, time]: as many equally weighted ones are worth the same.

    Kong 1992, "A note on importance sampling using standardized weights". Near 1, an estimate is one episode's return.
    """
    return 1.0 / jnp.square(jax.nn.softmax(log_weight[:, -1])).sum()


def bootstrap_interval(
    estimator: Estimator,
    key: Key,
    log_weight: jax.Array,
    reward: jax.Array,
    mask: jax.Array,
    discount: Any,
    confidence: float = 0.95,
    resamples: int = 1000,
) -> tuple[jax.Array, jax.Array]:
    """Percentile bootstrap interval (low, high) of an estimate over episodes.

    Thomas, Theocharous and Ghavamzadeh 2015, "High confidence policy improvement", section 4.3. It only knows the
    weights that occurred: with an effective sample size of a few episodes it is far too narrow. NaN if any resample is.
    """

    def once(key: Key) -> jax.Array:
        index = jax.random.randint(key, reward.shape[:1], 0, reward.shape[0])
        return estimator(log_weight[index], reward[index], mask[index], discount)

    estimates = jax.lax.map(once, jax.random.split(key, resamples))
    low, high = jnp.quantile(estimates, jnp.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    return low, high


def _discounted(reward: jax.Array, mask: jax.Array, discount: Any) -> jax.Array:
    return jnp.where(mask, reward, 0.0) * discount ** jnp.arange(reward.shape[1], dtype=reward.dtype)
