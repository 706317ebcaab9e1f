"""Deep Q-networks, and what was added to them up to Rainbow: off-policy, for discrete actions.

Mnih et al. 2015, "Human-level control through deep reinforcement learning" (Nature 518): replay and a target network.
van Hasselt et al. 2016 (arXiv 1509.06461), `double`: the network chooses the next action, its target values it.
Schaul et al. 2016 (arXiv 1511.05952), `prioritized`: badly predicted transitions are replayed more often.
Wang et al. 2016 (arXiv 1511.06581), `dueling`: one stream for the value, one for the advantages.
Sutton and Barto 2018, eq. 7.1, `n_step`: several rewards before bootstrapping from a value.
Bellemare et al. 2017, C51 (arXiv 1707.06887), and Dabney et al. 2018, QR-DQN (arXiv 1710.10044), `head`: the
distribution of returns, as probabilities of fixed returns or as returns of fixed probabilities.
Fortunato et al. 2018 (arXiv 1706.10295), `exploration`: learned noise in the weights in place of random actions.
Hessel et al. 2018, "Rainbow" (arXiv 1710.02298): most of them together.

`Config()` is the algorithm of 2015, with Adam for RMSProp; `RAINBOW` below is that of 2018.
"""

import dataclasses
import functools
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.agent import Acted
from rljax.algorithms.core.blocks import Encoding, Parts
from rljax.algorithms.core.contract import Algorithm, discrete
from rljax.algorithms.core.experience import ReplayConfig, assemble
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.config import Atoms, Count, Fraction, NonNegative, Positive, Share, Whole, Widths, require
from rljax.data import Batch
from rljax.envs import Environment
from rljax.nn.encoder import encode, layers_after
from rljax.nn.networks import Activation, apply
from rljax.nn.noisy import Layers
from rljax.ops import categorical
from rljax.ops.exploration import epsilon_greedy, linear_schedule
from rljax.ops.quantiles import quantile_loss
from rljax.ops.returns import bootstrapped
from rljax.spaces import Discrete, Space, batch_shape
from rljax.types import Key, Metrics, PyTree

Exploration = Literal["epsilon", "noisy"]
Head = Literal["scalar", "categorical", "quantile"]


@dataclasses.dataclass(frozen=True)
class Config(Encoding, Parts, ReplayConfig):
    """Settings of DQN. Those in `Hyper` live in the state and can be swept by vmap."""

    batch_size: Count = 32
    """Transitions of a batch, over all devices (Mnih et al. 2015, table 1)."""
    learning_rate: Positive = 2.5e-4
    """Step size of Adam (2015: 2.5e-4, of RMSProp)."""
    adam_epsilon: Positive = 1e-8
    """Adam's ε (Rainbow: 1.5e-4; QR-DQN: 0.01 / 32)."""
    max_grad_norm: Positive | None = None
    """Largest global norm of the gradients; larger ones are scaled down (Wang et al. 2016: 10). None sets no limit."""
    loss: Literal["huber", "squared"] = "huber"
    """Loss of the TD error, for a scalar head (2015: the gradient is clipped to [-1, 1], which is Huber's)."""
    target_period: Count = 1_000
    """Gradient updates between two updates of the target network (2015: 10,000), across iterations."""
    target_rate: Share = 1.0
    """Rate at which the target network moves towards the network; 1 copies it."""
    double: bool = False
    """Double Q-learning: the network chooses the next action, and the target network values it."""
    dueling: bool = False
    """Dueling network: separate streams, each with the last hidden layer, for values and advantages."""
    head: Head = "scalar"
    """Prediction of the return: its mean (scalar), or its distribution (categorical: C51, quantile: QR-DQN)."""
    num_atoms: Atoms = 51
    """Number of atoms of a categorical head (C51: 51), or of quantiles of a quantile head (QR-DQN: 200)."""
    value_min: float = -10.0
    """Smallest atom of a categorical head."""
    value_max: float = 10.0
    """Largest atom of a categorical head."""
    exploration: Exploration = "epsilon"
    """Exploration: random actions with probability ε (epsilon), or noisy layers (noisy)."""
    exploration_start: Fraction = 1.0
    """Probability ε of a random action at the start."""
    exploration_end: Fraction = 0.05
    """Probability ε of a random action at the end, and in the stochastic policy."""
    exploration_steps: Whole = 10_000
    """Environment steps over which ε falls linearly (2015: 10^6)."""
    noisy_std: NonNegative = 0.5
    """Initial deviation σ0 of the noisy weights, times the root of a layer's inputs (Fortunato et al. 2018, 3.2)."""
    prioritized: bool = False
    """Prioritised replay: transitions are drawn in proportion to their error's size to the power of
    priority_exponent."""
    priority_exponent: Fraction = 0.6
    """Exponent α of prioritised replay (Schaul et al. 2016: 0.6; Rainbow: 0.5)."""
    priority_epsilon: Positive = 1e-6
    """Offset of the error's size, so that every transition may be replayed."""
    importance_exponent: Fraction = 0.4
    """Exponent β of the importance weights at the start; 1 corrects all of the bias."""
    importance_anneal_steps: Whole = 0
    """Environment steps over which β rises linearly to 1; 0 keeps it constant."""

    hidden: Widths = (128, 128)
    """Widths of the hidden layers (after the convolutions, for images)."""
    activation: Activation = "relu"
    """Activation of the hidden layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "value_max", self.value_max > self.value_min, f"above value_min = {self.value_min}")
        require(self, "newest_size", not (self.prioritized and self.newest_size), "0 where prioritized")


RAINBOW = Config(
    rollout_length=4,
    num_updates=1,
    batch_size=32,
    replay_size=1_000_000,
    learning_starts=20_000,
    learning_rate=6.25e-5,
    adam_epsilon=1.5e-4,
    discount=0.99,
    target_period=2_000,
    double=True,
    dueling=True,
    n_step=3,
    head="categorical",
    num_atoms=51,
    value_min=-10.0,
    value_max=10.0,
    exploration="noisy",
    noisy_std=0.5,
    prioritized=True,
    priority_exponent=0.5,
    importance_exponent=0.4,
    importance_anneal_steps=50_000_000,
)
"""The settings of Hessel et al. 2018 (table 1) for Atari, where a step is four frames: 80,000 frames before the first
update, one update for each four steps, a target network of 32,000 frames, and β that rises to 1 over 200 million.

The paper clips rewards to [-1, 1], which is left to the environment; else value_min and value_max must enclose the
discounted returns. The networks' sizes are `Config`'s.
"""


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    target_rate: jax.Array
    exploration_start: jax.Array
    exploration_end: jax.Array
    exploration_steps: jax.Array
    priority_exponent: jax.Array
    importance_exponent: jax.Array


class Network(nn.Module):
    """Observations [..., …] to a prediction of each action's return: [..., actions, atoms].

    Atoms are one value (`scalar`), logits (`categorical`) or quantiles. Images pass through convolutions and a dense
    layer that is never noisy.
    """

    config: Config
    num_actions: int
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        c, hidden = self.config, self.config.hidden
        atoms = 1 if c.head == "scalar" else c.num_atoms
        obs = encode(self.space, obs, c, c.activation, network=self.encoder)
        hidden = layers_after(self.space, hidden, self.encoder)
        shared, own = (hidden[:-1], hidden[-1:]) if c.dueling else (hidden, ())
        layers = functools.partial(Layers, c.activation, c.noisy_std if c.exploration == "noisy" else None)
        features = layers(shared, name="torso")(obs)
        advantage = layers(own, self.num_actions * atoms, name="advantage")(features)
        advantage = advantage.reshape(*features.shape[:-1], self.num_actions, atoms)
        if not c.dueling:
            return advantage
        value = layers(own, atoms, name="value")(features)[..., None, :]
        return value + advantage - advantage.mean(-2, keepdims=True)  # Wang et al. 2016, eq. 9


def action_values(config: Config, output: jax.Array) -> jax.Array:
    """The mean return of each action, [..., actions], from the network's output [..., actions, atoms]."""
    return categorical.mean(_support(config), output) if config.head == "categorical" else output.mean(-1)


def td_loss(
    config: Config, output: jax.Array, next_output: jax.Array, reward: jax.Array, discount: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """TD losses and priorities of a batch.

    Args:
      output: for the action taken, [batch, atoms].
      next_output: for the best next action, [batch, atoms]; not differentiated.
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


class Agent(core.Agent):
    """The network and its updates. `learner.extras` counts the updates."""

    hyper_type = Hyper
    config: Config
    action_space: Discrete

    def build(self, network: nn.Module | None) -> None:
        self.network = Network(self.config, self.action_space.n, self.seen(network), network)
        self.prioritized = self.config.prioritized

    def init(self, key: Key) -> Learner:
        params = {"value": self.network.init(key, self.example_obs)}
        return Learner.init(params, self.optimizers(self.hyper()), targets=("value",), extras=jnp.int32(0))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        c = self.config
        clip = optax.identity() if c.max_grad_norm is None else optax.clip_by_global_norm(c.max_grad_norm)
        return {"value": optax.chain(clip, optax.adam(hyper.learning_rate, eps=c.adam_epsilon))}

    def now(self, hyper: Hyper, steps: jax.Array) -> Hyper:
        """Also the current ε, as exploration_start, and the current β, as importance_exponent."""
        c, hyper = self.config, super().now(hyper, steps)
        epsilon = linear_schedule(hyper.exploration_start, hyper.exploration_end, steps, hyper.exploration_steps)
        beta = hyper.importance_exponent
        if c.importance_anneal_steps:
            beta = linear_schedule(beta, 1.0, steps, c.importance_anneal_steps)
        epsilon = jnp.float32(0.0) if c.exploration == "noisy" else epsilon
        return hyper.replace(exploration_start=epsilon, importance_exponent=beta)

    def output(self, params: PyTree, obs: jax.Array, noise_key: Key | None) -> jax.Array:
        """Output of the network for each action, [..., actions, atoms]."""
        rngs = None if noise_key is None else {"noise": noise_key}
        return apply(self.network, params, obs, rngs=rngs)

    def values(self, params: PyTree, obs: jax.Array) -> jax.Array:
        """Q(s, ·) without noise, [..., actions]."""
        return action_values(self.config, self.output(params, obs, None))

    def acting(self, learner: Learner, hyper: Hyper) -> dict[str, PyTree]:
        epsilon = jnp.float32(0.0) if self.config.exploration == "noisy" else hyper.exploration_end
        return {"params": learner.params["value"], "epsilon": epsilon}

    def act(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        params, dtype = variables["params"], self.action_space.dtype
        if deterministic:
            return jnp.argmax(self.values(params, obs), -1).astype(dtype), memory, ()
        return self.choose(params, obs, key, variables["epsilon"]), memory, ()

    def explore(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, hyper: Hyper) -> Acted:
        return self.choose(variables["params"], obs, key, hyper.exploration_start), memory, ()

    def choose(self, params: PyTree, obs: jax.Array, key: Key, epsilon: jax.Array) -> jax.Array:
        """Actions [...]: ε-greedy, or greedy in values with separate noise for each observation."""
        noise_key, action_key = jax.random.split(key)
        if self.config.exploration == "noisy":
            batch = batch_shape(self.observation_space, obs)
            obs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]), obs)
            noise_keys = jax.random.split(noise_key, math.prod(batch))
            output = jax.vmap(self.output, in_axes=(None, 0, 0))(params, obs, noise_keys)
            values = action_values(self.config, output).reshape(*batch, -1)
        else:
            values = self.values(params, obs)
        return epsilon_greedy(action_key, values, epsilon).astype(self.action_space.dtype)

    def sample(self, learner: Learner, source: Any, key: Key, hyper: Hyper) -> Batch:
        return source.sample(key, hyper.discount, hyper.importance_exponent)

    def update_value(
        self, learner: Learner, batch: Batch, key: Key, hyper: Hyper
    ) -> tuple[Learner, tuple[Metrics, jax.Array]]:
        """One step towards r + γ Q(s', a'), a' the best action by the target network, or by the network if `double`.

        Returns:
          The learner; metrics, and priorities [batch].
        """
        c, (key, target_key, choice_key) = self.config, jax.random.split(key, 3)
        next_output = self.output(learner.targets["value"], batch.next_obs, target_key)
        choice = self.output(learner.params["value"], batch.next_obs, choice_key) if c.double else next_output
        next_output = _of_action(next_output, jnp.argmax(action_values(c, choice), -1))

        def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
            output = _of_action(self.output(params, batch.obs, key), batch.action)
            losses, error = td_loss(c, output, next_output, batch.reward, batch.discount)
            metrics = {"value/mean": action_values(c, output).mean()}
            if c.head == "categorical":
                metrics["value/saturation"] = categorical.saturation(jax.nn.softmax(output))
            return (batch.weight * losses).mean(), (error, metrics)

        (loss_value, (error, metrics)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["value"])
        gradient = devices.mean(gradient)
        metrics |= {"loss/value": loss_value, "gradient_norm": optax.tree.norm(gradient)}
        learner = learner.descend("value", gradient, self.optimizers(hyper)["value"])
        learner = learner.replace(extras=learner.extras + 1)
        due = learner.extras % c.target_period == 0
        learner = jax.lax.cond(due, lambda l: l.move_target("value", hyper.target_rate), lambda l: l, learner)
        return learner, (metrics, (error + c.priority_epsilon) ** hyper.priority_exponent)

    def learn(self, learner: Learner, batches: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics, jax.Array]:
        keys = jax.random.split(key, batches.reward.shape[0])
        learner, (metrics, priority) = jax.lax.scan(
            lambda learner, x: self.update_value(learner, *x, hyper), learner, (batches, keys)
        )
        metrics = devices.mean(jax.tree.map(jnp.mean, metrics))
        metrics |= {"policy/exploration": hyper.exploration_start, "learning_rate": hyper.learning_rate}
        return learner, metrics, priority


def make(env: Environment, config: Config | None = None, network: nn.Module | None = None) -> Algorithm:
    """DQN on `env`.

    Args:
      env: one environment; actions `Discrete`, observations of any kind.
      config: settings; the defaults where None.
      network: maps observations [..., …], or a dict of the parts that are seen, to features [..., d], in place of
        convolutions; the hidden layers follow.

    Raises:
      Refused: the environment's spaces do not fit.
    """
    c = config or Config()
    discrete(env, "dqn", c, network)
    agent = Agent(c, env.observation_space, env.action_space, network)
    return assemble("dqn", env, agent, lambda config: make(env, config, network), network=network)


def _support(config: Config) -> jax.Array:
    return categorical.support(config.value_min, config.value_max, config.num_atoms)


def _of_action(output: jax.Array, action: jax.Array) -> jax.Array:
    """[batch, actions, atoms] and actions [batch] to [batch, atoms]."""
    return jnp.take_along_axis(output, action[:, None, None], axis=1)[:, 0]
