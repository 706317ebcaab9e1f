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
from typing import Any, Literal, NamedTuple, cast, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from rljax.algorithms.base import Algorithm, Devices, Policy, episode_metrics, require
from rljax.envs import AutoReset, Environment, RescaleAction
from rljax.envs.auto_reset import ResetPolicy
from rljax.envs.environment import State as EnvState
from rljax.nn.distributions import Categorical, Gaussian
from rljax.nn.initializers import orthogonal
from rljax.nn.networks import ACTIVATIONS, CNN, GRU, MLP
from rljax.ops import running_statistics
from rljax.ops.metrics import approximate_kl, explained_variance
from rljax.ops.returns import accumulated_returns, gae
from rljax.spaces import Box, Discrete
from rljax.types import Key, Metrics, PyTree, Refused, Transition, sharded_field


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of PPO. Those in `Hyper` live in the state and can be swept by vmap."""

    num_envs: int = 32
    """Environments stepped together, over all devices."""
    rollout_length: int = 64
    """Steps of each environment between two updates."""
    num_epochs: int = 4
    """Passes over each rollout (Andrychowicz et al. 2021, sec. 3.5: 3 to 10)."""
    num_minibatches: int = 4
    """Gradient steps per pass; divides num_envs * rollout_length (num_envs where there is memory)."""
    learning_rate: float = 3e-4
    """Step size of Adam."""
    anneal_steps: int = 0
    """Environment steps over which the learning rate falls linearly to 0; 0 keeps it constant."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon (37 details, no. 3)."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global norm."""
    discount: float = 0.99
    """γ."""
    gae_lambda: float = 0.95
    """λ of GAE."""
    clip_range: float = 0.2
    """ε of the clipped objective: the ratio counts within [1 - ε, 1 + ε]."""
    value_clip_range: float | None = None
    """Clips value updates to this distance from the old value; None does not (Andrychowicz: it hurts)."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    normalize_advantage: bool = True
    """Advantages of each minibatch are shifted and scaled to mean 0, deviation 1 (37 details, no. 7); where minibatches
    are single steps, those of the whole rollout."""
    normalize_observation: bool = False
    """Observations are shifted and scaled by running statistics (vectors only)."""
    normalize_reward: bool = False
    """Rewards are divided by the running deviation of the discounted return (37 details, cont. no. 7)."""
    target_kl: float | None = None
    """Approximate KL per iteration to react to; None does not."""
    kl_response: Literal["stop", "adapt_learning_rate"] = "stop"
    """At 1.5 times target_kl stop the iteration's updates; or steer the learning rate towards it, within [1e-5, 1e-2]
    (as rsl_rl)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers (after the convolutions, for images)."""
    activation: str = "tanh"
    """Activation of the hidden layers (Andrychowicz et al. 2021: tanh)."""
    shared_torso: bool = False
    """One torso for policy and value instead of two."""
    memory: int = 0
    """Units of a GRU after the torso; 0 is feed-forward."""
    cnn_channels: tuple[int, ...] = (16,)
    """Channels of each convolution; images only (default: MinAtar's)."""
    cnn_kernels: tuple[int, ...] = (3,)
    """Kernel widths."""
    cnn_strides: tuple[int, ...] = (1,)
    """Strides."""
    initial_log_std: float = 0.0
    """Log standard deviation of a continuous policy at the start, in units of half the action range."""
    squash: bool = False
    """Continuous actions are tanh(u) of a Gaussian u, instead of clipped u; ratio, KL and entropy are those of u."""
    reset_policy: ResetPolicy = "pool"
    """Where auto-reset takes fresh states from (see AutoReset)."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "rollout_length", "num_epochs", "num_minibatches"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "clip_range", "max_grad_norm", "adam_epsilon"):
            require(self, name, getattr(self, name) > 0, "positive")
        for name in ("discount", "gae_lambda"):
            require(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("anneal_steps", "value_coefficient", "entropy_coefficient", "memory"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("value_clip_range", "target_kl"):
            require(self, name, getattr(self, name) is None or getattr(self, name) > 0, "positive, or None")
        for name in ("hidden", "cnn_channels", "cnn_kernels", "cnn_strides"):
            require(self, name, all(width >= 1 for width in getattr(self, name)), "at least 1 in each layer")
        layers = len(self.cnn_channels)
        for name in ("cnn_kernels", "cnn_strides"):
            require(self, name, len(getattr(self, name)) == layers, f"of one length with cnn_channels, {layers}")
        require(self, "activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        require(self, "reset_policy", self.reset_policy in get_args(ResetPolicy), f"one of {get_args(ResetPolicy)}")
        require(self, "kl_response", self.kl_response in ("stop", "adapt_learning_rate"), "stop or adapt_learning_rate")
        sequences = self.num_envs if self.memory else self.num_envs * self.rollout_length
        batch = "num_envs" if self.memory else "num_envs * rollout_length"
        require(self, "num_minibatches", sequences % self.num_minibatches == 0, f"a divisor of {batch} = {sequences}")


class Hyper(struct.PyTreeNode):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    learning_rate: jax.Array
    discount: jax.Array
    gae_lambda: jax.Array
    clip_range: jax.Array
    value_coefficient: jax.Array
    entropy_coefficient: jax.Array
    max_grad_norm: jax.Array


class State(struct.PyTreeNode):
    """All of training: save it, and it resumes bit for bit."""

    iteration: jax.Array
    key: Key
    hyper: Hyper
    params: PyTree
    optimizer_state: PyTree
    learning_rate_scale: jax.Array
    obs_statistics: running_statistics.Statistics
    return_statistics: running_statistics.Statistics
    env_state: EnvState = sharded_field()
    memory: PyTree = sharded_field()
    reset: jax.Array = sharded_field()
    discounted_return: jax.Array = sharded_field()


class Rollout(NamedTuple):
    """What acting leaves behind; leaves are [rollout_length, num_envs, …]."""

    transition: Transition
    log_prob: jax.Array
    """Of the action, under the policy that took it."""
    reset: jax.Array
    """bool: the step was the first of an episode, so memory was cleared before it."""
    memory: PyTree
    """After the step, before any reset."""
    metrics: dict[str, jax.Array]
    """Of the environments after the step; where an episode ended, its return and length."""


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


def adapted_scale(scale: jax.Array, learning_rate: jax.Array, kl: jax.Array, target_kl: float) -> jax.Array:
    """The factor of the learning rate after a minibatch with that KL, f32 []: 1.5 times less, or more, or the same.

    As rsl_rl's `desired_kl`: less above twice the target, but not below 1e-5 in all; more below half of it, but not
    above 1e-2. A KL of 0 says nothing: it is that of the first minibatch, before any step.
    """
    lower = jnp.maximum(scale / 1.5, jnp.minimum(scale, 1e-5 / learning_rate))
    higher = jnp.minimum(scale * 1.5, jnp.maximum(scale, 1e-2 / learning_rate))
    near = jnp.where((kl < 0.5 * target_kl) & (kl > 0.0), higher, scale)
    return jnp.where(kl > 2.0 * target_kl, lower, near)


def clipped_objective(ratio: jax.Array, advantage: jax.Array, clip_range: jax.Array | float) -> jax.Array:
    """min(r A, clip(r, 1 - ε, 1 + ε) A), element by element (Schulman et al. 2017, eq. 7); to be maximised."""
    clipped_ratio = jnp.clip(ratio, 1.0 - clip_range, 1.0 + clip_range)
    return jnp.minimum(ratio * advantage, clipped_ratio * advantage)


class Trunk(nn.Module):
    """Observations [length, batch, …] to features [length, batch, d]: convolutions for images, layers, memory."""

    config: Config
    image: bool

    @nn.compact
    def __call__(self, obs: jax.Array, memory: PyTree, reset: jax.Array) -> tuple[jax.Array, PyTree]:
        c = self.config
        if self.image:
            features = CNN(c.cnn_channels, c.cnn_kernels, c.cnn_strides, c.hidden[0], "relu")(obs)
            features = MLP(c.hidden[1:], c.activation)(features)
        else:
            features = MLP(c.hidden, c.activation)(obs)
        if c.memory:
            memory, features = GRU(c.memory).unroll(memory, features, reset)
        return features, memory


class ActorCritic(nn.Module):
    """Policy and value over one or two trunks. Orthogonal weights, the policy's last layer 100 times smaller."""

    config: Config
    action_space: Box | Discrete
    image: bool

    @nn.compact
    def __call__(
        self, obs: jax.Array, memory: PyTree, reset: jax.Array
    ) -> tuple[Categorical | Gaussian, jax.Array, PyTree]:
        c, space = self.config, self.action_space
        names = ["torso"] if c.shared_torso else ["actor", "critic"]
        memories = memory or [()] * len(names)
        outputs = [Trunk(c, self.image, name=n)(obs, m, reset) for n, m in zip(names, memories, strict=True)]
        features, memory = [f for f, _ in outputs], [m for _, m in outputs] if c.memory else ()
        value = nn.Dense(1, kernel_init=orthogonal(1.0), name="value")(features[-1])[..., 0]
        width = space.n if isinstance(space, Discrete) else space.shape[0]
        head = nn.Dense(width, kernel_init=orthogonal(0.01), name="policy")(features[0])
        if isinstance(space, Discrete):
            return Categorical(head), value, memory
        log_std = self.param("log_std", nn.initializers.constant(c.initial_log_std), (width,), jnp.float32)
        return Gaussian(head, log_std), value, memory

    def initial_memory(self, batch: tuple[int, ...] = ()) -> PyTree:
        """What a new episode starts with: zeros, one array per trunk."""
        if not self.config.memory:
            return ()
        return [jnp.zeros((*batch, self.config.memory), jnp.float32)] * (1 if self.config.shared_torso else 2)


def make(env: Environment, config: Config | None = None, axis_name: str | None = None) -> Algorithm:
    """PPO on `env`.

    Args:
      env: one environment; actions `Discrete` or a one-dimensional `Box`, observations a vector or an image.
      config: settings; the defaults where None.
      axis_name: mesh axis over which the functions run under `shard_map`, environments split, gradients averaged.

    Raises:
      ValueError: the environment's spaces do not fit.
    """
    c = Config() if config is None else config
    action_space, obs_space = env.action_space, env.observation_space
    if not isinstance(action_space, Discrete) and not (isinstance(action_space, Box) and len(action_space.shape) == 1):
        raise Refused(f"ppo needs a Discrete or one-dimensional Box action space, {env!r} has {action_space}")
    if not isinstance(obs_space, Box) or len(obs_space.shape) not in (1, 3):
        raise Refused(f"ppo needs observations [n] or [height, width, channels], {env!r} has {obs_space}")
    image = len(obs_space.shape) == 3
    if image and not c.hidden:
        raise Refused("ppo.Config: hidden = () is not allowed for images; it must have one width or more")
    if c.squash and isinstance(action_space, Box) and not action_space.bounded:
        raise Refused(f"ppo.Config: squash = True is not allowed without both bounds of every action: {action_space}")
    # Each action that has both bounds is rescaled; one that has a single bound is clipped to it.
    rescale = isinstance(action_space, Box) and not action_space.unbounded
    agent_env = RescaleAction(env) if rescale else env
    network, devices = ActorCritic(c, action_space, image), Devices(axis_name)
    steps_per_iteration = c.num_envs * c.rollout_length * env.steps_per_action
    example_obs = jnp.zeros(obs_space.shape, obs_space.dtype)

    def environments() -> AutoReset:
        return devices.environments(agent_env, c.num_envs, c.reset_policy)

    def apply(params: PyTree, obs: PyTree, memory: PyTree, reset: jax.Array) -> tuple[Any, jax.Array, PyTree]:
        return cast(tuple[Any, jax.Array, PyTree], network.apply(params, obs, memory, reset))

    def optimizer(hyper: Hyper, learning_rate: jax.Array) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(hyper.max_grad_norm),
            optax.adam(learning_rate, eps=c.adam_epsilon),
        )

    def normalize(statistics: running_statistics.Statistics, obs: PyTree) -> PyTree:
        return running_statistics.normalize(statistics, obs) if c.normalize_observation else obs

    def to_env(action: jax.Array) -> jax.Array:
        return jnp.tanh(action) if c.squash and isinstance(action_space, Box) else action

    def init(key: Key) -> State:
        key, params_key, env_key = jax.random.split(key, 3)
        envs = environments()
        memory = network.initial_memory((envs.num_envs,))
        params = network.init(
            params_key, example_obs[None, None], network.initial_memory((1,)), jnp.zeros((1, 1), bool)
        )
        hyper = Hyper(**{name: jnp.float32(getattr(c, name)) for name in Hyper.__dataclass_fields__})
        return State(
            iteration=jnp.int32(0),
            key=key,
            hyper=hyper,
            params=params,
            optimizer_state=optimizer(hyper, hyper.learning_rate).init(params),
            learning_rate_scale=jnp.float32(1.0),
            obs_statistics=running_statistics.init(example_obs),
            return_statistics=running_statistics.init(jnp.float32(0.0)),
            env_state=envs.reset(devices.local(env_key)),
            memory=memory,
            reset=jnp.ones(envs.num_envs, bool),
            discounted_return=jnp.zeros(envs.num_envs, jnp.float32),
        )

    def collect(state: State, key: Key) -> tuple[State, Rollout]:
        """Acts for `rollout_length` steps."""
        envs = environments()
        step_key, pool_key = jax.random.split(key)

        def env_step(carry: tuple[EnvState, PyTree, jax.Array], key: Key) -> tuple[tuple, Rollout]:
            env_state, memory, reset = carry
            obs = normalize(state.obs_statistics, env_state.obs)
            distribution, _, memory = apply(state.params, obs[None], memory, reset[None])
            action, log_prob = jax.tree.map(lambda x: x[0], distribution.sample_and_log_prob(key))
            after = envs.step(env_state, to_env(action))
            transition = envs.transition(env_state, action, after)
            return (after, memory, after.done), Rollout(transition, log_prob, reset, memory, after.metrics)

        carry = (state.env_state, state.memory, state.reset)
        keys = jax.random.split(step_key, c.rollout_length)
        (env_state, memory, reset), rollout = jax.lax.scan(env_step, carry, keys)
        state = state.replace(env_state=envs.refresh(env_state, pool_key), memory=memory, reset=reset)
        return state, rollout

    def scale_rewards(state: State, reward: jax.Array, done: jax.Array) -> tuple[State, jax.Array]:
        """Divides rewards [T, N] by the deviation of the discounted return so far, this rollout included."""
        if not c.normalize_reward:
            return state, reward
        totals, total = accumulated_returns(reward, done, state.hyper.discount, state.discounted_return)
        statistics = running_statistics.update(state.return_statistics, totals, axis_name)
        state = state.replace(return_statistics=statistics, discounted_return=total)
        deviation = jnp.sqrt(running_statistics.variance(statistics) + 1e-8)
        return state, jnp.clip(reward / deviation, -10.0, 10.0)

    def prepare(state: State, memory: PyTree, rollout: Rollout) -> Batch:
        """Advantages and value targets, by the policy and the statistics that acted; `memory` is the one at the start.

        Feed-forward: every transition is a sequence of length one, [1, T * N, …]. Recurrent: [T, N, …].
        """

        def flat(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), tree)

        sequences = (lambda tree: tree) if c.memory else flat
        transition, time_and_envs = rollout.transition, rollout.reset.shape
        obs = normalize(state.obs_statistics, sequences(transition.obs))
        action, log_prob, reset = sequences((transition.action, rollout.log_prob, rollout.reset))
        _, value, _ = apply(state.params, obs, memory, reset)
        next_obs = normalize(state.obs_statistics, flat(transition.next_obs))
        memory_after = jax.tree.map(lambda x: x[0], flat(rollout.memory))
        _, next_value, _ = apply(state.params, next_obs, memory_after, jnp.zeros_like(flat(rollout.reset)))
        advantage = gae(
            transition.reward,
            value.reshape(time_and_envs),
            next_value.reshape(time_and_envs),
            transition.terminated,
            transition.truncated,
            state.hyper.discount,
            state.hyper.gae_lambda,
        )
        advantage = sequences(advantage)
        return Batch(obs, reset, memory, action, log_prob, value, advantage, target=advantage + value)

    def loss(params: PyTree, batch: Batch, hyper: Hyper) -> tuple[jax.Array, Metrics]:
        distribution, value, _ = apply(params, batch.obs, batch.memory, batch.reset)
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

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """`num_epochs` passes of minibatch steps over the batch."""
        hyper = state.hyper
        remaining = 1.0 - state.iteration * (steps_per_iteration / c.anneal_steps) if c.anneal_steps else 1.0
        learning_rate = hyper.learning_rate * jnp.maximum(remaining, 0.0)

        def normalized(advantage: jax.Array) -> jax.Array:
            centered = advantage - devices.mean(advantage.mean())
            deviation = jnp.sqrt(devices.mean(jnp.square(centered).mean()))
            return centered / (deviation + 1e-8)

        # A single advantage less its mean is 0: nothing would be learned.
        single = batch.reset.size == c.num_minibatches
        if c.normalize_advantage and single:
            batch = batch._replace(advantage=normalized(batch.advantage))

        def minibatch_step(carry: tuple, index: jax.Array) -> tuple[tuple, tuple[Metrics, jax.Array]]:
            params, optimizer_state, scale, stopped = carry
            memory = jax.tree.map(lambda x: x[index], batch.memory)
            minibatch = jax.tree.map(lambda x: x[:, index], batch._replace(memory=()))._replace(memory=memory)
            if c.normalize_advantage and not single:
                minibatch = minibatch._replace(advantage=normalized(minibatch.advantage))
            gradient, metrics = jax.grad(loss, has_aux=True)(params, minibatch, hyper)
            gradient, metrics = devices.mean((gradient, metrics))
            kl = metrics["policy/approximate_kl"]
            if c.target_kl is not None and c.kl_response == "stop":
                stopped = stopped | (kl > 1.5 * c.target_kl)
            elif c.target_kl is not None:
                scale = adapted_scale(scale, hyper.learning_rate, kl, c.target_kl)
            updates, new_state = optimizer(hyper, learning_rate * scale).update(gradient, optimizer_state, params)
            new = (optax.apply_updates(params, updates), new_state)
            if c.target_kl is not None and c.kl_response == "stop":
                new = jax.tree.map(lambda old, new: jnp.where(stopped, old, new), (params, optimizer_state), new)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            return (*new, scale, stopped), (metrics, ~stopped)

        batch_size = batch.reset.shape[1]
        # One sort of random bits shuffles an epoch. jax.random.permutation sorts twice: a tenth of a step on a CPU.
        orders = jnp.argsort(jax.random.bits(key, (c.num_epochs, batch_size)), axis=-1)
        minibatches = orders.reshape(c.num_epochs * c.num_minibatches, -1)
        carry = (state.params, state.optimizer_state, state.learning_rate_scale, jnp.zeros((), bool))
        (params, optimizer_state, scale, _), (metrics, taken) = jax.lax.scan(minibatch_step, carry, minibatches)
        metrics = jax.tree.map(lambda x: x.mean(), metrics)
        metrics["learning_rate"] = learning_rate * scale
        metrics["updates_taken"] = taken.mean()
        return state.replace(params=params, optimizer_state=optimizer_state, learning_rate_scale=scale), metrics

    def step(state: State) -> tuple[State, Metrics]:
        key, act_key, update_key = jax.random.split(state.key, 3)
        memory = state.memory
        state, rollout = collect(state, devices.local(act_key))
        transition = rollout.transition
        done = transition.terminated | transition.truncated
        state, reward = scale_rewards(state, transition.reward, done)
        batch = prepare(state, memory, rollout._replace(transition=transition.replace(reward=reward)))
        state, metrics = update(state, batch, devices.local(update_key))
        metrics["value/explained_variance"] = explained_variance(batch.value, batch.target, axis_name)
        metrics |= episode_metrics(rollout.metrics, done, axis_name)
        if c.normalize_observation:
            # Only now: with other statistics than those that acted, the ratio would not start at 1.
            statistics = running_statistics.update(state.obs_statistics, transition.obs, axis_name)
            state = state.replace(obs_statistics=statistics)
        return state.replace(key=key, iteration=state.iteration + 1), metrics

    def act(variables: PyTree, key: Key, obs: PyTree, memory: PyTree, deterministic: bool) -> tuple[jax.Array, PyTree]:
        obs = normalize(variables["obs_statistics"], jnp.asarray(obs))
        batch = obs.shape[: obs.ndim - len(obs_space.shape)]
        distribution, _, memory = apply(variables["params"], obs[None], memory, jnp.zeros((1, *batch), bool))
        action = to_env((distribution.mode() if deterministic else distribution.sample(key))[0])
        return (agent_env.rescale(action) if isinstance(agent_env, RescaleAction) else action), memory

    def policy(state: State) -> Policy:
        variables = {"params": state.params, "obs_statistics": state.obs_statistics}
        return Policy(variables, network.initial_memory(), act)

    return Algorithm(init, step, policy, steps_per_iteration, "ppo", env, c, make)
