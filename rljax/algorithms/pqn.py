"""Parallelised Q-network: Q-learning without replay and without a target network, in many environments at once.

Gallici et al. 2024, "Simplifying deep temporal difference learning" (arXiv 2407.04811), algorithm 1: layer
normalisation keeps what they show would else diverge, and Q(λ) returns of fresh experience take the place of a replay.

One iteration: act ε-greedily for `rollout_length` steps in `num_envs` environments, estimate returns with the largest
value of the TRUE successor (so a time limit bootstraps and a termination does not), then `num_epochs` passes of
minibatch updates. The defaults are those published for MinAtar, of 10 million steps (github.com/mttga/purejaxql).
"""

import dataclasses
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from rljax.algorithms.base import Algorithm, Devices, Policy, discrete, episode_metrics, require
from rljax.envs import AutoReset, Environment
from rljax.envs.auto_reset import ResetPolicy
from rljax.envs.environment import State as EnvState
from rljax.nn.networks import ACTIVATIONS, CNN, MLP
from rljax.ops import running_statistics
from rljax.ops.exploration import epsilon_greedy, linear_schedule
from rljax.ops.metrics import explained_variance
from rljax.ops.returns import lambda_returns
from rljax.types import Key, Metrics, PyTree, Refused, Transition, sharded_field


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of PQN. Those in `Hyper` live in the state and can be swept by vmap."""

    num_envs: int = 128
    """Environments stepped together, over all devices."""
    rollout_length: int = 32
    """Steps of each environment between two updates."""
    num_epochs: int = 2
    """Passes over each rollout."""
    num_minibatches: int = 32
    """Gradient steps per pass; divides num_envs * rollout_length."""
    learning_rate: float = 5e-4
    """Step size of rectified Adam."""
    anneal_steps: int = 0
    """Environment steps over which the learning rate falls linearly to 0 (published: all); 0 keeps it constant."""
    max_grad_norm: float = 10.0
    """Gradients are scaled down to this global norm."""
    discount: float = 0.99
    """γ."""
    q_lambda: float = 0.65
    """λ: 0 learns from one step, 1 from all that is left of the rollout."""
    exploration_start: float = 1.0
    """ε at the start: the probability of a random action."""
    exploration_end: float = 0.05
    """ε at the end, and of the stochastic policy."""
    exploration_steps: int = 1_000_000
    """Environment steps over which ε falls linearly (published: a tenth of all)."""
    normalize_observation: bool = False
    """Observations are shifted and scaled by running statistics (vectors only)."""
    hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers (after the convolutions, for images)."""
    activation: str = "relu"
    """Activation of the hidden layers."""
    layer_norm: bool = True
    """Layer normalisation before each activation; without it little keeps the values from diverging."""
    cnn_channels: tuple[int, ...] = (16,)
    """Channels of each convolution; images only (default: MinAtar's)."""
    cnn_kernels: tuple[int, ...] = (3,)
    """Kernel widths."""
    cnn_strides: tuple[int, ...] = (1,)
    """Strides."""
    reset_policy: ResetPolicy = "pool"
    """Where auto-reset takes fresh states from (see AutoReset)."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "rollout_length", "num_epochs", "num_minibatches"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "max_grad_norm"):
            require(self, name, getattr(self, name) > 0, "positive")
        for name in ("discount", "q_lambda", "exploration_start", "exploration_end"):
            require(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("anneal_steps", "exploration_steps"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("hidden", "cnn_channels", "cnn_kernels", "cnn_strides"):
            require(self, name, all(width >= 1 for width in getattr(self, name)), "at least 1 in each layer")
        layers = len(self.cnn_channels)
        for name in ("cnn_kernels", "cnn_strides"):
            require(self, name, len(getattr(self, name)) == layers, f"of one length with cnn_channels, {layers}")
        require(self, "activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        require(self, "reset_policy", self.reset_policy in get_args(ResetPolicy), f"one of {get_args(ResetPolicy)}")
        steps = self.num_envs * self.rollout_length
        divides = steps % self.num_minibatches == 0
        require(self, "num_minibatches", divides, f"a divisor of num_envs * rollout_length = {steps}")


class Hyper(struct.PyTreeNode):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    learning_rate: jax.Array
    max_grad_norm: jax.Array
    discount: jax.Array
    q_lambda: jax.Array
    exploration_start: jax.Array
    exploration_end: jax.Array
    exploration_steps: jax.Array


class State(struct.PyTreeNode):
    """All of training: save it, and it resumes bit for bit."""

    iteration: jax.Array
    key: Key
    hyper: Hyper
    params: PyTree
    optimizer_state: PyTree
    obs_statistics: running_statistics.Statistics
    env_state: EnvState = sharded_field()


class Network(nn.Module):
    """Observations [..., n] or [..., height, width, channels] to the values of all actions, [..., actions]."""

    config: Config
    num_actions: int
    image: bool

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        c, hidden = self.config, self.config.hidden
        if self.image:
            convolutions = (c.cnn_channels, c.cnn_kernels, c.cnn_strides)
            obs = CNN(*convolutions, hidden[0], c.activation, layer_norm=c.layer_norm)(obs)
            hidden = hidden[1:]
        return MLP(hidden, c.activation, self.num_actions, layer_norm=c.layer_norm)(obs)


def make(env: Environment, config: Config | None = None, axis_name: str | None = None) -> Algorithm:
    """PQN on `env`.

    Args:
      env: one environment; actions `Discrete`, observations a vector or an image.
      config: settings; the defaults where None.
      axis_name: mesh axis over which the functions run under `shard_map`, environments split, gradients averaged.

    Raises:
      ValueError: the environment's spaces do not fit.
    """
    c = Config() if config is None else config
    num_actions, image = discrete(env, "pqn")
    if image and (not c.hidden or c.normalize_observation):
        field = "normalize_observation = True" if c.hidden else "hidden = ()"
        raise Refused(f"pqn.Config: {field} is not allowed for images")
    network, devices = Network(c, num_actions, image), Devices(axis_name)
    steps_per_iteration = c.num_envs * c.rollout_length * env.steps_per_action
    obs_space, action_type = env.observation_space, env.action_space.dtype
    example_obs = jnp.zeros(obs_space.shape, obs_space.dtype)

    def environments() -> AutoReset:
        return devices.environments(env, c.num_envs, c.reset_policy)

    def optimizer(hyper: Hyper, learning_rate: jax.Array) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(hyper.max_grad_norm), optax.radam(learning_rate))

    def values_of(params: PyTree, obs: jax.Array) -> jax.Array:
        """Of every action, [..., actions]."""
        return network.apply(params, obs)  # type: ignore[return-value]

    def normalize(statistics: running_statistics.Statistics, obs: PyTree) -> PyTree:
        return running_statistics.normalize(statistics, obs) if c.normalize_observation else obs

    def epsilon_of(hyper: Hyper, iteration: jax.Array) -> jax.Array:
        steps = iteration * float(steps_per_iteration)
        return linear_schedule(hyper.exploration_start, hyper.exploration_end, steps, hyper.exploration_steps)

    def init(key: Key) -> State:
        key, params_key, env_key = jax.random.split(key, 3)
        params = network.init(params_key, example_obs[None])
        hyper = Hyper(**{name: jnp.float32(getattr(c, name)) for name in Hyper.__dataclass_fields__})
        return State(
            iteration=jnp.int32(0),
            key=key,
            hyper=hyper,
            params=params,
            optimizer_state=optimizer(hyper, hyper.learning_rate).init(params),
            obs_statistics=running_statistics.init(example_obs),
            env_state=environments().reset(devices.local(env_key)),
        )

    def collect(state: State, key: Key, epsilon: jax.Array) -> tuple[State, Transition, Metrics]:
        """Acts for `rollout_length` steps: transitions [T, N, …], and what the environments report."""
        envs = environments()
        step_key, pool_key = jax.random.split(key)

        def env_step(env_state: EnvState, key: Key) -> tuple[EnvState, tuple[Transition, dict[str, jax.Array]]]:
            values = values_of(state.params, normalize(state.obs_statistics, env_state.obs))
            action = epsilon_greedy(key, values, epsilon).astype(action_type)
            after = envs.step(env_state, action)
            return after, (envs.transition(env_state, action, after), after.metrics)

        keys = jax.random.split(step_key, c.rollout_length)
        env_state, (transition, metrics) = jax.lax.scan(env_step, state.env_state, keys)
        done = transition.terminated | transition.truncated
        return state.replace(env_state=envs.refresh(env_state, pool_key)), transition, episode_metrics(
            metrics, done, axis_name
        )  # fmt: skip

    def returns(state: State, transition: Transition) -> jax.Array:
        """Q(λ) returns [T, N] (algorithm 1), by the values that acted."""
        # Time step by time step: all successors at once would need memory for the convolutions of a whole rollout.
        next_value = jax.lax.map(
            lambda obs: values_of(state.params, normalize(state.obs_statistics, obs)).max(-1), transition.next_obs
        )
        return lambda_returns(
            transition.reward,
            next_value,
            transition.terminated,
            transition.truncated,
            state.hyper.discount,
            state.hyper.q_lambda,
        )

    def loss(params: PyTree, obs: PyTree, action: jax.Array, target: jax.Array) -> tuple[jax.Array, tuple]:
        value = jnp.take_along_axis(values_of(params, obs), action[:, None], axis=-1)[:, 0]
        error = 0.5 * jnp.square(value - target).mean()
        return error, ({"loss/value": error, "value/mean": value.mean()}, value)

    def update(state: State, transition: Transition, target: jax.Array, key: Key) -> tuple[State, Metrics]:
        """`num_epochs` passes of minibatch steps over the rollout."""
        hyper = state.hyper
        learning_rate = hyper.learning_rate
        if c.anneal_steps:
            steps = state.iteration * float(steps_per_iteration)
            learning_rate = linear_schedule(learning_rate, 0.0, steps, c.anneal_steps)
        obs = normalize(state.obs_statistics, transition.obs)
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (obs, transition.action, target))

        def minibatch_step(carry: tuple[PyTree, PyTree], index: jax.Array) -> tuple[tuple[PyTree, PyTree], tuple]:
            params, optimizer_state = carry
            gradient, (metrics, value) = jax.grad(loss, has_aux=True)(params, *jax.tree.map(lambda x: x[index], batch))
            gradient, metrics = devices.mean((gradient, metrics))
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            updates, optimizer_state = optimizer(hyper, learning_rate).update(gradient, optimizer_state, params)
            return (optax.apply_updates(params, updates), optimizer_state), (metrics, value)

        orders = jnp.argsort(jax.random.bits(key, (c.num_epochs, target.size)), axis=-1)
        minibatches = orders.reshape(c.num_epochs * c.num_minibatches, -1)
        (params, optimizer_state), (metrics, value) = jax.lax.scan(
            minibatch_step, (state.params, state.optimizer_state), minibatches
        )
        metrics = jax.tree.map(jnp.mean, metrics) | {"learning_rate": learning_rate}
        # Over all minibatches: a mean of those of each would be another number.
        metrics["value/explained_variance"] = explained_variance(value, batch[2][minibatches], axis_name)
        return state.replace(params=params, optimizer_state=optimizer_state), metrics

    def step(state: State) -> tuple[State, Metrics]:
        key, act_key, update_key = jax.random.split(state.key, 3)
        epsilon = epsilon_of(state.hyper, state.iteration)
        state, transition, of_episodes = collect(state, devices.local(act_key), epsilon)
        state, metrics = update(state, transition, returns(state, transition), devices.local(update_key))
        metrics |= of_episodes | {"policy/exploration": epsilon}
        if c.normalize_observation:
            statistics = running_statistics.update(state.obs_statistics, transition.obs, axis_name)
            state = state.replace(obs_statistics=statistics)
        return state.replace(key=key, iteration=state.iteration + 1), metrics

    def act(variables: PyTree, key: Key, obs: PyTree, memory: PyTree, deterministic: bool) -> tuple[jax.Array, PyTree]:
        values = values_of(variables["params"], normalize(variables["obs_statistics"], jnp.asarray(obs)))
        action = epsilon_greedy(key, values, 0.0 if deterministic else variables["epsilon"])
        return action.astype(action_type), memory

    def policy(state: State) -> Policy:
        variables = {
            "params": state.params,
            "obs_statistics": state.obs_statistics,
            "epsilon": state.hyper.exploration_end,
        }
        return Policy(variables, (), act)

    return Algorithm(init, step, policy, steps_per_iteration, "pqn", env, c, make)
