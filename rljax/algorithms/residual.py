"""Residual RL: a soft actor-critic whose action is added to the chunk that a frozen policy sampled.

The baseline of steering. It sees that chunk, and its critics see the sum, as in ResFiT (2025, arXiv 2509.19301).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.algorithms import sac
from rljax.algorithms.core.agent import Acted
from rljax.algorithms.core.learner import Learner
from rljax.algorithms.dsrl import Agent, Config
from rljax.data import Batch
from rljax.spaces import vector
from rljax.types import Key, Metrics, PyTree

RESIDUAL = Config(method="residual", noise_bound=0.1)
"""Settings of residual RL, with a small bound of the residual."""


class Corrected(nn.Module):
    """One critic of a chunk and a residual.

    Observations with the chunk [..., n + m], and residuals in units of their bound [..., m], to values [...].
    """

    config: Config

    @nn.compact
    def __call__(self, obs: jax.Array, added: jax.Array) -> jax.Array:
        obs, chunk = jnp.split(obs, [obs.shape[-1] - added.shape[-1]], axis=-1)
        return sac.Critic(self.config, vector(obs.shape[-1]))(obs, self.total(chunk, added))

    def total(self, chunk: jax.Array, added: jax.Array) -> jax.Array:
        """The actions in [-1, 1] that are executed."""
        return jnp.clip(chunk + self.config.noise_bound * added, -1.0, 1.0)


class ResidualAgent(Agent):
    """Learns residuals of the policy's sampled chunks, which it sees.

    In place of noise stand the residual, in units of its bound, and the policy's chunk.
    """

    critic: Corrected

    def learns_of(self, obs_size: int, action_size: int) -> None:
        self.learned_obs, self.action_size = vector(obs_size + self.chunk_size), self.chunk_size
        self.actor = sac.Actor(self.config, self.action_size, self.learned_obs)
        self.critic = Corrected(self.config)

    def act(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        chunk_key, key = jax.random.split(key)
        chunk = self.of_policy(variables["base"], obs, None if deterministic else chunk_key)
        distribution = self.policy(variables["params"], jnp.concatenate([obs, chunk], axis=-1))
        added = distribution.mode() if deterministic else distribution.sample(key)
        return jnp.concatenate([added, chunk, self.critic.total(chunk, added)], axis=-1), memory, ()

    def start(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, hyper: sac.Hyper) -> Acted:
        """Acts with uniformly random residuals."""
        chunk_key, key = jax.random.split(key)
        chunk = self.of_policy(variables["base"], obs, chunk_key)
        added = jax.random.uniform(key, chunk.shape, jnp.float32, -1.0)
        return jnp.concatenate([added, chunk, self.critic.total(chunk, added)], axis=-1), memory, ()

    def of_policy(self, base: PyTree, obs: jax.Array, key: Key | None) -> jax.Array:
        """The policy's chunk [..., chunk], sampled; without a key, from noise 0."""
        shape = (*obs.shape[:-1], *self.sampler.chunk_shape)
        noise = jnp.zeros(shape, jnp.float32) if key is None else jax.random.normal(key, shape, jnp.float32)
        return self.chunk(base, obs, noise)

    def learn(self, learner: Learner, batches: Batch, key: Key, hyper: sac.Hyper) -> tuple[Learner, Metrics, PyTree]:
        added, chunk, _ = jnp.split(batches.action, 3, axis=-1)
        batches = batches.replace(obs=jnp.concatenate([batches.obs, chunk], axis=-1), action=added)
        return sac.Agent.learn(self, learner, batches, key, hyper)

    def update_critic(self, learner: Learner, batch: Batch, key: Key, hyper: sac.Hyper) -> tuple[Learner, Metrics]:
        """SAC's update, with a newly sampled chunk for the next observation."""
        chunk_key, key = jax.random.split(key)
        chunk = self.of_policy(learner.frozen["base"], batch.next_obs, chunk_key)
        batch = batch.replace(next_obs=jnp.concatenate([batch.next_obs, chunk], axis=-1))
        return super().update_critic(learner, batch, key, hyper)
