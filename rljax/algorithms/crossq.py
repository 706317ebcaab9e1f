"""CrossQ: soft actor-critic with batch normalisation in the critics, and without target networks.

Bhatt et al. 2024, "CrossQ: batch normalization in deep reinforcement learning for greater sample efficiency and
simplicity" (ICLR, arXiv 1902.05605). (s, a) and (s', a') pass through the critics as ONE batch, so that the same
statistics normalise both, which makes target networks unnecessary. Wide critics with one update per step then need as
few steps as twenty in REDQ and DroQ.

`Config()` has the settings of the paper (table 2), with batch renormalisation (Ioffe 2017) as in its code. Acting,
replay, temperature and entropy are SAC's (sac.py).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms import sac
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.blocks import AsymmetricParts, DenseNetwork, Encoding, Temperature
from rljax.algorithms.core.contract import Algorithm, continuous
from rljax.algorithms.core.experience import ReplayConfig, assemble
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.config import BelowOne, Count, Positive, Whole, Widths, require
from rljax.data import Batch
from rljax.envs import Environment
from rljax.nn.batch_renorm import BatchRenorm
from rljax.nn.distributions import TanhGaussian
from rljax.nn.encoder import encode, with_action
from rljax.nn.ensemble import over_ensemble
from rljax.nn.initializers import orthogonal
from rljax.nn.networks import activation, apply
from rljax.nn.precision import dot_general_of
from rljax.ops.returns import bootstrapped
from rljax.spaces import Space
from rljax.types import Key, Metrics, PyTree


@dataclasses.dataclass(frozen=True)
class Config(DenseNetwork, Encoding, AsymmetricParts, Temperature, ReplayConfig):
    """Settings of CrossQ. Those in `Hyper` live in the state and can be swept by vmap."""

    rollout_length: Count = 3
    """Steps of each environment between updates; 3, since policy_delay must divide num_updates."""
    num_updates: Count = 3
    """Batches learned from after each rollout: one update per step of one environment, as in the paper."""
    learning_rate: Positive = 1e-3
    """Step size of the policy's Adam."""
    critic_learning_rate: Positive = 1e-3
    """Learning rate of the critics."""
    temperature_learning_rate: Positive = 1e-3
    """Learning rate of the temperature."""
    adam_b1: BelowOne = 0.5
    """Momentum of Adam for policy and critics; a low one steadies both."""
    num_critics: Count = 2
    """Number of critics, whose minimum is used."""
    policy_delay: int = 3
    """Critic updates for each update of policy and temperature; divides num_updates."""
    hidden: Widths = (256, 256)
    """Widths of the policy's hidden layers."""
    critic_hidden: Widths = (2048, 2048)
    """Widths of the critics' hidden layers."""
    norm_momentum: BelowOne = 0.99
    """Momentum of the running statistics of batch normalisation."""
    norm_warm_up: Whole = 100_000
    """Updates with plain batch normalisation, before renormalisation begins."""

    def __post_init__(self) -> None:
        super().__post_init__()
        divides = self.policy_delay >= 1 and self.num_updates % self.policy_delay == 0
        require(self, "policy_delay", divides, f"a divisor of num_updates = {self.num_updates}")


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    critic_learning_rate: jax.Array
    temperature_learning_rate: jax.Array
    initial_temperature: jax.Array
    target_entropy_per_dim: jax.Array


class Network(nn.Module):
    """Observations [batch, …], and actions [batch, d] of a critic, to [batch, output].

    Features and actions are normalised together, and so is the output of each activation after them.
    """

    config: Config
    hidden: tuple[int, ...]
    output: int
    output_scale: float
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree, training: bool, action: jax.Array | None = None) -> jax.Array:
        c, activate = self.config, activation(self.config.activation)
        product = dot_general_of(c.precision)
        x = encode(self.space, obs, c, network=self.encoder)
        x = x if action is None else with_action(x, action)

        def normalized(x: jax.Array) -> jax.Array:
            return BatchRenorm(c.norm_momentum, c.norm_warm_up)(x, training)

        x = normalized(x)
        for units in self.hidden:
            x = normalized(activate(nn.Dense(units, kernel_init=orthogonal(2**0.5), dot_general=product)(x)))
        return nn.Dense(self.output, kernel_init=orthogonal(self.output_scale), name="output")(x)


class Agent(sac.Agent):
    """The networks and their updates.

    The parts "policy" and "critic" of the learner's parameters are all variables of their networks, running statistics
    included. The statistics have no gradient, so that Adam leaves them alone; they are replaced after each update.
    """

    hyper_type = Hyper

    def build(self, network: nn.Module | None) -> None:
        c, self.action_size = self.config, self.action_space.shape[0]
        self.actor = Network(c, c.hidden, 2 * self.action_size, 0.01, self.seen(network), network)
        self.critic = Network(c, c.critic_hidden, 1, 1.0, self.seen(network, values=True), network)

    def init(self, key: Key) -> Learner:
        actor_key, critic_key = jax.random.split(key)
        keys = jax.random.split(critic_key, self.config.num_critics)
        params = {
            "policy": self.actor.init(actor_key, self.example_obs, True),
            "critic": jax.vmap(lambda key: self.critic.init(key, self.example_obs, True, self.example_action))(keys),
            "log_temperature": jnp.zeros((), jnp.float32),
        }
        return Learner.init(params, self.optimizers(self.hyper()))

    def optimizers(self, hyper: Any) -> Optimizers:
        b1 = self.config.adam_b1
        return {
            "policy": optax.adam(hyper.learning_rate, b1=b1),
            "critic": optax.adam(hyper.critic_learning_rate, b1=b1),
            "log_temperature": optax.adam(hyper.temperature_learning_rate),
        }

    def policy(self, params: PyTree, obs: jax.Array) -> TanhGaussian:
        """The policy with running statistics, for acting and for targets."""
        return self._distribution(apply(self.actor, params, obs, False))

    def values(self, params: PyTree, obs: PyTree, action: jax.Array, key: Key | None = None) -> jax.Array:  # type: ignore[override]
        """Values of every critic with running statistics, [num_critics, batch]."""

        def one(params: PyTree) -> jax.Array:
            return jnp.squeeze(apply(self.critic, params, obs, False, action), -1)

        return over_ensemble(one, self.config.num_critics, self.config.precision)(params)

    def update_critic(self, learner: Learner, batch: Batch, key: Key, hyper: Any) -> tuple[Learner, Metrics]:
        """One step of the critics towards r + γ (min Q(s', a') - α log π(a'|s')), all in one batch (figure 2)."""
        next_action, log_prob = self.policy(learner.params["policy"], batch.next_obs).sample_and_log_prob(key)
        obs = jax.tree.map(lambda *x: jnp.concatenate(x), batch.obs, batch.next_obs)
        action = jnp.concatenate([batch.action, next_action])

        def one(params: PyTree) -> tuple[jax.Array, PyTree]:
            value, changed = self.critic.apply(params, obs, True, action, mutable=["batch_stats"])
            return value[..., 0], changed

        def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, PyTree]]:
            values, changed = over_ensemble(one, self.config.num_critics, self.config.precision)(params)
            value, next_value = jnp.split(values, 2, axis=-1)
            soft_value = next_value.min(0) - self.temperature(learner.params, hyper) * log_prob
            target = jax.lax.stop_gradient(bootstrapped(batch.reward, batch.discount, soft_value))
            return 0.5 * jnp.square(value - target[None]).mean(-1).sum(), (value.mean(), changed)

        (error, (value, changed)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["critic"])
        learner = learner.descend("critic", devices.mean(gradient), self.optimizers(hyper)["critic"])
        return _with_statistics(learner, "critic", changed), {"loss/critic": error, "value/mean": value}

    def update_policy(self, learner: Learner, batch: Batch, key: Key, hyper: Any) -> tuple[Learner, Metrics]:
        """One step on α log π(a|s) - min Q(s, a), and one of the temperature, as in SAC."""
        c, temperature, optimizers = self.config, self.temperature(learner.params, hyper), self.optimizers(hyper)

        def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, PyTree]]:
            output, changed = self.actor.apply(params, batch.obs, True, mutable=["batch_stats"])
            action, log_prob = self._distribution(output).sample_and_log_prob(key)
            value = self.values(learner.params["critic"], batch.obs, action).min(0)
            return (temperature * log_prob - value).mean(), (-log_prob.mean(), changed)

        (error, (entropy, changed)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["policy"])
        learner = learner.descend("policy", devices.mean(gradient), optimizers["policy"])
        learner = _with_statistics(learner, "policy", changed)
        if c.learn_temperature:
            excess = entropy - hyper.target_entropy_per_dim * self.action_size
            learner = learner.descend("log_temperature", devices.mean(excess), optimizers["log_temperature"])
        return learner, {"loss/policy": error, "policy/entropy": entropy, "policy/temperature": temperature}

    @staticmethod
    def _distribution(output: jax.Array) -> TanhGaussian:
        mean, log_std = jnp.split(output, 2, axis=-1)
        return TanhGaussian(mean, jnp.clip(log_std, -20.0, 2.0))


def make(env: Environment, config: Config | None = None, network: nn.Module | None = None) -> Algorithm:
    """CrossQ on `env`.

    Args:
      env: one environment; actions a bounded one-dimensional `Box`, observations of any kind.
      config: settings; the defaults where None.
      network: maps observations [..., …], or a dict of the parts that are seen, to features [..., d], in place of
        convolutions; the hidden layers follow. The policy and each critic have one of their own.

    Raises:
      Refused: the environment's spaces do not fit.
    """
    acts_in = continuous(env, "crossq")
    agent = Agent(config or Config(), acts_in.observation_space, acts_in.action_space, network)
    return assemble("crossq", env, agent, lambda config: make(env, config, network), acts_in=acts_in, network=network)


def _with_statistics(learner: Learner, part: str, changed: PyTree) -> Learner:
    return learner.replace(params=learner.params | {part: {**learner.params[part], **changed}})
