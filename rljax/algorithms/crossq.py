"""CrossQ: soft actor-critic with batch normalisation in the critics, and without target networks.

Bhatt et al. 2024, "CrossQ: batch normalization in deep reinforcement learning for greater sample efficiency and
simplicity" (ICLR, arXiv 1902.05605). (s, a) and (s', a') pass through the critics as ONE batch, so that the same
statistics normalise both, which makes target networks unnecessary. Wide critics with one update per step then need as
few steps as twenty in REDQ and DroQ.

`Config()` has the settings of the paper (table 2), with batch renormalisation (Ioffe 2017) as in its code. Acting,
replay, temperature and entropy are SAC's (sac.py).

`XQC` has the settings of Palenicek et al. 2025, "XQC: well-conditioned optimization accelerates deep reinforcement
learning" (arXiv 2509.25174): normalisation before the activations, weights of norm 1, and critics that give
distributions of returns, with target networks again.
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
from rljax.algorithms.td3 import NumAtoms
from rljax.config import BelowOne, Count, Fraction, Positive, Whole, Widths, require
from rljax.data import Batch
from rljax.envs import Environment
from rljax.nn.batch_renorm import BatchRenorm
from rljax.nn.distributions import TanhGaussian
from rljax.nn.encoder import Encoder, with_action
from rljax.nn.ensemble import over_ensemble
from rljax.nn.initializers import orthogonal
from rljax.nn.networks import activation, apply
from rljax.nn.precision import dot_general_of
from rljax.nn.projection import unit_norms
from rljax.ops import categorical
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
    norm_warm_up: Whole | None = 100_000
    """Updates with plain batch normalisation, before renormalisation begins; None never begins (XQC)."""
    norm_first: bool = False
    """Whether batches are normalised before each activation (XQC), in place of the bias, rather than after it."""
    unit_norm: bool = False
    """Whether weights are brought back to norm 1 after each step (XQC)."""
    num_atoms: NumAtoms = 0
    """Number of atoms, from -return_bound to return_bound, of critics that give distributions of returns (XQC: 101); 0
    for critics that give values."""
    target_rate: Fraction = 0.0
    """Rate τ at which target critics follow the critics (XQC: 0.005); 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded = not self.num_atoms or self.return_bound > 0
        require(self, "return_bound", bounded, "above 0 with num_atoms, whose atoms end there")
        divides = self.policy_delay >= 1 and self.num_updates % self.policy_delay == 0
        require(self, "policy_delay", divides, f"a divisor of num_updates = {self.num_updates}")


# Two updates a step, and plain batch normalisation throughout.
XQC = Config(
    num_updates=6,
    learning_rate=3e-4,
    critic_learning_rate=3e-4,
    temperature_learning_rate=3e-4,
    initial_temperature=0.01,
    target_entropy_per_dim=-0.5,
    adam_b1=0.9,
    hidden=(256,) * 4,
    critic_hidden=(512,) * 4,
    norm_warm_up=None,
    norm_first=True,
    unit_norm=True,
    num_atoms=101,
    return_bound=5.0,
    target_rate=0.005,
)


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    critic_learning_rate: jax.Array
    temperature_learning_rate: jax.Array
    initial_temperature: jax.Array
    target_entropy_per_dim: jax.Array


class Network(nn.Module):
    """Observations [batch, …], and actions [batch, d] of a critic, to [batch, output].

    Features and actions are normalised together, and so is the output of each activation after them, or its input.
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
        x = Encoder(self.space, c, self.encoder, name="encoder")(obs)
        x = x if action is None else with_action(x, action)

        def normalized(x: jax.Array) -> jax.Array:
            return BatchRenorm(c.norm_momentum, c.norm_warm_up)(x, training)

        x = normalized(x)
        for units in self.hidden:
            dense = nn.Dense(units, use_bias=not c.norm_first, kernel_init=orthogonal(2**0.5), dot_general=product)
            x = activate(normalized(dense(x))) if c.norm_first else normalized(activate(dense(x)))
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
        self.critic = Network(c, c.critic_hidden, c.num_atoms or 1, 1.0, self.seen(network, values=True), network)

    def init(self, key: Key) -> Learner:
        actor_key, critic_key = jax.random.split(key)
        keys = jax.random.split(critic_key, self.config.num_critics)
        critic = jax.vmap(lambda key: self.critic.init(key, self.example_obs, True, self.example_action))(keys)
        params = {
            "policy": self.projected(self.actor.init(actor_key, self.example_obs, True)),
            "critic": self.projected(critic),
            "log_temperature": jnp.zeros((), jnp.float32),
        }
        targets = ("critic",) if self.config.target_rate else ()
        return Learner.init(params, self.optimizers(self.hyper()), targets=targets)

    def optimizers(self, hyper: Any) -> Optimizers:
        b1 = self.config.adam_b1
        return {
            "policy": optax.adam(hyper.learning_rate, b1=b1),
            "critic": optax.adam(hyper.critic_learning_rate, b1=b1),
            "log_temperature": optax.adam(hyper.temperature_learning_rate),
        }

    @property
    def support(self) -> jax.Array:
        """The atoms [num_atoms]."""
        return categorical.support(-self.config.return_bound, self.config.return_bound, self.config.num_atoms)

    def projected(self, variables: PyTree) -> PyTree:
        """The variables of a network with its weights at norm 1, where that is asked for; an encoder's are left."""
        return unit_norms(variables, skip=("encoder",)) if self.config.unit_norm else variables

    def policy(self, params: PyTree, obs: jax.Array) -> TanhGaussian:
        """The policy with running statistics, for acting and for targets."""
        return self._distribution(apply(self.actor, params, obs, False))

    def values(self, params: PyTree, obs: PyTree, action: jax.Array, key: Key | None = None) -> jax.Array:  # type: ignore[override]
        """Values of every critic with running statistics, [num_critics, batch]."""

        def one(params: PyTree) -> jax.Array:
            return self.read(apply(self.critic, params, obs, False, action))

        return over_ensemble(one, self.config.num_critics, self.config.precision)(params)

    def read(self, output: jax.Array) -> jax.Array:
        """Values [...] of a critic's outputs [..., 1] or [..., num_atoms]."""
        return categorical.mean(self.support, output) if self.config.num_atoms else output[..., 0]

    def update_critic(self, learner: Learner, batch: Batch, key: Key, hyper: Any) -> tuple[Learner, Metrics]:
        """One step of the critics towards r + γ (min Q(s', a') - α log π(a'|s')), all in one batch (figure 2)."""
        c = self.config
        next_action, log_prob = self.policy(learner.params["policy"], batch.next_obs).sample_and_log_prob(key)
        bonus = -self.temperature(learner.params, hyper) * log_prob
        obs = jax.tree.map(lambda *x: jnp.concatenate(x), batch.obs, batch.next_obs)
        action = jnp.concatenate([batch.action, next_action])

        def outputs(params: PyTree) -> tuple[jax.Array, jax.Array, PyTree]:
            def one(params: PyTree) -> tuple[jax.Array, PyTree]:
                return apply(self.critic, params, obs, True, action, mutable=["batch_stats"])

            output, changed = over_ensemble(one, c.num_critics, c.precision)(params)
            return *jnp.split(output, 2, axis=1), changed

        def loss(params: PyTree) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
            output, next_output, changed = outputs(params)
            if c.target_rate:
                _, next_output, _ = outputs(learner.targets["critic"])
            target = jax.lax.stop_gradient(self.target_of(batch, next_output, bonus))
            metrics = {"value/mean": self.read(output).mean()}
            if not c.num_atoms:
                return 0.5 * jnp.square(output[..., 0] - target[None]).mean(-1).sum(), (metrics, changed)
            metrics["value/saturation"] = categorical.saturation(target)
            return jax.vmap(categorical.cross_entropy, (0, None))(output, target).mean(-1).sum(), (metrics, changed)

        (error, (metrics, changed)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["critic"])
        optimizer = self.optimizers(hyper)["critic"]
        learner = learner.descend("critic", devices.mean(gradient), optimizer, self.projected, changed)
        if c.target_rate:
            learner = learner.move_target("critic", c.target_rate)
        return learner, {"loss/critic": error, **metrics}

    def target_of(self, batch: Batch, output: jax.Array, bonus: jax.Array) -> jax.Array:
        """What the critics' outputs [num_critics, batch, …] make of r + γ (Z' + bonus), with the smallest of them.

        Values [batch]; or probabilities [batch, num_atoms], of the critic with the smallest mean.
        """
        if not self.config.num_atoms:
            return bootstrapped(batch.reward, batch.discount, output[..., 0].min(0) + bonus)
        probs = categorical.smallest(self.support, output)
        reward = bootstrapped(batch.reward, batch.discount, bonus)
        return categorical.bootstrapped(self.support, reward, batch.discount, probs)

    def update_policy(self, learner: Learner, batch: Batch, key: Key, hyper: Any) -> tuple[Learner, Metrics]:
        """One step on α log π(a|s) - min Q(s, a), and one of the temperature, as in SAC."""
        c, temperature, optimizers = self.config, self.temperature(learner.params, hyper), self.optimizers(hyper)

        def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, PyTree]]:
            output, changed = self.actor.apply(params, batch.obs, True, mutable=["batch_stats"])
            action, log_prob = self._distribution(output).sample_and_log_prob(key)
            value = self.values(learner.params["critic"], batch.obs, action).min(0)
            return (temperature * log_prob - value).mean(), (-log_prob.mean(), changed)

        (error, (entropy, changed)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["policy"])
        learner = learner.descend("policy", devices.mean(gradient), optimizers["policy"], self.projected, changed)
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
