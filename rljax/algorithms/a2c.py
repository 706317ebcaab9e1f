"""Advantage actor-critic: one gradient step on each short rollout of environments that are stepped together.

Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning" (arXiv 1602.01783), algorithm S3, in one batch
where theirs is threads. A time limit bootstraps, from the TRUE successor. Other defaults: github.com/openai/baselines.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.blocks import Encoding, Parts
from rljax.algorithms.core.contract import Algorithm, continuous, observable
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.algorithms.core.on_policy import OnPolicyConfig, Rollout, assemble
from rljax.config import Count, NonNegative, Positive, Widths
from rljax.envs import Environment
from rljax.nn.distributions import Categorical, Gaussian, MultiCategorical, categorical, head_size
from rljax.nn.encoder import encode, layers_after
from rljax.nn.networks import MLP
from rljax.ops.metrics import explained_variance
from rljax.ops.returns import discounted_returns
from rljax.spaces import ArraySpace, Box, Discrete, MultiDiscrete, Space
from rljax.types import Key, Metrics, PyTree, Transition


@dataclasses.dataclass(frozen=True)
class Config(Encoding, Parts, OnPolicyConfig):
    """Settings of A2C. Those in `Hyper` live in the state and can be swept by vmap."""

    num_envs: Count = 16
    """Environments stepped together, over all devices (Mnih et al. 2016, sec. 5.1: 16 threads)."""
    rollout_length: Count = 5
    """Steps of each environment between two updates (Mnih et al. 2016, sec. 8: t_max = 5)."""
    learning_rate: Positive = 7e-4
    """Step size of RMSProp, whose decay is 0.99 (Mnih et al. 2016, sec. 8) and whose epsilon is 1e-5."""
    value_coefficient: NonNegative = 1.0
    """Weight of the value loss, which is half the mean squared error (OpenAI: 0.5 of the whole)."""
    entropy_coefficient: NonNegative = 0.01
    """Weight of the entropy bonus (Mnih et al. 2016, sec. 8: β = 0.01)."""
    hidden: Widths = (64, 64)
    """Widths of the hidden layers, of tanh (after the convolutions, for images); policy and value have their own."""


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    value_coefficient: jax.Array
    entropy_coefficient: jax.Array
    max_grad_norm: jax.Array


class Network(nn.Module):
    """Observations [..., …] to the distribution of actions and values [...]."""

    config: Config
    space: Space
    actions: ArraySpace

    @nn.compact
    def __call__(self, obs: PyTree) -> tuple[Categorical | MultiCategorical | Gaussian, jax.Array]:
        width = head_size(self.actions)
        layers = layers_after(self.space, self.config.hidden)
        head = MLP(layers, output=width, output_scale=0.01)(encode(self.space, obs, self.config))
        value = MLP(layers, output=1)(encode(self.space, obs, self.config))[..., 0]
        if not isinstance(self.actions, Box):
            return categorical(self.actions, head), value
        return Gaussian(head, self.param("log_std", nn.initializers.zeros, (width,), jnp.float32)), value


class Agent(core.Agent):
    """The networks and their update."""

    hyper_type = Hyper

    def build(self, network: nn.Module | None) -> None:
        self.network = Network(self.config, self.seen(), self.action_space)

    def init(self, key: Key) -> Learner:
        return Learner.init({"policy": self.network.init(key, self.example_obs)}, self.optimizers(self.hyper()))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        clip = optax.clip_by_global_norm(hyper.max_grad_norm)
        return {"policy": optax.chain(clip, optax.rmsprop(hyper.learning_rate, 0.99, 1e-5))}

    def act(self, variables: dict, obs: PyTree, memory: PyTree, key: Key, deterministic: bool) -> core.Acted:
        distribution, _ = self.network.apply(variables["params"], obs)
        return distribution.mode() if deterministic else distribution.sample(key), memory, ()

    def loss(self, params: PyTree, rollout: Transition, hyper: Hyper) -> tuple[jax.Array, tuple]:
        apply: Any = self.network.apply
        (distribution, value), (_, following) = (apply(params, x) for x in (rollout.obs, rollout.next_obs))
        ends = (rollout.terminated, rollout.truncated)
        target = jax.lax.stop_gradient(discounted_returns(rollout.reward, following, *ends, hyper.discount))
        policy_loss = -(distribution.log_prob(rollout.action) * jax.lax.stop_gradient(target - value)).mean()
        value_loss, entropy = 0.5 * jnp.square(target - value).mean(), distribution.entropy().mean()
        total = policy_loss + hyper.value_coefficient * value_loss - hyper.entropy_coefficient * entropy
        return total, ({"loss/policy": policy_loss, "loss/value": value_loss, "policy/entropy": entropy}, value, target)

    def learn(self, learner: Learner, rollout: Rollout, key: Key, hyper: Hyper) -> tuple[Learner, Metrics, PyTree]:
        gradient_of = jax.grad(self.loss, has_aux=True)
        gradient, (metrics, *values) = gradient_of(learner.params["policy"], rollout.transition, hyper)
        gradient, metrics = devices.mean((gradient, metrics))
        metrics |= {"gradient_norm": optax.tree.norm(gradient), "learning_rate": hyper.learning_rate}
        metrics["value/explained_variance"] = explained_variance(*values)
        return learner.descend("policy", gradient, self.optimizers(hyper)["policy"]), metrics, ()


def make(env: Environment, config: Config | None = None) -> Algorithm:
    """A2C on `env`, of any observations; `Refused` where actions are no choices, and no bounded vectors."""
    observable(env, "a2c")
    chooses = isinstance(env.action_space, Discrete | MultiDiscrete)
    acts_in = env if chooses else continuous(env, "a2c")
    agent = Agent(config or Config(), env.observation_space, acts_in.action_space)
    return assemble("a2c", env, agent, lambda config: make(env, config), acts_in=acts_in)
