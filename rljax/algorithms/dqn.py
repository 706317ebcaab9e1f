"""Deep Q-networks, and what was added to them up to Rainbow: off-policy, for discrete actions.

Mnih et al. 2015, "Human-level control through deep reinforcement learning" (Nature 518): replay and a target network.
van Hasselt et al. 2016 (arXiv 1509.06461), `double`: the network chooses the next action, its target values it.
Schaul et al. 2016 (arXiv 1511.05952), `prioritized`: what was predicted badly is replayed more often.
Wang et al. 2016 (arXiv 1511.06581), `dueling`: one stream for the value, one for the advantages.
Sutton and Barto 2018, eq. 7.1, `n_step`: several rewards before the value of what follows.
Bellemare et al. 2017, C51 (arXiv 1707.06887), and Dabney et al. 2018, QR-DQN (arXiv 1710.10044), `head`: the
distribution of returns, as probabilities of fixed returns or as returns of fixed probabilities.
Fortunato et al. 2018 (arXiv 1706.10295), `exploration`: learned noise in the weights in place of random actions.
Hessel et al. 2018, "Rainbow" (arXiv 1710.02298): most of them together.

`Config()` is the algorithm of 2015, with Adam for RMSProp; `RAINBOW` below is that of 2018.
"""

import dataclasses
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from rljax.algorithms.base import Algorithm, Policy, discrete, require
from rljax.algorithms.off_policy import Collector, Experience, Learner, ReplayConfig, annealed, when
from rljax.data import Batch
from rljax.envs import Environment
from rljax.nn.networks import ACTIVATIONS, CNN, MLP, activation
from rljax.ops import categorical
from rljax.ops.exploration import epsilon_greedy, linear_schedule
from rljax.ops.returns import bootstrapped
from rljax.types import Key, Metrics, PyTree, Refused

Exploration = Literal["epsilon", "noisy"]
Head = Literal["scalar", "categorical", "quantile"]


@dataclasses.dataclass(frozen=True)
class Config(ReplayConfig):
    """Settings of DQN. Those in `Hyper` live in the state and can be swept by vmap."""

    batch_size: int = 32
    """Transitions of a batch, over all devices (Mnih et al. 2015, table 1)."""
    learning_rate: float = 2.5e-4
    """Step size of Adam (2015: 2.5e-4, of RMSProp)."""
    adam_epsilon: float = 1e-8
    """Adam's ε (Rainbow: 1.5e-4; QR-DQN: 0.01 / 32)."""
    max_grad_norm: float | None = None
    """Gradients are scaled down to this global norm (Wang et al. 2016: 10); None does not."""
    discount: float = 0.99
    """γ."""
    loss: Literal["huber", "squared"] = "huber"
    """Loss of the TD error, for a scalar head (2015: the gradient is clipped to [-1, 1], which is Huber's)."""
    target_period: int = 1_000
    """Gradient updates between two updates of the target network (2015: 10,000), across iterations."""
    target_rate: float = 1.0
    """How far each update moves the target network towards the network; 1 copies it."""
    double: bool = False
    """Double Q-learning: the next action is the network's choice, its value the target network's."""
    dueling: bool = False
    """Separate streams, of the last hidden layer each, for values and advantages."""
    head: Head = "scalar"
    """What is learned of the return: its mean, or its distribution, categorical (C51) or quantile (QR-DQN)."""
    num_atoms: int = 51
    """Returns of a categorical head (C51: 51), or quantiles of a quantile head (QR-DQN: 200)."""
    value_min: float = -10.0
    """Least return of a categorical head."""
    value_max: float = 10.0
    """Largest return of a categorical head."""
    exploration: Exploration = "epsilon"
    """Random actions with probability ε, or noisy layers."""
    exploration_start: float = 1.0
    """ε at the start."""
    exploration_end: float = 0.05
    """ε at the end, and of the stochastic policy."""
    exploration_steps: int = 10_000
    """Environment steps over which ε falls linearly (2015: 10^6)."""
    noisy_std: float = 0.5
    """σ0: deviation of the weights at the start, times the root of a layer's inputs (Fortunato et al. 2018, 3.2)."""
    prioritized: bool = False
    """Replay in proportion to the size of the error, to the power of priority_exponent."""
    priority_exponent: float = 0.6
    """α of prioritised replay (Schaul et al. 2016: 0.6; Rainbow: 0.5)."""
    priority_epsilon: float = 1e-6
    """Offset of the size of the error, so that everything may be replayed."""
    importance_exponent: float = 0.4
    """β of prioritised replay at the start: 1 corrects all of the bias."""
    importance_anneal_steps: int = 0
    """Environment steps over which β rises linearly to 1; 0 keeps it constant."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers (after the convolutions, for images)."""
    activation: str = "relu"
    """Activation of the hidden layers."""
    cnn_channels: tuple[int, ...] = (16,)
    """Channels of each convolution; images only (default: MinAtar's)."""
    cnn_kernels: tuple[int, ...] = (3,)
    """Kernel widths."""
    cnn_strides: tuple[int, ...] = (1,)
    """Strides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rate", "adam_epsilon", "priority_epsilon"):
            require(self, name, getattr(self, name) > 0, "positive")
        require(self, "max_grad_norm", self.max_grad_norm is None or self.max_grad_norm > 0, "positive, or None")
        for name in ("discount", "exploration_start", "exploration_end", "priority_exponent", "importance_exponent"):
            require(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        require(self, "loss", self.loss in ("huber", "squared"), "huber or squared")
        require(self, "target_period", self.target_period >= 1, "at least 1")
        require(self, "target_rate", 0 < self.target_rate <= 1, "in (0, 1]")
        require(self, "head", self.head in get_args(Head), f"one of {get_args(Head)}")
        require(self, "num_atoms", self.num_atoms >= 2, "at least 2")
        require(self, "value_max", self.value_max > self.value_min, f"above value_min = {self.value_min}")
        require(self, "exploration", self.exploration in get_args(Exploration), f"one of {get_args(Exploration)}")
        for name in ("exploration_steps", "noisy_std", "importance_anneal_steps"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("hidden", "cnn_channels", "cnn_kernels", "cnn_strides"):
            require(self, name, all(width >= 1 for width in getattr(self, name)), "at least 1 in each layer")
        layers = len(self.cnn_channels)
        for name in ("cnn_kernels", "cnn_strides"):
            require(self, name, len(getattr(self, name)) == layers, f"of one length with cnn_channels, {layers}")
        require(self, "activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        require(self, "newest_size", not (self.prioritized and self.newest_size), "0 where prioritized")


RAINBOW = Config(
    rollout_length=4, num_updates=1, batch_size=32, replay_size=1_000_000, learning_starts=20_000,
    learning_rate=6.25e-5, adam_epsilon=1.5e-4, discount=0.99, target_period=2_000, double=True, dueling=True,
    n_step=3, head="categorical", num_atoms=51, value_min=-10.0, value_max=10.0, exploration="noisy", noisy_std=0.5,
    prioritized=True, priority_exponent=0.5, importance_exponent=0.4, importance_anneal_steps=50_000_000,
)  # fmt: skip
"""The settings of Hessel et al. 2018 (table 1) for Atari, where a step is four frames: 80,000 frames before the first
update, one update for each four steps, a target network of 32,000 frames, and β that rises to 1 over 200 million.

They clip rewards to [-1, 1], which is the environment's part; elsewhere value_min and value_max must hold the task's
discounted returns. The networks' sizes are those of `Config`.
"""


class Hyper(struct.PyTreeNode):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    learning_rate: jax.Array
    discount: jax.Array
    target_rate: jax.Array
    exploration_start: jax.Array
    exploration_end: jax.Array
    exploration_steps: jax.Array
    priority_exponent: jax.Array
    importance_exponent: jax.Array


class State(struct.PyTreeNode):
    """All of training: save it, and it resumes bit for bit."""

    iteration: jax.Array
    key: Key
    hyper: Hyper
    learner: Learner
    experience: Experience

    @property
    def params(self) -> PyTree:
        return self.learner.params


class NoisyDense(nn.Module):
    """A dense layer with factorised noise in its weights, [..., d] to [..., units] (Fortunato et al. 2018, eq. 9-11).

    The noise is drawn from the stream "noise", once for all rows of the input; without that stream there is none.
    """

    units: int
    initial_std: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[-1]
        bound = inputs**-0.5
        mean = nn.initializers.uniform(2 * bound)
        std = nn.initializers.constant(self.initial_std * bound)
        kernel = self.param("kernel", lambda *args: mean(*args) - bound, (inputs, self.units), jnp.float32)
        bias = self.param("bias", lambda *args: mean(*args) - bound, (self.units,), jnp.float32)
        kernel_std = self.param("kernel_std", std, (inputs, self.units), jnp.float32)
        bias_std = self.param("bias_std", std, (self.units,), jnp.float32)
        output = x @ kernel + jnp.broadcast_to(bias, (*x.shape[:-1], self.units))
        if not self.has_rng("noise"):
            return output

        def noise(width: int) -> jax.Array:
            normal = jax.random.normal(self.make_rng("noise"), (width,), jnp.float32)
            return jnp.sign(normal) * jnp.sqrt(jnp.abs(normal))

        # The noise of weight ij is that of input i times that of output j: no matrix of it need be made.
        of_inputs, of_outputs = (jnp.broadcast_to(noise(y.shape[-1]), y.shape) for y in (x, output))
        return output + ((x * of_inputs) @ kernel_std + jnp.broadcast_to(bias_std, output.shape)) * of_outputs


class Layers(nn.Module):
    """Hidden layers and, where `output` is given, a linear one; noisy where the exploration is."""

    config: Config
    hidden: tuple[int, ...]
    output: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        if c.exploration != "noisy":
            return MLP(self.hidden, c.activation, self.output)(x)
        for units in self.hidden:
            x = activation(c.activation)(NoisyDense(units, c.noisy_std)(x))
        return x if self.output is None else NoisyDense(self.output, c.noisy_std, name="output")(x)


class Network(nn.Module):
    """Observations [..., n] or [..., height, width, channels] to what is learned of each action: [..., actions, atoms].

    These are one value (`scalar`), logits (`categorical`) or quantiles. Images pass through convolutions and a dense
    layer that is never noisy.
    """

    config: Config
    num_actions: int
    image: bool

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        c, hidden = self.config, self.config.hidden
        atoms = 1 if c.head == "scalar" else c.num_atoms
        if self.image:
            obs = CNN(c.cnn_channels, c.cnn_kernels, c.cnn_strides, hidden[0], c.activation)(obs)
            hidden = hidden[1:]
        shared, own = (hidden[:-1], hidden[-1:]) if c.dueling else (hidden, ())
        features = Layers(c, shared, name="torso")(obs)
        advantage = Layers(c, own, self.num_actions * atoms, name="advantage")(features)
        advantage = advantage.reshape(*features.shape[:-1], self.num_actions, atoms)
        if not c.dueling:
            return advantage
        value = Layers(c, own, atoms, name="value")(features)[..., None, :]
        return value + advantage - advantage.mean(-2, keepdims=True)  # Wang et al. 2016, eq. 9


def action_values(config: Config, output: jax.Array) -> jax.Array:
    """The mean return of each action, [..., actions], from the network's output [..., actions, atoms]."""
    return categorical.mean(_support(config), output) if config.head == "categorical" else output.mean(-1)


def td_loss(
    config: Config, output: jax.Array, next_output: jax.Array, reward: jax.Array, discount: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """How badly what follows was predicted.

    Args:
      output: for the action taken, [batch, atoms].
      next_output: for the best action in what follows, [batch, atoms]; not differentiated.
      reward, discount: [batch].

    Returns:
      The losses [batch], and the sizes [batch] of the errors for prioritised replay: |δ|, or for distributions the KL
      divergence (Hessel et al. 2018) or the quantile loss.
    """
    next_output = jax.lax.stop_gradient(next_output)
    if config.head == "categorical":
        target = categorical.bootstrapped(_support(config), reward, discount, jax.nn.softmax(next_output))
        loss = categorical.cross_entropy(output, target)
        return loss, jnp.maximum(loss + jax.scipy.special.xlogy(target, target).sum(-1), 0.0)
    target = bootstrapped(reward[:, None], discount[:, None], next_output)
    if config.head == "quantile":
        loss = quantile_loss(output, target)
        return loss, loss
    error = (target - output)[:, 0]
    return (optax.losses.huber_loss(error) if config.loss == "huber" else 0.5 * jnp.square(error)), jnp.abs(error)


def quantile_loss(quantiles: jax.Array, samples: jax.Array) -> jax.Array:
    """Huber quantile regression (Dabney et al. 2018, eq. 10, κ = 1) of quantiles [..., n] to samples [..., m]: [...].

    The n quantiles are the midpoints of n equal shares of the distribution (lemma 2).
    """
    n = quantiles.shape[-1]
    probability = ((jnp.arange(n, dtype=jnp.float32) + 0.5) / n).reshape(*(1,) * (quantiles.ndim - 1), n, 1)
    error = samples[..., None, :] - quantiles[..., :, None]
    weight = jnp.abs(probability - (error < 0))
    return (weight * optax.losses.huber_loss(error)).mean(-1).sum(-1)


def make(env: Environment, config: Config | None = None, axis_name: str | None = None) -> Algorithm:
    """DQN on `env`.

    Args:
      env: one environment; actions `Discrete`, observations a vector or an image.
      config: settings; the defaults where None.
      axis_name: mesh axis over which the functions run under `shard_map`: environments, buffer and batches are split,
        gradients averaged.

    Raises:
      ValueError: the environment's spaces do not fit.
    """
    c = Config() if config is None else config
    num_actions, image = discrete(env, "dqn")
    if image and (not c.hidden or c.normalize_observation):
        field = "normalize_observation = True" if c.hidden else "hidden = ()"
        raise Refused(f"dqn.Config: {field} is not allowed for images")
    network = Network(c, num_actions, image)
    collector = Collector(env, c, c.prioritized, axis_name)
    steps_per_iteration = c.steps_per_iteration * env.steps_per_action
    clip = optax.identity() if c.max_grad_norm is None else optax.clip_by_global_norm(c.max_grad_norm)
    obs_shape, action_type = env.observation_space.shape, env.action_space.dtype

    def output_of(params: PyTree, obs: jax.Array, noise_key: Key | None) -> jax.Array:
        """[..., actions, atoms]."""
        rngs = None if noise_key is None else {"noise": noise_key}
        return network.apply(params, obs, rngs=rngs)  # type: ignore[return-value]

    def explore(params: PyTree, obs: jax.Array, key: Key, epsilon: jax.Array) -> jax.Array:
        """Actions for observations [batch, …]: ε-greedy, or greedy by values with noise, of its own for each."""
        noise_key, action_key = jax.random.split(key)
        if c.exploration == "noisy":
            noise_keys = jax.random.split(noise_key, obs.shape[0])
            output = jax.vmap(output_of, in_axes=(None, 0, 0))(params, obs, noise_keys)
        else:
            output = output_of(params, obs, None)
        return epsilon_greedy(action_key, action_values(c, output), epsilon).astype(action_type)

    def epsilon_of(hyper: Hyper, iteration: jax.Array) -> jax.Array:
        """ε of a step."""
        if c.exploration == "noisy":
            return jnp.float32(0.0)
        steps = iteration * float(steps_per_iteration)
        return linear_schedule(hyper.exploration_start, hyper.exploration_end, steps, hyper.exploration_steps)

    def importance_exponent_of(hyper: Hyper, iteration: jax.Array) -> jax.Array:
        """β of an iteration."""
        if not c.importance_anneal_steps:
            return hyper.importance_exponent
        steps = iteration * float(steps_per_iteration)
        return linear_schedule(hyper.importance_exponent, 1.0, steps, c.importance_anneal_steps)

    def init(key: Key) -> State:
        key, params_key, env_key = jax.random.split(key, 3)
        experience = collector.init(env_key)
        params = {"value": network.init(params_key, jnp.zeros((1, *obs_shape), jnp.float32))}
        hyper = Hyper(**{name: jnp.float32(getattr(c, name)) for name in Hyper.__dataclass_fields__})
        return State(jnp.int32(0), key, hyper, Learner.init(params, targets=("value",)), experience)

    def update(
        learner: Learner, batch: Batch, key: Key, target_due: jax.Array, hyper: Hyper
    ) -> tuple[Learner, tuple[jax.Array, Metrics]]:
        """One step towards r + γ Q(s', a'), a' the best action by the target network, or by the network if `double`."""
        key, target_key, choice_key = jax.random.split(key, 3)
        next_output = output_of(learner.targets["value"], batch.next_obs, target_key)
        choice = output_of(learner.params["value"], batch.next_obs, choice_key) if c.double else next_output
        next_output = _of_action(next_output, jnp.argmax(action_values(c, choice), -1))

        def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
            output = _of_action(output_of(params, batch.obs, key), batch.action)
            losses, error = td_loss(c, output, next_output, batch.reward, batch.discount)
            metrics = {"value/mean": action_values(c, output).mean()}
            if c.head == "categorical":
                metrics["value/saturation"] = categorical.saturation(jax.nn.softmax(output))
            return (batch.weight * losses).mean(), (error, metrics)

        (loss_value, (error, metrics)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["value"])
        gradient = collector.devices.mean(gradient)
        metrics |= {"loss/value": loss_value, "gradient_norm": optax.tree.norm(gradient)}
        clipped = clip.update(gradient, optax.EmptyState())[0]
        learner = learner.descend("value", clipped, hyper.learning_rate, eps=c.adam_epsilon)
        learner = jax.lax.cond(target_due, lambda l: l.move_target("value", hyper.target_rate), lambda l: l, learner)
        return learner, ((error + c.priority_epsilon) ** hyper.priority_exponent, metrics)

    def learn(
        learner: Learner, batches: Batch, key: Key, updates_before: jax.Array, hyper: Hyper
    ) -> tuple[tuple[Learner, jax.Array], Metrics]:
        """All updates of an iteration, from batches [num_updates, batch, …]; and priorities [num_updates, batch]."""
        target_due = (updates_before + 1 + jnp.arange(c.num_updates)) % c.target_period == 0
        x = (batches, jax.random.split(key, c.num_updates), target_due)
        learner, (priority, metrics) = jax.lax.scan(lambda l, x: update(l, *x, hyper), learner, x)
        return (learner, priority), collector.devices.mean(jax.tree.map(jnp.mean, metrics))

    def step(state: State) -> tuple[State, Metrics]:
        key, act_key, sample_key, learn_key = jax.random.split(state.key, 4)
        hyper, iteration, params = state.hyper, state.iteration, state.params["value"]
        learning = iteration >= c.first_learning_iteration
        updates_before = (iteration - c.first_learning_iteration) * c.num_updates
        epsilon = jnp.where(iteration > c.first_learning_iteration, epsilon_of(hyper, iteration), 1.0)

        experience, metrics = collector.collect(
            state.experience, act_key, lambda obs, key: explore(params, obs, key, epsilon)
        )
        hyper = annealed(hyper, iteration * float(steps_per_iteration), c)
        beta = importance_exponent_of(hyper, iteration)
        batches = collector.sample(experience, sample_key, hyper.discount, beta)
        # Before learning starts every priority is 1, and so it stays.
        (learner, priority), of_updates = when(
            learning,
            lambda x: learn(x[0], batches, collector.devices.local(learn_key), updates_before, hyper),
            (state.learner, jnp.ones_like(batches.weight)),
        )
        if c.prioritized:
            experience = collector.prioritize(experience, batches.index, priority)
        metrics |= of_updates | {
            "policy/exploration": epsilon,
            "learning_rate": hyper.learning_rate,
            "updates": jnp.where(learning, float(c.num_updates), 0.0),
        }
        return state.replace(iteration=iteration + 1, key=key, learner=learner, experience=experience), metrics

    def act(variables: PyTree, key: Key, obs: PyTree, memory: PyTree, deterministic: bool) -> tuple[jax.Array, PyTree]:
        obs = collector.normalize(variables["obs_statistics"], jnp.asarray(obs))
        batch = obs.shape[: obs.ndim - len(obs_shape)]
        obs = obs.reshape(-1, *obs_shape)
        if deterministic:
            action = jnp.argmax(action_values(c, output_of(variables["params"], obs, None)), -1).astype(action_type)
        else:
            action = explore(variables["params"], obs, key, variables["epsilon"])
        return action.reshape(batch), memory

    def policy(state: State) -> Policy:
        variables = {
            "params": state.params["value"],
            "obs_statistics": state.experience.obs_statistics,
            "epsilon": jnp.float32(0.0) if c.exploration == "noisy" else state.hyper.exploration_end,
        }
        return Policy(variables, (), act)

    return Algorithm(init, step, policy, steps_per_iteration, "dqn", env, c, make)


def _support(config: Config) -> jax.Array:
    return categorical.support(config.value_min, config.value_max, config.num_atoms)


def _of_action(output: jax.Array, action: jax.Array) -> jax.Array:
    """[batch, actions, atoms] and actions [batch] to [batch, atoms]."""
    return jnp.take_along_axis(output, action[:, None, None], axis=1)[:, 0]
