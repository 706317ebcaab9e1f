"""IQL: learns from a dataset without ever evaluating an action that is not in it.

Kostrikov, Nair and Levine 2021, "Offline reinforcement learning with implicit Q-learning" (arXiv 2110.06169): V is an
upper expectile of Q over the data's actions, eq. 5; Q is backed up through V, eq. 6; the policy imitates the data,
weighted by the advantage, eq. 7.
"""

import dataclasses
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.agent import Acted
from rljax.algorithms.core.blocks import AsymmetricParts, DenseNetwork, Encoding
from rljax.algorithms.core.contract import Algorithm
from rljax.algorithms.core.experience import ReplayConfig
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.algorithms.core.offline import OfflineConfig, assemble
from rljax.config import BelowOne, Must, NonNegative, Positive, Share, Whole
from rljax.data import Batch, Dataset
from rljax.data.prepared import Prepared
from rljax.envs import Environment
from rljax.nn.distributions import Gaussian
from rljax.nn.encoder import encode, with_action
from rljax.nn.ensemble import over_ensemble
from rljax.nn.networks import MLP, Initialization, apply
from rljax.nn.precision import dot_general_of
from rljax.ops.returns import bootstrapped
from rljax.spaces import Space
from rljax.types import Key, Metrics, PyTree, Refused


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, DenseNetwork, Encoding, AsymmetricParts, ReplayConfig):
    """Settings of IQL, the paper's for MuJoCo. Those in `Hyper` live in the state and can be swept by vmap."""

    learning_rate: Positive = 3e-4
    """Step size of the policy's Adam."""
    critic_learning_rate: Positive = 3e-4
    """Learning rate of Q and V."""
    policy_decay_steps: Whole = 0
    """Updates over which the policy's learning rate falls to 0 along a cosine (in the paper, all offline ones); 0 keeps
    it constant, as it must be online."""
    target_rate: Share = 0.005
    """Rate at which the target critics move towards the critics at each update."""
    expectile: Annotated[float, Must("in (0, 1)", lambda x: 0 < x < 1)] = 0.7
    """Expectile τ of eq. 5, in [0.5, 1): 0.5 is the mean over the data's actions, 1 their maximum (AntMaze: 0.9)."""
    advantage_weight: NonNegative = 3.0
    """Weight β of the advantage (eq. 7): 0 imitates all actions, a large value only the best (AntMaze: 10)."""
    max_weight: Positive = 100.0
    """Largest weight exp(β A) of a transition."""
    deterministic_policy: bool = False
    """Whether the policy is deterministic, with a squared distance as its loss."""
    initialization: Initialization = "orthogonal"
    """Initial weights of all networks: orthogonal kernels, as in the authors' code, or uniform ones, as in PyTorch."""
    layer_norm: bool = False
    """Layer normalisation in Q and V."""
    dropout: BelowOne = 0.0
    """Dropout in the policy (Adroit: 0.1)."""


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    critic_learning_rate: jax.Array
    target_rate: jax.Array
    expectile: jax.Array
    advantage_weight: jax.Array
    max_weight: jax.Array


class Actor(nn.Module):
    """Observations [..., …] to a normal distribution over actions [..., d], its mean in [-1, 1].

    The mean is squashed, not the distribution, and the deviation does not depend on the observation: the likelihood of
    an action on a bound stays finite. `training` switches dropout on, which then needs a key.
    """

    config: Any
    size: int
    space: Space
    encoder: nn.Module | None = None
    initialization: Initialization = "orthogonal"

    @nn.compact
    def __call__(self, obs: PyTree, training: bool = False) -> Gaussian:
        c, dropout = self.config, self.config.dropout if training else 0.0
        mlp = MLP(
            c.hidden,
            c.activation,
            self.size,
            0.01,
            dropout=dropout,
            dot_general=dot_general_of(c.precision),
            initialization=self.initialization,
        )
        log_std = self.param("log_std", nn.initializers.zeros, (self.size,), jnp.float32)
        features = encode(self.space, obs, c, network=self.encoder)
        return Gaussian(jnp.tanh(mlp(features)), jnp.clip(log_std, -20.0, 2.0))


class Value(nn.Module):
    """V of observations [batch, …], or one Q of them and of actions [batch, d]: [batch]."""

    config: Any
    space: Space
    encoder: nn.Module | None = None
    initialization: Initialization = "orthogonal"

    @nn.compact
    def __call__(self, obs: PyTree, action: jax.Array | None = None) -> jax.Array:
        c, product = self.config, dot_general_of(self.config.precision)
        x = encode(self.space, obs, c, network=self.encoder)
        mlp = MLP(
            c.hidden, c.activation, 1, layer_norm=c.layer_norm, dot_general=product, initialization=self.initialization
        )
        return mlp(x if action is None else with_action(x, action))[..., 0]


class Agent(core.Agent):
    """The networks and their updates, apart from data and environments."""

    hyper_type = Hyper
    annealed = ("learning_rate", "critic_learning_rate")
    config: Config

    def build(self, network: nn.Module | None) -> None:
        c = self.config
        self.actor = Actor(c, self.action_space.shape[0], self.seen(network), network, c.initialization)
        self.value = Value(c, self.seen(network, values=True), network, c.initialization)

    def init(self, key: Key) -> Learner:
        actor_key, critic_key = jax.random.split(key)
        obs, action = self.example_obs, self.example_action
        value_key, *critic_keys = jax.random.split(critic_key, 3)
        params = {
            "policy": self.actor.init(actor_key, obs),
            "value": self.value.init(value_key, obs),
            "critic": jax.vmap(lambda key: self.value.init(key, obs, action))(jnp.stack(critic_keys)),
        }
        return Learner.init(params, self.optimizers(self.hyper()), targets=("critic",))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        steps = self.config.policy_decay_steps

        def falling(updates: Any) -> jax.Array:
            return hyper.learning_rate * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(updates / steps, 1.0)))

        critic = optax.adam(hyper.critic_learning_rate)
        return {"policy": optax.adam(falling if steps else hyper.learning_rate), "value": critic, "critic": critic}

    def act(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        """Acts; a sample outside of [-1, 1] is clipped."""
        distribution = apply(self.actor, variables["params"], obs)
        mode_only = deterministic or self.config.deterministic_policy
        return distribution.mode() if mode_only else jnp.clip(distribution.sample(key), -1.0, 1.0), memory, ()

    def log_prob(self, variables: dict[str, PyTree], obs: PyTree, action: jax.Array) -> jax.Array:
        if self.config.deterministic_policy:
            return super().log_prob(variables, obs, action)
        distribution = apply(self.actor, variables["params"], obs)
        return distribution.log_prob(action)

    def critics(self, params: PyTree, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Both Q(s, a), [2, batch]."""
        return over_ensemble(lambda p: self.value.apply(p, obs, action), 2, self.config.precision)(params)

    def update_value(self, learner: Learner, batch: Batch, hyper: Hyper) -> tuple[Learner, jax.Array, Metrics]:
        """One step of V towards the expectile of min Q'(s, a) (eq. 5); also the advantages [batch] before it."""
        target = self.critics(learner.targets["critic"], batch.obs, batch.action).min(0)

        def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            value = apply(self.value, params, batch.obs)
            advantage = target - value
            return expectile_loss(advantage, hyper.expectile).mean(), (advantage, value.mean())

        (error, (advantage, value)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["value"])
        learner = learner.descend("value", devices.mean(gradient), self.optimizers(hyper)["value"])
        return learner, advantage, {"loss/value": error, "value/mean": value, "value/advantage": advantage.mean()}

    def update_policy(
        self, learner: Learner, batch: Batch, advantage: jax.Array, key: Key, hyper: Hyper
    ) -> tuple[Learner, Metrics]:
        """One step on -exp(β A) log π(a|s) (eq. 7)."""
        c, weight = self.config, jnp.minimum(jnp.exp(hyper.advantage_weight * advantage), hyper.max_weight)

        def loss(params: PyTree) -> jax.Array:
            distribution = apply(self.actor, params, batch.obs, training=True, rngs={"dropout": key})
            if c.deterministic_policy:
                return (weight * jnp.square(distribution.mean - batch.action).sum(-1)).mean()
            return -(weight * distribution.log_prob(batch.action)).mean()

        error, gradient = jax.value_and_grad(loss)(learner.params["policy"])
        learner = learner.descend("policy", devices.mean(gradient), self.optimizers(hyper)["policy"])
        return learner, {"loss/policy": error, "policy/weight": weight.mean()}

    def update_critic(
        self, learner: Learner, batch: Batch, next_value: jax.Array, hyper: Hyper
    ) -> tuple[Learner, Metrics]:
        """One step of both Q towards r + γ V(s') (eq. 6), and of the target critics after them."""
        target = bootstrapped(batch.reward, batch.discount, next_value)

        def loss(params: PyTree) -> jax.Array:
            return jnp.square(self.critics(params, batch.obs, batch.action) - target[None]).mean()

        error, gradient = jax.value_and_grad(loss)(learner.params["critic"])
        learner = learner.descend("critic", devices.mean(gradient), self.optimizers(hyper)["critic"])
        return learner.move_target("critic", hyper.target_rate), {"loss/critic": error}

    def update(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """V, then the policy, then Q and its target; advantages and V(s') are from before V's step.

        The authors' code takes them from after it. This way the three need not wait for each other, and V(s) is
        evaluated once.
        """
        next_value = apply(self.value, learner.params["value"], batch.next_obs)
        learner, advantage, of_value = self.update_value(learner, batch, hyper)
        learner, of_policy = self.update_policy(learner, batch, advantage, key, hyper)
        learner, of_critic = self.update_critic(learner, batch, next_value, hyper)
        return learner, of_value | of_policy | of_critic


def expectile_loss(error: jax.Array, expectile: Any) -> jax.Array:
    """|τ - 1(u < 0)| u², elementwise: the squared loss whose minimum is the τ-expectile (eq. 4)."""
    return jnp.where(error < 0, 1.0 - expectile, expectile) * jnp.square(error)


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    online: bool = False,
    network: nn.Module | None = None,
) -> Algorithm:
    """IQL on a dataset; with `online`, also on the agent's experience in `env`, from an offline state's learner.

    Args:
      env: the task; offline, used for its spaces and for evaluation only.
      config: settings; the defaults where None.
      dataset: what to learn from; without one, the algorithm can only load a policy.
      online: act and learn in the environment as well (see core/offline.py).
      network: a flax module in place of convolutions (see `nn.encoder.encode`); policy, V and each Q have their own.

    Raises:
      Refused: the environment's spaces do not fit, or the dataset does not fit them; or the policy's rate falls,
        online.
    """
    c = config or Config()
    if online and c.policy_decay_steps:
        raise Refused(
            f"iql: policy_decay_steps = {c.policy_decay_steps} is not allowed online, where the rate has fallen to 0 "
            "already; it must be 0"
        )
    return assemble("iql", env, c, Agent, make, dataset, online, network=network)
