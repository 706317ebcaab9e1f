"""TD3: a deterministic policy and two critics, of which the more pessimistic is believed.

Fujimoto, van Hoof and Meger 2018, "Addressing function approximation error in actor-critic methods" (TD3,
arXiv 1802.09477): clipped double Q-learning, delayed updates of policy and targets, smoothed target policy.
Seo et al. 2025, "FastTD3" (arXiv 2505.22642): the same with a thousand environments, each with noise of its own scale,
large batches and critics that give a distribution of returns (C51, Bellemare et al. 2017, arXiv 1707.06887).

`Config()` is the algorithm of 2018; `FAST_TD3` below are the settings of 2025.
"""

import dataclasses
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from rljax.algorithms.base import Algorithm, Devices, Policy, require
from rljax.algorithms.off_policy import (
    Collector,
    Experience,
    Learner,
    ReplayConfig,
    annealed,
    continuous,
    delayed_updates,
    when,
)
from rljax.data import Batch
from rljax.envs import Environment, RescaleAction
from rljax.nn.ensemble import over_ensemble
from rljax.nn.networks import ACTIVATIONS, MLP
from rljax.nn.precision import Precision, dot_general_of
from rljax.ops import categorical, running_statistics
from rljax.ops.returns import bootstrapped
from rljax.ops.running_statistics import Statistics
from rljax.types import Key, Metrics, PyTree, sharded_field


@dataclasses.dataclass(frozen=True)
class Config(ReplayConfig):
    """Settings of TD3. Those in `Hyper` live in the state and can be swept by vmap."""

    rollout_length: int = 2
    """Steps of each environment between updates; 2, for policy_delay divides num_updates."""
    num_updates: int = 2
    """Batches learned from after each rollout: an update for each step of one environment, as in the paper."""
    learning_rate: float = 3e-4
    """Step size of the policy's Adam (the authors' code; the paper has 1e-3 with batches of 100)."""
    critic_learning_rate: float = 3e-4
    """Learning rate of the critics."""
    discount: float = 0.99
    """γ."""
    target_rate: float = 0.005
    """τ: how far the targets of policy and critics move at each delayed update."""
    policy_delay: int = 2
    """d: critic updates for each update of the policy and of all targets (section 5.2); divides num_updates."""
    target_noise: float = 0.2
    """σ of the noise on the target policy's actions, which are in [-1, 1] (section 5.3)."""
    target_noise_clip: float = 0.5
    """c: the noise on target actions is clipped to [-c, c]."""
    target_policy: bool = True
    """Whether targets ask a slow copy of the policy what comes next (algorithm 1), or the policy itself (FastTD3)."""
    delay_targets: bool = True
    """Whether the target critics move when the policy does (algorithm 1), or after each update of the critics
    (FastTD3)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of policy and critics, as AdamW has it (FastTD3: 0.1)."""
    exploration_noise: float = 0.1
    """σ of the Gaussian noise on actions, where noise_max is 0."""
    noise_min: float = 0.0
    """Lower end of the range from which each episode draws its σ."""
    noise_max: float = 0.0
    """Upper end of the range from which each episode draws its σ (FastTD3); 0 uses exploration_noise."""
    policy_value: Literal["first", "min"] = "first"
    """What the policy maximises: the first critic (the paper), or the smaller of both (FastTD3)."""
    num_atoms: int = 0
    """Atoms of critics that give distributions (C51; 101 in FastTD3); 0 for critics that give values."""
    value_min: float = -10.0
    """Smallest atom of the support: lower returns count as this. All discounted returns of the task should lie between
    it and value_max."""
    value_max: float = 10.0
    """Largest atom of the support."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of the policy, and of the critics but for critic_hidden."""
    critic_hidden: tuple[int, ...] | None = None
    """Widths of the critics' hidden layers."""
    activation: str = "relu"
    """Activation of the hidden layers."""
    layer_norm: bool = False
    """Layer normalisation in the critics."""
    policy_layer_norm: bool = False
    """Layer normalisation in the policy."""
    precision: Precision = "float32"
    """Precision of the hidden layers' matrix products; bfloat16 is faster on TPUs, GPUs and CPUs that have it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rate", "critic_learning_rate"):
            require(self, name, getattr(self, name) > 0, "positive")
        require(self, "discount", 0 <= self.discount <= 1, "in [0, 1]")
        require(self, "target_rate", 0 < self.target_rate <= 1, "in (0, 1]")
        divides = self.policy_delay >= 1 and self.num_updates % self.policy_delay == 0
        require(self, "policy_delay", divides, f"a divisor of num_updates = {self.num_updates}")
        for name in ("target_noise", "target_noise_clip", "exploration_noise", "noise_min", "weight_decay"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "noise_max", self.noise_max >= self.noise_min, f"at least noise_min = {self.noise_min}")
        require(self, "policy_value", self.policy_value in ("first", "min"), "first or min")
        require(self, "num_atoms", self.num_atoms == 0 or self.num_atoms >= 2, "0, or at least 2")
        require(self, "value_max", self.value_max > self.value_min, f"more than value_min = {self.value_min}")
        for name in ("hidden", "critic_hidden"):
            require(self, name, all(width >= 1 for width in getattr(self, name) or ()), "at least 1 in each layer")
        require(self, "activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        require(self, "precision", self.precision in get_args(Precision), f"one of {get_args(Precision)}")


FAST_TD3 = Config(
    num_envs=1024, rollout_length=1, num_updates=2, batch_size=32_768, replay_size=1024 * 10_240,
    learning_starts=1024 * 10, normalize_observation=True, discount=0.97, target_rate=0.1, target_noise=0.001,
    target_policy=False, delay_targets=False, weight_decay=0.1, noise_min=0.001, noise_max=0.4, policy_value="min",
    num_atoms=101, hidden=(512, 256, 128), critic_hidden=(1024, 512, 256),
)  # fmt: skip
"""The settings of FastTD3's code for MuJoCo Playground (its hyperparams.py), where rewards are small; for other tasks
set value_min, value_max and discount.

What differs from that code: the first learning_starts actions are uniform, and its own are the untrained policy's with
noise; of two distributions the smaller is chosen by its mean before it is projected, and there after it, which is
another one only where returns leave the support; weights start orthogonal; and products are in float32 unless
precision="bfloat16".
"""


class Hyper(struct.PyTreeNode):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    learning_rate: jax.Array
    critic_learning_rate: jax.Array
    discount: jax.Array
    target_rate: jax.Array
    target_noise: jax.Array
    target_noise_clip: jax.Array
    exploration_noise: jax.Array
    noise_min: jax.Array
    noise_max: jax.Array


class State(struct.PyTreeNode):
    """All of training: save it, and it resumes bit for bit.

    Fields:
      noise_level: f32 [num_envs], where in [noise_min, noise_max] the noise of each environment lies: 0 to 1. Drawn
        anew after each rollout in which its episode ended.
    """

    iteration: jax.Array
    key: Key
    hyper: Hyper
    learner: Learner
    experience: Experience
    noise_level: jax.Array = sharded_field()

    @property
    def params(self) -> PyTree:
        return self.learner.params


class Actor(nn.Module):
    """Observations [..., n] to actions [..., d] in [-1, 1]."""

    config: Config
    size: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        c = self.config
        product = dot_general_of(c.precision)
        mlp = MLP(c.hidden, c.activation, self.size, 0.01, layer_norm=c.policy_layer_norm, dot_general=product)
        return jnp.tanh(mlp(obs))


class Critic(nn.Module):
    """One of the two: observations [..., n] and actions [..., d] to values [...], or to logits [..., num_atoms]."""

    config: Config

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        c, x = self.config, jnp.concatenate([obs, action], axis=-1)
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


class Agent:
    """The networks and their updates, apart from environments and replay. Holds constants, as `Replay` does.

    Args:
      config: settings.
      obs_size, action_size: n and d.
      axis_name: mesh axis over whose devices gradients are averaged.
    """

    def __init__(self, config: Config, obs_size: int, action_size: int, axis_name: str | None = None):
        self.config, self.obs_size, self.action_size = config, obs_size, action_size
        self.actor, self.critic = Actor(config, action_size), Critic(config)
        self.devices = Devices(axis_name)

    def init(self, actor_key: Key, critic_key: Key) -> Learner:
        obs, action = jnp.zeros((1, self.obs_size)), jnp.zeros((1, self.action_size))

        def init_critic(key: Key) -> PyTree:
            return self.critic.init(key, obs, action)

        params = {
            "policy": self.actor.init(actor_key, obs),
            "critic": jax.vmap(init_critic)(jax.random.split(critic_key, 2)),
        }
        return Learner.init(params, targets=("policy", "critic") if self.config.target_policy else ("critic",))

    def policy(self, params: PyTree, obs: jax.Array) -> jax.Array:
        """Actions [..., d], of the parameters of the policy and observations [..., n]."""
        return self.actor.apply(params, obs)  # type: ignore[return-value]

    def act(self, params: PyTree, obs: jax.Array, key: Key, deterministic: bool) -> jax.Array:
        """Actions [..., d] in [-1, 1], with the noise of exploration unless deterministic."""
        action = self.policy(params, obs)
        return action if deterministic else perturbed(action, key, self.config.exploration_noise)

    def behave(self, params: PyTree, obs: jax.Array, key: Key, hyper: Hyper, scale: Any = None) -> jax.Array:
        """Actions [..., d] to learn from, with noise of deviation `scale`; of exploration_noise where None."""
        return perturbed(self.policy(params, obs), key, hyper.exploration_noise if scale is None else scale)

    def critics(self, params: PyTree, obs: jax.Array, action: jax.Array) -> jax.Array:
        """What both say, [2, batch] or [2, batch, num_atoms]."""

        def one(params: PyTree) -> jax.Array:
            return self.critic.apply(params, obs, action)  # type: ignore[return-value]

        return over_ensemble(one, 2, self.config.precision)(params)

    def value(self, output: jax.Array) -> jax.Array:
        """The expected return that a critic's output means."""
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

        Of two distributions the minimum is, for each sample, that of the smaller mean.
        """
        action = self.next_action(learner, batch.next_obs, key, hyper)
        output = self.critics(learner.targets["critic"], batch.next_obs, action)
        if not self.config.num_atoms:
            return bootstrapped(batch.reward, batch.discount, output.min(0))
        smaller = self.value(output).argmin(0)[None, :, None]
        probs = jax.nn.softmax(jnp.take_along_axis(output, smaller, axis=0)[0])
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
        decay = self.config.weight_decay
        learner = learner.descend("critic", self.devices.mean(gradient), hyper.critic_learning_rate, decay)
        if not self.config.delay_targets:
            learner = learner.move_target("critic", hyper.target_rate)
        return learner, {"loss/critic": error, **metrics}

    def step_policy(self, learner: Learner, gradient: PyTree, hyper: Hyper) -> Learner:
        """One step of the policy down the gradient, and of the targets after it (algorithm 1)."""
        c = self.config
        learner = learner.descend("policy", self.devices.mean(gradient), hyper.learning_rate, c.weight_decay)
        if c.target_policy:
            learner = learner.move_target("policy", hyper.target_rate)
        return learner.move_target("critic", hyper.target_rate) if c.delay_targets else learner

    def update_policy(self, learner: Learner, batch: Batch, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step up Q(s, π(s)), and of the targets after it (algorithm 1)."""

        def loss(params: PyTree) -> jax.Array:
            action, critics = self.policy(params, batch.obs), learner.params["critic"]
            if self.config.policy_value == "min":
                return -self.value(self.critics(critics, batch.obs, action)).min(0).mean()
            first = jax.tree.map(lambda x: x[0], critics)
            return -self.value(self.critic.apply(first, batch.obs, action)).mean()  # type: ignore[arg-type]

        error, gradient = jax.value_and_grad(loss)(learner.params["policy"])
        return self.step_policy(learner, gradient, hyper), {"loss/policy": error}

    def learn(self, learner: Learner, batches: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """All updates of an iteration, from batches [num_updates, batch, …]; the mean of their metrics."""

        def update_critic(learner: Learner, batch: Batch, key: Key) -> tuple[Learner, Metrics]:
            return self.update_critic(learner, batch, key, hyper)

        def update_policy(learner: Learner, batch: Batch, _: Key) -> tuple[Learner, Metrics]:
            return self.update_policy(learner, batch, hyper)

        learner, metrics = delayed_updates(
            update_critic, update_policy, learner, batches, key, self.config.policy_delay
        )  # fmt: skip
        return learner, self.devices.mean(metrics)


def noisy_policy(
    agent: Agent, agent_env: RescaleAction, params: PyTree, statistics: Statistics, noise: jax.Array
) -> Policy:
    """The policy, which has noise of that deviation, f32 [], unless it is deterministic."""

    def act(variables: PyTree, key: Key, obs: PyTree, memory: PyTree, deterministic: bool) -> tuple[jax.Array, PyTree]:
        obs = jnp.asarray(obs)
        if agent.config.normalize_observation:
            obs = running_statistics.normalize(variables["obs_statistics"], obs)
        action = agent.policy(variables["params"], obs)
        return agent_env.rescale(action if deterministic else perturbed(action, key, variables["noise"])), memory

    return Policy({"params": params, "obs_statistics": statistics, "noise": noise}, (), act)


def make(env: Environment, config: Config | None = None, axis_name: str | None = None) -> Algorithm:
    """TD3 on `env`.

    Args:
      env: one environment; actions a bounded one-dimensional `Box`, observations a vector.
      config: settings; the defaults where None.
      axis_name: mesh axis over which the functions run under `shard_map`: environments, buffer and batches are split,
        gradients averaged.

    Raises:
      ValueError: the environment's spaces do not fit.
    """
    c = Config() if config is None else config
    agent_env = continuous(env, "td3")
    steps_per_iteration = c.steps_per_iteration * env.steps_per_action
    size = agent_env.action_space.shape[0]
    agent = Agent(c, env.observation_space.shape[0], size, axis_name)
    collector = Collector(agent_env, c, axis_name=axis_name)

    def noise_scale(hyper: Hyper, level: jax.Array) -> jax.Array:
        """σ of exploration, of the level's shape."""
        if not c.noise_max:
            return jnp.full(level.shape, hyper.exploration_noise)
        own = hyper.noise_min + level * (hyper.noise_max - hyper.noise_min)
        # A member of a sweep whose noise_max is 0 is as it would be alone.
        return jnp.where(hyper.noise_max > 0, own, c.exploration_noise)

    def init(key: Key) -> State:
        key, actor_key, critic_key, env_key, noise_key = jax.random.split(key, 5)
        hyper = Hyper(**{name: jnp.float32(getattr(c, name)) for name in Hyper.__dataclass_fields__})
        experience = collector.init(env_key)
        noise_level = jax.random.uniform(
            collector.devices.local(noise_key), experience.env_state.reward.shape, jnp.float32
        )
        return State(jnp.int32(0), key, hyper, agent.init(actor_key, critic_key), experience, noise_level)

    def step(state: State) -> tuple[State, Metrics]:
        key, act_key, sample_key, learn_key, noise_key = jax.random.split(state.key, 5)
        hyper = annealed(state.hyper, state.iteration * float(steps_per_iteration), c)
        learning = state.iteration >= c.first_learning_iteration
        trained = state.iteration > c.first_learning_iteration
        scale = noise_scale(hyper, state.noise_level)[:, None]

        def act(obs: jax.Array, key: Key) -> jax.Array:
            starting, exploring = jax.random.split(key)
            uniform = jax.random.uniform(starting, (*obs.shape[:-1], size), jnp.float32, minval=-1.0)
            return jnp.where(trained, agent.behave(state.params["policy"], obs, exploring, hyper, scale), uniform)

        def learn(learner: Learner) -> tuple[Learner, Metrics]:
            return agent.learn(learner, batches, collector.devices.local(learn_key), hyper)

        experience, metrics = collector.collect(state.experience, act_key, act)
        batches = collector.sample(experience, sample_key, hyper.discount)
        learner, of_updates = when(learning, learn, state.learner)
        metrics |= of_updates | {"updates": jnp.where(learning, float(c.num_updates), 0.0)}
        # An episode that went on is as much longer as the rollout.
        before, after = (x.env_state.info["episode_length"] for x in (state.experience, experience))
        drawn = jax.random.uniform(collector.devices.local(noise_key), state.noise_level.shape, jnp.float32)
        noise_level = jnp.where(after < before + c.rollout_length, drawn, state.noise_level)
        state = state.replace(
            iteration=state.iteration + 1, key=key, learner=learner, experience=experience, noise_level=noise_level
        )  # fmt: skip
        return state, metrics

    def policy(state: State) -> Policy:
        noise = noise_scale(state.hyper, jnp.float32(0.5))  # of the middling environment
        return noisy_policy(agent, agent_env, state.params["policy"], state.experience.obs_statistics, noise)

    return Algorithm(init, step, policy, steps_per_iteration, "td3", env, c, make)
