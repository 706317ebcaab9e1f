"""Parallelised Q-network: Q-learning without replay and without a target network, in many environments at once.

Gallici et al. 2024, "Simplifying deep temporal difference learning" (arXiv 2407.04811), algorithm 1: layer
normalisation prevents divergence, and Q(λ) returns of fresh experience replace the replay.

One iteration: act ε-greedily for `rollout_length` steps in `num_envs` environments, estimate returns with the largest
value of the TRUE successor (so a time limit bootstraps and a termination does not), then `num_epochs` passes of
minibatch updates. The defaults are those published for MinAtar, of 10 million steps (github.com/mttga/purejaxql).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.agent import Acted
from rljax.algorithms.core.blocks import Encoding, Parts
from rljax.algorithms.core.contract import Algorithm, discrete
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.algorithms.core.on_policy import OnPolicyConfig, Rollout, assemble, shuffled
from rljax.config import Count, Fraction, Positive, Whole, Widths, require
from rljax.envs import Environment
from rljax.nn.encoder import encode, layers_after
from rljax.nn.networks import MLP, Activation, apply
from rljax.ops.exploration import epsilon_greedy, linear_schedule
from rljax.ops.metrics import explained_variance
from rljax.ops.returns import lambda_returns
from rljax.spaces import Discrete, Space
from rljax.types import Key, Metrics, PyTree, Transition


@dataclasses.dataclass(frozen=True)
class Config(Encoding, Parts, OnPolicyConfig):
    """Settings of PQN. Those in `Hyper` live in the state and can be swept by vmap."""

    num_envs: Count = 128
    """Environments stepped together, over all devices."""
    rollout_length: Count = 32
    """Steps of each environment between two updates."""
    num_epochs: Count = 2
    """Passes over each rollout."""
    num_minibatches: Count = 32
    """Gradient steps per pass; divides num_envs * rollout_length."""
    learning_rate: Positive = 5e-4
    """Step size of rectified Adam."""
    max_grad_norm: Positive = 10.0
    """Largest global norm of the gradients; larger ones are scaled down."""
    q_lambda: Fraction = 0.65
    """Decay λ of the returns: 0 learns from one step, 1 from the rest of the rollout."""
    exploration_start: Fraction = 1.0
    """Probability ε of a random action at the start."""
    exploration_end: Fraction = 0.05
    """Probability ε of a random action at the end, and in the stochastic policy."""
    exploration_steps: Whole = 1_000_000
    """Environment steps over which ε falls linearly (published: a tenth of all)."""
    hidden: Widths = (128,)
    """Widths of the hidden layers (after the convolutions, for images)."""
    activation: Activation = "relu"
    """Activation of the hidden layers."""
    layer_norm: bool = True
    """Layer normalisation before each activation; without it, values may diverge."""

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.num_envs * self.rollout_length
        divides = steps % self.num_minibatches == 0
        require(self, "num_minibatches", divides, f"a divisor of num_envs * rollout_length = {steps}")


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    max_grad_norm: jax.Array
    q_lambda: jax.Array
    exploration_start: jax.Array
    exploration_end: jax.Array
    exploration_steps: jax.Array


class Network(nn.Module):
    """Observations [..., …] to the values of all actions, [..., actions]."""

    config: Config
    num_actions: int
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        c, hidden = self.config, self.config.hidden
        obs = encode(self.space, obs, c, c.activation, c.layer_norm, self.encoder)
        hidden = layers_after(self.space, hidden, self.encoder)
        return MLP(hidden, c.activation, self.num_actions, layer_norm=c.layer_norm)(obs)


class Agent(core.Agent):
    """The network and its updates."""

    hyper_type = Hyper
    config: Config
    action_space: Discrete

    def build(self, network: nn.Module | None) -> None:
        self.network = Network(self.config, self.action_space.n, self.seen(network), network)

    def init(self, key: Key) -> Learner:
        return Learner.init({"value": self.network.init(key, self.example_obs)}, self.optimizers(self.hyper()))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        clip = optax.clip_by_global_norm(hyper.max_grad_norm)
        return {"value": optax.chain(clip, optax.radam(hyper.learning_rate))}

    def now(self, hyper: Hyper, steps: jax.Array) -> Hyper:
        """Also the current ε, as exploration_start."""
        hyper = super().now(hyper, steps)
        epsilon = linear_schedule(hyper.exploration_start, hyper.exploration_end, steps, hyper.exploration_steps)
        return hyper.replace(exploration_start=epsilon)

    def values(self, params: PyTree, obs: jax.Array) -> jax.Array:
        """Q(s, ·), [..., actions]."""
        return apply(self.network, params, obs)

    def acting(self, learner: Learner, hyper: Hyper) -> dict[str, PyTree]:
        return {"params": learner.params["value"], "epsilon": hyper.exploration_end}

    def act(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        values = self.values(variables["params"], obs)
        action = jnp.argmax(values, -1) if deterministic else epsilon_greedy(key, values, variables["epsilon"])
        return action.astype(self.action_space.dtype), memory, ()

    def explore(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, hyper: Hyper) -> Acted:
        return self.act(variables | {"epsilon": hyper.exploration_start}, obs, memory, key, False)

    def returns(self, params: PyTree, transition: Transition, hyper: Hyper) -> jax.Array:
        """Q(λ) returns [T, N] (algorithm 1), by the values that acted."""
        # Time step by time step: all successors at once would need memory for the convolutions of a whole rollout.
        next_value = jax.lax.map(lambda obs: self.values(params, obs).max(-1), transition.next_obs)
        done = (transition.terminated, transition.truncated)
        return lambda_returns(transition.reward, next_value, *done, hyper.discount, hyper.q_lambda)

    def loss(self, params: PyTree, obs: jax.Array, action: jax.Array, target: jax.Array) -> tuple[jax.Array, tuple]:
        value = jnp.take_along_axis(self.values(params, obs), action[:, None], axis=-1)[:, 0]
        error = 0.5 * jnp.square(value - target).mean()
        return error, ({"loss/value": error, "value/mean": value.mean()}, value)

    def learn(self, learner: Learner, rollout: Rollout, key: Key, hyper: Hyper) -> tuple[Learner, Metrics, PyTree]:
        """`num_epochs` passes of minibatch steps over the rollout."""
        c, transition = self.config, rollout.transition
        target = self.returns(learner.params["value"], transition, hyper)
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (transition.obs, transition.action, target))
        optimizer = self.optimizers(hyper)["value"]

        def minibatch_step(learner: Learner, index: jax.Array) -> tuple[Learner, tuple]:
            minibatch = jax.tree.map(lambda x: x[index], batch)
            gradient, (metrics, value) = jax.grad(self.loss, has_aux=True)(learner.params["value"], *minibatch)
            gradient, metrics = devices.mean((gradient, metrics))
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            return learner.descend("value", gradient, optimizer), (metrics, value)

        minibatches = shuffled(key, c.num_epochs, c.num_minibatches, target.size)
        learner, (metrics, value) = jax.lax.scan(minibatch_step, learner, minibatches)
        metrics = jax.tree.map(jnp.mean, metrics)
        # Over all minibatches at once: a mean of their means would be another number.
        metrics["value/explained_variance"] = explained_variance(value, batch[2][minibatches])
        metrics |= {"learning_rate": hyper.learning_rate, "policy/exploration": hyper.exploration_start}
        return learner, metrics, ()


def make(env: Environment, config: Config | None = None, network: nn.Module | None = None) -> Algorithm:
    """PQN on `env`.

    Args:
      env: one environment; actions `Discrete`, observations of any kind.
      config: settings; the defaults where None.
      network: maps observations [..., …], or a dict of the parts that are seen, to features [..., d], in place of
        convolutions; the hidden layers follow.

    Raises:
      Refused: the environment's spaces do not fit.
    """
    c = config or Config()
    discrete(env, "pqn", c, network)
    agent = Agent(c, env.observation_space, env.action_space, network)
    return assemble("pqn", env, agent, lambda config: make(env, config, network), network=network)
