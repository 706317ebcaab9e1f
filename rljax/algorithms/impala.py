"""IMPALA: an actor-critic that learns from actions of earlier policies, corrected by V-trace.

Espeholt et al. 2018, "IMPALA: scalable distributed deep-RL with importance weighted actor-learner architectures"
(arXiv 1802.01561). Actions are drawn by whatever parameters an actor has just then; their log-probabilities come with
them, and V-trace weighs each step by how likely the learner's own policy would have made it. A time limit bootstraps
from the TRUE successor, a termination does not.

In the ordinary runner an iteration acts and then learns, and only what comes after its first update is off-policy
(`num_epochs`, `num_minibatches`). `training.with_actors` lets threads act while the learner learns (Hessel et al.
2021, "Podracer architectures for scalable reinforcement learning", arXiv 2104.06272, section 4).

Ours differs from the paper in Adam for RMSProp, in losses that are means and not sums, in separate networks of policy
and value, and in an entropy bonus that falls along with the learning rate.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.a2c import Network
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.blocks import Encoding, Parts
from rljax.algorithms.core.contract import Algorithm, continuous, observable
from rljax.algorithms.core.learner import Learner, Optimizers, scan_for_means
from rljax.algorithms.core.on_policy import OnPolicyConfig, Rollout, assemble, shuffled
from rljax.algorithms.ppo import clipped_objective, normalized
from rljax.config import Count, Fraction, NonNegative, Positive, Widths, require
from rljax.envs import Environment
from rljax.ops.metrics import approximate_kl, explained_variance
from rljax.ops.returns import vtrace
from rljax.spaces import Discrete, MultiDiscrete
from rljax.types import Key, Metrics, PyTree, Transition


@dataclasses.dataclass(frozen=True)
class Config(Encoding, Parts, OnPolicyConfig):
    """Settings of IMPALA. Those in `Hyper` live in the state and can be swept by vmap."""

    num_envs: Count = 32
    """Environments stepped together, over all devices; by each actor, where there are several (batch: 32)."""
    rollout_length: Count = 20
    """Steps of each environment in a trajectory (Espeholt et al. 2018, Atari: n = 20)."""
    learning_rate: Positive = 6e-4
    """Step size of Adam (Espeholt et al. 2018, Atari: 0.0006 of RMSProp)."""
    num_epochs: Count = 1
    """Passes over each rollout, of which V-trace corrects all but the first; the paper makes one."""
    num_minibatches: Count = 1
    """Gradient steps in a pass, each on a share of the steps, drawn at random; divides num_envs * rollout_length."""
    adam_epsilon: Positive = 1e-5
    """Adam's epsilon."""
    vtrace_lambda: Fraction = 1.0
    """Decay λ of V-trace's corrections (Espeholt et al. 2018, remark 2); below 1 it trades variance for bias."""
    clip_rho: Positive = 1.0
    """Largest importance weight ρ of a step (Espeholt et al. 2018, section 5: 1)."""
    clip_c: Positive = 1.0
    """Largest weight c by which later steps are traced back (Espeholt et al. 2018, section 5: 1)."""
    value_coefficient: NonNegative = 0.5
    """Weight of the value loss, which is half the mean squared error (Espeholt et al. 2018, Atari: 0.5)."""
    entropy_coefficient: NonNegative = 0.01
    """Weight of the entropy bonus (Espeholt et al. 2018, Atari: 0.01); it falls with the learning rate."""
    normalize_advantage: bool = False
    """Whether each rollout's advantages are shifted and scaled to mean 0, deviation 1, as PPO's are; the paper's are
    not."""
    clip_range: Positive | None = None
    """Range ε of PPO's clipped objective, in place of the policy gradient weighted by ρ, for many passes over a rollout
    (as RLlib's APPO); None is the paper's gradient."""
    hidden: Widths = (64, 64)
    """Widths of the hidden layers, of tanh (after the convolutions, for images); policy and value have their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.num_envs * self.rollout_length
        require(self, "num_minibatches", steps % self.num_minibatches == 0, f"a divisor of {steps}, a rollout's steps")


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    vtrace_lambda: jax.Array
    clip_rho: jax.Array
    clip_c: jax.Array
    value_coefficient: jax.Array
    entropy_coefficient: jax.Array
    max_grad_norm: jax.Array


class Batch(NamedTuple):
    """Steps to learn from, leaves [batch, …], with targets and advantages by V-trace."""

    obs: PyTree
    action: jax.Array
    log_prob: jax.Array
    target: jax.Array
    advantage: jax.Array


class Agent(core.Agent):
    """The networks, which are A2C's, and their updates. Its extras are the log-probability of each action drawn."""

    hyper_type = Hyper
    annealed = ("learning_rate", "entropy_coefficient")

    def build(self, network: nn.Module | None) -> None:
        self.network = Network(self.config, self.seen(), self.action_space)

    def init(self, key: Key) -> Learner:
        return Learner.init({"policy": self.network.init(key, self.example_obs)}, self.optimizers(self.hyper()))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        adam = optax.adam(hyper.learning_rate, eps=self.config.adam_epsilon)
        return {"policy": optax.chain(optax.clip_by_global_norm(hyper.max_grad_norm), adam)}

    def act(self, variables: dict, obs: PyTree, memory: PyTree, key: Key, deterministic: bool) -> core.Acted:
        distribution, _ = self.network.apply(variables["params"], obs)
        if deterministic:
            return distribution.mode(), memory, {}
        action, log_prob = distribution.sample_and_log_prob(key)
        return action, memory, {"log_prob": log_prob}

    def batch_of(self, params: PyTree, rollout: Transition, hyper: Hyper) -> Batch:
        """V-trace over trajectories [T, num_envs, …] under these parameters; the steps of all, [T * num_envs, …]."""
        apply: Any = self.network.apply
        (distribution, value), (_, following) = (apply(params, x) for x in (rollout.obs, rollout.next_obs))
        log_ratio = distribution.log_prob(rollout.action) - rollout.extras["log_prob"]
        ends, h = (rollout.terminated, rollout.truncated), hyper
        target, advantage = vtrace(
            log_ratio, rollout.reward, value, following, *ends, h.discount, h.vtrace_lambda, h.clip_rho, h.clip_c
        )
        if self.config.normalize_advantage:
            advantage = normalized(advantage)
        batch = Batch(rollout.obs, rollout.action, rollout.extras["log_prob"], target, advantage)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

    def loss(self, params: PyTree, batch: Batch, hyper: Hyper) -> tuple[jax.Array, Metrics]:
        """The loss (Espeholt et al. 2018, section 4.2), or its policy gradient clipped as PPO's is."""
        apply: Any = self.network.apply
        distribution, value = apply(params, batch.obs)
        log_prob = distribution.log_prob(batch.action)
        ratio = jnp.exp(log_prob - batch.log_prob)
        if self.config.clip_range is None:
            rho = jax.lax.stop_gradient(jnp.minimum(hyper.clip_rho, ratio))
            policy_loss = -(rho * batch.advantage * log_prob).mean()
        else:
            policy_loss = -clipped_objective(ratio, batch.advantage, self.config.clip_range).mean()
        value_loss, entropy = 0.5 * jnp.square(batch.target - value).mean(), distribution.entropy().mean()
        total = policy_loss + hyper.value_coefficient * value_loss - hyper.entropy_coefficient * entropy
        return total, {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "policy/entropy": entropy,
            "policy/approximate_kl": approximate_kl(log_prob - batch.log_prob),
            "importance/weight": jnp.minimum(ratio, hyper.clip_rho).mean(),
            "importance/clipped": (ratio > hyper.clip_rho).mean(),
            "value/explained_variance": explained_variance(jax.lax.stop_gradient(value), batch.target),
        }

    def learn(self, learner: Learner, rollout: Rollout, key: Key, hyper: Hyper) -> tuple[Learner, Metrics, PyTree]:
        """`num_epochs` passes, each of which traces the rollout anew and takes a step for each minibatch of it."""
        c = self.config

        def minibatch_step(carry: tuple[Learner, Batch], index: jax.Array) -> tuple[tuple[Learner, Batch], Metrics]:
            learner, batch = carry
            minibatch = jax.tree.map(lambda x: x[index], batch)
            gradient, metrics = jax.grad(self.loss, has_aux=True)(learner.params["policy"], minibatch, hyper)
            gradient, metrics = devices.mean((gradient, metrics))
            learner = learner.descend("policy", gradient, self.optimizers(hyper)["policy"])
            return (learner, batch), metrics | {"gradient_norm": optax.tree.norm(gradient)}

        def epoch(learner: Learner, indices: jax.Array) -> tuple[Learner, Metrics]:
            batch = self.batch_of(learner.params["policy"], rollout.transition, hyper)
            (learner, _), metrics = scan_for_means(minibatch_step, (learner, batch), indices)
            return learner, metrics

        indices = shuffled(key, c.num_epochs, c.num_minibatches, rollout.fresh.size)
        learner, metrics = scan_for_means(epoch, learner, indices.reshape(c.num_epochs, c.num_minibatches, -1))
        return learner, metrics | {"learning_rate": hyper.learning_rate}, ()


def make(env: Environment, config: Config | None = None) -> Algorithm:
    """IMPALA on `env`, of any observations; `Refused` where actions are no choices, and no bounded vectors."""
    observable(env, "impala")
    chooses = isinstance(env.action_space, Discrete | MultiDiscrete)
    acts_in = env if chooses else continuous(env, "impala")
    agent = Agent(config or Config(), env.observation_space, acts_in.action_space)
    return assemble("impala", env, agent, lambda config: make(env, config), acts_in=acts_in)
