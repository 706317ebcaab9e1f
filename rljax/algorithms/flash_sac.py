"""FlashSAC: soft actor-critic whose networks, returns and exploration are kept in bounds, so that few updates suffice.

Kim et al. 2026, "FlashSAC: fast and stable off-policy reinforcement learning for high-dimensional robot control" (arXiv
2604.04539). Over SAC (sac.py) it has batch-normalised inverted-residual blocks whose weights lie on spheres, critics
that give distributions of returns, rewards scaled to bounded returns, a target entropy from a deviation, and noise that
is held for several steps.

`Config()` has the settings of the paper for one environment, `LAPTOP` smaller networks for a CPU, and `PARALLEL` the
settings for a thousand environments and an accelerator.
"""

import dataclasses
from math import e, log, pi
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.agent import Acted, ActorCritic
from rljax.algorithms.core.blocks import AsymmetricParts, Encoding
from rljax.algorithms.core.contract import Algorithm, continuous
from rljax.algorithms.core.experience import ReplayConfig, assemble
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.config import Atoms, Count, Positive, Share, Whole, require
from rljax.data import Batch
from rljax.envs import Environment
from rljax.nn.batch_renorm import BatchRenorm
from rljax.nn.distributions import TanhGaussian
from rljax.nn.encoder import Encoder, with_action
from rljax.nn.ensemble import over_ensemble
from rljax.nn.initializers import orthogonal
from rljax.nn.networks import apply
from rljax.nn.precision import Precision, dot_general_of
from rljax.nn.projection import unit_norms
from rljax.ops import categorical
from rljax.ops.exploration import truncated_zeta
from rljax.ops.returns import bootstrapped
from rljax.spaces import Space
from rljax.types import Key, Metrics, PyTree


@dataclasses.dataclass(frozen=True)
class Config(Encoding, AsymmetricParts, ReplayConfig):
    """Settings of FlashSAC. Those in `Hyper` live in the state and can be swept by vmap."""

    rollout_length: Count = 2
    """Steps of each environment between updates; 2, since policy_delay must divide num_updates."""
    num_updates: Count = 2
    """Batches learned from after each rollout: one update per step of one environment, as in the paper."""
    batch_size: Count = 512
    """Transitions of a batch, over all devices."""
    learning_starts: Whole = 10_000
    """Steps of random actions, over all environments, before the first update."""
    learning_rate: Positive = 3e-4
    """Step size of Adam for policy, critics and temperature."""
    anneal_steps: Whole = 0
    """Environment steps over which the learning rate falls to its half, by half a cosine; 0 keeps it constant."""
    target_rate: Share = 0.01
    """Rate τ at which the target critics move towards the critics at each update."""
    policy_delay: int = 2
    """Critic updates for each update of policy and temperature, which comes first; divides num_updates."""
    return_bound: Positive = 5.0
    """Bound of discounted returns, to which rewards are scaled; the critics' atoms lie between it and its negative."""
    num_atoms: Atoms = 101
    """Number of atoms of the critics' distributions of returns."""
    initial_temperature: Positive = 0.01
    """Temperature α at the start."""
    target_deviation: Positive = 0.15
    """Deviation σ of the Gaussian whose entropy is the target entropy: ln(2πe σ²) / 2 for each action dimension."""
    noise_exponent: Positive = 2.0
    """Exponent μ of the number of steps k for which a noise is held: P(k) ∝ k^-μ."""
    max_noise_steps: Count = 16
    """Largest number of steps for which a noise is held; 1 draws it anew at each step."""
    width: Count = 128
    """Width of the policy's residual stream; its blocks are `expansion` times as wide."""
    critic_width: Count = 256
    """Width of the critics' residual stream."""
    blocks: Whole = 2
    """Number of inverted-residual blocks of each network."""
    expansion: Count = 4
    """Width of a block's inner layer over that of the residual stream."""
    norm_momentum: Share = 0.99
    """Momentum of the running statistics of batch normalisation."""
    unit_norm: bool = True
    """Whether weights are brought back to norm 1 after each step."""
    cross_batch: bool = True
    """Whether transitions and what follows them pass through the critics as one batch, so that the same statistics
    normalise both; else each is a batch of its own."""
    precision: Precision = "float32"
    """Precision of the matrix products; bfloat16 is faster on TPUs, GPUs and CPUs that have it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        divides = self.policy_delay >= 1 and self.num_updates % self.policy_delay == 0
        require(self, "policy_delay", divides, f"a divisor of num_updates = {self.num_updates}")

    @property
    def hidden(self) -> tuple[int, ...]:
        """Width of the features of an image (see `nn.encoder.encode`)."""
        return (self.width,)


# An update for every fourth step. Narrow layers take a larger learning rate: a step of Adam turns a weight vector of
# norm 1 and size n by the learning rate times √n.
LAPTOP = Config(
    num_envs=8,
    rollout_length=1,
    num_updates=2,
    batch_size=256,
    learning_starts=5_000,
    learning_rate=7e-4,
    width=64,
    critic_width=128,
    blocks=1,
)
PARALLEL = Config(
    num_envs=1024,
    rollout_length=1,
    batch_size=2048,
    replay_size=1024 * 9765,
    learning_starts=100_000,
    random_age=True,
    precision="bfloat16",
)


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    target_rate: jax.Array
    initial_temperature: jax.Array
    target_deviation: jax.Array


class Torso(nn.Module):
    """Features [batch, n] to [batch, width], of root mean square 1: blocks between normalisations, without biases."""

    config: Config
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:
        c = self.config

        def normalized(x: jax.Array) -> jax.Array:
            return BatchRenorm(c.norm_momentum, warm_up=None, epsilon=1e-5)(x, training)

        def dense(x: jax.Array, units: int) -> jax.Array:
            product = dot_general_of(c.precision)
            return nn.Dense(units, use_bias=False, kernel_init=orthogonal(), dot_general=product)(x)

        x = dense(normalized(x), self.width)
        for _ in range(c.blocks):
            inner = nn.relu(normalized(dense(x, c.expansion * self.width)))
            x = x + nn.relu(normalized(dense(inner, self.width)))
        return nn.RMSNorm()(x)


class Actor(nn.Module):
    """Observations [batch, …] to a distribution over actions [batch, d] in [-1, 1]."""

    config: Config
    size: int
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree, training: bool) -> TanhGaussian:
        c = self.config
        features = Encoder(self.space, c, self.encoder, name="encoder")(obs)
        x = Torso(c, c.width)(features, training)
        mean = nn.Dense(self.size, kernel_init=orthogonal(), name="mean")(x)
        # Between -10 and 2, and at first about -4, as in the authors' code.
        log_std = -4.0 + 6.0 * jnp.tanh(nn.Dense(self.size, kernel_init=orthogonal(), name="log_std")(x))
        return TanhGaussian(mean, log_std)


class Critic(nn.Module):
    """One critic: observations [batch, …] and actions [batch, d] to logits [batch, num_atoms]."""

    config: Config
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree, action: jax.Array, training: bool) -> jax.Array:
        c = self.config
        features = Encoder(self.space, c, self.encoder, name="encoder")(obs)
        x = Torso(c, c.critic_width)(with_action(features, action), training)
        return nn.Dense(c.num_atoms, kernel_init=orthogonal(), name="output")(x)


class Agent(ActorCritic):
    """The networks and their updates.

    The parts "policy" and "critic" of the learner's parameters are all variables of their networks, running statistics
    included. The statistics have no gradient, so that Adam leaves them alone; they are replaced after each update.
    """

    hyper_type: ClassVar[type] = Hyper
    annealed = ()  # see `now`
    policy_first = True
    config: Config

    def build(self, network: nn.Module | None) -> None:
        c, self.action_size = self.config, self.action_space.shape[0]
        self.actor = Actor(c, self.action_size, self.seen(network), network)
        self.critic = Critic(c, self.seen(network, values=True), network)
        self.support = categorical.support(-c.return_bound, c.return_bound, c.num_atoms)

    def now(self, hyper: Hyper, steps: jax.Array) -> Hyper:
        hyper = super().now(hyper, steps)
        if not self.config.anneal_steps:
            return hyper
        done = jnp.clip(steps / self.config.anneal_steps, 0.0, 1.0)
        return hyper.replace(learning_rate=(0.75 + 0.25 * jnp.cos(pi * done)) * hyper.learning_rate)

    def init(self, key: Key) -> Learner:
        actor_key, critic_key = jax.random.split(key)

        def critic(key: Key) -> PyTree:
            return self.critic.init(key, self.example_obs, self.example_action, True)

        params = {
            "policy": self.projected(self.actor.init(actor_key, self.example_obs, True)),
            "critic": self.projected(jax.vmap(critic)(jax.random.split(critic_key, 2))),
            "log_temperature": jnp.zeros((), jnp.float32),
        }
        return Learner.init(params, self.optimizers(self.hyper()), targets=("critic",))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        return dict.fromkeys(("policy", "critic", "log_temperature"), optax.adam(hyper.learning_rate))

    def projected(self, variables: PyTree) -> PyTree:
        """The variables of a network with its weights at norm 1; an encoder's are left alone."""
        return unit_norms(variables, skip=("encoder",)) if self.config.unit_norm else variables

    def policy(self, variables: PyTree, obs: PyTree) -> TanhGaussian:
        """The policy with running statistics, for acting and for targets."""
        return apply(self.actor, variables, obs, False)

    def act(self, variables: dict[str, PyTree], obs: PyTree, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        distribution = self.policy(variables["params"], obs)
        return distribution.mode() if deterministic else distribution.sample(key), memory, ()

    @property
    def exploring_memory(self) -> PyTree:
        """The noise of one environment, and the number of steps for which it will still be held."""
        if self.config.max_noise_steps == 1:
            return ()
        return {"noise": jnp.zeros(self.action_space.shape, jnp.float32), "left": jnp.int32(0)}

    def explore(self, variables: dict[str, PyTree], obs: PyTree, memory: PyTree, key: Key, hyper: Hyper) -> Acted:
        """tanh(μ + σ ε), with a noise ε that each environment holds for k steps, or to the end of its episode."""
        c = self.config
        if c.max_noise_steps == 1:
            return self.act(variables, obs, memory, key, deterministic=False)
        noise_key, steps_key = jax.random.split(key)
        distribution, over = self.policy(variables["params"], obs), memory["left"] == 0
        fresh = jax.random.normal(noise_key, memory["noise"].shape, jnp.float32)
        steps = truncated_zeta(steps_key, c.noise_exponent, c.max_noise_steps, over.shape)
        noise = jnp.where(over[:, None], fresh, memory["noise"])
        left = jnp.where(over, steps, memory["left"]) - 1
        action = jnp.tanh(distribution.mean + jnp.exp(distribution.log_std) * noise)
        return action, {"noise": noise, "left": left}, ()

    def log_prob(self, variables: dict[str, PyTree], obs: PyTree, action: jax.Array) -> jax.Array:
        return self.policy(variables["params"], obs).log_prob(action)

    def logits(self, variables: PyTree, obs: PyTree, action: jax.Array) -> tuple[jax.Array, PyTree]:
        """Logits of both critics [2, batch, num_atoms] with the batch's statistics, and the new running ones."""

        def one(variables: PyTree) -> tuple[jax.Array, PyTree]:
            return apply(self.critic, variables, obs, action, True, mutable=["batch_stats"])

        return over_ensemble(one, 2, self.config.precision)(variables)

    def both_logits(
        self, variables: PyTree, batch: Batch, next_action: jax.Array
    ) -> tuple[jax.Array, jax.Array, PyTree]:
        """Logits [2, batch, num_atoms] of (s, a) and of (s', a'), in one batch or in two, and the statistics."""
        if not self.config.cross_batch:
            logits, changed = self.logits(variables, batch.obs, batch.action)
            return logits, self.logits(variables, batch.next_obs, next_action)[0], changed
        obs = jax.tree.map(lambda *x: jnp.concatenate(x), batch.obs, batch.next_obs)
        logits, changed = self.logits(variables, obs, jnp.concatenate([batch.action, next_action]))
        return *jnp.split(logits, 2, axis=1), changed

    def temperature(self, params: PyTree, hyper: Hyper) -> jax.Array:
        return hyper.initial_temperature * jnp.exp(params["log_temperature"])

    def target(self, learner: Learner, batch: Batch, next_action: jax.Array, bonus: jax.Array) -> jax.Array:
        """Probabilities [batch, num_atoms] of r + γ (Z' + bonus), with Z' of the critic with the smaller mean."""
        _, logits, _ = self.both_logits(learner.targets["critic"], batch, next_action)
        probs = categorical.smallest(self.support, logits)
        reward = bootstrapped(batch.reward, batch.discount, bonus)
        return categorical.bootstrapped(self.support, reward, batch.discount, probs)

    def update_critic(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step of the critics on the cross-entropy to the target, and of the target critics after them."""
        next_action, log_prob = self.policy(learner.params["policy"], batch.next_obs).sample_and_log_prob(key)
        target = self.target(learner, batch, next_action, -self.temperature(learner.params, hyper) * log_prob)

        def loss(variables: PyTree) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
            logits, _, changed = self.both_logits(variables, batch, next_action)
            error = jax.vmap(categorical.cross_entropy, (0, None))(logits, target).mean(-1).sum()
            value = categorical.mean(self.support, logits).mean()
            return error, ({"value/mean": value, "value/saturation": categorical.saturation(target)}, changed)

        (error, (metrics, changed)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["critic"])
        optimizer = self.optimizers(hyper)["critic"]
        learner = learner.descend("critic", devices.mean(gradient), optimizer, self.projected, changed)
        learner = learner.move_target("critic", hyper.target_rate)
        return learner, {"loss/critic": error, **metrics}

    def update_policy(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step on α log π(a|s) - min Q(s, a), and one of the temperature towards the target entropy.

        The statistics are those of s and s' together, and the critics' are the running ones.
        """
        temperature, size = self.temperature(learner.params, hyper), batch.action.shape[0]
        obs = jax.tree.map(lambda *x: jnp.concatenate(x), batch.obs, batch.next_obs)

        def loss(variables: PyTree) -> tuple[jax.Array, tuple[jax.Array, PyTree]]:
            distribution, changed = apply(self.actor, variables, obs, True, mutable=["batch_stats"])
            action, log_prob = distribution.sample_and_log_prob(key)
            error = temperature * log_prob[:size] - self.values(learner.params["critic"], batch.obs, action[:size]).min(
                0
            )
            return error.mean(), (-log_prob[:size].mean(), changed)

        (error, (entropy, changed)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["policy"])
        optimizers = self.optimizers(hyper)
        learner = learner.descend("policy", devices.mean(gradient), optimizers["policy"], self.projected, changed)
        target = self.action_size * (0.5 * log(2 * pi * e) + jnp.log(hyper.target_deviation))
        excess = devices.mean(temperature * (entropy - target))
        learner = learner.descend("log_temperature", excess, optimizers["log_temperature"])
        return learner, {"loss/policy": error, "policy/entropy": entropy, "policy/temperature": temperature}

    def values(self, variables: PyTree, obs: PyTree, action: jax.Array) -> jax.Array:
        """Values of both critics with running statistics, [2, batch]."""

        def one(variables: PyTree) -> jax.Array:
            return categorical.mean(self.support, apply(self.critic, variables, obs, action, False))

        return over_ensemble(one, 2, self.config.precision)(variables)


def make(env: Environment, config: Config | None = None, network: nn.Module | None = None) -> Algorithm:
    """FlashSAC on `env`.

    Args:
      env: one environment; actions a bounded one-dimensional `Box`, observations of any kind.
      config: settings; the defaults where None.
      network: maps observations [..., …], or a dict of the parts that are seen, to features [..., d], in place of
        convolutions; the blocks follow. The policy and each critic have one of their own.

    Raises:
      Refused: the environment's spaces do not fit.
    """
    acts_in = continuous(env, "flash_sac")
    agent = Agent(config or Config(), acts_in.observation_space, acts_in.action_space, network)
    return assemble(
        "flash_sac", env, agent, lambda config: make(env, config, network), acts_in=acts_in, network=network
    )
