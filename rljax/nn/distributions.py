"""Distributions over actions: batch axes lead, and log-probabilities are summed over the event."""

from math import e, exp, expm1, log, pi
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.spaces import ArraySpace, Box, Discrete, MultiDiscrete
from rljax.types import Key, Refused


class Categorical(struct.PyTreeNode):
    """Over the integers 0 … n − 1, from logits [..., n]; a logit of -inf forbids an action."""

    logits: jax.Array

    def sample(self, key: Key) -> jax.Array:
        """Draws actions, int32 [...]."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """The likeliest action, int32 [...]."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-probability [...] of the actions [...]."""
        log_probs = jax.nn.log_softmax(self.logits)
        action = jnp.broadcast_to(action, log_probs.shape[:-1])
        return jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]

    def sample_and_log_prob(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """Draws actions [...] with their log-probabilities [...]."""
        action = self.sample(key)
        return action, self.log_prob(action)

    def entropy(self) -> jax.Array:
        """Entropy [...] in nats."""
        log_probs = jax.nn.log_softmax(self.logits)
        probs = jnp.exp(log_probs)
        return -jnp.sum(probs * jnp.where(probs > 0, log_probs, 0.0), axis=-1)

    def kl(self, other: "Categorical") -> jax.Array:
        """KL(self ‖ other) [...] in nats; infinite where `other` forbids what `self` may do."""
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        probs = jnp.exp(log_p)
        possible = probs > 0  # 0 log 0 = 0, and both sides may be -inf there
        difference = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
        return jnp.sum(probs * difference, axis=-1)

    def fisher(self, change: "Categorical") -> "Categorical":
        """The Fisher matrix of the logits, diag(p) - p pᵀ, times a change of them [..., n]."""
        probs = jax.nn.softmax(self.logits)
        moved = probs * change.logits
        return Categorical(moved - probs * jnp.sum(moved, axis=-1, keepdims=True))


class MultiCategorical(struct.PyTreeNode):
    """Independent choices of integers, from logits [..., k, n]; a logit of -inf forbids a value of its choice."""

    logits: jax.Array

    @property
    def choices(self) -> Categorical:
        """Each choice alone, [..., k]."""
        return Categorical(self.logits)

    def sample(self, key: Key) -> jax.Array:
        """Draws actions, int32 [..., k]."""
        return self.choices.sample(key)

    def mode(self) -> jax.Array:
        """The likeliest action, int32 [..., k]."""
        return self.choices.mode()

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-probability [...] of the actions [..., k]."""
        return self.choices.log_prob(action).sum(-1)

    def sample_and_log_prob(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """Draws actions [..., k] with their log-probabilities [...]."""
        action = self.sample(key)
        return action, self.log_prob(action)

    def entropy(self) -> jax.Array:
        """Entropy [...] in nats."""
        return self.choices.entropy().sum(-1)

    def kl(self, other: "MultiCategorical") -> jax.Array:
        """KL(self ‖ other) [...] in nats; infinite where `other` forbids what `self` may do."""
        return self.choices.kl(other.choices).sum(-1)

    def fisher(self, change: "MultiCategorical") -> "MultiCategorical":
        """The Fisher matrix of the logits times a change of them [..., k, n]."""
        return MultiCategorical(self.choices.fisher(change.choices).logits)


def head_size(space: ArraySpace) -> int:
    """Size of the head of a network that acts in a space: the number of its logits, or of the means of a vector."""
    return space.shape[0] if isinstance(space, Box) else int(np.sum(space.n))


def categorical(space: Discrete | MultiDiscrete, head: jax.Array) -> Categorical | MultiCategorical:
    """The distribution of actions in a space of integers.

    Args:
      head: logits [..., `head_size`]; of a `MultiDiscrete` those of all choices, one after the other.
    """
    if isinstance(space, Discrete):
        return Categorical(head)
    exists = space.exists
    nowhere = jnp.full((*head.shape[:-1], *exists.shape), -jnp.inf, head.dtype)
    return MultiCategorical(nowhere.at[..., exists].set(head))


class Gaussian(struct.PyTreeNode):
    """Diagonal normal: mean [..., d], and log_std of any shape that broadcasts to it."""

    mean: jax.Array
    log_std: jax.Array

    @property
    def _log_std(self) -> jax.Array:
        return jnp.broadcast_to(self.log_std, self.mean.shape)

    def sample(self, key: Key) -> jax.Array:
        """Draws actions [..., d], differentiable in the parameters."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self._log_std) * noise

    def mode(self) -> jax.Array:
        """The mean [..., d]."""
        return self.mean

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-density [...] of the actions [..., d]."""
        z = (action - self.mean) * jnp.exp(-self._log_std)
        return jnp.sum(-0.5 * z**2 - self._log_std - 0.5 * log(2 * pi), axis=-1)

    def sample_and_log_prob(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """Draws actions [..., d] with their log-densities [...]."""
        action = self.sample(key)
        return action, self.log_prob(action)

    def entropy(self) -> jax.Array:
        """Differential entropy [...] in nats."""
        return jnp.sum(self._log_std + 0.5 * log(2 * pi * e), axis=-1)

    def kl(self, other: "Gaussian") -> jax.Array:
        """KL(self ‖ other) [...] in nats."""
        distance = (self.mean - other.mean) * jnp.exp(-other._log_std)
        log_ratio = self._log_std - other._log_std
        return jnp.sum(0.5 * (jnp.exp(2 * log_ratio) + distance**2 - 1) - log_ratio, axis=-1)

    def fisher(self, change: "Gaussian") -> "Gaussian":
        """The Fisher matrix of mean and log σ, the diagonal of 1 / σ² and 2, times a change of them.

        Here log_std has the shape of the mean: each distribution of a batch has its own.
        """
        return Gaussian(change.mean * jnp.exp(-2 * self.log_std), 2 * change.log_std)


Deviation = Literal["log", "softplus"]
LEAST_DEVIATION = 1e-3
"""Least standard deviation of a softplus, in units of the actions (as Brax's `min_std`)."""


def gaussian(mean: jax.Array, raw: jax.Array, deviation: Deviation) -> Gaussian:
    """A Gaussian of a network's outputs.

    Args:
      mean: [..., d].
      raw: what broadcasts to it: log σ, or x in σ = softplus(x) + `LEAST_DEVIATION`.
    """
    return Gaussian(mean, raw if deviation == "log" else jnp.log(jax.nn.softplus(raw) + LEAST_DEVIATION))


def raw_deviation(log_std: float, deviation: Deviation) -> float:
    """The `raw` of `gaussian` for a log σ.

    Raises:
      Refused: a softplus has no σ so small.
    """
    if deviation == "log":
        return log_std
    if exp(log_std) <= LEAST_DEVIATION:
        least = log(LEAST_DEVIATION)
        raise Refused(
            f"a log standard deviation of {log_std} is not allowed for a softplus; it must be above {least:.2f}"
        )
    std = exp(log_std) - LEAST_DEVIATION
    return std + log(-expm1(-std))


class TanhGaussian(struct.PyTreeNode):
    """A diagonal normal squashed into (-1, 1) by tanh: mean [..., d], log_std of any shape that broadcasts to it.

    Haarnoja et al. (2018, arXiv:1801.01290), appendix C. The log-density of an own sample is computed from the value u
    before the squashing: tanh(u) is exactly 1 in f32 from u = 9 on, and no inverse can recover u from it.
    """

    mean: jax.Array
    log_std: jax.Array

    @property
    def pre_squash(self) -> Gaussian:
        """The distribution of u, where the action is tanh(u)."""
        return Gaussian(self.mean, self.log_std)

    def sample(self, key: Key) -> jax.Array:
        """Draws actions [..., d], differentiable in the parameters."""
        return jnp.tanh(self.pre_squash.sample(key))

    def mode(self) -> jax.Array:
        """tanh(mean) [..., d], the median: what is meant by the deterministic action, not the densest point."""
        return jnp.tanh(self.mean)

    def log_prob_of_pre_squash(self, u: jax.Array) -> jax.Array:
        """Log-density [...] of the actions tanh(u), given u [..., d].

        log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)) holds for every u, and its gradient is finite.
        """
        log_slope = 2 * (log(2) - u - jax.nn.softplus(-2 * u))
        return self.pre_squash.log_prob(u) - jnp.sum(log_slope, axis=-1)

    def sample_and_log_prob(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """Draws actions [..., d] with their log-densities [...], from the values before the squashing."""
        u = self.pre_squash.sample(key)
        return jnp.tanh(u), self.log_prob_of_pre_squash(u)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-density [...] of actions [..., d] from a dataset; for own samples use `sample_and_log_prob`.

        Actions are clipped to 1e-6 within the bounds, so that one that lies on a bound has a finite density.
        """
        return self.log_prob_of_pre_squash(jnp.arctanh(jnp.clip(action, -1 + 1e-6, 1 - 1e-6)))

    def entropy(self, key: Key) -> jax.Array:
        """Unbiased estimate [...] of the entropy in nats from one sample: there is no closed form."""
        return -self.sample_and_log_prob(key)[1]

    def kl(self, other: "TanhGaussian") -> jax.Array:
        """KL(self ‖ other) [...] in nats: that of the values before the squashing, for tanh is invertible."""
        return self.pre_squash.kl(other.pre_squash)
