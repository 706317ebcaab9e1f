"""What the algorithms with replay share: settings, acting and remembering, and when to learn.

One iteration: each of `num_envs` environments makes `rollout_length` steps, which go into the replay buffer; then
`num_updates` batches are drawn and learned from. One environment, one step and one update is the classical loop, made
for few samples; a thousand environments and eight updates is one for GPUs, made for little time.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from rljax.algorithms.base import Algorithm, Devices, Policy, episode_metrics, require
from rljax.data import Batch, Dataset, OfflineBatch, Replay, ReplayState
from rljax.data.prepared import Prepared
from rljax.data.replay import narrow
from rljax.envs import AutoReset, Environment, RescaleAction
from rljax.envs.auto_reset import ResetPolicy
from rljax.envs.environment import State as EnvState
from rljax.ops import running_statistics
from rljax.ops.exploration import linear_schedule
from rljax.spaces import Box
from rljax.types import Key, Mean, Metrics, PyTree, Refused, Transition, sharded_field

Storage = Literal["bfloat16", "uint8"]

OFFLINE_STREAM = 0xDA7A
"""Keys of a dataset's share are `fold_in(key, this)`. The replay splits the key, and a small number is one of those."""


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Settings of every algorithm with replay."""

    num_envs: int = 1
    """Environments stepped together, over all devices."""
    rollout_length: int = 1
    """Steps of each environment between updates."""
    num_updates: int = 1
    """Batches learned from after each rollout; over num_envs * rollout_length it is the updates-to-data ratio."""
    batch_size: int = 256
    """Transitions of a batch, over all devices."""
    replay_size: int = 1_000_000
    """Transitions kept, over all environments."""
    newest_size: int = 0
    """Half of each batch comes from this many latest transitions (num_envs or more; uniform replay only); 0 draws from
    all."""
    storage: Storage | None = None
    """Type in which observations are kept (uint8: whole numbers from 0 to 255); they are given back as they came."""
    learning_starts: int = 5_000
    """Steps of random actions, over all environments, before the first update (whole rollouts, one at least; an action
    that is repeated counts once)."""
    anneal_steps: int = 0
    """Environment steps over which the learning rates fall linearly to 0; 0 keeps them constant."""
    n_step: int = 1
    """Rewards summed before the value of what follows (Sutton and Barto 2018, eq. 7.1)."""
    normalize_observation: bool = False
    """Observations are shifted and scaled by running statistics (vectors only)."""
    reset_policy: ResetPolicy = "pool"
    """Where auto-reset takes fresh states from (see AutoReset)."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "rollout_length", "num_updates", "batch_size", "n_step"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_starts", "anneal_steps", "newest_size"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        some = self.newest_size == 0 or self.newest_size >= self.num_envs
        require(self, "newest_size", some, f"0, or at least num_envs = {self.num_envs}")
        least = self.num_envs * (self.n_step + self.rollout_length)
        require(self, "replay_size", self.replay_size >= least, f"at least {least}, for num_envs and n_step")
        require(self, "replay_size", self.replay_size < 2**31, "below 2^31")
        require(self, "storage", self.storage in (None, *get_args(Storage)), f"None or one of {get_args(Storage)}")
        require(self, "reset_policy", self.reset_policy in get_args(ResetPolicy), f"one of {get_args(ResetPolicy)}")

    @property
    def steps_per_iteration(self) -> int:
        """Steps of all environments between updates."""
        return self.num_envs * self.rollout_length

    @property
    def first_learning_iteration(self) -> int:
        """The first iteration, from 0, that ends with updates: enough steps are kept, and one whole window at least."""
        return max(-(-self.learning_starts // self.steps_per_iteration), -(-self.n_step // self.rollout_length)) - 1


class Experience(struct.PyTreeNode):
    """The environments, what they went through, and the statistics of their observations."""

    replay: ReplayState
    obs_statistics: running_statistics.Statistics
    env_state: EnvState = sharded_field()


class Learner(struct.PyTreeNode):
    """What updates change: the parts of an agent, the slow copies of some, and an Adam for each.

    Fields:
      params: by part, such as "policy" and "critic".
      targets: of those parts that have a target network.
      optimizer_state: by part.
    """

    params: dict[str, PyTree]
    targets: dict[str, PyTree]
    optimizer_state: dict[str, PyTree]

    @classmethod
    def init(cls, params: dict[str, PyTree], targets: tuple[str, ...]) -> "Learner":
        # A copy, for a donated state must not hold one buffer twice.
        copies = {name: jax.tree.map(jnp.copy, params[name]) for name in targets}
        return cls(params, copies, {name: optax.adam(0.0).init(part) for name, part in params.items()})

    def descend(
        self, part: str, gradient: PyTree, learning_rate: Any, weight_decay: float = 0.0, **adam: Any
    ) -> "Learner":
        """One step of Adam on one part; further settings are those of `optax.adam`.

        With `weight_decay` it is AdamW (Loshchilov and Hutter 2019): weights shrink by that share of the learning rate.
        """
        updates, state = optax.adam(learning_rate, **adam).update(gradient, self.optimizer_state[part])
        if weight_decay:
            shrink = learning_rate * weight_decay
            updates = jax.tree.map(lambda step, weight: step - shrink * weight, updates, self.params[part])
        params = optax.apply_updates(self.params[part], updates)
        return self.replace(
            params=self.params | {part: params}, optimizer_state=self.optimizer_state | {part: state}
        )  # fmt: skip

    def move_target(self, part: str, rate: Any) -> "Learner":
        """Moves a target network this share of the way, τ; 1 copies."""
        moved = optax.incremental_update(self.params[part], self.targets[part], rate)
        return self.replace(targets=self.targets | {part: moved})


class State(struct.PyTreeNode):
    """All of training: save it, and it resumes bit for bit."""

    iteration: jax.Array
    key: Key
    hyper: Any
    learner: Learner
    experience: Experience

    @property
    def params(self) -> PyTree:
        return self.learner.params


class Collector:
    """Acts in the environments and fills the replay buffer. Holds constants; what changes is in `Experience`.

    Raises:
      Refused: storage="uint8" for observations that may lie outside of [0, 255].

    Args:
      env: one environment, with actions that the algorithm can emit: for a bounded `Box`, in [-1, 1].
      config: settings.
      prioritized: whether the buffer keeps priorities.
      axis_name: mesh axis over which environments and batches are split.
      statistics: of observations, where they are not to be learned.
    """

    def __init__(
        self,
        env: Environment,
        config: ReplayConfig,
        prioritized: bool = False,
        axis_name: str | None = None,
        statistics: running_statistics.Statistics | None = None,
    ):
        self.env, self.config, self.prioritized, self.devices = env, config, prioritized, Devices(axis_name)
        self.statistics = statistics
        space = env.observation_space
        if config.storage == "uint8" and isinstance(space, Box):
            low, high = np.min(space.low), np.max(space.high)
            if low < 0 or high > 255:
                raise Refused(
                    f"storage = 'uint8' keeps whole numbers from 0 to 255; observations are from {low} to {high}"
                )

    def init(self, key: Key) -> Experience:
        envs = self._envs()
        env_state = envs.reset(self.devices.local(key))
        replay = self._replay(env_state).init()
        if self.statistics is None:
            statistics = running_statistics.init(jax.tree.map(lambda x: x[0], env_state.obs))
        else:
            statistics = jax.tree.map(jnp.copy, self.statistics)
        return Experience(replay, statistics, env_state)

    def collect(
        self, experience: Experience, key: Key, act: Callable[[PyTree, Key], jax.Array]
    ) -> tuple[Experience, Metrics]:
        """One rollout by `act(obs [num_envs, …], key) -> action [num_envs, …]`, and what the environments report."""
        envs = self._envs()
        replay = self._replay(experience.env_state)

        def env_step(carry: tuple[EnvState, ReplayState], key: Key) -> tuple[tuple, tuple]:
            env_state, buffer = carry
            action = act(self.normalize(experience.obs_statistics, env_state.obs), key)
            after = envs.step(env_state, action)
            buffer = replay.insert(buffer, envs.transition(env_state, action, after))
            return (after, buffer), (after.metrics, after.done, env_state.obs)

        carry = (experience.env_state, experience.replay)
        keys = jax.random.split(self.devices.local(key), self.config.rollout_length)
        (env_state, buffer), (metrics, done, obs) = jax.lax.scan(env_step, carry, keys)
        statistics = experience.obs_statistics
        if self.config.normalize_observation and self.statistics is None:
            statistics = running_statistics.update(statistics, obs, self.devices.axis_name)
        return Experience(buffer, statistics, env_state), episode_metrics(metrics, done, self.devices.axis_name)

    def sample(
        self,
        experience: Experience,
        key: Key,
        discount: Any,
        importance_exponent: Any = 0.0,
        batch_size: int | None = None,
    ) -> Batch:
        """`num_updates` batches, leaves [num_updates, batch_size, …], with observations normalised."""
        c, devices = self.config, self.devices.count
        batch_size = c.batch_size if batch_size is None else batch_size
        if batch_size % devices:
            raise Refused(f"batch_size = {batch_size} does not divide over {devices} devices")
        replay = self._replay(experience.env_state)
        shape = (c.num_updates, batch_size // devices)
        batch = replay.sample(
            experience.replay, self.devices.local(key), shape[0] * shape[1], discount, importance_exponent, shape[0]
        )
        batch = batch.replace(
            obs=self.normalize(experience.obs_statistics, batch.obs),
            next_obs=self.normalize(experience.obs_statistics, batch.next_obs),
        )
        # Every num_updates-th goes to the same batch: prioritised draws come in the order of their index.
        return jax.tree.map(lambda x: x.reshape(shape[1], shape[0], *x.shape[1:]).swapaxes(0, 1), batch)

    def like_dataset(
        self, experience: Experience, batches: Batch, prepared: Prepared, discount: Any, with_returns: bool
    ) -> OfflineBatch:
        """Batches `sample`d here as those of a dataset: rewards scaled, and returns-to-go where they are asked for.

        Those are -inf where the episode goes on. What was done next is not known; `action` stands in.
        """

        def scaled(reward: jax.Array) -> jax.Array:
            return reward * prepared.scale + prepared.bias

        horizon = self.env.max_episode_steps or 1000
        replay = self._replay(experience.env_state)
        own = {name: getattr(batches, name) for name in batches.__dataclass_fields__} | {
            "reward": scaled(batches.reward)
        }
        flat = batches.index.reshape(-1)
        following = jnp.full(flat.shape, -jnp.inf, jnp.float32)
        if with_returns:
            beyond = prepared.after_truncation
            following = replay.returns_to_go(experience.replay, flat, discount, horizon, scaled, beyond)
        return OfflineBatch(**own, next_action=batches.action, return_to_go=following.reshape(batches.index.shape))

    def prioritize(self, experience: Experience, index: jax.Array, priority: jax.Array) -> Experience:
        """Sets the priorities of what was sampled; both of any shape."""
        replay = self._replay(experience.env_state)
        return experience.replace(replay=replay.prioritize(experience.replay, index.ravel(), priority.ravel()))

    def normalize(self, statistics: running_statistics.Statistics, obs: PyTree) -> PyTree:
        return running_statistics.normalize(statistics, obs) if self.config.normalize_observation else obs

    def _envs(self) -> AutoReset:
        return self.devices.environments(self.env, self.config.num_envs, self.config.reset_policy)

    def _replay(self, env_state: EnvState) -> Replay:
        """This device's share of the buffer, for transitions such as these environments make."""
        c, devices = self.config, self.devices.count
        action = jax.eval_shape(lambda: self.env.action_space.sample(jax.random.key(0)))
        one = jax.eval_shape(lambda s: jax.tree.map(lambda x: x[0], s), env_state)
        example = Transition(one.obs, action, one.reward, one.terminated, one.truncated, one.obs)
        store_as = narrow(example, jnp.dtype(c.storage)) if c.storage else None
        num_envs = c.num_envs // devices
        size, newest = c.replay_size // devices, c.newest_size // devices
        return Replay(example, size, num_envs, c.n_step, self.prioritized, store_as, newest, self.devices.axis_name)


def delayed_updates(
    update_critic: Callable[[Learner, Batch, Key], tuple[Learner, Metrics]],
    update_policy: Callable[[Learner, Batch, Key], tuple[Learner, Metrics]],
    learner: Learner,
    batches: Batch,
    key: Key,
    delay: int,
) -> tuple[Learner, Metrics]:
    """All updates of an iteration: of the critics with each batch, of the policy with every `delay`-th as well.

    Args:
      batches: leaves [n, batch, …], where `delay` divides n.

    Returns:
      The learner and the means of all metrics.
    """
    rounds = batches.reward.shape[0] // delay

    def one_round(learner: Learner, x: tuple[Batch, Key]) -> tuple[Learner, Metrics]:
        batches, key = x
        critic_key, policy_key = jax.random.split(key)
        learner, metrics = scan_for_means(
            lambda learner, x: update_critic(learner, *x), learner, (batches, jax.random.split(critic_key, delay))
        )
        learner, of_policy = update_policy(learner, jax.tree.map(lambda x: x[-1], batches), policy_key)
        return learner, metrics | of_policy

    batches = jax.tree.map(lambda x: x.reshape(rounds, delay, *x.shape[1:]), batches)
    return scan_for_means(one_round, learner, (batches, jax.random.split(key, rounds)))


def scan_for_means(step: Callable[[Any, Any], tuple[Any, Metrics]], carry: Any, xs: PyTree) -> tuple[Any, Metrics]:
    """`jax.lax.scan`, but with the means of what the steps give: a GPU takes a kernel to store each one of them."""
    count = jax.tree.leaves(xs)[0].shape[0]
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    metrics = jax.eval_shape(step, carry, one)[1]

    def adding(before: tuple[Any, Metrics], x: Any) -> tuple[tuple[Any, Metrics], None]:
        carry, metrics = step(before[0], x)
        return (carry, jax.tree.map(jnp.add, before[1], metrics)), None

    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
    (carry, sums), _ = jax.lax.scan(adding, (carry, sums), xs)
    return carry, jax.tree.map(lambda x: x / count, sums)


def annealed(hyper: Any, steps: jax.Array, config: ReplayConfig) -> Any:
    """`hyper` with the learning rates that are left after these environment steps."""
    if not config.anneal_steps:
        return hyper
    left = linear_schedule(1.0, 0.0, steps, config.anneal_steps)
    rates = [name for name in hyper.__dataclass_fields__ if name.endswith("learning_rate")]
    return hyper.replace(**{name: left * getattr(hyper, name) for name in rates})


def when(learning: jax.Array, learn: Callable[[Any], tuple[Any, Metrics]], learner: Any) -> tuple[Any, Metrics]:
    """`learn(learner)`, and what it measures; before learning starts the same learner, and nothing measured."""

    def learned(learner: Any) -> tuple[Any, Metrics]:
        learner, metrics = learn(learner)
        return learner, {name: Mean(jnp.float32(x), jnp.float32(1.0)) for name, x in metrics.items()}

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(learned, learner)[1])
    return jax.lax.cond(learning, learned, lambda learner: (learner, nothing), learner)


def continuous(env: Environment, name: str, actions: Box | None = None) -> RescaleAction:
    """The environment with actions in [-1, 1], which are its bounds, or the box `actions`.

    Raises:
      ValueError: actions are not a bounded, one-dimensional `Box`, or observations not a vector.
    """
    space, obs = env.action_space, env.observation_space
    if not isinstance(space, Box) or len(space.shape) != 1 or not space.bounded:
        raise Refused(f"{name} needs a one-dimensional Box of actions with bounds, {env!r} has {space}")
    if not isinstance(obs, Box) or len(obs.shape) != 1:
        raise Refused(f"{name} needs observations [n], {env!r} has {obs}")
    return RescaleAction(env, actions)


def acting(agent: Any, agent_env: RescaleAction, normalize: bool) -> Callable[..., tuple[jax.Array, PyTree]]:
    """The function of a `Policy`: normalises, asks the agent, and rescales to the environment's units.

    With hyperparameters ("hyper") among its variables, it samples as the agent behaves in training.
    """
    # Without the box that the data use, which is among the variables: a policy is the same when it is loaded.
    rescale = RescaleAction(agent_env.env).rescale

    def act(variables: PyTree, key: Key, obs: PyTree, memory: PyTree, deterministic: bool) -> tuple[jax.Array, PyTree]:
        obs = jnp.asarray(obs)
        obs = running_statistics.normalize(variables["obs_statistics"], obs) if normalize else obs
        if deterministic or "hyper" not in variables:
            action = agent.act(variables["params"], obs, key, deterministic)
        else:
            action = agent.behave(variables["params"], obs, key, variables["hyper"])
        return rescale(action, variables["action_range"]), memory

    return act


def assemble(
    name: str, env: Environment, config: Any, agent_type: Any, hyper_type: Any, make: Any, axis_name: str | None,
    prepared: Prepared | None = None, random_start: bool = True,
) -> Algorithm:  # fmt: skip
    """The algorithm of an agent whose `init`, `act`, `behave` and `learn` are as those of `sac.Agent`.

    Args:
      prepared: a dataset, of which each batch has `config.offline_share`; `step` then takes the data as well.
      random_start: the first `learning_starts` actions are random; else they are the agent's.
    """
    c = config
    agent_env = continuous(env, name, prepared.actions if prepared else None)
    size = agent_env.action_space.shape[0]
    steps_per_iteration = c.steps_per_iteration * env.steps_per_action
    agent = agent_type(c, env.observation_space.shape[0], size, axis_name)
    statistics = None if prepared is None else prepared.statistics
    collector = Collector(agent_env, c, axis_name=axis_name, statistics=statistics)
    offline = 0 if prepared is None else round(c.offline_share * c.batch_size)

    def init(key: Key) -> State:
        key, actor_key, critic_key, env_key = jax.random.split(key, 4)
        hyper = hyper_type(**{field: jnp.float32(getattr(c, field)) for field in hyper_type.__dataclass_fields__})
        return State(jnp.int32(0), key, hyper, agent.init(actor_key, critic_key), collector.init(env_key))

    def step(state: State, *data: Dataset) -> tuple[State, Metrics]:
        if offline and not data:
            raise Refused(f"{name} learns from a dataset as well: {name}.make(env, config, dataset)")
        if offline % collector.devices.count:
            raise Refused(f"{offline} of a batch, the dataset's, do not divide over {collector.devices.count} devices")
        key, act_key, sample_key, learn_key = jax.random.split(state.key, 4)
        hyper = annealed(state.hyper, state.iteration * float(steps_per_iteration), c)
        learning = state.iteration >= c.first_learning_iteration
        trained = state.iteration > c.first_learning_iteration

        def act(obs: jax.Array, key: Key) -> jax.Array:
            exploring, sampling = jax.random.split(key)

            def asked() -> jax.Array:
                return agent.behave(state.params["policy"], obs, sampling, hyper)

            if not random_start:
                return asked()
            if hasattr(agent, "explore"):  # which may cost as much: only one of the two is computed
                return jax.lax.cond(trained, asked, lambda: agent.explore(obs, exploring))
            uniform = jax.random.uniform(exploring, (*obs.shape[:-1], size), jnp.float32, minval=-1.0)
            return jnp.where(trained, asked(), uniform)

        def learn(learner: Learner) -> tuple[Learner, Metrics]:
            return agent.learn(learner, batches, collector.devices.local(learn_key), hyper)

        experience, metrics = collector.collect(state.experience, act_key, act)
        batches = collector.sample(experience, sample_key, hyper.discount, batch_size=c.batch_size - offline)
        if prepared is not None:
            calibrated = getattr(agent, "calibrated", False)
            batches = collector.like_dataset(experience, batches, prepared, hyper.discount, calibrated)
        for dataset in data if offline else ():
            own = collector.devices.local(jax.random.fold_in(sample_key, OFFLINE_STREAM))
            drawn = dataset.sample(own, c.num_updates * offline // collector.devices.count, hyper.discount)
            batches = _joined(batches, drawn, c.num_updates)
        learner, of_updates = when(learning, learn, state.learner)
        metrics |= of_updates | {"updates": jnp.where(learning, float(c.num_updates), 0.0)}
        state = state.replace(iteration=state.iteration + 1, key=key, learner=learner, experience=experience)
        return state, metrics

    def policy(state: State) -> Policy:
        statistics = state.experience.obs_statistics
        variables = {
            "params": state.params["policy"], "obs_statistics": statistics, "action_range": agent_env.onto
        }  # fmt: skip
        return Policy(variables, (), acting(agent, agent_env, c.normalize_observation))

    return Algorithm(init, step, policy, steps_per_iteration, name, env, c, make, prepared and prepared.dataset)


def _joined(online: Batch, offline: OfflineBatch, num_updates: int) -> Batch:
    """Each batch [num_updates, n, …] with its share of what was drawn from a dataset [num_updates * m, …]."""

    def join(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.concatenate([x, y.reshape(num_updates, -1, *y.shape[1:]).astype(x.dtype)], axis=1)

    names = online.__dataclass_fields__
    return online.replace(**{name: join(getattr(online, name), getattr(offline, name)) for name in names})
