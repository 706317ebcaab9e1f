"""Proximal policy optimisation with generalised advantage estimation, feed-forward or recurrent.

Schulman et al. 2017, "Proximal policy optimization algorithms" (arXiv 1707.06347): the clipped objective, eq. 7.
Schulman et al. 2016, "High-dimensional continuous control using GAE" (arXiv 1506.02438): advantages, eq. 16.
Andrychowicz et al. 2021, "What matters in on-policy RL?" and Huang et al. 2022, "The 37 implementation details of
PPO": initialisation, normalisation, annealing.

One iteration: act for `rollout_length` steps in `num_envs` environments, estimate advantages with the value of the
TRUE successor (so a time limit bootstraps and a termination does not), then `num_epochs` passes of clipped updates.
The recurrent and the feed-forward agent share every line: to the update, a rollout of a feed-forward agent is many
sequences of length one, and that of a recurrent agent `num_envs` sequences of length `rollout_length`.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.agent import Acted
from rljax.algorithms.core.blocks import AsymmetricParts, Encoding
from rljax.algorithms.core.contract import Algorithm, any_actions
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.algorithms.core.on_policy import OnPolicyConfig, Rollout, assemble, shuffled
from rljax.config import Count, Fraction, NonNegative, Positive, Whole, Widths, require
from rljax.envs import Environment
from rljax.nn.actor_critic import ActorCritic, parts_of
from rljax.nn.distributions import Deviation, raw_deviation
from rljax.nn.networks import Activation
from rljax.nn.recurrent import MemoryCell, initial_carries, stacked
from rljax.ops.metrics import approximate_kl, explained_variance
from rljax.ops.returns import gae
from rljax.spaces import Box, batch_shape
from rljax.types import Key, Metrics, PyTree, Refused


@dataclasses.dataclass(frozen=True)
class Config(Encoding, AsymmetricParts, OnPolicyConfig):
    """Settings of PPO. Those in `Hyper` live in the state and can be swept by vmap."""

    num_epochs: Count = 4
    """Passes over each rollout (Andrychowicz et al. 2021, sec. 3.5: 3 to 10)."""
    num_minibatches: Count = 4
    """Gradient steps per pass; divides num_envs * rollout_length (num_envs where there is memory)."""
    adam_epsilon: Positive = 1e-5
    """Adam's epsilon (37 details, no. 3)."""
    gae_lambda: Fraction = 0.95
    """Decay λ of the advantage estimates (GAE)."""
    clip_range: Positive = 0.2
    """Range ε of the clipped objective: the ratio counts within [1 - ε, 1 + ε]."""
    value_clip_range: Positive | None = None
    """Distance from the old value to which value updates are clipped; None does not clip (Andrychowicz: it hurts)."""
    value_coefficient: NonNegative = 0.5
    """Weight of the value loss."""
    entropy_coefficient: NonNegative = 0.0
    """Weight of the entropy bonus."""
    normalize_advantage: bool = True
    """Whether each minibatch's advantages are shifted and scaled to mean 0, deviation 1 (37 details, no. 7); with
    minibatches of single steps, the whole rollout's are."""
    advantage_scope: Literal["minibatch", "rollout"] = "minibatch"
    """Scope of normalize_advantage: each minibatch, or the whole rollout at once (as rsl_rl)."""
    separate_grad_norms: bool = False
    """Whether max_grad_norm bounds the gradients of policy and value each (as rsl_rl), and not those of both together;
    it cannot with shared_torso."""
    target_kl: Positive | None = None
    """Target of the approximate KL per iteration (see kl_response); None for no target."""
    kl_response: Literal["stop", "adapt_learning_rate"] = "stop"
    """Response to the KL: stop ends an iteration's updates at 1.5 times target_kl; adapt_learning_rate steers towards
    it (as rsl_rl)."""
    min_learning_rate: Positive = 1e-5
    """Learning rate below which adapt_learning_rate does not go (rsl_rl: 1e-5)."""
    max_learning_rate: Positive = 1e-2
    """Learning rate above which adapt_learning_rate does not go (rsl_rl: 1e-2)."""
    hidden: Widths = (64, 64)
    """Widths of the hidden layers (after the convolutions, for images)."""
    activation: Activation = "tanh"
    """Activation of the hidden layers (Andrychowicz et al. 2021: tanh)."""
    shared_torso: bool = False
    """Whether policy and value share one torso."""
    memory: Whole = 0
    """Units of the memory after the torso; 0 is feed-forward."""
    memory_cell: MemoryCell = "gru"
    """Cell of the memory: gru, lstm, or mingru, whose gates do not read the memory, so that a sequence is learned from
    in parallel (arXiv 2410.01201)."""
    memory_layers: Count = 1
    """Layers of the memory; each but the first adds its output to what it reads."""
    initial_log_std: float = 0.0
    """Log standard deviation of a continuous policy at the start, in units of half the action range."""
    std_type: Deviation = "log"
    """Parameter of a continuous policy's standard deviation σ: log is log σ, and softplus is x in
    σ = log(1 + exp(x)) + 0.001 (as Brax)."""
    state_dependent_std: bool = False
    """Whether σ is an output of the network (as Brax), and not a parameter that is the same everywhere."""
    squash: bool = False
    """Whether continuous actions are tanh(u) of a Gaussian u, instead of clipped u; ratio, KL and entropy are u's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sequences = self.num_envs if self.memory else self.num_envs * self.rollout_length
        batch = "num_envs" if self.memory else "num_envs * rollout_length"
        apart = self.separate_grad_norms and self.shared_torso
        require(self, "separate_grad_norms", not apart, "False where shared_torso is True")
        raw_deviation(self.initial_log_std, self.std_type)  # refuses what a softplus does not reach
        least = self.min_learning_rate
        require(self, "max_learning_rate", self.max_learning_rate >= least, f"at least min_learning_rate = {least}")
        require(self, "num_minibatches", sequences % self.num_minibatches == 0, f"a divisor of {batch} = {sequences}")


RSL_RL = Config(
    num_envs=4096,
    rollout_length=24,
    num_epochs=5,
    num_minibatches=4,
    learning_rate=1e-3,
    adam_epsilon=1e-8,
    target_kl=0.01,
    kl_response="adapt_learning_rate",
    value_clip_range=0.2,
    value_coefficient=2.0,
    entropy_coefficient=0.01,
    max_grad_norm=1.0,
    separate_grad_norms=True,
    advantage_scope="rollout",
    normalize_observation=True,
    random_age=True,
    hidden=(512, 256, 128),
    activation="elu",
    std_type="softplus",
)
"""The settings of rsl_rl 5 for legged robots, as mjlab 1.6 has them for the G1's velocity task (its rl_cfg.py).

Differences: the deviation is a softplus of its parameter, there the parameter itself; the value loss is half the mean
square, hence a coefficient of 2 for their 1; a time limit bootstraps from its true successor; weights are orthogonal.
"""

PLAYGROUND = Config(
    num_envs=8192,
    rollout_length=20,
    num_epochs=4,
    num_minibatches=32,
    adam_epsilon=1e-8,
    discount=0.97,
    entropy_coefficient=0.005,
    max_grad_norm=1.0,
    normalize_observation=True,
    hidden=(512, 256, 128),
    activation="silu",
    squash=True,
    std_type="softplus",
    state_dependent_std=True,
    initial_log_std=-0.365,
)
"""The settings of MuJoCo Playground for humanoids (its locomotion_params.py: G1, T1, Berkeley), with Brax's PPO.

Values see value_obs=("privileged_state",) there. Differences: entropy is that of the Gaussian before tanh; truncated
steps are bootstrapped, there left out; a minibatch holds single steps, there stretches of 20; weights are orthogonal.
"""


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    gae_lambda: jax.Array
    clip_range: jax.Array
    value_coefficient: jax.Array
    entropy_coefficient: jax.Array
    max_grad_norm: jax.Array


class Batch(NamedTuple):
    """Sequences for the update. Leaves are [length, batch, …]; `memory`, at the sequence's start, is [batch, …]."""

    obs: PyTree
    reset: jax.Array
    memory: PyTree
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array


def adapted_scale(
    scale: jax.Array, learning_rate: jax.Array, kl: jax.Array, target_kl: float, least: float, most: float
) -> jax.Array:
    """The factor of the learning rate after a minibatch with this KL, f32 []: divided by 1.5, multiplied, or the same.

    As with rsl_rl's `desired_kl`, the rate falls above twice the target, to `least`, and rises below half of it, to
    `most`. A KL of 0 is ignored: it is the first minibatch's, before any step.
    """
    lower = jnp.maximum(scale / 1.5, jnp.minimum(scale, least / learning_rate))
    higher = jnp.minimum(scale * 1.5, jnp.maximum(scale, most / learning_rate))
    near = jnp.where((kl < 0.5 * target_kl) & (kl > 0.0), higher, scale)
    return jnp.where(kl > 2.0 * target_kl, lower, near)


def clipped_objective(ratio: jax.Array, advantage: jax.Array, clip_range: jax.Array | float) -> jax.Array:
    """min(r A, clip(r, 1 - ε, 1 + ε) A), element by element (Schulman et al. 2017, eq. 7); to be maximised."""
    clipped_ratio = jnp.clip(ratio, 1.0 - clip_range, 1.0 + clip_range)
    return jnp.minimum(ratio * advantage, clipped_ratio * advantage)


class Agent(core.Agent):
    """The networks and their updates. `learner.extras` is the factor of the learning rate, where that adapts to the KL.

    Extras of an action are its log-probability under the policy that took it and, where actions are squashed, u.
    """

    hyper_type = Hyper
    config: Config

    def build(self, network: nn.Module | None) -> None:
        spaces = (self.seen(network), self.seen(network, values=True))
        if self.config.shared_torso and spaces[0] != spaces[1]:
            raise Refused("ppo.Config: shared_torso = True is not allowed where policy_obs and value_obs differ")
        self.network = ActorCritic(self.config, self.action_space, spaces, network)
        self.squash = self.config.squash and isinstance(self.action_space, Box)
        self.initial_memory = self.memory()

    def init(self, key: Key) -> Learner:
        obs, reset = jax.tree.map(lambda x: x[None], self.example_obs), jnp.zeros((1, 1), bool)
        params = self.network.init(key, obs, self.memory((1,)), reset)
        return Learner.init({"policy": params}, self.optimizers(self.hyper()), extras=jnp.float32(1.0))

    def memory(self, batch: tuple[int, ...] = ()) -> PyTree:
        """Memory of a new episode: for each torso, the carries of the layers of its memory."""
        c = self.config
        if not c.memory:
            return ()
        cells = stacked(c.memory_cell, c.memory, c.memory_layers)
        return [initial_carries(cells, batch) for _ in range(2 - c.shared_torso)]

    def optimizers(self, hyper: Hyper) -> Optimizers:
        clip = optax.clip_by_global_norm(hyper.max_grad_norm)
        if self.config.separate_grad_norms:
            clip = optax.multi_transform({"policy": clip, "value": clip}, parts_of)
        return {"policy": optax.chain(clip, optax.adam(hyper.learning_rate, eps=self.config.adam_epsilon))}

    def apply(self, params: PyTree, obs: PyTree, memory: PyTree, reset: jax.Array) -> tuple[Any, jax.Array, PyTree]:
        """Distributions of actions, values and memory, of sequences [length, batch, …]."""
        return cast(tuple[Any, jax.Array, PyTree], self.network.apply(params, obs, memory, reset))

    def act(self, variables: dict[str, PyTree], obs: PyTree, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        never = jnp.zeros((1, *batch_shape(self.observation_space, obs)), bool)
        obs = jax.tree.map(lambda x: x[None], obs)
        distribution, _, memory = self.apply(variables["params"], obs, memory, never)
        if deterministic:
            chosen, extras = distribution.mode()[0], {}
        else:
            chosen, log_prob = jax.tree.map(lambda x: x[0], distribution.sample_and_log_prob(key))
            extras = {"log_prob": log_prob} | ({"unsquashed": chosen} if self.squash else {})
        return jnp.tanh(chosen) if self.squash else chosen, memory, extras

    def batch_of(self, params: PyTree, rollout: Rollout, hyper: Hyper) -> Batch:
        """The update's data, with advantages and value targets under the policy that acted.

        Feed-forward: every transition is a sequence of length one, [1, T * N, …]. Recurrent: [T, N, …].
        """

        def flat(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), tree)

        sequences = (lambda tree: tree) if self.config.memory else flat
        transition, extras, time_and_envs = rollout.transition, rollout.transition.extras, rollout.fresh.shape
        action = extras["unsquashed"] if self.squash else transition.action
        obs, action, log_prob, reset = sequences((transition.obs, action, extras["log_prob"], rollout.fresh))
        _, value, _ = self.apply(params, obs, rollout.first_memory, reset)
        memory_after = jax.tree.map(lambda x: x[0], flat(rollout.memory))
        next_obs, never = flat(transition.next_obs), jnp.zeros_like(flat(rollout.fresh))
        _, next_value, _ = self.apply(params, next_obs, memory_after, never)
        advantage = gae(
            transition.reward,
            value.reshape(time_and_envs),
            next_value.reshape(time_and_envs),
            transition.terminated,
            transition.truncated,
            hyper.discount,
            hyper.gae_lambda,
        )
        advantage = sequences(advantage)
        return Batch(obs, reset, rollout.first_memory, action, log_prob, value, advantage, target=advantage + value)

    def loss(self, params: PyTree, batch: Batch, hyper: Hyper) -> tuple[jax.Array, Metrics]:
        c = self.config
        distribution, value, _ = self.apply(params, batch.obs, batch.memory, batch.reset)
        log_ratio = distribution.log_prob(batch.action) - batch.log_prob
        ratio = jnp.exp(log_ratio)
        policy_loss = -clipped_objective(ratio, batch.advantage, hyper.clip_range).mean()
        value_error = jnp.square(value - batch.target)
        if c.value_clip_range is not None:
            change = jnp.clip(value - batch.value, -c.value_clip_range, c.value_clip_range)
            value_error = jnp.maximum(value_error, jnp.square(batch.value + change - batch.target))
        value_loss = 0.5 * value_error.mean()
        entropy = distribution.entropy().mean()
        total = policy_loss + hyper.value_coefficient * value_loss - hyper.entropy_coefficient * entropy
        return total, {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "policy/entropy": entropy,
            "policy/approximate_kl": approximate_kl(log_ratio),
            "policy/clip_fraction": (jnp.abs(ratio - 1.0) > hyper.clip_range).mean(),
        }

    def learn(self, learner: Learner, rollout: Rollout, key: Key, hyper: Hyper) -> tuple[Learner, Metrics, PyTree]:
        """`num_epochs` passes of minibatch steps over the rollout."""
        c, batch = self.config, self.batch_of(learner.params["policy"], rollout, hyper)
        size, number = batch.reset.shape[1], c.num_minibatches
        # A single advantage less its mean is 0: nothing would be learned.
        whole = c.advantage_scope == "rollout" or batch.reset.size == number
        if c.normalize_advantage and whole:
            batch = batch._replace(advantage=normalized(batch.advantage))

        def minibatch_step(carry: tuple[Learner, jax.Array], index: jax.Array) -> tuple[tuple, tuple]:
            learner, stopped = carry
            memory = jax.tree.map(lambda x: x[index], batch.memory)
            minibatch = jax.tree.map(lambda x: x[:, index], batch._replace(memory=()))._replace(memory=memory)
            if c.normalize_advantage and not whole:
                minibatch = minibatch._replace(advantage=normalized(minibatch.advantage))
            gradient, metrics = jax.grad(self.loss, has_aux=True)(learner.params["policy"], minibatch, hyper)
            gradient, metrics = devices.mean((gradient, metrics))
            kl, scale = metrics["policy/approximate_kl"], learner.extras
            if c.target_kl is not None and c.kl_response == "stop":
                stopped = stopped | (kl > 1.5 * c.target_kl)
            elif c.target_kl is not None:
                bounds = c.min_learning_rate, c.max_learning_rate
                scale = adapted_scale(scale, hyper.learning_rate, kl, c.target_kl, *bounds)
            optimizer = self.optimizers(hyper.replace(learning_rate=hyper.learning_rate * scale))["policy"]
            new = learner.replace(extras=scale).descend("policy", gradient, optimizer)
            if c.target_kl is not None and c.kl_response == "stop":
                new = jax.tree.map(lambda old, new: jnp.where(stopped, old, new), learner, new)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            return (new, stopped), (metrics, ~stopped)

        minibatches = shuffled(key, c.num_epochs, number, size)
        (learner, _), (metrics, taken) = jax.lax.scan(minibatch_step, (learner, jnp.zeros((), bool)), minibatches)
        metrics = jax.tree.map(lambda x: x.mean(), metrics) | {
            "learning_rate": hyper.learning_rate * learner.extras,
            "updates_taken": taken.mean(),
            "value/explained_variance": explained_variance(batch.value, batch.target),
        }
        return learner, metrics, ()


def normalized(advantage: jax.Array) -> jax.Array:
    """Advantages of any shape, shifted and scaled to mean 0 and deviation 1 over all devices."""
    centered = advantage - devices.mean(advantage.mean())
    deviation = jnp.sqrt(devices.mean(jnp.square(centered).mean()))
    return centered / (deviation + 1e-8)


def make(env: Environment, config: Config | None = None, network: nn.Module | None = None) -> Algorithm:
    """PPO on `env`.

    Args:
      env: one environment; actions `Discrete`, `MultiDiscrete` or a one-dimensional `Box`, observations of any kind.
      config: settings; the defaults where None.
      network: maps observations [..., …], or a dict of the parts that are seen, to features [..., d], in place of
        convolutions; the hidden layers follow.
        Policy and value have one each.

    Raises:
      Refused: the environment's spaces do not fit.
    """
    c, space = config or Config(), env.action_space
    acts_in = any_actions(env, "ppo", c, network)
    if c.squash and isinstance(space, Box) and not space.bounded:
        raise Refused(f"ppo.Config: squash = True is not allowed without both bounds of every action: {space}")
    agent = Agent(c, env.observation_space, acts_in.action_space, network)
    return assemble("ppo", env, agent, lambda config: make(env, config, network), acts_in, network)
