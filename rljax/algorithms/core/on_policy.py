"""The loop of agents that learn once from each fresh rollout: settings, acting, scaling rewards, and when to learn.

One iteration: `num_envs` environments make `rollout_length` steps each, the agent learns from them, and they are
forgotten. Statistics of observations are updated only afterwards: with newer ones, the policy that learns would not be
the policy that acted.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from rljax import devices
from rljax.algorithms.core import contract
from rljax.algorithms.core.agent import Agent
from rljax.algorithms.core.blocks import Optimizer
from rljax.algorithms.core.contract import (
    Algorithm,
    cleared,
    episode_metrics,
    for_each,
)
from rljax.algorithms.core.learner import Learner
from rljax.config import Count, Fraction, Positive
from rljax.envs import Environment
from rljax.envs.auto_reset import ResetPolicy
from rljax.envs.environment import State as EnvState
from rljax.ops import running_statistics
from rljax.ops.returns import accumulated_returns
from rljax.spaces import as_given, example
from rljax.types import Key, Metrics, PyTree, Transition, sharded_field


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig(Optimizer):
    """Settings of every algorithm that learns from rollouts."""

    num_envs: Count = 32
    """Environments stepped together, over all devices."""
    rollout_length: Count = 64
    """Steps of each environment between two updates."""
    max_grad_norm: Positive = 0.5
    """Largest global norm of the gradients; larger ones are scaled down."""
    discount: Fraction = 0.99
    """Discount γ of future rewards."""
    normalize_observation: bool = False
    """Whether observations are shifted and scaled by running statistics (vectors only)."""
    normalize_reward: bool = False
    """Whether rewards are divided by the running deviation of the discounted return (37 details, cont. no. 7)."""
    reset_policy: ResetPolicy = "pool"
    """Source of auto-reset's fresh states (see AutoReset)."""
    random_age: bool = False
    """Whether first episodes begin at a random age, so that the time limits of many environments are not in step."""

    @property
    def steps_per_iteration(self) -> int:
        """Steps of all environments between updates."""
        return self.num_envs * self.rollout_length


class State(struct.PyTreeNode):
    """The whole state of training; once saved and restored, it resumes bit for bit.

    Fields:
      memory: the agent's memory, leaves [num_envs, …].
      fresh: bool [num_envs], whether the next step is the first of its episode.
      discounted_return: f32 [num_envs], of the episode so far; its deviation scales rewards.
    """

    iteration: jax.Array
    key: Key
    hyper: Any
    learner: Learner
    obs_statistics: running_statistics.Statistics
    return_statistics: running_statistics.Statistics
    env_state: EnvState = sharded_field()
    memory: PyTree = sharded_field()
    fresh: jax.Array = sharded_field()
    discounted_return: jax.Array = sharded_field()

    @property
    def params(self) -> PyTree:
        return self.learner.params


class Rollout(NamedTuple):
    """Experience of one rollout; leaves are [rollout_length, num_envs, …].

    Fields:
      transition: observations normalised, rewards scaled, actions in the agent's units, and the agent's extras.
      first_memory: the memory before the first step, leaves [num_envs, …].
      memory: the memory after each step, before any reset.
      fresh: bool, whether the step was the first of an episode, so that memory was cleared before it.
    """

    transition: Transition
    first_memory: PyTree
    memory: PyTree
    fresh: jax.Array


class Collected(NamedTuple):
    """What the environments made in one rollout, as it was seen and paid; leaves are [rollout_length, num_envs, …].

    Fields:
      rollout: observations are not normalised yet, and rewards not scaled.
      totals: the discounted returns of the episodes so far, by whose deviation rewards are scaled; else zeros.
    """

    rollout: Rollout
    totals: jax.Array


class Loop(contract.Loop):
    """Acts in environments, and learns. Holds constants; what changes is in `State`.

    Args:
      env: one environment, with actions in the agent's units.
      agent: the agent, which learns from a `Rollout`; its config is an `OnPolicyConfig`.
    """

    def __init__(self, name: str, env: Environment, agent: Agent):
        super().__init__(name, env, agent, agent.config.steps_per_iteration * env.steps_per_action)

    def init(self, key: Key) -> State:
        key, learner_key, env_key = jax.random.split(key, 3)
        env_state = self.environments().reset(devices.local(env_key))
        count = env_state.reward.shape[0]
        return State(
            iteration=jnp.int32(0),
            key=key,
            hyper=self.agent.hyper(),
            learner=self.agent.init(learner_key),
            obs_statistics=running_statistics.init(example(self.env.observation_space), self.env.observation_space),
            return_statistics=running_statistics.init(jnp.float32(0.0)),
            env_state=env_state,
            memory=for_each(self.agent.initial_memory, count),
            fresh=jnp.ones(count, bool),
            discounted_return=jnp.zeros(count, jnp.float32),
        )

    def step(self, state: State) -> tuple[State, Metrics]:
        key, act_key, learn_key = jax.random.split(state.key, 3)
        state, collected, metrics = self.collect(state, act_key)
        state, of_updates = self.learn(state.replace(key=key), collected, learn_key)
        return state, metrics | of_updates

    def now(self, state: State) -> Any:
        """The hyperparameters of this iteration."""
        return self.agent.now(state.hyper, state.iteration * float(self.per_iteration))

    def collect(self, state: State, key: Key) -> tuple[State, Collected, Metrics]:
        """One rollout: the state with its environments further on, what they made, and their metrics.

        It reads no more of the learner than acting needs, so that it may be that of an earlier iteration.
        """
        agent, envs, hyper = self.agent, self.environments(), self.now(state)
        variables = agent.acting(state.learner, hyper)

        def env_step(carry: tuple[EnvState, PyTree, jax.Array], key: Key) -> tuple[tuple, tuple]:
            env_state, memory, fresh = carry
            obs = self.normalize(state.obs_statistics, env_state.obs)
            action, memory, extras = agent.explore(
                variables, obs, cleared(memory, fresh, agent.initial_memory), key, hyper
            )
            after = envs.step(env_state, action)
            transition = envs.transition(env_state, action, after).replace(extras=extras)
            return (after, memory, after.done), (transition, memory, fresh, after.metrics)

        keys = jax.random.split(devices.local(key), self.config.rollout_length)
        carry = (state.env_state, state.memory, state.fresh)
        (env_state, memory, fresh), (transition, memories, freshly, reported) = jax.lax.scan(env_step, carry, keys)
        done = transition.terminated | transition.truncated
        totals, total = jnp.zeros_like(transition.reward), state.discounted_return
        if self.config.normalize_reward:
            totals, total = accumulated_returns(transition.reward, done, hyper.discount, state.discounted_return)
        collected = Collected(Rollout(transition, state.memory, memories, freshly), totals)
        state = state.replace(env_state=env_state, memory=memory, fresh=fresh, discounted_return=total)
        return state, collected, episode_metrics(reported, done)

    def learn(self, state: State, collected: Collected, key: Key) -> tuple[State, Metrics]:
        """Learns from what was collected: the state with its learner and statistics further on, and the metrics."""
        seen = collected.rollout.transition.obs
        state, rollout = self.scaled(state, collected)
        learner, metrics, _ = self.agent.learn(state.learner, rollout, devices.local(key), self.now(state))
        if self.config.normalize_observation:
            seen = as_given(self.env.observation_space, seen)
            state = state.replace(obs_statistics=running_statistics.update(state.obs_statistics, seen))
        return state.replace(iteration=state.iteration + 1, learner=learner), metrics

    def scaled(self, state: State, collected: Collected) -> tuple[State, Rollout]:
        """Normalises observations, and divides rewards by the deviation of the return so far, this rollout included."""
        transition = collected.rollout.transition
        if self.config.normalize_reward:
            statistics = running_statistics.update(state.return_statistics, collected.totals)
            state = state.replace(return_statistics=statistics)
            deviation = jnp.sqrt(running_statistics.variance(statistics) + 1e-8)
            transition = transition.replace(reward=jnp.clip(transition.reward / deviation, -10.0, 10.0))
        transition = transition.replace(
            obs=self.normalize(state.obs_statistics, transition.obs),
            next_obs=self.normalize(state.obs_statistics, transition.next_obs),
        )
        return state, collected.rollout._replace(transition=transition)


def assemble(
    name: str,
    env: Environment,
    agent: Agent,
    remake: Callable[[Any], Algorithm],
    acts_in: Environment | None = None,
    network: nn.Module | None = None,
) -> Algorithm:
    """The algorithm of an agent that learns from rollouts.

    Args:
      env: the task, in which policies act.
      acts_in: the same with actions in the agent's units, where `env` has others.
      network: the custom network that the agent was made with.
      remake: see `Algorithm`.
    """
    return Loop(name, acts_in or env, agent).algorithm(env, remake, network=network)


def shuffled(key: Key, epochs: int, minibatches: int, size: int) -> jax.Array:
    """Indices of `size` elements in shuffled minibatches, epoch after epoch: int32 [epochs * minibatches, n].

    One sort of random bits shuffles an epoch. `jax.random.permutation` sorts twice: a tenth of a step of PPO on a CPU.
    """
    orders = jnp.argsort(jax.random.bits(key, (epochs, size)), axis=-1)
    return orders.reshape(epochs * minibatches, -1)
