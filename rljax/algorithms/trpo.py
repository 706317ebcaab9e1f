"""Trust region policy optimisation: the natural gradient, as long as a bound on the change of the policy allows.

Schulman et al. 2015, "Trust region policy optimization" (arXiv 1502.05477): the constrained step, sec. 6, appendix C.
Kakade 2001, "A natural policy gradient": the same step without a search (`npg`).
Schulman et al. 2016, "High-dimensional continuous control using GAE" (arXiv 1506.02438): advantages, eq. 16.

One iteration: act for `rollout_length` steps in `num_envs` environments, estimate advantages with the value of the
TRUE successor, take one step of the policy, then fit the values by `value_epochs` passes of Adam. Policy and value have
no parameter in common: a step of the value's would leave the trust region.

Other defaults are those of Tianshou, whose scores on MuJoCo are the best that have been published.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.blocks import AsymmetricParts, Encoding
from rljax.algorithms.core.contract import Algorithm, any_actions
from rljax.algorithms.core.learner import Learner, Optimizers, scan_for_means
from rljax.algorithms.core.on_policy import OnPolicyConfig, Rollout, assemble, shuffled
from rljax.algorithms.ppo import normalized
from rljax.config import BelowOne, Count, Fraction, NonNegative, Positive, Widths, require
from rljax.envs import Environment
from rljax.nn.distributions import Categorical, Gaussian, MultiCategorical, categorical, head_size
from rljax.nn.encoder import encode, layers_after
from rljax.nn.networks import MLP, Activation
from rljax.ops.conjugate_gradient import conjugate_gradient
from rljax.ops.metrics import explained_variance
from rljax.ops.returns import gae
from rljax.spaces import ArraySpace, Box, Space
from rljax.types import Key, Metrics, PyTree

Distribution = Categorical | MultiCategorical | Gaussian


@dataclasses.dataclass(frozen=True)
class Config(Encoding, AsymmetricParts, OnPolicyConfig):
    """Settings of TRPO. Those in `Hyper` live in the state and can be swept by vmap."""

    num_envs: Count = 16
    """Environments stepped together, over all devices (Tianshou: 16)."""
    rollout_length: Count = 64
    """Steps of each environment between two updates (Tianshou: 1,024 of all together)."""
    max_kl: Positive = 0.01
    """Largest mean divergence δ = KL(old ‖ new) of a step of the policy (Schulman et al. 2015, appendix E: 0.01)."""
    damping: NonNegative = 0.1
    """Multiple of the identity that is added to the Fisher matrix, so that no direction is free (Tianshou: 0.1)."""
    cg_iterations: Count = 10
    """Iterations of conjugate gradient that solve for the step (Schulman et al. 2015, appendix C.1: 10)."""
    npg: bool = False
    """Whether the step is taken as it is, which is the natural policy gradient (Kakade 2001), without the line search
    that checks the divergence and the surrogate."""
    line_search_steps: Count = 10
    """Lengths of the step that are tried, each shorter than the one before, until one is accepted; if none is, the
    policy stays the same, bit for bit (Tianshou: 10)."""
    line_search_decay: BelowOne = 0.8
    """Factor between the lengths that are tried (Tianshou: 0.8)."""
    gae_lambda: Fraction = 0.95
    """Decay λ of the advantage estimates (GAE)."""
    normalize_advantage: bool = True
    """Whether the advantages of a rollout are shifted and scaled to mean 0, deviation 1; the scale changes nothing."""
    learning_rate: Positive = 1e-3
    """Initial step size of Adam, by which values are learned; the policy has none (Tianshou: 1e-3)."""
    max_grad_norm: Positive = 0.5
    """Largest global norm of the value loss's gradient; larger ones are scaled down."""
    value_epochs: Count = 20
    """Passes over each rollout in which values are fitted to it (Tianshou: 20)."""
    num_minibatches: Count = 1
    """Steps of Adam in each pass, on shares of the rollout drawn at random; divides num_envs * rollout_length."""
    hidden: Widths = (64, 64)
    """Widths of the hidden layers (after the convolutions, for images); policy and value have their own."""
    activation: Activation = "tanh"
    """Activation of the hidden layers."""
    initial_log_std: float = -0.5
    """Log standard deviation of a continuous policy at the start, in units of half the action range (Tianshou)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.num_envs * self.rollout_length
        require(self, "num_minibatches", steps % self.num_minibatches == 0, f"a divisor of {steps}, a rollout's steps")


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    max_kl: jax.Array
    damping: jax.Array
    gae_lambda: jax.Array
    max_grad_norm: jax.Array


class PolicyNetwork(nn.Module):
    """Observations [..., …] to the distribution of actions. The last layer is small: at first all actions are alike."""

    config: Config
    space: Space
    actions: ArraySpace
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree) -> Distribution:
        c, width = self.config, head_size(self.actions)
        features = encode(self.space, obs, c, network=self.encoder)
        layers = layers_after(self.space, c.hidden, self.encoder)
        head = MLP(layers, c.activation, output=width, output_scale=0.01)(features)
        if not isinstance(self.actions, Box):
            return categorical(self.actions, head)
        log_std = self.param("log_std", nn.initializers.constant(c.initial_log_std), (width,), jnp.float32)
        return Gaussian(head, jnp.broadcast_to(log_std, head.shape))


class ValueNetwork(nn.Module):
    """Observations [..., …] to values [...]."""

    config: Config
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree) -> jax.Array:
        features = encode(self.space, obs, self.config, network=self.encoder)
        layers = layers_after(self.space, self.config.hidden, self.encoder)
        return MLP(layers, self.config.activation, output=1)(features)[..., 0]


class Steps(NamedTuple):
    """The steps of a rollout, leaves [batch, …]."""

    obs: PyTree
    action: jax.Array
    advantage: jax.Array
    target: jax.Array


class Linearized(NamedTuple):
    """A policy on a batch of observations, and its derivative: what a natural gradient is made of.

    Fields:
      old: the distributions [batch].
      gradient_of: changes of the distributions' parameters, summed over the batch by their weights, to the parameters'.
      fisher_product: v -> F v, where F is the mean Fisher matrix of the batch, which is the second derivative of
        KL(old ‖ new) in the parameters of the new policy, where it equals the old one.
    """

    old: Distribution
    gradient_of: Callable[[Distribution], PyTree]
    fisher_product: Callable[[PyTree], PyTree]


class Tried(NamedTuple):
    """The line search after some tries: the last one tried, and what it would do."""

    tries: jax.Array
    accepted: jax.Array
    params: PyTree
    kl: jax.Array
    improvement: jax.Array
    entropy: jax.Array


def linearized(policy: Callable[[PyTree], Distribution], params: PyTree, size: int) -> Linearized:
    """The policy at `params`, where `policy` maps parameters to the distributions of a batch of this size.

    With the derivative J of the distributions' parameters and their own Fisher matrix M, F = Jᵀ M J: no second
    derivatives are needed, and F has no negative direction, whatever the rounding (Schulman et al. 2015, appendix C.1).
    """
    old, forward = jax.linearize(policy, params)
    transposed = jax.linear_transpose(forward, params)

    def gradient_of(weights: Distribution) -> PyTree:
        (sums,) = transposed(weights)
        return devices.mean(jax.tree.map(lambda x: x / size, sums))

    return Linearized(old, gradient_of, lambda v: gradient_of(old.fisher(forward(v))))


def longest_step(product: Callable[[PyTree], PyTree], direction: PyTree, max_kl: jax.Array) -> PyTree:
    """The direction x, scaled so that ½ xᵀ F x = δ (Schulman et al. 2015, appendix C); zeros where it has no length."""
    square = optax.tree.vdot(direction, product(direction))
    scale = jnp.where(square > 0, jnp.sqrt(2.0 * max_kl / jnp.where(square > 0, square, 1.0)), 0.0)
    return jax.tree.map(lambda x: scale * x, direction)


class Agent(core.Agent):
    """The networks and their updates."""

    hyper_type = Hyper
    config: Config

    def build(self, network: nn.Module | None) -> None:
        self.network = PolicyNetwork(self.config, self.seen(network), self.action_space, network)
        self.value_network = ValueNetwork(self.config, self.seen(network, values=True), network and network.clone())

    def init(self, key: Key) -> Learner:
        policy_key, value_key = jax.random.split(key)
        params = {
            "policy": self.network.init(policy_key, self.example_obs),
            "value": self.value_network.init(value_key, self.example_obs),
        }
        return Learner.init(params, self.optimizers(self.hyper()))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        adam = optax.chain(optax.clip_by_global_norm(hyper.max_grad_norm), optax.adam(hyper.learning_rate))
        return {"policy": optax.identity(), "value": adam}

    def act(self, variables: dict, obs: PyTree, memory: PyTree, key: Key, deterministic: bool) -> core.Acted:
        distribution = self.distribution(variables["params"], obs)
        return distribution.mode() if deterministic else distribution.sample(key), memory, ()

    def distribution(self, params: PyTree, obs: PyTree) -> Any:
        return self.network.apply(params, obs)

    def value(self, params: PyTree, obs: PyTree) -> Any:
        return self.value_network.apply(params, obs)

    def steps_of(self, params: PyTree, rollout: Rollout, hyper: Hyper) -> tuple[Steps, jax.Array]:
        """A rollout's steps with advantages and value targets, and their values before."""

        def flat(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

        t = rollout.transition
        value, following = (self.value(params, flat(x)).reshape(t.reward.shape) for x in (t.obs, t.next_obs))
        ends = (t.terminated, t.truncated)
        advantage = gae(t.reward, value, following, *ends, hyper.discount, hyper.gae_lambda)
        return flat(Steps(t.obs, t.action, advantage, target=advantage + value)), flat(value)

    def improve(self, params: PyTree, steps: Steps, hyper: Hyper) -> tuple[PyTree, Metrics]:
        """One step of the policy: its new parameters, or the old ones where no length of the step is accepted."""
        c = self.config
        advantage = normalized(steps.advantage) if c.normalize_advantage else steps.advantage
        size = advantage.shape[0]
        old, gradient_of, fisher = linearized(lambda p: self.distribution(p, steps.obs), params, size)
        old_log_prob = old.log_prob(steps.action)

        def surrogate(new: Distribution) -> jax.Array:
            """Mean of (r - 1) A over this device, where r is the ratio of the policies: 0 for the old one."""
            return (jnp.expm1(new.log_prob(steps.action) - old_log_prob) * advantage).mean()

        def damped(v: PyTree) -> PyTree:
            return jax.tree.map(lambda f, v: f + hyper.damping * v, fisher(v), v)

        gradient = gradient_of(jax.tree.map(lambda x: size * x, jax.grad(surrogate)(old)))
        direction = conjugate_gradient(damped, gradient, c.cg_iterations)
        step = longest_step(damped, direction, hyper.max_kl)

        def attempt(tried: Tried) -> Tried:
            length = jnp.float32(c.line_search_decay) ** tried.tries
            new_params = jax.tree.map(lambda p, s: p + length * s, params, step)
            new = self.distribution(new_params, steps.obs)
            measured = (old.kl(new).mean(), surrogate(new), new.entropy().mean())
            kl, improvement, entropy = devices.mean(measured)
            accepted = jnp.bool(c.npg) | ((kl <= hyper.max_kl) & (improvement > 0.0))
            return Tried(tried.tries + 1, accepted, new_params, kl, improvement, entropy)

        zero = jnp.float32(0.0)
        first = Tried(jnp.int32(0), jnp.bool(False), params, zero, zero, zero)
        last = jax.lax.while_loop(lambda t: ~t.accepted & (t.tries < c.line_search_steps), attempt, first)
        new_params = jax.tree.map(lambda new, old: jnp.where(last.accepted, new, old), last.params, params)
        return new_params, {
            "loss/policy": -jnp.where(last.accepted, last.improvement, 0.0),
            "policy/kl": jnp.where(last.accepted, last.kl, 0.0),
            "policy/entropy": jnp.where(last.accepted, last.entropy, devices.mean(old.entropy().mean())),
            "line_search/tried": last.tries,
            "line_search/accepted": last.accepted,
            "gradient_norm": optax.tree.norm(gradient),
        }

    def fit(self, learner: Learner, steps: Steps, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """`value_epochs` passes of minibatch steps of the value over the rollout, by half the mean squared error."""
        c = self.config
        optimizer = self.optimizers(hyper)["value"]

        def loss(params: PyTree, obs: PyTree, target: jax.Array) -> jax.Array:
            return 0.5 * jnp.square(self.value(params, obs) - target).mean()

        def minibatch_step(learner: Learner, index: jax.Array | None) -> tuple[Learner, Metrics]:
            batch = (steps.obs, steps.target)
            if c.num_minibatches > 1:
                batch = jax.tree.map(lambda x: x[index], batch)
            error, gradient = devices.mean(jax.value_and_grad(loss)(learner.params["value"], *batch))
            return learner.descend("value", gradient, optimizer), {"loss/value": error}

        minibatches = shuffled(key, c.value_epochs, c.num_minibatches, steps.target.shape[0])
        return scan_for_means(minibatch_step, learner, minibatches)

    def learn(self, learner: Learner, rollout: Rollout, key: Key, hyper: Hyper) -> tuple[Learner, Metrics, PyTree]:
        """One step of the policy, then the passes of the value."""
        steps, value = self.steps_of(learner.params["value"], rollout, hyper)
        params, of_policy = self.improve(learner.params["policy"], steps, hyper)
        learner = learner.replace(params=learner.params | {"policy": params})
        learner, of_value = self.fit(learner, steps, key, hyper)
        further = {
            "learning_rate": hyper.learning_rate,
            "value/explained_variance": explained_variance(value, steps.target),
        }
        return learner, of_policy | of_value | further, ()


def make(env: Environment, config: Config | None = None, network: nn.Module | None = None) -> Algorithm:
    """TRPO on `env`.

    Args:
      env: one environment; actions `Discrete`, `MultiDiscrete` or a one-dimensional `Box`, observations of any kind.
      config: settings; the defaults where None.
      network: maps observations [..., …], or a dict of the parts that are seen, to features [..., d], in place of
        convolutions; the hidden layers follow. Policy and value have one each.

    Raises:
      Refused: the environment's spaces do not fit.
    """
    config = config or Config()
    acts_in = any_actions(env, "trpo", config, network)
    agent = Agent(config, env.observation_space, acts_in.action_space, network)
    return assemble("trpo", env, agent, lambda config: make(env, config, network), acts_in, network)
