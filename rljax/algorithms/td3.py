"""TD3: a deterministic policy and two critics, of which the more pessimistic is believed.

Fujimoto, van Hoof and Meger 2018, "Addressing function approximation error in actor-critic methods" (TD3,
arXiv 1802.09477): clipped double Q-learning, delayed updates of policy and targets, smoothed target policy.
Seo et al. 2025, "FastTD3" (arXiv 2505.22642): the same with a thousand environments, each with noise of its own scale,
large batches and critics that give a distribution of returns (C51, Bellemare et al. 2017, arXiv 1707.06887).

`Config()` is the algorithm of 2018; `FAST_TD3` below are the settings of 2025.
"""

import dataclasses
import functools
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.agent import Acted, ActorCritic
from rljax.algorithms.core.blocks import AsymmetricParts, DenseNetwork, Encoding
from rljax.algorithms.core.contract import Algorithm, continuous
from rljax.algorithms.core.experience import ReplayConfig, assemble
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.config import Count, Must, NonNegative, Positive, Share, Widths, require
from rljax.data import Batch
from rljax.envs import Environment
from rljax.nn.encoder import encode, with_action
from rljax.nn.ensemble import over_ensemble
from rljax.nn.networks import MLP, apply
from rljax.nn.precision import dot_general_of
from rljax.ops import categorical
from rljax.ops.returns import bootstrapped
from rljax.spaces import Space
from rljax.types import Key, Metrics, PyTree

NumAtoms = Annotated[int, Must("0, or at least 2", lambda x: x == 0 or x >= 2)]


@dataclasses.dataclass(frozen=True)
class Config(DenseNetwork, Encoding, AsymmetricParts, ReplayConfig):
    """Settings of TD3. Those in `Hyper` live in the state and can be swept by vmap."""

    rollout_length: Count = 2
    """Steps of each environment between updates; 2, since policy_delay must divide num_updates."""
    num_updates: Count = 2
    """Batches learned from after each rollout: one update per step of one environment, as in the paper."""
    learning_rate: Positive = 3e-4
    """Step size of the policy's Adam (the authors' code; the paper has 1e-3 with batches of 100)."""
    critic_learning_rate: Positive = 3e-4
    """Learning rate of the critics."""
    target_rate: Share = 0.005
    """Rate τ at which the targets of policy and critics move at each delayed update."""
    policy_delay: int = 2
    """Critic updates d for each update of the policy and of all targets (section 5.2); divides num_updates."""
    target_noise: NonNegative = 0.2
    """Deviation σ of the noise on the target policy's actions in [-1, 1] (section 5.3)."""
    target_noise_clip: NonNegative = 0.5
    """Bound c: the noise on target actions is clipped to [-c, c]."""
    target_policy: bool = True
    """Whether a slow copy of the policy chooses the next action in targets (algorithm 1), or the policy itself
    (FastTD3)."""
    delay_targets: bool = True
    """Whether the target critics move when the policy does (algorithm 1), or after each update of the critics
    (FastTD3)."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay of policy and critics, as in AdamW (FastTD3: 0.1)."""
    exploration_noise: NonNegative = 0.1
    """Deviation σ of the Gaussian noise on actions, where noise_max is 0."""
    noise_min: NonNegative = 0.0
    """Lower end of the range from which each episode draws its σ."""
    noise_max: float = 0.0
    """Upper end of the range from which each episode draws its σ (FastTD3); 0 uses exploration_noise."""
    policy_value: Literal["first", "min"] = "first"
    """Objective of the policy: the first critic (first; the paper), or the smaller of both (min; FastTD3)."""
    num_atoms: NumAtoms = 0
    """Number of atoms of critics that give distributions (C51; FastTD3: 101); 0 for critics that give values."""
    value_min: float = -10.0
    """Smallest atom of the support: lower returns count as this. All discounted returns of the task should lie between
    it and value_max."""
    value_max: float = 10.0
    """Largest atom of the support."""
    hidden: Widths = (256, 256)
    """Widths of the hidden layers of the policy, and of the critics where critic_hidden is None."""
    critic_hidden: Widths | None = None
    """Widths of the hidden layers of the critics; None takes the policy's."""
    layer_norm: bool = False
    """Layer normalisation in the critics."""
    policy_layer_norm: bool = False
    """Layer normalisation in the policy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        divides = self.policy_delay >= 1 and self.num_updates % self.policy_delay == 0
        require(self, "policy_delay", divides, f"a divisor of num_updates = {self.num_updates}")
        require(self, "noise_max", self.noise_max >= self.noise_min, f"at least noise_min = {self.noise_min}")
        require(self, "value_max", self.value_max > self.value_min, f"more than value_min = {self.value_min}")


FAST_TD3 = Config(
    num_envs=1024,
    rollout_length=1,
    num_updates=2,
    batch_size=32_768,
    replay_size=1024 * 10_240,
    learning_starts=1024 * 10,
    normalize_observation=True,
    discount=0.97,
    target_rate=0.1,
    target_noise=0.001,
    target_policy=False,
    delay_targets=False,
    weight_decay=0.1,
    noise_min=0.001,
    noise_max=0.4,
    policy_value="min",
    num_atoms=101,
    hidden=(512, 256, 128),
    critic_hidden=(1024, 512, 256),
)
"""The settings of FastTD3's code for MuJoCo Playground (its hyperparams.py), where rewards are small; for other tasks
set value_min, value_max and discount.

Differences from that code: the first learning_starts actions are uniform, there the untrained policy's with noise; the
smaller of two distributions is chosen by its mean before projection, there after it, which differs only where returns
leave the support; weights start orthogonal; and products are in float32 unless precision="bfloat16".
"""


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    critic_learning_rate: jax.Array
    target_rate: jax.Array
    target_noise: jax.Array
    target_noise_clip: jax.Array
    exploration_noise: jax.Array
    noise_min: jax.Array
    noise_max: jax.Array


class Actor(nn.Module):
    """Observations [..., n] to actions [..., d] in [-1, 1]."""

    config: Config
    size: int
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree) -> jax.Array:
        c = self.config
        product = dot_general_of(c.precision)
        obs = encode(self.space, obs, c, network=self.encoder)
        mlp = MLP(c.hidden, c.activation, self.size, 0.01, layer_norm=c.policy_layer_norm, dot_general=product)
        return jnp.tanh(mlp(obs))


class Critic(nn.Module):
    """One critic: observations [..., n] and actions [..., d] to values [...], or to logits [..., num_atoms]."""

    config: Config
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree, action: jax.Array) -> jax.Array:
        c = self.config
        x = with_action(encode(self.space, obs, c, network=self.encoder), action)
        hidden = c.hidden if c.critic_hidden is None else c.critic_hidden
        product = dot_general_of(c.precision)
        mlp = MLP(hidden, c.activation, c.num_atoms or 1, 1.0, layer_norm=c.layer_norm, dot_general=product)
        return mlp(x) if c.num_atoms else mlp(x)[..., 0]


def perturbed(action: jax.Array, key: Key, scale: Any, clip: Any = jnp.inf) -> jax.Array:
    """Actions [..., d] in [-1, 1] with Gaussian noise of deviation `scale`, itself clipped to [-clip, clip].

    With a clip it is target policy smoothing (section 5.3, eq. 14), without it exploration (algorithm 1).
    """
    noise = jnp.clip(scale * jax.random.normal(key, action.shape, action.dtype), -clip, clip)
    return jnp.clip(action + noise, -1.0, 1.0)


class Agent(ActorCritic):
    """The networks and their updates."""

    hyper_type: ClassVar[type] = Hyper
    annealed = ("learning_rate", "critic_learning_rate")
    config: Config

    def build(self, network: nn.Module | None) -> None:
        self.actor = Actor(self.config, self.action_space.shape[0], self.seen(network), network)
        self.critic = Critic(self.config, self.seen(network, values=True), network)

    def init(self, key: Key) -> Learner:
        actor_key, critic_key = jax.random.split(key)

        def init_critic(key: Key) -> PyTree:
            return self.critic.init(key, self.example_obs, self.example_action)

        params = {
            "policy": self.actor.init(actor_key, self.example_obs),
            "critic": jax.vmap(init_critic)(jax.random.split(critic_key, 2)),
        }
        targets = ("policy", "critic") if self.config.target_policy else ("critic",)
        return Learner.init(params, self.optimizers(self.hyper()), targets)

    def optimizers(self, hyper: Hyper) -> Optimizers:
        decay = self.config.weight_decay
        adam = functools.partial(optax.adamw, weight_decay=decay) if decay else optax.adam
        return {"policy": adam(hyper.learning_rate), "critic": adam(hyper.critic_learning_rate)}

    def policy(self, params: PyTree, obs: jax.Array) -> jax.Array:
        """Actions [..., d] for the policy's parameters and observations [..., n]."""
        return apply(self.actor, params, obs)

    def acting(self, learner: Learner, hyper: Hyper) -> dict[str, PyTree]:
        # A stochastic policy has noise from the middle of the range.
        return {"params": learner.params["policy"], "noise": self.noise(hyper, jnp.float32(0.5))}

    def noise(self, hyper: Hyper, level: jax.Array) -> jax.Array:
        """Deviation σ of exploration at a level in [0, 1] of its range; of the level's shape."""
        if not self.config.noise_max:
            return jnp.full(level.shape, hyper.exploration_noise)
        own = hyper.noise_min + level * (hyper.noise_max - hyper.noise_min)
        # A member of a sweep whose noise_max is 0 is as it would be alone.
        return jnp.where(hyper.noise_max > 0, own, self.config.exploration_noise)

    def act(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        action = self.policy(variables["params"], obs)
        return action if deterministic else perturbed(action, key, variables["noise"]), memory, ()

    @property
    def exploring_memory(self) -> PyTree:
        """The level of an episode's noise in its range, drawn at its first step; -1 before that."""
        return jnp.float32(-1.0) if self.config.noise_max else ()

    def explore(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, hyper: Hyper) -> Acted:
        action = self.policy(variables["params"], obs)
        if not self.config.noise_max:
            return perturbed(action, key, hyper.exploration_noise), memory, ()
        key, level_key = jax.random.split(key)
        level = jnp.where(memory < 0, jax.random.uniform(level_key, memory.shape, jnp.float32), memory)
        return perturbed(action, key, self.noise(hyper, level)[:, None]), level, ()

    def critics(self, params: PyTree, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Outputs of both critics, [2, batch] or [2, batch, num_atoms]."""

        def one(params: PyTree) -> jax.Array:
            return apply(self.critic, params, obs, action)

        return over_ensemble(one, 2, self.config.precision)(params)

    def value(self, output: jax.Array) -> jax.Array:
        """The expected return that a critic's output represents."""
        return categorical.mean(self.support, output) if self.config.num_atoms else output

    @property
    def support(self) -> jax.Array:
        """The atoms [num_atoms]."""
        return categorical.support(self.config.value_min, self.config.value_max, self.config.num_atoms)

    def next_action(self, learner: Learner, next_obs: jax.Array, key: Key, hyper: Hyper) -> jax.Array:
        """ã, [batch, d]: π'(s') with clipped noise, or π(s') where there is no target policy."""
        params = (learner.targets if self.config.target_policy else learner.params)["policy"]
        return perturbed(self.policy(params, next_obs), key, hyper.target_noise, hyper.target_noise_clip)

    def target(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> jax.Array:
        """r + γ min Q'(s', ã), with ã = π'(s') and clipped noise (section 5.3): [batch], or probabilities [batch, n].

        The minimum of two distributions is, for each sample, the one with the smaller mean.
        """
        action = self.next_action(learner, batch.next_obs, key, hyper)
        output = self.critics(learner.targets["critic"], batch.next_obs, action)
        if not self.config.num_atoms:
            return bootstrapped(batch.reward, batch.discount, output.min(0))
        probs = categorical.smallest(self.support, output)
        return categorical.bootstrapped(self.support, batch.reward, batch.discount, probs)

    def update_critic(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step of both critics towards the target (algorithm 1): squared errors, or cross-entropies.

        The target critics follow at once where `delay_targets` is False.
        """
        target = self.target(learner, batch, key, hyper)

        def loss(params: PyTree) -> tuple[jax.Array, Metrics]:
            output = self.critics(params, batch.obs, batch.action)
            metrics = {"value/mean": self.value(output).mean()}
            if self.config.num_atoms:
                error = jax.vmap(categorical.cross_entropy, (0, None))(output, target)
                metrics["value/saturation"] = categorical.saturation(jax.nn.softmax(output))
            else:
                error = jnp.square(output - target[None])
            return error.mean(-1).sum(), metrics

        (error, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["critic"])
        learner = learner.descend("critic", devices.mean(gradient), self.optimizers(hyper)["critic"])
        if not self.config.delay_targets:
            learner = learner.move_target("critic", hyper.target_rate)
        return learner, {"loss/critic": error, **metrics}

    def step_policy(self, learner: Learner, gradient: PyTree, hyper: Hyper) -> Learner:
        """One step of the policy down the gradient, and of the targets after it (algorithm 1)."""
        c = self.config
        learner = learner.descend("policy", devices.mean(gradient), self.optimizers(hyper)["policy"])
        if c.target_policy:
            learner = learner.move_target("policy", hyper.target_rate)
        return learner.move_target("critic", hyper.target_rate) if c.delay_targets else learner

    def update_policy(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step up Q(s, π(s)), and of the targets after it (algorithm 1)."""

        def loss(params: PyTree) -> jax.Array:
            action, critics = self.policy(params, batch.obs), learner.params["critic"]
            if self.config.policy_value == "min":
                return -self.value(self.critics(critics, batch.obs, action)).min(0).mean()
            first = jax.tree.map(lambda x: x[0], critics)
            return -self.value(apply(self.critic, first, batch.obs, action)).mean()

        error, gradient = jax.value_and_grad(loss)(learner.params["policy"])
        return self.step_policy(learner, gradient, hyper), {"loss/policy": error}


def make(env: Environment, config: Config | None = None, network: nn.Module | None = None) -> Algorithm:
    """TD3 on `env`.

    Args:
      env: one environment; actions a bounded one-dimensional `Box`, observations of any kind.
      config: settings; the defaults where None.
      network: maps observations [..., …], or a dict of the parts that are seen, to features [..., d], in place of
        convolutions; the hidden layers follow. The policy and each critic have one of their own.

    Raises:
      Refused: the environment's spaces do not fit.
    """
    acts_in = continuous(env, "td3")
    agent = Agent(config or Config(), acts_in.observation_space, acts_in.action_space, network)
    return assemble("td3", env, agent, lambda config: make(env, config, network), acts_in=acts_in, network=network)
