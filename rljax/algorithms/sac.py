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
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.agent import Acted, ActorCritic
from rljax.algorithms.core.blocks import AsymmetricParts, DenseNetwork, Encoding, Temperature
from rljax.algorithms.core.contract import Algorithm, continuous
from rljax.algorithms.core.experience import ReplayConfig, assemble
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.config import BelowOne, Count, Positive, Share, Widths, require
from rljax.data import Batch
from rljax.envs import Environment
from rljax.nn.distributions import TanhGaussian
from rljax.nn.encoder import encode, with_action
from rljax.nn.ensemble import over_ensemble
from rljax.nn.networks import MLP, apply
from rljax.nn.precision import dot_general_of
from rljax.ops.returns import bootstrapped
from rljax.spaces import Space
from rljax.types import Key, Metrics, PyTree


@dataclasses.dataclass(frozen=True)
class Config(DenseNetwork, Encoding, AsymmetricParts, Temperature, ReplayConfig):
    """Settings of SAC. Those in `Hyper` live in the state and can be swept by vmap."""

    learning_rate: Positive = 3e-4
    """Step size of the policy's Adam (2018b, table 1)."""
    critic_learning_rate: Positive = 3e-4
    """Learning rate of the critics."""
    target_rate: Share = 0.005
    """Rate τ at which the target critics move towards the critics at each update."""
    num_critics: Count = 2
    """Number of critics."""
    num_target_critics: int = 2
    """Critics, drawn anew for each update, whose minimum is the target (REDQ: 2 of 10)."""
    policy_value: Literal["min", "mean"] = "min"
    """Objective of the policy: the critics' minimum (min), or their mean (mean; REDQ and DroQ)."""
    policy_delay: int = 1
    """Critic updates for each update of policy and temperature; divides num_updates."""
    entropy_in_target: bool = True
    """Whether targets include the entropy bonus (2018b, eq. 5); not in CQL, nor in RLPD's AntMaze."""
    hidden: Widths = (256, 256)
    """Widths of the hidden layers of the policy, and of the critics where critic_hidden is None."""
    critic_hidden: Widths | None = None
    """Widths of the hidden layers of the critics; None takes the policy's."""
    initial_log_std: float = 0.0
    """Offset of the logarithm of the policy's deviation; -1 in the code of CQL."""
    layer_norm: bool = False
    """Layer normalisation in the critics (DroQ)."""
    dropout: BelowOne = 0.0
    """Dropout in the critics and the target critics (DroQ: 0.01)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        few = 1 <= self.num_target_critics <= self.num_critics
        require(self, "num_target_critics", few, f"from 1 to num_critics = {self.num_critics}")
        divides = self.policy_delay >= 1 and self.num_updates % self.policy_delay == 0
        require(self, "policy_delay", divides, f"a divisor of num_updates = {self.num_updates}")


DROQ = Config(num_updates=20, policy_delay=20, layer_norm=True, dropout=0.01, policy_value="mean")
REDQ = Config(num_updates=20, policy_delay=20, num_critics=10, policy_value="mean")


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    critic_learning_rate: jax.Array
    temperature_learning_rate: jax.Array
    target_rate: jax.Array
    initial_temperature: jax.Array
    target_entropy_per_dim: jax.Array


class Actor(nn.Module):
    """Observations [..., n] to a distribution over actions [..., d] in [-1, 1]."""

    config: Config
    size: int
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree) -> TanhGaussian:
        c = self.config
        obs = encode(self.space, obs, c, network=self.encoder)
        output = MLP(c.hidden, c.activation, 2 * self.size, 0.01, dot_general=dot_general_of(c.precision))(obs)
        mean, log_std = jnp.split(output, 2, axis=-1)
        return TanhGaussian(mean, jnp.clip(log_std + c.initial_log_std, -20.0, 2.0))  # the bounds of 2018b's code


class Critic(nn.Module):
    """One critic of the ensemble: observations [batch, …] and actions [..., batch, d] to values [..., batch]."""

    config: Config
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree, action: jax.Array) -> jax.Array:
        c = self.config
        x = with_action(encode(self.space, obs, c, network=self.encoder), action)
        product, hidden = dot_general_of(c.precision), c.hidden if c.critic_hidden is None else c.critic_hidden
        value = MLP(hidden, c.activation, 1, layer_norm=c.layer_norm, dropout=c.dropout, dot_general=product)(x)
        return value[..., 0]


class Agent(ActorCritic):
    """The networks and their updates."""

    hyper_type: ClassVar[type] = Hyper
    annealed = ("learning_rate", "critic_learning_rate", "temperature_learning_rate")
    config: Any
    actor: nn.Module
    critic: nn.Module

    def build(self, network: nn.Module | None) -> None:
        self.action_size = self.action_space.shape[0]
        self.actor = Actor(self.config, self.action_size, self.seen(network), network)
        self.critic = Critic(self.config, self.seen(network, values=True), network)

    def init(self, key: Key) -> Learner:
        actor_key, critic_key = jax.random.split(key)
        params = {
            "policy": self.actor.init(actor_key, self.example_obs),
            "critic": self.init_critics(critic_key, self.example_obs, self.example_action),
            "log_temperature": jnp.zeros((), jnp.float32),
        }
        return Learner.init(params, self.optimizers(self.hyper()), targets=("critic",))

    def init_critics(self, key: Key, obs: jax.Array, action: jax.Array) -> PyTree:
        """Parameters of the ensemble, leaves [num_critics, …]."""
        keys = jax.random.split(key, self.config.num_critics)
        return jax.vmap(lambda key: self.critic.init({"params": key, "dropout": key}, obs, action))(keys)

    def optimizers(self, hyper: Any) -> Optimizers:
        return {
            "policy": optax.adam(hyper.learning_rate),
            "critic": optax.adam(hyper.critic_learning_rate),
            "log_temperature": optax.adam(hyper.temperature_learning_rate),
        }

    def policy(self, params: PyTree, obs: jax.Array) -> TanhGaussian:
        """The distribution of actions for the policy's parameters and observations [..., n]."""
        return apply(self.actor, params, obs)

    def act(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        distribution = self.policy(variables["params"], obs)
        return distribution.mode() if deterministic else distribution.sample(key), memory, ()

    def values(self, params: PyTree, obs: jax.Array, action: jax.Array, key: Key, each: bool = False) -> jax.Array:
        """Values of every critic, [num_critics, batch]; the key is for dropout.

        Actions may have further axes in front of the batch's: several actions for each observation. With `each`, every
        critic has its own actions, which then lead with [num_critics].
        """
        members = self.config.num_critics

        def one(params: PyTree, index: jax.Array, *own: jax.Array) -> jax.Array:
            rngs = {"dropout": jax.random.fold_in(key, index)} if self.config.dropout else None
            return apply(self.critic, params, obs, *(own or (action,)), rngs=rngs)

        own = (action,) if each else ()
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
        learner = learner.descend("critic", devices.mean(gradient), self.optimizers(hyper)["critic"])
        learner = learner.move_target("critic", hyper.target_rate)
        return learner, {"loss/critic": error, "value/mean": value}

    def update_policy(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step on α log π(a|s) - Q(s, a) (2018b, eq. 9), and one of the temperature (eq. 18)."""
        c, (action_key, dropout_key) = self.config, jax.random.split(key)
        temperature, optimizers = self.temperature(learner.params, hyper), self.optimizers(hyper)

        def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
            action, log_prob = self.policy(params, batch.obs).sample_and_log_prob(action_key)
            value = self.values(learner.params["critic"], batch.obs, action, dropout_key)
            value = value.min(0) if c.policy_value == "min" else value.mean(0)
            return (temperature * log_prob - value).mean(), -log_prob.mean()

        (error, entropy), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["policy"])
        learner = learner.descend("policy", devices.mean(gradient), optimizers["policy"])
        if c.learn_temperature:
            # In the logarithm, which keeps α positive and its pace relative; the same fixed point as eq. 18.
            excess = entropy - hyper.target_entropy_per_dim * self.action_size
            learner = learner.descend("log_temperature", devices.mean(excess), optimizers["log_temperature"])
        return learner, {"loss/policy": error, "policy/entropy": entropy, "policy/temperature": temperature}


def make(env: Environment, config: Config | None = None, network: nn.Module | None = None) -> Algorithm:
    """SAC on `env`.

    Args:
      env: one environment; actions a bounded one-dimensional `Box`, observations of any kind.
      config: settings; the defaults where None.
      network: maps observations [..., …], or a dict of the parts that are seen, to features [..., d], in place of
        convolutions; the hidden layers follow. The policy and each critic have one of their own.

    Raises:
      Refused: the environment's spaces do not fit.
    """
    acts_in = continuous(env, "sac")
    agent = Agent(config or Config(), acts_in.observation_space, acts_in.action_space, network)
    return assemble("sac", env, agent, lambda config: make(env, config, network), acts_in=acts_in, network=network)
