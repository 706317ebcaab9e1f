"""IQL: learns from a dataset without ever asking for the value of an action that is not in it.

Kostrikov, Nair and Levine 2021, "Offline reinforcement learning with implicit Q-learning" (arXiv 2110.06169): V is an
upper expectile of Q over the data's actions, eq. 5; Q is backed up through V, eq. 6; the policy imitates the data,
weighted by the advantage, eq. 7.
"""

import dataclasses
from typing import Any, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from rljax.algorithms.base import Algorithm, Devices, require
from rljax.algorithms.off_policy import Learner, ReplayConfig
from rljax.algorithms.offline import OfflineConfig, assemble, each_batch
from rljax.data import Batch, Dataset
from rljax.data.prepared import Prepared
from rljax.envs import Environment
from rljax.nn.distributions import Gaussian
from rljax.nn.ensemble import over_ensemble
from rljax.nn.networks import ACTIVATIONS, MLP, Initialization
from rljax.nn.precision import Precision, dot_general_of
from rljax.ops.returns import bootstrapped
from rljax.types import Key, Metrics, PyTree, Refused


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, ReplayConfig):
    """Settings of IQL, those of the paper for MuJoCo. Those in `Hyper` live in the state and can be swept by vmap."""

    learning_rate: float = 3e-4
    """Step size of the policy's Adam."""
    critic_learning_rate: float = 3e-4
    """Learning rate of Q and V."""
    policy_decay_steps: int = 0
    """Updates over which the policy's learning rate falls to 0 along a cosine (in the paper, all offline ones); 0 keeps
    it constant, as it must be online."""
    discount: float = 0.99
    """γ."""
    target_rate: float = 0.005
    """How far the target critics move towards the critics at each update."""
    expectile: float = 0.7
    """τ of eq. 5, in [0.5, 1): 0.5 is the mean over the data's actions, 1 their maximum (AntMaze: 0.9)."""
    advantage_weight: float = 3.0
    """β of eq. 7: 0 imitates, much follows the best actions alone (AntMaze: 10)."""
    max_weight: float = 100.0
    """The most that a transition counts, exp(β A)."""
    deterministic_policy: bool = False
    """The policy is an action and no distribution, and its loss a squared distance."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of all networks."""
    activation: str = "relu"
    """Activation of the hidden layers."""
    initialization: Initialization = "orthogonal"
    """Initial weights of all networks: orthogonal kernels, as in the authors' code, or uniform ones, as in PyTorch."""
    layer_norm: bool = False
    """Layer normalisation in Q and V."""
    dropout: float = 0.0
    """Dropout in the policy (Adroit: 0.1)."""
    precision: Precision = "float32"
    """Precision of the hidden layers' matrix products; bfloat16 is faster on TPUs, GPUs and CPUs that have it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rate", "critic_learning_rate", "max_weight"):
            require(self, name, getattr(self, name) > 0, "positive")
        for name in ("advantage_weight", "policy_decay_steps"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "discount", 0 <= self.discount <= 1, "in [0, 1]")
        require(self, "target_rate", 0 < self.target_rate <= 1, "in (0, 1]")
        require(self, "expectile", 0 < self.expectile < 1, "in (0, 1)")
        require(self, "hidden", all(width >= 1 for width in self.hidden), "at least 1 in each layer")
        require(self, "activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        allowed = get_args(Initialization)
        require(self, "initialization", self.initialization in allowed, f"one of {', '.join(allowed)}")
        require(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")
        require(self, "precision", self.precision in get_args(Precision), f"one of {get_args(Precision)}")


class Hyper(struct.PyTreeNode):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    learning_rate: jax.Array
    critic_learning_rate: jax.Array
    discount: jax.Array
    target_rate: jax.Array
    expectile: jax.Array
    advantage_weight: jax.Array
    max_weight: jax.Array


class Actor(nn.Module):
    """Observations [..., n] to a normal distribution over actions [..., d], its mean in [-1, 1].

    The mean is squashed, not the distribution, and the deviation does not depend on the observation: the likelihood of
    an action on a bound stays finite. `training` switches dropout on, which then needs a key.
    """

    config: Any
    size: int
    initialization: Initialization = "orthogonal"

    @nn.compact
    def __call__(self, obs: jax.Array, training: bool = False) -> Gaussian:
        c, dropout = self.config, self.config.dropout if training else 0.0
        mlp = MLP(
            c.hidden, c.activation, self.size, 0.01, dropout=dropout, dot_general=dot_general_of(c.precision),
            initialization=self.initialization,
        )  # fmt: skip
        log_std = self.param("log_std", nn.initializers.zeros, (self.size,), jnp.float32)
        return Gaussian(jnp.tanh(mlp(obs)), jnp.clip(log_std, -20.0, 2.0))


class Value(nn.Module):
    """V of observations, or one Q of observations and actions: [..., n] to [...]."""

    config: Any
    initialization: Initialization = "orthogonal"

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        c, product = self.config, dot_general_of(self.config.precision)
        mlp = MLP(
            c.hidden, c.activation, 1, layer_norm=c.layer_norm, dot_general=product, initialization=self.initialization
        )
        return mlp(jnp.concatenate(inputs, axis=-1))[..., 0]


class Agent:
    """The networks and their updates, apart from data and environments.

    Args:
      config: settings.
      obs_size, action_size: n and d.
      axis_name: mesh axis over whose devices gradients are averaged.
    """

    def __init__(self, config: Config, obs_size: int, action_size: int, axis_name: str | None = None):
        self.config, self.obs_size, self.action_size = config, obs_size, action_size
        self.actor = Actor(config, action_size, config.initialization)
        self.value = Value(config, config.initialization)
        self.devices = Devices(axis_name)

    def init(self, actor_key: Key, critic_key: Key) -> Learner:
        obs, action = jnp.zeros((1, self.obs_size)), jnp.zeros((1, self.action_size))
        value_key, *critic_keys = jax.random.split(critic_key, 3)
        params = {
            "policy": self.actor.init(actor_key, obs),
            "value": self.value.init(value_key, obs),
            "critic": jax.vmap(lambda key: self.value.init(key, obs, action))(jnp.stack(critic_keys)),
        }
        return Learner.init(params, targets=("critic",))

    def act(self, params: PyTree, obs: jax.Array, key: Key, deterministic: bool) -> jax.Array:
        """Actions [..., d]; a sample may lie outside of [-1, 1], and is clipped where it is rescaled."""
        distribution: Any = self.actor.apply(params, obs)
        mode_only = deterministic or self.config.deterministic_policy
        return distribution.mode() if mode_only else jnp.clip(distribution.sample(key), -1.0, 1.0)

    def behave(self, params: PyTree, obs: jax.Array, key: Key, hyper: Hyper) -> jax.Array:
        """Actions [..., d] to learn from online: those of the stochastic policy."""
        return self.act(params, obs, key, False)

    def critics(self, params: PyTree, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Both Q(s, a), [2, batch]."""
        return over_ensemble(lambda p: self.value.apply(p, obs, action), 2, self.config.precision)(params)

    def update_value(self, learner: Learner, batch: Batch, hyper: Hyper) -> tuple[Learner, jax.Array, Metrics]:
        """One step of V towards the expectile of min Q'(s, a) (eq. 5); also the advantages [batch] before it."""
        target = self.critics(learner.targets["critic"], batch.obs, batch.action).min(0)

        def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            value: Any = self.value.apply(params, batch.obs)
            advantage = target - value
            return expectile_loss(advantage, hyper.expectile).mean(), (advantage, value.mean())

        (error, (advantage, value)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["value"])
        learner = learner.descend("value", self.devices.mean(gradient), hyper.critic_learning_rate)
        return learner, advantage, {"loss/value": error, "value/mean": value, "value/advantage": advantage.mean()}

    def update_policy(
        self, learner: Learner, batch: Batch, advantage: jax.Array, key: Key, hyper: Hyper
    ) -> tuple[Learner, Metrics]:
        """One step on -exp(β A) log π(a|s) (eq. 7)."""
        c, weight = self.config, jnp.minimum(jnp.exp(hyper.advantage_weight * advantage), hyper.max_weight)

        def loss(params: PyTree) -> jax.Array:
            distribution: Any = self.actor.apply(params, batch.obs, training=True, rngs={"dropout": key})
            if c.deterministic_policy:
                return (weight * jnp.square(distribution.mean - batch.action).sum(-1)).mean()
            return -(weight * distribution.log_prob(batch.action)).mean()

        error, gradient = jax.value_and_grad(loss)(learner.params["policy"])
        rate = hyper.learning_rate
        if c.policy_decay_steps:
            done = learner.optimizer_state["policy"][0].count / c.policy_decay_steps
            rate = rate * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(done, 1.0)))
        learner = learner.descend("policy", self.devices.mean(gradient), rate)
        return learner, {"loss/policy": error, "policy/weight": weight.mean()}

    def update_critic(
        self, learner: Learner, batch: Batch, next_value: jax.Array, hyper: Hyper
    ) -> tuple[Learner, Metrics]:
        """One step of both Q towards r + γ V(s') (eq. 6), and of the target critics after them."""
        target = bootstrapped(batch.reward, batch.discount, next_value)

        def loss(params: PyTree) -> jax.Array:
            return jnp.square(self.critics(params, batch.obs, batch.action) - target[None]).mean()

        error, gradient = jax.value_and_grad(loss)(learner.params["critic"])
        learner = learner.descend("critic", self.devices.mean(gradient), hyper.critic_learning_rate)
        return learner.move_target("critic", hyper.target_rate), {"loss/critic": error}

    def update(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """V, then the policy, then Q and its target; advantages and V(s') are those before V's step.

        The authors' code takes those after it. So the three need not wait for each other, and V(s) is evaluated once.
        """
        next_value: Any = self.value.apply(learner.params["value"], batch.next_obs)
        learner, advantage, of_value = self.update_value(learner, batch, hyper)
        learner, of_policy = self.update_policy(learner, batch, advantage, key, hyper)
        learner, of_critic = self.update_critic(learner, batch, next_value, hyper)
        return learner, of_value | of_policy | of_critic

    def learn(self, learner: Learner, batches: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """All updates of an iteration, from batches [num_updates, batch, …]; the mean of their metrics."""
        learner, metrics = each_batch(
            lambda learner, batch, key: self.update(learner, batch, key, hyper), learner, batches, key
        )
        return learner, self.devices.mean(metrics)


def expectile_loss(error: jax.Array, expectile: Any) -> jax.Array:
    """|τ - 1(u < 0)| u², elementwise: the squared loss whose minimum is the τ-expectile (eq. 4)."""
    return jnp.where(error < 0, 1.0 - expectile, expectile) * jnp.square(error)


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    online: bool = False,
    axis_name: str | None = None,
) -> Algorithm:
    """IQL on a dataset; with `online`, also on what the agent does in `env`, from the learner of an offline state.

    Args:
      env: what is acted in; offline only its spaces count, and evaluation.
      config: settings; the defaults where None.
      dataset: what to learn from; without one, the algorithm can only load a policy.
      online: act and learn in the environment as well (see offline.py).
      axis_name: mesh axis over which the functions run under `shard_map`.

    Raises:
      ValueError: the environment's spaces do not fit, or the dataset does not fit them; or a policy's rate that falls,
        online.
    """
    c = config or Config()
    if online and c.policy_decay_steps:
        raise Refused(
            f"iql: policy_decay_steps = {c.policy_decay_steps} is not allowed online, where the rate has fallen to 0 "
            "already; it must be 0"
        )
    return assemble("iql", env, c, Agent, Hyper, make, dataset, online, axis_name)
