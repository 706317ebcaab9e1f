"""The loop of agents that learn from a replay: settings, acting and storing, and when to learn.

One iteration: each of `num_envs` environments makes `rollout_length` steps, which go into the replay buffer; then
`num_updates` batches are drawn and learned from. One environment, one step and one update is the classical loop, which
saves samples; a thousand environments and eight updates suit GPUs and save time.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
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
from rljax.algorithms.core.sources import Remembered
from rljax.config import Count, Fraction, NonNegative, Whole, require
from rljax.data import Batch, Dataset, OfflineBatch, Replay, ReplayState
from rljax.data.prepared import Prepared
from rljax.data.replay import narrow
from rljax.envs import Environment
from rljax.envs.auto_reset import ResetPolicy
from rljax.envs.environment import State as EnvState
from rljax.ops import reward_scale, running_statistics
from rljax.ops.augment import shift_batch
from rljax.spaces import Box, as_given, example, parts
from rljax.types import Key, Mean, Metrics, PyTree, Refused, Transition, sharded_field

Storage = Literal["bfloat16", "uint8"] | None

OFFLINE_STREAM = 0xDA7A
"""Keys of a dataset's share are `fold_in(key, this)`: `split` folds in small numbers, and a large one cannot collide
with them."""


@dataclasses.dataclass(frozen=True)
class ReplayConfig(Optimizer):
    """Settings of every algorithm with replay."""

    num_envs: Count = 1
    """Environments stepped together, over all devices."""
    rollout_length: Count = 1
    """Steps of each environment between updates."""
    num_updates: Count = 1
    """Batches learned from after each rollout; divided by num_envs * rollout_length, the updates-to-data ratio."""
    batch_size: Count = 256
    """Transitions of a batch, over all devices."""
    replay_size: int = 1_000_000
    """Transitions kept, over all environments."""
    newest_size: Whole = 0
    """Half of each batch comes from this many latest transitions (num_envs or more; uniform replay only); 0 draws from
    all."""
    storage: Storage = None
    """Type in which observations are kept (uint8: whole numbers from 0 to 255); sampling restores their own type."""
    learning_starts: Whole = 5_000
    """Steps of random actions, over all environments, before the first update (in whole rollouts, at least one; a
    repeated action counts once)."""
    n_step: Count = 1
    """Rewards summed before bootstrapping from a value (Sutton and Barto 2018, eq. 7.1)."""
    normalize_observation: bool = False
    """Whether observations are shifted and scaled by running statistics (vectors only)."""
    return_bound: NonNegative = 0.0
    """Bound of discounted returns for which rewards are scaled: they are divided by the running deviation of returns,
    or by the largest return over this bound where that is larger (FlashSAC: 5); 0 leaves rewards as they are."""
    image_shift: Whole = 0
    """Most pixels by which each image of a batch is shifted at random (DrQ: 4); 0 leaves images as they are."""
    reset_policy: ResetPolicy = "pool"
    """Source of auto-reset's fresh states (see AutoReset)."""
    random_age: bool = False
    """Whether first episodes begin at a random age, so that the time limits of many environments are not in step."""
    discount: Fraction = 0.99
    """Discount γ of future rewards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        some = self.newest_size == 0 or self.newest_size >= self.num_envs
        require(self, "newest_size", some, f"0, or at least num_envs = {self.num_envs}")
        least = self.num_envs * (self.n_step + self.rollout_length)
        require(self, "replay_size", self.replay_size >= least, f"at least {least}, for num_envs and n_step")
        require(self, "replay_size", self.replay_size < 2**31, "below 2^31")

    @property
    def steps_per_iteration(self) -> int:
        """Steps of all environments between updates."""
        return self.num_envs * self.rollout_length

    @property
    def first_learning_iteration(self) -> int:
        """The first iteration, from 0, that ends with updates: enough steps are stored, at least one whole window."""
        return max(-(-self.learning_starts // self.steps_per_iteration), -(-self.n_step // self.rollout_length)) - 1


class Experience(struct.PyTreeNode):
    """The environments, their replay buffer, and the statistics of their observations.

    Fields:
      memory: the agent's memory, leaves [num_envs, …].
      fresh: bool [num_envs], whether the next step is the first of its episode.
      reward_scale: a `RewardScale`, where rewards are scaled.
    """

    replay: ReplayState
    obs_statistics: running_statistics.Statistics
    env_state: EnvState = sharded_field()
    memory: PyTree = sharded_field()
    fresh: jax.Array = sharded_field()
    reward_scale: Any = ()


class State(struct.PyTreeNode):
    """The whole state of training; once saved and restored, it resumes bit for bit."""

    iteration: jax.Array
    key: Key
    hyper: Any
    learner: Learner
    experience: Experience

    @property
    def params(self) -> PyTree:
        return self.learner.params

    @property
    def obs_statistics(self) -> running_statistics.Statistics:
        return self.experience.obs_statistics


class Loop(contract.Loop):
    """Acts in environments, fills the replay buffer, and learns. Holds constants; what changes is in `State`.

    Args:
      name: name of the algorithm.
      env: one environment, with actions in the agent's units: for a bounded `Box`, in [-1, 1].
      agent: what learns; its config is a `ReplayConfig`.
      prepared: a dataset that supplies the share `config.offline_share` of each batch; `step` then takes the data as
        well.
      random_start: whether `agent.start` chooses the first `learning_starts` actions; else `agent.explore` does.

    Raises:
      Refused: storage="uint8" for observations that may lie outside of [0, 255].
    """

    def __init__(
        self, name: str, env: Environment, agent: Agent, prepared: Prepared | None = None, random_start: bool = True
    ):
        super().__init__(name, env, agent, agent.config.steps_per_iteration * env.steps_per_action)
        self.prepared, self.random_start = prepared, random_start
        self.offline = 0 if prepared is None else round(self.config.offline_share * self.config.batch_size)
        if prepared is not None and self.config.return_bound:
            raise Refused(
                f"{name}.Config: return_bound must be 0 with a dataset, whose rewards have a scale of their own"
            )
        for space in parts(env.observation_space).values() if self.config.storage == "uint8" else ():
            if not isinstance(space, Box):
                continue
            low, high = np.min(space.low), np.max(space.high)
            if low < 0 or high > 255:
                raise Refused(
                    f"storage = 'uint8' keeps whole numbers from 0 to 255; observations are from {low} to {high}"
                )

    def init(self, key: Key) -> State:
        key, learner_key, env_key = jax.random.split(key, 3)
        env_state = self.environments().reset(devices.local(env_key))
        count = env_state.reward.shape[0]
        experience = Experience(
            replay=self._replay(env_state).init(),
            obs_statistics=self.first_statistics(),
            env_state=env_state,
            memory=for_each(self.agent.exploring_memory, count),
            fresh=jnp.ones(count, bool),
            reward_scale=reward_scale.init(count) if self.config.return_bound else (),
        )
        return State(jnp.int32(0), key, self.agent.hyper(), self.agent.init(learner_key), experience)

    def first_statistics(self) -> running_statistics.Statistics:
        """Statistics of nothing yet, or those of the dataset."""
        if self.prepared is not None:
            return jax.tree.map(jnp.copy, self.prepared.statistics)
        space = self.env.observation_space
        return running_statistics.init(example(space), space)

    def step(self, state: State, *data: Dataset) -> tuple[State, Metrics]:
        c, agent = self.config, self.agent
        if self.offline and not data:
            raise Refused(f"{self.name} learns from a dataset as well: {self.name}.make(env, config, dataset)")
        key, act_key, sample_key, learn_key = jax.random.split(state.key, 4)
        hyper = agent.now(state.hyper, state.iteration * float(self.per_iteration))
        trained = (state.iteration > c.first_learning_iteration) | (not self.random_start)
        experience, metrics = self.collect(state, devices.local(act_key), hyper, trained)
        learning = self.learns(state.iteration, experience.replay)
        learner, experience, of_updates = self.improve(
            state.learner, experience, learning, (sample_key, learn_key), hyper, *data
        )
        state = state.replace(iteration=state.iteration + 1, key=key, learner=learner, experience=experience)
        return state, metrics | of_updates

    def learns(self, iteration: jax.Array, replay: ReplayState) -> jax.Array:
        """Whether an iteration ends with updates, bool []."""
        c = self.config
        # By what is stored, too: a run may be resumed without its replay, which then has to be filled again.
        wanted = min((c.first_learning_iteration + 1) * c.rollout_length, c.replay_size // c.num_envs)
        return (iteration >= c.first_learning_iteration) & (replay.count >= wanted)

    def improve(
        self,
        learner: Learner,
        experience: Experience,
        learning: jax.Array,
        keys: Sequence[Key],
        hyper: Any,
        *data: Dataset,
    ) -> tuple[Learner, Experience, Metrics]:
        """The updates of an iteration, from what was experienced; nothing changes unless it is `learning`.

        The keys are for the batches and for learning from them.
        """
        agent, (sample_key, learn_key) = self.agent, keys
        batches = self.draw(learner, experience, sample_key, hyper, *data)

        def learn(learner: Learner) -> tuple[Learner, Metrics, PyTree]:
            return agent.learn(learner, batches, devices.local(learn_key), hyper)

        learner, metrics, feedback = when(learning, learn, learner)
        if agent.prioritized:
            # Before learning starts every priority is 1, and so it stays.
            priority = jnp.where(learning, feedback, 1.0)
            replay = self._replay(experience.env_state)
            experience = experience.replace(
                replay=replay.prioritize(experience.replay, batches.index.ravel(), priority.ravel())
            )
        elif agent.rewrites:
            replay = self._replay(experience.env_state)
            written = replay.write(experience.replay, batches.index, {"extras": feedback}, learning)
            experience = experience.replace(replay=written)
        return learner, experience, metrics | {"updates": jnp.where(learning, float(self.config.num_updates), 0.0)}

    def collect(self, state: State, key: Key, hyper: Any, trained: jax.Array) -> tuple[Experience, Metrics]:
        """One rollout, and the environments' metrics."""
        agent, experience = self.agent, state.experience
        envs, replay = self.environments(), self._replay(experience.env_state)
        variables = agent.acting(state.learner, hyper)

        def env_step(carry: tuple[EnvState, ReplayState, PyTree, jax.Array], key: Key) -> tuple[tuple, tuple]:
            env_state, buffer, memory, fresh = carry
            memory = cleared(memory, fresh, agent.exploring_memory)
            asked = (variables, self.normalize(experience.obs_statistics, env_state.obs), memory, key, hyper)
            if self.random_start:
                action, memory, extras = jax.lax.cond(trained, agent.explore, agent.start, *asked)
            else:
                action, memory, extras = agent.explore(*asked)
            after = envs.step(env_state, action)
            buffer = replay.insert(buffer, envs.transition(env_state, action, after).replace(extras=extras))
            return (after, buffer, memory, after.done), (after.metrics, after.done, after.reward, env_state.obs)

        carry = (experience.env_state, experience.replay, experience.memory, experience.fresh)
        keys = jax.random.split(key, self.config.rollout_length)
        (env_state, buffer, memory, fresh), (metrics, done, reward, obs) = jax.lax.scan(env_step, carry, keys)
        statistics = experience.obs_statistics
        if self.config.normalize_observation and self.prepared is None:
            statistics = running_statistics.update(statistics, as_given(self.env.observation_space, obs))
        scale = experience.reward_scale
        if self.config.return_bound:
            scale = reward_scale.update(scale, reward, done, hyper.discount)
        experience = Experience(buffer, statistics, env_state, memory, fresh, scale)
        return experience, episode_metrics(metrics, done)

    def draw(self, learner: Learner, experience: Experience, key: Key, hyper: Any, *data: Dataset) -> Any:
        """The batches of an iteration, from the replay and, where there is one, the dataset."""
        c, prepared = self.config, self.prepared
        source = Remembered(
            replay=self._replay(experience.env_state),
            state=experience.replay,
            num_updates=c.num_updates,
            batch_size=devices.share("batch_size", c.batch_size - self.offline),
            normalize=lambda obs: self.normalize(experience.obs_statistics, obs),
            image_shift=c.image_shift,
            divisor=reward_scale.divisor(experience.reward_scale, c.return_bound) if c.return_bound else None,
        )
        batches = self.agent.sample(learner, source, devices.local(key), hyper)
        if prepared is not None:
            batches = self._like_dataset(source, batches, prepared, hyper)
        for dataset in data if self.offline else ():
            size = devices.share("the dataset's part of a batch", self.offline)
            own = devices.local(jax.random.fold_in(key, OFFLINE_STREAM))
            drawn = shift_batch(own, dataset.sample(own, c.num_updates * size, hyper.discount), c.image_shift)
            batches = _joined(batches, drawn, c.num_updates)
        return batches

    def _like_dataset(self, source: Remembered, batches: Batch, prepared: Prepared, hyper: Any) -> OfflineBatch:
        """Batches of the replay in the dataset's form: rewards scaled, and returns-to-go where they are needed.

        Unfinished episodes have a return-to-go of -inf; their next action is unknown, and `action` stands in for it.
        """

        def scaled(reward: jax.Array) -> jax.Array:
            return reward * prepared.scale + prepared.bias

        own = {name: getattr(batches, name) for name in batches.__dataclass_fields__}
        own["reward"] = scaled(batches.reward)
        flat = batches.index.reshape(-1)
        following = jnp.full(flat.shape, -jnp.inf, jnp.float32)
        if self.config.calibrated:
            horizon, beyond = self.env.max_episode_steps or 1000, prepared.after_truncation
            following = source.replay.returns_to_go(source.state, flat, hyper.discount, horizon, scaled, beyond)
        return OfflineBatch(**own, next_action=batches.action, return_to_go=following.reshape(batches.index.shape))

    def _replay(self, env_state: EnvState) -> Replay:
        """This device's share of the buffer, for these environments' transitions."""
        one = jax.eval_shape(lambda s: jax.tree.map(lambda x: x[0], s), env_state)
        return self.buffer(one.obs, one.reward, one.terminated)

    def buffer(self, obs: PyTree, reward: Any, done: Any) -> Replay:
        """This device's share of the buffer, for observations, rewards and ends of episodes of these shapes."""
        c, agent = self.config, self.agent
        action = jax.eval_shape(lambda: agent.any_action(jax.random.key(0), ()))
        example = Transition(obs, action, reward, done, done, obs, agent.extras)
        store_as = narrow(example, jnp.dtype(c.storage)) if c.storage else None
        size, num_envs, newest = (x // devices.count() for x in (c.replay_size, c.num_envs, c.newest_size))
        return Replay(example, size, num_envs, c.n_step, agent.prioritized, store_as, newest)


def assemble(
    name: str,
    env: Environment,
    agent: Agent,
    remake: Callable[[Any], Algorithm],
    prepared: Prepared | None = None,
    random_start: bool = True,
    acts_in: Environment | None = None,
    network: nn.Module | None = None,
) -> Algorithm:
    """The algorithm of an agent that learns from a replay.

    Args:
      env: the task, in which policies act.
      acts_in: the same with actions in the agent's units, where `env` has others.
      network: the custom network that the agent was made with.
      remake, prepared, random_start: see `Algorithm` and `Loop`.
    """
    loop = Loop(name, acts_in or env, agent, prepared, random_start)
    return loop.algorithm(env, remake, None if prepared is None else prepared.dataset, network)


def when(
    learning: jax.Array, learn: Callable[[Learner], tuple[Learner, Metrics, PyTree]], learner: Learner
) -> tuple[Learner, Metrics, PyTree]:
    """The results of `learn`; before learning starts, the unchanged learner and no measurements."""

    def learned(learner: Learner) -> tuple[Learner, Metrics, PyTree]:
        learner, metrics, signal = learn(learner)
        return learner, {name: Mean(jnp.float32(x), jnp.float32(1.0)) for name, x in metrics.items()}, signal

    _, *nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(learned, learner))
    return jax.lax.cond(learning, learned, lambda learner: (learner, *nothing), learner)


def _joined(online: Any, offline: OfflineBatch, num_updates: int) -> Any:
    """Batches [num_updates, n + m, …]: of online ones [num_updates, n, …], each with m of the dataset's rows."""

    def join(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.concatenate([x, y.reshape(num_updates, -1, *y.shape[1:]).astype(x.dtype)], axis=1)

    names = online.__dataclass_fields__
    return online.replace(**{n: jax.tree.map(join, getattr(online, n), getattr(offline, n)) for n in names})
