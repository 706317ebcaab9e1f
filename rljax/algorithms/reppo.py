"""Relative entropy pathwise policy optimisation: on-policy, with the gradient of a learned Q through the action.

Voelcker et al. 2025, "Relative entropy pathwise policy optimization" (REPPO, arXiv 2507.11019): a critic good enough to
be differentiated is learned from fresh rollouts alone, without replay and without a target network, by a categorical
loss, layer normalisation and an auxiliary task; and a bound on the relative entropy keeps the policy where it is right.

One iteration: act for `rollout_length` steps in `num_envs` environments; estimate TD(λ) returns of rewards with an
entropy bonus, from the TRUE successor (so a time limit bootstraps and a termination does not); then `num_epochs` passes
of minibatches, each with a step of the critic, of the policy, and of its two multipliers: the temperature α of the
entropy, and the weight β of the divergence from the policy that acted.

`Config()` has the paper's settings for a GPU, and `LAPTOP` settings for a CPU. Of discrete actions every expectation is
exact; of continuous ones it is a sample, but for the divergence: tanh is invertible, so that of the Gaussians is exact.
"""

import dataclasses
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.agent import Acted
from rljax.algorithms.core.blocks import AsymmetricParts, DenseNetwork, Encoding, Temperature
from rljax.algorithms.core.contract import Algorithm, continuous, observable
from rljax.algorithms.core.learner import Learner, Optimizers, scan_for_means
from rljax.algorithms.core.on_policy import OnPolicyConfig, Rollout, assemble, shuffled
from rljax.config import Count, Fraction, NonNegative, Positive, Widths, require
from rljax.envs import Environment
from rljax.nn.distributions import Categorical, TanhGaussian
from rljax.nn.encoder import encode, with_action
from rljax.nn.initializers import orthogonal
from rljax.nn.networks import MLP, Activation, activation, apply
from rljax.nn.precision import dot_general_of
from rljax.ops import categorical
from rljax.ops.returns import lambda_returns
from rljax.spaces import ArraySpace, Discrete, Space
from rljax.types import Key, Metrics, PyTree, Transition


@dataclasses.dataclass(frozen=True)
class Config(DenseNetwork, Encoding, AsymmetricParts, Temperature, OnPolicyConfig):
    """Settings of REPPO. Those in `Hyper` live in the state and can be swept by vmap."""

    num_envs: Count = 1024
    """Environments stepped together, over all devices."""
    rollout_length: Count = 128
    """Steps of each environment between two updates."""
    num_epochs: Count = 8
    """Passes over each rollout."""
    num_minibatches: Count = 64
    """Gradient steps per pass; divides num_envs * rollout_length."""
    td_lambda: Fraction = 0.95
    """Decay λ of the critic's targets: 0 learns from one step, 1 from the rest of the rollout."""
    kl_bound: Positive = 0.1
    """Bound of the relative entropy KL(old policy ‖ policy) at each observation, in nats."""
    initial_kl_weight: Positive = 0.01
    """Weight β of the relative entropy at the start, where it is above its bound."""
    initial_temperature: Positive = 0.01
    """Temperature α at the start."""
    target_entropy_per_dim: float = -0.5
    """Target entropy in nats for each dimension of a continuous action in [-1, 1]."""
    target_entropy_share: Fraction = 0.1
    """Target entropy of discrete actions, as a share of that of uniform ones."""
    auxiliary_weight: NonNegative = 1.0
    """Weight of the auxiliary loss: the squared errors of the predicted next embedding and reward."""
    value_min: float = 0.0
    """Lowest return that the critic can express; lower ones count as this one."""
    value_max: float = 150.0
    """Highest return that the critic can express; higher ones count as this one."""
    num_atoms: int = 151
    """Number of values, evenly spaced from value_min to value_max, over which the critic's output is a distribution."""
    normalize_observation: bool = True
    """Whether observations are shifted and scaled by running statistics (vectors only)."""
    random_age: bool = True
    """Whether first episodes begin at a random age, so that the time limits of many environments are not in step."""
    hidden: Widths = (512, 512)
    """Widths of the policy's hidden layers."""
    critic_hidden: Widths = (512, 512)
    """Widths of the critic's layers up to the embedding, which is the last; each of the two heads has one as wide."""
    activation: Activation = "silu"
    """Activation of the hidden layers, after layer normalisation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.num_envs * self.rollout_length
        divides = steps % self.num_minibatches == 0
        require(self, "num_minibatches", divides, f"a divisor of num_envs * rollout_length = {steps}")
        require(self, "num_atoms", self.num_atoms >= 2, "at least 2")
        require(self, "value_max", self.value_min < self.value_max, f"above value_min = {self.value_min}")
        require(self, "critic_hidden", len(self.critic_hidden) > 0, "one width or more")


LAPTOP = Config(num_envs=32, rollout_length=64, num_minibatches=16, hidden=(128, 128), critic_hidden=(128, 128))


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    max_grad_norm: jax.Array
    td_lambda: jax.Array
    kl_bound: jax.Array
    initial_kl_weight: jax.Array
    temperature_learning_rate: jax.Array
    initial_temperature: jax.Array
    target_entropy_per_dim: jax.Array
    target_entropy_share: jax.Array
    auxiliary_weight: jax.Array


class Actor(nn.Module):
    """Observations [..., …] to a distribution of actions: in [-1, 1], or discrete."""

    config: Config
    actions: ArraySpace
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree) -> TanhGaussian | Categorical:
        c, discrete = self.config, isinstance(self.actions, Discrete)
        size = self.actions.n if isinstance(self.actions, Discrete) else 2 * self.actions.shape[0]
        obs = encode(self.space, obs, c, network=self.encoder)
        product = dot_general_of(c.precision)
        output = MLP(c.hidden, c.activation, size, 0.01, layer_norm=True, dot_general=product)(obs)
        if discrete:
            return Categorical(output)
        mean, log_std = jnp.split(output, 2, axis=-1)
        return TanhGaussian(mean, jnp.clip(log_std, -20.0, 2.0))


class Estimate(NamedTuple):
    """What the critic says of observations and actions [...]: the value's distribution, and the auxiliary task.

    Fields:
      logits: of the value over the atoms, [..., num_atoms].
      embedding: of observation and action, [..., d], from which both heads start.
      predicted: the embedding after the next action, and the reward, [..., d + 1].
    """

    logits: jax.Array
    embedding: jax.Array
    predicted: jax.Array


class Critic(nn.Module):
    """Observations [batch, …] and actions [..., batch, d] to an `Estimate` [..., batch]."""

    config: Config
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree, action: jax.Array) -> Estimate:
        c, product = self.config, dot_general_of(self.config.precision)
        *below, width = c.critic_hidden

        def layers(hidden: Any, output: int) -> MLP:
            return MLP(hidden, c.activation, output, layer_norm=True, dot_general=product)

        x = with_action(encode(self.space, obs, c, network=self.encoder), action)
        embedding = layers(below, width)(x)
        x = activation(c.activation)(embedding)
        # An untrained critic says 0 everywhere, with confidence.
        support = categorical.support(c.value_min, c.value_max, c.num_atoms)
        zero = 40.0 * categorical.gaussian(support, jnp.float32(0.0))
        hidden = MLP((width,), c.activation, layer_norm=True, dot_general=product)(x)
        logits = nn.Dense(c.num_atoms, kernel_init=orthogonal(1.0), bias_init=lambda *_: zero, name="value")(hidden)
        return Estimate(logits, embedding, layers((width,), width + 1)(x))


class Batch(NamedTuple):
    """Data of the updates; leaves are [batch, …].

    Fields:
      action: as the critic takes them: one-hot where they are discrete.
      target: the TD(λ) return.
      old: the distribution of actions that acted.
      next_embedding: the critic's, before the updates, of the true successor and the policy's action there.
      terminated: bool, where there is no next embedding to predict.
    """

    obs: PyTree
    action: jax.Array
    reward: jax.Array
    target: jax.Array
    old: TanhGaussian | Categorical
    next_embedding: jax.Array
    terminated: jax.Array


def soft_returns(
    transition: Transition, next_value: jax.Array, next_entropy: jax.Array, discount: Any, td_lambda: Any
) -> jax.Array:
    """TD(λ) returns [T, N] of the rewards r - γ α log π(a'|s'), for a' and s' that follow.

    Args:
      transition: leaves [T, N, …].
      next_value: Q(s', a') [T, N] of true successors.
      next_entropy: -α log π(a'|s') [T, N]. After a termination nothing follows, and there is no bonus.
    """
    bonus = discount * jnp.where(transition.terminated, 0.0, next_entropy)
    ends = (transition.terminated, transition.truncated)
    return lambda_returns(transition.reward + bonus, next_value, *ends, discount, td_lambda)


def policy_objective(cost: jax.Array, kl: jax.Array, kl_weight: jax.Array, kl_bound: jax.Array) -> jax.Array:
    """The cost α log π - Q where the policy is within its bound, and β KL where it is not, [...]; to be minimised."""
    return jnp.where(kl < kl_bound, cost, kl_weight * kl)


class Agent(core.Agent):
    """The networks and their updates."""

    hyper_type = Hyper
    annealed = ("learning_rate", "temperature_learning_rate")
    config: Config

    def build(self, network: nn.Module | None) -> None:
        c = self.config
        self.actor = Actor(c, self.action_space, self.seen(network), network)
        self.critic = Critic(c, self.seen(network, values=True), network)

    def init(self, key: Key) -> Learner:
        actor_key, critic_key = jax.random.split(key)
        params = {
            "policy": self.actor.init(actor_key, self.example_obs),
            "critic": self.critic.init(critic_key, self.example_obs, self.as_vectors(self.example_action)),
            "log_temperature": jnp.zeros((), jnp.float32),
            "log_kl_weight": jnp.zeros((), jnp.float32),
        }
        return Learner.init(params, self.optimizers(self.hyper()))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        network = optax.chain(optax.clip_by_global_norm(hyper.max_grad_norm), optax.adam(hyper.learning_rate))
        multiplier = optax.adam(hyper.temperature_learning_rate)
        return {"policy": network, "critic": network, "log_temperature": multiplier, "log_kl_weight": multiplier}

    def as_vectors(self, action: jax.Array) -> jax.Array:
        """Actions [...] of the environment as vectors [..., d] for the critic."""
        space = self.action_space
        return jax.nn.one_hot(action, space.n, dtype=jnp.float32) if isinstance(space, Discrete) else action

    def policy(self, params: PyTree, obs: PyTree) -> TanhGaussian | Categorical:
        """The distribution of actions for the policy's parameters and observations [..., …]."""
        return cast(TanhGaussian | Categorical, apply(self.actor, params, obs))

    def act(self, variables: dict[str, PyTree], obs: PyTree, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        distribution = self.policy(variables["params"], obs)
        return distribution.mode() if deterministic else distribution.sample(key), memory, ()

    def temperature(self, params: PyTree, hyper: Hyper) -> jax.Array:
        return hyper.initial_temperature * jnp.exp(params["log_temperature"])

    def kl_weight(self, params: PyTree, hyper: Hyper) -> jax.Array:
        return hyper.initial_kl_weight * jnp.exp(params["log_kl_weight"])

    def target_entropy(self, hyper: Hyper) -> jax.Array:
        if isinstance(self.action_space, Discrete):
            return hyper.target_entropy_share * jnp.log(float(self.action_space.n))
        return hyper.target_entropy_per_dim * self.action_space.shape[0]

    def expected(
        self, distribution: TanhGaussian | Categorical, critic: PyTree, obs: PyTree, key: Key
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Value [batch], entropy [batch] and embedding [batch, d] of a policy's actions: sampled, or summed up."""
        if isinstance(distribution, Categorical):
            log_prob = jnp.moveaxis(jax.nn.log_softmax(distribution.logits), -1, 0)
            n, *batch = log_prob.shape
            action = jnp.broadcast_to(jnp.eye(n).reshape(n, *(1,) * len(batch), n), (n, *batch, n))
            weight = jnp.exp(log_prob)
        else:
            action, log_prob = (x[None] for x in distribution.sample_and_log_prob(key))
            weight = jnp.ones_like(log_prob)
        estimate = self.estimate(critic, obs, action)
        value = (weight * self.value(estimate)).sum(0)
        return value, -(weight * log_prob).sum(0), (weight[..., None] * estimate.embedding).sum(0)

    def estimate(self, params: PyTree, obs: PyTree, action: jax.Array) -> Estimate:
        """What the critic with these parameters says of observations [batch, …] and actions [..., batch, d]."""
        return cast(Estimate, apply(self.critic, params, obs, action))

    def value(self, estimate: Estimate) -> jax.Array:
        """Expected value [...] of an estimate."""
        c = self.config
        return categorical.mean(categorical.support(c.value_min, c.value_max, c.num_atoms), estimate.logits)

    def batch_of(self, learner: Learner, rollout: Rollout, key: Key, hyper: Hyper) -> Batch:
        """The data of the updates, flat, with targets by the critic and the policy that acted."""
        transition, params = rollout.transition, learner.params

        def following(x: tuple[PyTree, PyTree, Key]) -> tuple:
            obs, next_obs, key = x
            after = self.expected(self.policy(params["policy"], next_obs), params["critic"], next_obs, key)
            return self.policy(params["policy"], obs), *after

        # Time step by time step: all successors at once would need memory for the activations of a whole rollout.
        keys = jax.random.split(key, transition.reward.shape[0])
        old, value, entropy, embedding = jax.lax.map(following, (transition.obs, transition.next_obs, keys))
        entropy = self.temperature(params, hyper) * entropy
        target = soft_returns(transition, value, entropy, hyper.discount, hyper.td_lambda)
        action, reward = self.as_vectors(transition.action), transition.reward
        batch = Batch(transition.obs, action, reward, target, old, embedding, transition.terminated)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

    def critic_loss(self, params: PyTree, batch: Batch, hyper: Hyper) -> tuple[jax.Array, Metrics]:
        """The cross-entropy to the targets' histograms, and the squared errors of the auxiliary predictions."""
        c, estimate = self.config, self.estimate(params, batch.obs, batch.action)
        support = categorical.support(c.value_min, c.value_max, c.num_atoms)
        histogram = categorical.gaussian(support, batch.target)
        error = categorical.cross_entropy(estimate.logits, histogram).mean()
        ended = batch.terminated[:, None]
        next_embedding = jnp.where(ended, estimate.predicted[:, :-1], batch.next_embedding)
        aim = jax.lax.stop_gradient(jnp.concatenate([next_embedding, batch.reward[:, None]], axis=-1))
        auxiliary = jnp.square(estimate.predicted - aim).mean()
        return error + hyper.auxiliary_weight * auxiliary, {
            "loss/critic": error,
            "loss/auxiliary": auxiliary,
            "value/mean": self.value(estimate).mean(),
            "value/target": batch.target.mean(),
            "value/saturation": categorical.saturation(histogram),
        }

    def policy_loss(
        self, params: PyTree, learner: Learner, batch: Batch, key: Key, hyper: Hyper
    ) -> tuple[jax.Array, tuple[Metrics, jax.Array, jax.Array]]:
        """The objective, its metrics, and the means of entropy and relative entropy."""
        temperature, kl_weight = self.temperature(learner.params, hyper), self.kl_weight(learner.params, hyper)
        distribution = self.policy(params, batch.obs)
        value, entropy, _ = self.expected(distribution, learner.params["critic"], batch.obs, key)
        kl = batch.old.kl(distribution)  # type: ignore[arg-type]
        loss = policy_objective(-temperature * entropy - value, kl, kl_weight, hyper.kl_bound).mean()
        metrics = {
            "loss/policy": loss,
            "policy/entropy": entropy.mean(),
            "policy/kl": kl.mean(),
            "policy/within_bound": (kl < hyper.kl_bound).mean(),
            "policy/temperature": temperature,
            "policy/kl_weight": kl_weight,
        }
        return loss, (metrics, entropy.mean(), kl.mean())

    def update(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step of the critic, then of the policy, then of the two multipliers, in their logarithms."""
        optimizers = self.optimizers(hyper)
        gradient, metrics = jax.grad(self.critic_loss, has_aux=True)(learner.params["critic"], batch, hyper)
        gradient = devices.mean(gradient)
        metrics["gradient_norm/critic"] = optax.tree.norm(gradient)
        learner = learner.descend("critic", gradient, optimizers["critic"])
        gradient_of = jax.grad(self.policy_loss, has_aux=True)
        gradient, (of_policy, entropy, kl) = gradient_of(learner.params["policy"], learner, batch, key, hyper)
        gradient, entropy, kl = devices.mean((gradient, entropy, kl))
        metrics |= of_policy | {"gradient_norm/policy": optax.tree.norm(gradient)}
        learner = learner.descend("policy", gradient, optimizers["policy"])
        if self.config.learn_temperature:
            excess = entropy - self.target_entropy(hyper)
            learner = learner.descend("log_temperature", excess, optimizers["log_temperature"])
        learner = learner.descend("log_kl_weight", hyper.kl_bound - kl, optimizers["log_kl_weight"])
        return learner, metrics

    def learn(self, learner: Learner, rollout: Rollout, key: Key, hyper: Hyper) -> tuple[Learner, Metrics, PyTree]:
        """`num_epochs` passes of minibatch steps over the rollout."""
        c, (batch_key, shuffle_key, update_key) = self.config, jax.random.split(key, 3)
        batch = self.batch_of(learner, rollout, batch_key, hyper)

        def minibatch_step(learner: Learner, x: tuple[jax.Array, Key]) -> tuple[Learner, Metrics]:
            index, key = x
            return self.update(learner, jax.tree.map(lambda x: x[index], batch), key, hyper)

        minibatches = shuffled(shuffle_key, c.num_epochs, c.num_minibatches, batch.reward.size)
        keys = jax.random.split(update_key, minibatches.shape[0])
        learner, metrics = scan_for_means(minibatch_step, learner, (minibatches, keys))
        return learner, devices.mean(metrics) | {"learning_rate": hyper.learning_rate}, ()


def make(env: Environment, config: Config | None = None, network: nn.Module | None = None) -> Algorithm:
    """REPPO on `env`.

    Args:
      env: one environment; actions `Discrete` or a bounded one-dimensional `Box`, observations of any kind.
      config: settings; the defaults where None.
      network: maps observations [..., …], or a dict of the parts that are seen, to features [..., d], in place of
        convolutions; the hidden layers follow. Policy and critic have one each.

    Raises:
      Refused: the environment's spaces do not fit.
    """
    observable(env, "reppo")
    acts_in = env if isinstance(env.action_space, Discrete) else continuous(env, "reppo")
    agent = Agent(config or Config(), env.observation_space, acts_in.action_space, network)
    return assemble("reppo", env, agent, lambda config: make(env, config, network), acts_in, network)
