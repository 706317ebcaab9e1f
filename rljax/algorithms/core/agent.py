"""The agent: networks and their updates, independent of environments, devices and files."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax import devices
from rljax.algorithms.core.learner import Learner, Optimizers, delayed_updates, each_batch
from rljax.config import require
from rljax.nn.encoder import check_network, seen
from rljax.ops.exploration import linear_schedule
from rljax.spaces import ArraySpace, Box, Space, batch_shape, example
from rljax.types import Key, Metrics, PyTree, Refused

Acted = tuple[jax.Array, PyTree, PyTree]
"""Actions [..., action] in the agent's units, the next memory, and extras such as log-probabilities."""


class Hyper(struct.PyTreeNode):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    learning_rate: jax.Array
    discount: jax.Array


class Agent:
    """Networks and their updates. An agent holds constants; what changes is in its `Learner`.

    Subclasses implement at least `init`, `act` and `update` (or `learn`), and `build` where they have networks.
    Observations arrive normalised; actions are in the agent's units: [-1, 1] for a `Box`, whole numbers for `Discrete`
    and `MultiDiscrete`.

    Args:
      config: settings of the algorithm.
      observation_space, action_space: spaces of its observations and actions, in its own units.
      network: a flax module in place of convolutions (see `nn.encoder.encode`), of which each network has its own.
    """

    hyper_type: ClassVar[type]
    """The scalars of the config that live in the state, and can be swept."""
    annealed: ClassVar[tuple[str, ...]] = ("learning_rate",)
    """Fields of `Hyper` that fall linearly to 0 over the config's anneal_steps, besides its also_annealed."""
    initial_memory: PyTree = ()
    """Memory of `act` before the first step of ONE episode."""
    prioritized: bool = False
    """Whether the replay keeps priorities, which `learn` then returns."""
    rewrites: bool = False
    """Whether `learn` returns extras, with the axes of the batches' `index`, that replace those kept in the replay."""

    @property
    def exploring_memory(self) -> PyTree:
        """Memory of `explore` before the first step of ONE episode."""
        return self.initial_memory

    def __init__(
        self, config: Any, observation_space: Space, action_space: ArraySpace, network: nn.Module | None = None
    ):
        self.config, self.observation_space, self.action_space = config, observation_space, action_space
        if config.also_annealed:
            known = sorted(field.name for field in dataclasses.fields(self.hyper_type))
            valid = set(known).issuperset(config.also_annealed)
            require(config, "also_annealed", valid, f"names among {', '.join(known)}")
            require(
                config, "also_annealed", config.anneal_steps > 0, "empty where anneal_steps = 0: nothing falls then"
            )
        self.build(network)

    def build(self, network: nn.Module | None) -> None:
        """Makes the networks, which are constants, from the config and the spaces; none, unless overridden."""

    @property
    def obs_size(self) -> int:
        """Size n of vector observations [n]."""
        space = self.observation_space
        assert isinstance(space, Box)
        return space.shape[0]

    def seen(self, network: nn.Module | None = None, values: bool = False) -> Space:
        """Space of the parts of an observation that the policy sees, or that values see (see `Parts`).

        Raises:
          Refused: there are no such parts, or the custom network does not take them.
        """
        c = self.config
        space = seen(self.observation_space, (values and c.value_obs) or c.policy_obs)
        check_network(network, space)
        return space

    @property
    def extras(self) -> PyTree:
        """Shapes of the extras of one action that are kept in the replay."""
        return ()

    @property
    def example_obs(self) -> PyTree:
        """A batch of one observation of zeros."""
        return example(self.observation_space, 1)

    @property
    def example_action(self) -> jax.Array:
        """A batch of one action of zeros."""
        return jnp.zeros((1, *self.action_space.shape), self.action_space.dtype)

    def hyper(self) -> Any:
        """The hyperparameters of the config."""
        names = [field.name for field in dataclasses.fields(self.hyper_type)]
        return self.hyper_type(**{name: jnp.float32(getattr(self.config, name)) for name in names})

    def now(self, hyper: Any, steps: jax.Array) -> Any:
        """The hyperparameters after this many steps, with the annealed ones decayed."""
        if not self.config.anneal_steps:
            return hyper
        left = linear_schedule(1.0, 0.0, steps, self.config.anneal_steps)
        names = {*self.annealed, *self.config.also_annealed}
        return hyper.replace(**{name: left * getattr(hyper, name) for name in names})

    def init(self, key: Key) -> Learner:
        """A fresh learner."""
        raise NotImplementedError

    def optimizers(self, hyper: Any) -> Optimizers:
        """An optimizer for each part that is trained."""
        raise NotImplementedError

    def acting(self, learner: Learner, hyper: Any) -> dict[str, PyTree]:
        """The variables that acting needs, by name; they are saved with a policy."""
        return {"params": learner.params["policy"]}

    def act(self, variables: dict[str, PyTree], obs: PyTree, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        """Acts as the trained policy does, with the variables of `acting`, on observations [..., n]."""
        raise NotImplementedError

    def explore(self, variables: dict[str, PyTree], obs: PyTree, memory: PyTree, key: Key, hyper: Any) -> Acted:
        """Acts to collect experience: as the stochastic policy does, unless a subclass overrides it."""
        return self.act(variables, obs, memory, key, deterministic=False)

    def start(self, variables: dict[str, PyTree], obs: PyTree, memory: PyTree, key: Key, hyper: Any) -> Acted:
        """Acts before learning starts: uniformly at random."""
        explore_key, action_key = jax.random.split(key)
        _, memory, extras = self.explore(variables, obs, memory, explore_key, hyper)
        return self.any_action(action_key, batch_shape(self.observation_space, obs)), memory, extras

    def log_prob(self, variables: dict[str, PyTree], obs: PyTree, action: jax.Array) -> jax.Array:
        """Log-density [...] of actions [..., action] under the stochastic policy, with the variables of `acting`.

        Raises:
          Refused: the policy has no density.
        """
        raise Refused(f"{type(self).__module__.rpartition('.')[-1]} has no density of actions")

    def any_action(self, key: Key, batch: tuple[int, ...]) -> jax.Array:
        """Actions [*batch, action], uniform over the action space."""
        space = self.action_space
        if not isinstance(space, Box):
            most = np.asarray(space.n, space.dtype)
            return jax.random.randint(key, (*batch, *space.shape), 0, most, space.dtype)
        return jax.random.uniform(key, (*batch, *space.shape), jnp.float32, minval=-1.0)

    def sample(self, learner: Learner, source: Any, key: Key, hyper: Any) -> Any:
        """The batches of an iteration, [num_updates, batch, …], from a source with `sample(key, discount)`."""
        return source.sample(key, hyper.discount)

    def update(self, learner: Learner, batch: Any, key: Key, hyper: Any) -> tuple[Learner, Metrics]:
        """One update, from a batch [batch, …]."""
        raise NotImplementedError

    def learn(self, learner: Learner, batches: Any, key: Key, hyper: Any) -> tuple[Learner, Metrics, PyTree]:
        """All updates of an iteration, from batches [num_updates, batch, …]; on-policy, from one `Rollout`.

        Returns:
          The learner; the means of the metrics over all devices; and feedback for the source of the batches, such as
          priorities [num_updates, batch], or ().
        """
        learner, metrics = each_batch(
            lambda learner, batch, key: self.update(learner, batch, key, hyper), learner, batches, key
        )
        return learner, devices.mean(metrics), ()


class ActorCritic(Agent):
    """An agent whose critics learn from each batch, and its policy from every `config.policy_delay`-th."""

    policy_first: ClassVar[bool] = False
    """Whether the policy learns before the critics do, or after them."""

    def update_critic(self, learner: Learner, batch: Any, key: Key, hyper: Any) -> tuple[Learner, Metrics]:
        """One update of the critics, from a batch [batch, …]."""
        raise NotImplementedError

    def update_policy(self, learner: Learner, batch: Any, key: Key, hyper: Any) -> tuple[Learner, Metrics]:
        """One update of the policy, from a batch [batch, …]."""
        raise NotImplementedError

    def learn(self, learner: Learner, batches: Any, key: Key, hyper: Any) -> tuple[Learner, Metrics, PyTree]:
        learner, metrics = delayed_updates(
            lambda learner, batch, key: self.update_critic(learner, batch, key, hyper),
            lambda learner, batch, key: self.update_policy(learner, batch, key, hyper),
            learner,
            batches,
            key,
            self.config.policy_delay,
            self.policy_first,
        )
        return learner, devices.mean(metrics), ()
