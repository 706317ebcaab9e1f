"""GR-RL's agent for the noise of a diffusion or flow policy, and its settings: grrl_steer, made by steering.py.

ByteDance Seed 2025, "GR-RL" (arXiv 2512.01801, section 3.3; no code was released; β, c and the exploration are ours):
critics are distributions on [0, 1], of γ to the number of chunks until success. Q(s, a) learns by temporal differences,
Q'(s, ε) imitates Q(s, f(s, ε)) by cross-entropy, with half of the noise N(0, I) and half the predictor's; the predictor
π'(s) maximises Q', and pays for noise beyond β. Half of each batch is of the newest chunks (newest_size).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax import devices
from rljax.algorithms import sac
from rljax.algorithms.core.learner import Learner
from rljax.algorithms.dsrl import AliasedAgent, Config
from rljax.data import Batch
from rljax.nn.networks import MLP, apply
from rljax.nn.precision import dot_general_of
from rljax.ops import categorical
from rljax.types import Key, Metrics, PyTree

GRRL = Config(method="grrl_steer", newest_size=4_000, target_rate=0.02)
"""Settings of GR-RL, with its two buffers: half of each batch comes from the newest chunks. Their number, 4,000 (about
a hundred episodes of the lace), is ours; so are fast target networks, since the value of success, the only reward, has
a whole episode to propagate back."""
UNLIKELY = 30.0
"""Initial distance of the logits of 1 below the logits of 0."""


class Predictor(nn.Module):
    """Observations [..., n] to noise [..., noise], of any size; at first nearly 0."""

    config: Config
    size: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        c = self.config
        return MLP(c.hidden, c.activation, self.size, 0.01, dot_general=dot_general_of(c.precision))(obs)


class Distribution(nn.Module):
    """Observations [..., n], and a chunk or noise [..., m], to logits [..., num_atoms] over [0, 1]."""

    config: Config

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        c, x = self.config, jnp.concatenate([obs, action], axis=-1)
        product = dot_general_of(c.precision)
        logits = MLP(c.hidden, c.activation, c.num_atoms, layer_norm=c.layer_norm, dot_general=product)(x)
        # Start pessimistic: an initial value of 0.5 (even logits) would have to be unlearned backwards, step by step.
        return logits - UNLIKELY * jnp.broadcast_to(categorical.support(0.0, 1.0, c.num_atoms), logits.shape)


class PredictingAgent(AliasedAgent):
    """Learns how likely and how soon a chunk leads to success, and predicts the noise that leads there."""

    def learns_of(self, obs_size: int, action_size: int) -> None:
        super().learns_of(obs_size, action_size)
        self.actor, self.critic = Predictor(self.config, action_size), Distribution(self.config)

    @property
    def support(self) -> jax.Array:
        """The atoms [num_atoms]."""
        return categorical.support(0.0, 1.0, self.config.num_atoms)

    def noise(self, params: PyTree, obs: jax.Array, key: Key, deterministic: bool) -> jax.Array:
        noise = apply(self.actor, params, obs)
        if deterministic:
            return noise
        return noise + self.config.exploration_noise * jax.random.normal(key, noise.shape, jnp.float32)

    def action_target(self, learner: Learner, batch: Batch, key: Key) -> jax.Array:
        """Success now, or γ Q'(s', f(s', π'(s'))) of the critic that expects less: probabilities [batch, num_atoms]."""
        noise = apply(self.actor, learner.params["policy"], batch.next_obs)
        chunk = self.decode(learner.frozen["base"], batch.next_obs, noise)
        logits = self.values(learner.targets["action_critic"], batch.next_obs, chunk, key)
        smaller = self.expected(logits).argmin(0)[None, :, None]
        probs = jax.nn.softmax(jnp.take_along_axis(logits, smaller, axis=0)[0])
        # Only success is rewarded: it is worth 1, and nothing follows it; other ends are worth 0.
        success = batch.reward > 0.0
        discount = jnp.where(success, 0.0, batch.discount)
        return categorical.bootstrapped(self.support, success.astype(jnp.float32), discount, probs)

    def distilled_noise(self, params: PyTree, obs: jax.Array, key: Key) -> jax.Array:
        """Half N(0, I), half the predictor's, by lot: positions in a batch have a meaning already (newest_size)."""
        own = apply(self.actor, params, obs)
        noise_key, lot_key = jax.random.split(key)
        lot = jax.random.bernoulli(lot_key, 0.5, (obs.shape[0], 1))
        return jnp.where(lot, super().distilled_noise(params, obs, noise_key), own)

    def error(self, output: jax.Array, target: jax.Array) -> jax.Array:
        target = jnp.broadcast_to(target, output.shape)
        return categorical.cross_entropy(output, target).mean(-1).sum()

    def expected(self, output: jax.Array) -> jax.Array:
        """The mean of γ to the number of chunks that are left."""
        return categorical.mean(self.support, output)

    def as_target(self, output: jax.Array) -> jax.Array:
        return jax.nn.softmax(output)

    def update_policy(self, learner: Learner, batch: Batch, key: Key, hyper: sac.Hyper) -> tuple[Learner, Metrics]:
        """One step on -Q'(s, π'(s)) + c max(½ ‖π'(s)‖² - β, 0); sizes are those of a dimension."""
        c = self.config

        def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
            noise = apply(self.actor, params, batch.obs)
            value = self.expected(self.values(learner.params["critic"], batch.obs, noise / c.noise_bound, key)).min(0)
            size = 0.5 * jnp.square(noise).mean(-1)
            return (c.noise_penalty * jnp.maximum(size - c.noise_threshold, 0.0) - value).mean(), size.mean()

        (error, size), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["policy"])
        learner = learner.descend("policy", devices.mean(gradient), self.optimizers(hyper)["policy"])
        return learner, {"loss/policy": error, "policy/noise_size": size}
