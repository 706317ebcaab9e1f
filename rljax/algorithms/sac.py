"""Soft actor-critic: off-policy, for continuous actions, with an entropy bonus that tunes itself.

Haarnoja et al. 2018a, "Soft actor-critic" (arXiv 1801.01290), and 2018b, "Soft actor-critic algorithms and
applications" (arXiv 1812.05905): twin critics, the temperature found by its own gradient, eq. 18.
Chen et al. 2021, "Randomized ensembled double Q-learning" (REDQ, arXiv 2101.05982): a minimum over a random subset of
many critics, and many updates a step.
Hiraoka et al. 2022, "Dropout Q-functions" (DroQ, arXiv 2110.02034): dropout and layer normalisation in place of many
critics.

`Config()` is the algorithm of 2018b; `DROQ` and `REDQ` below are the settings of the other two.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from rljax.algorithms.base import Algorithm, Devices, require
from rljax.algorithms.off_policy import Learner, ReplayConfig, assemble, delayed_updates
from rljax.data import Batch
from rljax.envs import Environment
from rljax.nn.distributions import TanhGaussian
from rljax.nn.ensemble import over_ensemble
from rljax.nn.networks import ACTIVATIONS, MLP
from rljax.nn.precision import Precision, dot_general_of
from rljax.ops.returns import bootstrapped
from rljax.types import Key, Metrics, PyTree


@dataclasses.dataclass(frozen=True)
class Config(ReplayConfig):
    """Settings of SAC. Those in `Hyper` live in the state and can be swept by vmap."""

    learning_rate: float = 3e-4
    """Step size of the policy's Adam (2018b, table 1)."""
    critic_learning_rate: float = 3e-4
    """Learning rate of the critics."""
    temperature_learning_rate: float = 3e-4
    """Learning rate of the temperature."""
    discount: float = 0.99
    """γ."""
    target_rate: float = 0.005
    """τ: how far the target critics move towards the critics at each update."""
    num_critics: int = 2
    """Critics of the ensemble."""
    num_target_critics: int = 2
    """Critics, drawn anew for each update, whose minimum is the target (REDQ: 2 of 10)."""
    policy_value: Literal["min", "mean"] = "min"
    """What the policy maximises: the critics' minimum, or their mean (REDQ and DroQ)."""
    policy_delay: int = 1
    """Critic updates for each update of policy and temperature; divides num_updates."""
    learn_temperature: bool = True
    """Whether α follows the target entropy, or stays at initial_temperature."""
    initial_temperature: float = 1.0
    """α at the start; a fixed one is best swept as initial_temperature."""
    target_entropy_per_dim: float = -1.0
    """Target entropy in nats for each dimension of an action in [-1, 1]: -1 (2018b) or -0.5 (Brax, Dopamine)."""
    entropy_in_target: bool = True
    """Whether the values of targets have the entropy bonus (2018b, eq. 5); without it in CQL, and in RLPD's AntMaze."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of the policy, and of the critics where critic_hidden is None."""
    critic_hidden: tuple[int, ...] | None = None
    """Widths of the hidden layers of the critics, where they differ from the policy's."""
    activation: str = "relu"
    """Activation of the hidden layers."""
    initial_log_std: float = 0.0
    """Offset of the logarithm of the policy's deviation; -1 in the code of CQL."""
    layer_norm: bool = False
    """Layer normalisation in the critics (DroQ)."""
    dropout: float = 0.0
    """Dropout in the critics and the target critics (DroQ: 0.01)."""
    precision: Precision = "float32"
    """Precision of the hidden layers' matrix products; bfloat16 is faster on TPUs, GPUs and CPUs that have it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rate", "critic_learning_rate", "temperature_learning_rate", "initial_temperature"):
            require(self, name, getattr(self, name) > 0, "positive")
        require(self, "discount", 0 <= self.discount <= 1, "in [0, 1]")
        require(self, "target_rate", 0 < self.target_rate <= 1, "in (0, 1]")
        require(self, "num_critics", self.num_critics >= 1, "at least 1")
        few = 1 <= self.num_target_critics <= self.num_critics
        require(self, "num_target_critics", few, f"from 1 to num_critics = {self.num_critics}")
        require(self, "policy_value", self.policy_value in ("min", "mean"), "min or mean")
        divides = self.policy_delay >= 1 and self.num_updates % self.policy_delay == 0
        require(self, "policy_delay", divides, f"a divisor of num_updates = {self.num_updates}")
        for name in ("hidden", "critic_hidden"):
            require(self, name, all(width >= 1 for width in getattr(self, name) or ()), "at least 1 in each layer")
        require(self, "activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        require(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")
        require(self, "precision", self.precision in get_args(Precision), f"one of {get_args(Precision)}")


DROQ = Config(num_updates=20, policy_delay=20, layer_norm=True, dropout=0.01, policy_value="mean")
REDQ = Config(num_updates=20, policy_delay=20, num_critics=10, policy_value="mean")


class Hyper(struct.PyTreeNode):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    learning_rate: jax.Array
    critic_learning_rate: jax.Array
    temperature_learning_rate: jax.Array
    discount: jax.Array
    target_rate: jax.Array
    initial_temperature: jax.Array
    target_entropy_per_dim: jax.Array


class Actor(nn.Module):
    """Observations [..., n] to a distribution over actions [..., d] in [-1, 1]."""

    config: Config
    size: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> TanhGaussian:
        c = self.config
        output = MLP(c.hidden, c.activation, 2 * self.size, 0.01, dot_general=dot_general_of(c.precision))(obs)
        mean, log_std = jnp.split(output, 2, axis=-1)
        return TanhGaussian(mean, jnp.clip(log_std + c.initial_log_std, -20.0, 2.0))  # the bounds of 2018b's code


class Critic(nn.Module):
    """One of the ensemble: observations [..., n] and actions [..., d] to values [...]."""

    config: Config

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        c, x = self.config, jnp.concatenate([obs, action], axis=-1)
        product, hidden = dot_general_of(c.precision), c.hidden if c.critic_hidden is None else c.critic_hidden
        value = MLP(hidden, c.activation, 1, layer_norm=c.layer_norm, dropout=c.dropout, dot_general=product)(x)
        return value[..., 0]


class Agent:
    """The networks and their updates, apart from environments and replay. Holds constants, as `Replay` does.

    Args:
      config: settings.
      obs_size, action_size: n and d.
      axis_name: mesh axis over whose devices gradients are averaged.
    """

    config: Any
    actor: nn.Module
    critic: nn.Module

    def __init__(self, config: Config, obs_size: int, action_size: int, axis_name: str | None = None):
        self.config, self.obs_size, self.action_size = config, obs_size, action_size
        self.actor, self.critic = Actor(config, action_size), Critic(config)
        self.devices = Devices(axis_name)

    def init(self, actor_key: Key, critic_key: Key) -> Learner:
        obs, action = jnp.zeros((1, self.obs_size)), jnp.zeros((1, self.action_size))

        def init_critic(key: Key) -> PyTree:
            return self.critic.init({"params": key, "dropout": key}, obs, action)

        params = {
            "policy": self.actor.init(actor_key, obs),
            "critic": jax.vmap(init_critic)(jax.random.split(critic_key, self.config.num_critics)),
            "log_temperature": jnp.zeros((), jnp.float32),
        }
        return Learner.init(params, targets=("critic",))

    def policy(self, params: PyTree, obs: jax.Array) -> TanhGaussian:
        """Of the parameters of the policy and observations [..., n]."""
        return self.actor.apply(params, obs)  # type: ignore[return-value]

    def act(self, params: PyTree, obs: jax.Array, key: Key, deterministic: bool) -> jax.Array:
        """Actions [..., d] in [-1, 1]."""
        distribution = self.policy(params, obs)
        return distribution.mode() if deterministic else distribution.sample(key)

    def behave(self, params: PyTree, obs: jax.Array, key: Key, hyper: Hyper) -> jax.Array:
        """Actions [..., d] to learn from: those of the stochastic policy."""
        return self.act(params, obs, key, False)

    def values(self, params: PyTree, obs: jax.Array, action: jax.Array, key: Key, each: bool = False) -> jax.Array:
        """Of every critic, [num_critics, batch]; the key is for dropout.

        With `each`, every critic has observations and actions of its own, which then lead with [num_critics].
        """
        members = self.config.num_critics

        def one(params: PyTree, index: jax.Array, *own: jax.Array) -> jax.Array:
            rngs = {"dropout": jax.random.fold_in(key, index)} if self.config.dropout else None
            return self.critic.apply(params, *(own or (obs, action)), rngs=rngs)  # type: ignore[return-value]

        own = (obs, action) if each else ()
        return over_ensemble(one, members, self.config.precision)(params, jnp.arange(members), *own)

    def temperature(self, params: PyTree, hyper: Hyper) -> jax.Array:
        return hyper.initial_temperature * jnp.exp(params["log_temperature"])

    def target(self, learner: Learner, batch: Batch, keys: Sequence[Key], hyper: Hyper) -> jax.Array:
        """r + γ (min Q(s', a') - α log π(a'|s')), [batch] (2018b, eq. 5; over a subset: REDQ, alg. 1).

        The keys are for the action, the subset and dropout.
        """
        c, (action_key, subset_key, dropout_key) = self.config, keys
        action, log_prob = self.policy(learner.params["policy"], batch.next_obs).sample_and_log_prob(action_key)
        values = self.values(learner.targets["critic"], batch.next_obs, action, dropout_key)
        if c.num_target_critics < c.num_critics:
            values = jax.random.permutation(subset_key, values)[: c.num_target_critics]
        value = values.min(0)
        if c.entropy_in_target:
            value = value - self.temperature(learner.params, hyper) * log_prob
        return bootstrapped(batch.reward, batch.discount, value)

    def update_critic(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step of the critics towards the target (2018b, eq. 6), and of the target critics after them."""
        *target_keys, dropout_key = jax.random.split(key, 4)
        target = self.target(learner, batch, target_keys, hyper)

        def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
            value = self.values(params, batch.obs, batch.action, dropout_key)
            return 0.5 * jnp.square(value - target[None]).mean(-1).sum(), value.mean()

        (error, value), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["critic"])
        learner = learner.descend("critic", self.devices.mean(gradient), hyper.critic_learning_rate)
        learner = learner.move_target("critic", hyper.target_rate)
        return learner, {"loss/critic": error, "value/mean": value}

    def update_policy(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step on α log π(a|s) - Q(s, a) (2018b, eq. 9), and one of the temperature (eq. 18)."""
        c, (action_key, dropout_key) = self.config, jax.random.split(key)
        temperature = self.temperature(learner.params, hyper)

        def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
            action, log_prob = self.policy(params, batch.obs).sample_and_log_prob(action_key)
            value = self.values(learner.params["critic"], batch.obs, action, dropout_key)
            value = value.min(0) if c.policy_value == "min" else value.mean(0)
            return (temperature * log_prob - value).mean(), -log_prob.mean()

        (error, entropy), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["policy"])
        learner = learner.descend("policy", self.devices.mean(gradient), hyper.learning_rate)
        if c.learn_temperature:
            # In the logarithm, which keeps α positive and its pace relative; the same fixed point as eq. 18.
            excess = entropy - hyper.target_entropy_per_dim * self.action_size
            learner = learner.descend("log_temperature", self.devices.mean(excess), hyper.temperature_learning_rate)
        return learner, {"loss/policy": error, "policy/entropy": entropy, "policy/temperature": temperature}

    def learn(self, learner: Learner, batches: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """All updates of an iteration, from batches [num_updates, batch, …]; the mean of their metrics."""

        def update_critic(learner: Learner, batch: Batch, key: Key) -> tuple[Learner, Metrics]:
            return self.update_critic(learner, batch, key, hyper)

        def update_policy(learner: Learner, batch: Batch, key: Key) -> tuple[Learner, Metrics]:
            return self.update_policy(learner, batch, key, hyper)

        learner, metrics = delayed_updates(
            update_critic, update_policy, learner, batches, key, self.config.policy_delay
        )  # fmt: skip
        return learner, self.devices.mean(metrics)


def make(env: Environment, config: Config | None = None, axis_name: str | None = None) -> Algorithm:
    """SAC on `env`.

    Args:
      env: one environment; actions a bounded one-dimensional `Box`, observations a vector.
      config: settings; the defaults where None.
      axis_name: mesh axis over which the functions run under `shard_map`: environments, buffer and batches are split,
        gradients averaged.

    Raises:
      ValueError: the environment's spaces do not fit.
    """
    return assemble("sac", env, config or Config(), Agent, Hyper, make, axis_name)
