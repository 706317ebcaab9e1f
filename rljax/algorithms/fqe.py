"""Fitted Q evaluation: what a given policy is worth, from a dataset in which others acted.

Le, Voloshin and Yue 2019, "Batch policy learning under constraints" (arXiv 1903.08738), algorithm 3: Q of the policy π
is fitted to r + γ Q'(s', π(s')). Paine et al. 2020, "Hyperparameter selection for offline reinforcement learning"
(arXiv 2007.09055): policies are ranked by the mean of Q(s₀, π(s₀)) over the first observations of the data's episodes.
Hao et al. 2021, "Bootstrapping fitted Q-evaluation for off-policy inference" (arXiv 2102.03607): fits to episodes drawn
with replacement tell how uncertain it is.

The policy is part of the state, so that one program evaluates any policy of one kind, and many at once:

    algorithm = fqe.make(env, fqe.Config(), dataset, policy)
    state = algorithm.init(key).replace(target_policy=another_policy)
    state = jax.jit(lambda state, data: fqe.fit(algorithm, state, data, 100_000))(state, algorithm.data)
    fqe.values(algorithm, state, first_observations, key).mean()

`rljax.analysis.off_policy_evaluation` does so for many under `vmap`, and makes a table with intervals.
"""

import dataclasses
import functools
from typing import Any, ClassVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.algorithms.base import Algorithm, Devices, Policy, require, sha256_of
from rljax.algorithms.iql import Value
from rljax.algorithms.off_policy import Learner, annealed, continuous
from rljax.algorithms.offline import each_batch
from rljax.data import Dataset, OfflineBatch
from rljax.data.prepared import Prepared, RewardScale, prepare
from rljax.envs import Environment
from rljax.nn.ensemble import over_ensemble
from rljax.nn.networks import ACTIVATIONS
from rljax.nn.precision import Precision
from rljax.ops import running_statistics
from rljax.ops.returns import bootstrapped
from rljax.spaces import Box
from rljax.types import Key, Metrics, PyTree, Refused


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of fitted Q evaluation."""

    num_updates: int = 1
    """Batches learned from in an iteration."""
    batch_size: int = 256
    """Transitions of a batch, over all devices."""
    members: int = 8
    """Critics, each with a target of its own; their spread is part of the interval."""
    bootstrap: bool = True
    """Each critic learns from as many episodes as there are, drawn with replacement; else from all alike."""
    deterministic: bool = True
    """What is evaluated is the policy's mode; else actions are sampled from it."""
    learning_rate: float = 3e-4
    """Step size of Adam."""
    anneal_steps: int = 0
    """Updates over which the learning rate falls linearly to 0; 0 keeps it constant."""
    discount: float = 0.99
    """γ."""
    target_rate: float = 0.005
    """How far the target critics move towards the critics at each update. With n updates, what is left of a wrong
    beginning is exp(-n τ (1 - γ)) at best: it takes many."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    activation: str = "relu"
    """Activation of the hidden layers."""
    layer_norm: bool = False
    """Layer normalisation, for values that run away where the policy leaves the data."""
    precision: Precision = "float32"
    """Precision of the hidden layers' matrix products; bfloat16 is faster on TPUs, GPUs and CPUs that have it."""

    # The data stay in their own units, as the policy takes observations; the critics scale what they are given.
    normalize_observation: ClassVar[bool] = False
    reward_scale: ClassVar[RewardScale] = "none"
    reward_bias: ClassVar[float] = 0.0
    calibrated: ClassVar[bool] = False
    learns_from_rewards: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("num_updates", "batch_size", "members"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "learning_rate", self.learning_rate > 0, "positive")
        require(self, "anneal_steps", self.anneal_steps >= 0, "0 or more")
        require(self, "discount", 0 <= self.discount <= 1, "in [0, 1]")
        require(self, "target_rate", 0 < self.target_rate <= 1, "in (0, 1]")
        require(self, "hidden", all(width >= 1 for width in self.hidden), "at least 1 in each layer")
        require(self, "activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        require(self, "precision", self.precision in get_args(Precision), f"one of {get_args(Precision)}")


class Hyper(struct.PyTreeNode):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    learning_rate: jax.Array
    discount: jax.Array
    target_rate: jax.Array


class EpisodeDataset(Dataset, kw_only=True):
    """A dataset whose transitions know which episode they are of.

    Fields:
      episode: int32 [N], counted from 0.
    """

    episode: jax.Array


class State(struct.PyTreeNode):
    """All of training but the data: save it, and it resumes bit for bit.

    Fields:
      target_policy: what is evaluated.
      obs_statistics: of the dataset's observations.
      episode_weight: f32 [members, episodes], how often a critic's resample has each.
      center, spread: f32 [], of the data's returns-to-go. Critics give (Q - center) / spread.
    """

    iteration: jax.Array
    key: Key
    hyper: Any
    learner: Learner
    target_policy: Policy
    obs_statistics: running_statistics.Statistics
    episode_weight: jax.Array
    center: jax.Array
    spread: jax.Array

    @property
    def params(self) -> PyTree:
        return self.learner.params


class Agent:
    """The critics and their update, apart from data.

    Args:
      config: settings.
      env: what is acted in; only its spaces count.
      axis_name: mesh axis over whose devices gradients are averaged.
    """

    def __init__(self, config: Any, env: Environment, axis_name: str | None = None):
        self.config, self.value, self.devices = config, Value(config), Devices(axis_name)
        continuous(env, "fqe")
        self.obs_size, self.action_space = env.observation_space.shape[0], env.action_space

    def init(self, key: Key) -> Learner:
        obs, action = jnp.zeros((1, self.obs_size)), jnp.zeros((1, *self.action_space.shape))
        keys = jax.random.split(key, self.config.members)
        return Learner.init({"critic": jax.vmap(lambda key: self.value.init(key, obs, action))(keys)}, ("critic",))

    def act(self, policy: Policy, obs: jax.Array, key: Key) -> jax.Array:
        """The policy's actions, as the dataset has them, in [-1, 1]: [..., d], of raw observations [..., n]."""
        action = policy(key, obs, self.config.deterministic)
        space: Box = self.action_space  # type: ignore[assignment]
        unit = jax.vmap(space.to_unit)(action.reshape(-1, *space.shape)).reshape(action.shape)
        return jnp.clip(unit, -1.0, 1.0)

    def critics(self, params: PyTree, obs: jax.Array, action: jax.Array) -> jax.Array:
        """What the members say, [members, batch], of normalised observations and actions."""
        c = self.config
        return over_ensemble(lambda p: self.value.apply(p, obs, action), c.members, c.precision)(params)

    def update(self, learner: Learner, batch: OfflineBatch, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step of each critic towards r + γ Q'(s', π(s')) with its own target, which follows.

        Args:
          batch: as the critics' units are; `next_action` is the policy's, `weight` [batch, members].
        """
        next_value = self.critics(learner.targets["critic"], batch.next_obs, batch.next_action)
        target = bootstrapped(batch.reward[None], batch.discount[None], next_value)

        def loss(params: PyTree) -> jax.Array:
            squared = jnp.square(self.critics(params, batch.obs, batch.action) - target)
            return (batch.weight.T * squared).mean(-1).sum()  # a sum over members: none is slower for the others

        error, gradient = jax.value_and_grad(loss)(learner.params["critic"])
        learner = learner.descend("critic", self.devices.mean(gradient), hyper.learning_rate)
        metrics = {"loss/critic": error / self.config.members, "value/mean": target.mean()}
        return learner.move_target("critic", hyper.target_rate), metrics


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    policy: Policy | None = None,
    *,
    axis_name: str | None = None,
) -> Algorithm:
    """Fitted Q evaluation of a policy on a dataset.

    Truncated episodes go on beyond their end, with the value of where they were cut; terminated ones do not.

    Args:
      env: what is acted in; only its spaces count.
      config: settings; the defaults where None.
      dataset: with observations and actions in the environment's units.
      policy: what is evaluated; its arrays are copied into the state, where another's may take their place.
      axis_name: mesh axis over which the functions run under `shard_map`.

    Raises:
      ValueError: the environment's spaces do not fit, the dataset does not fit them or was normalised, or the policy
        has a memory.
    """
    c: Any = config or Config()
    if dataset is None or policy is None:
        raise Refused("fqe needs a dataset, and the policy that is to be evaluated on it")
    if jax.tree.leaves(policy.initial_memory):
        raise Refused("fqe evaluates policies without memory: a transition does not tell what one remembers")
    agent = Agent(c, env, axis_name)
    prepared = _numbered(dataset, env, c)
    to_go, episodes = prepared.dataset.return_to_go, int(prepared.dataset.episode[-1]) + 1
    center, spread = float(np.mean(to_go)), float(np.std(to_go))
    spread = spread if spread > 1e-6 * abs(center) else abs(center) or 1.0  # where all are alike

    def init(key: Key) -> State:
        key, critic_key, episode_key = jax.random.split(key, 3)
        hyper = Hyper(**{field: jnp.float32(getattr(c, field)) for field in Hyper.__dataclass_fields__})
        target_policy, statistics = jax.tree.map(jnp.copy, (policy, prepared.statistics))
        weight = jnp.ones((c.members, episodes), jnp.float32)
        if c.bootstrap:
            drawn = jax.random.randint(episode_key, (c.members, episodes), 0, episodes)
            weight = jax.vmap(lambda x: jnp.bincount(x, length=episodes))(drawn).astype(jnp.float32)
        return State(
            iteration=jnp.int32(0),
            key=key,
            hyper=hyper,
            learner=agent.init(critic_key),
            target_policy=target_policy,
            obs_statistics=statistics,
            episode_weight=weight,
            center=jnp.float32(center),
            spread=jnp.float32(spread),
        )

    def step(state: State, data: EpisodeDataset) -> tuple[State, Metrics]:
        key, sample_key, policy_key = jax.random.split(state.key, 3)
        if c.batch_size % agent.devices.count:
            raise Refused(f"batch_size = {c.batch_size} does not divide over {agent.devices.count} devices")
        hyper = annealed(state.hyper, state.iteration * float(c.num_updates), c)
        size = c.batch_size // agent.devices.count
        batches = data.sample(agent.devices.local(sample_key), c.num_updates * size, hyper.discount)
        batches = batches.replace(
            # q = (Q - center) / spread of r + γ Q' = r + γ (center + spread q').
            reward=(batches.reward + (batches.discount - 1.0) * state.center) / state.spread,
            obs=running_statistics.normalize(state.obs_statistics, batches.obs),
            next_obs=running_statistics.normalize(state.obs_statistics, batches.next_obs),
            next_action=agent.act(state.target_policy, batches.next_obs, agent.devices.local(policy_key)),
            weight=state.episode_weight[:, data.episode[batches.index]].T,
        )
        batches = jax.tree.map(lambda x: x.reshape(c.num_updates, size, *x.shape[1:]), batches)
        learner, metrics = each_batch(
            lambda learner, batch, _: agent.update(learner, batch, hyper), state.learner, batches, key
        )
        metrics["value/mean"] = state.center + state.spread * metrics["value/mean"]
        state = state.replace(iteration=state.iteration + 1, key=key, learner=learner)
        return state, agent.devices.mean(metrics)

    def of_state(state: State) -> Policy:
        return state.target_policy

    def identity() -> dict[str, str]:
        return {"policy_sha256": sha256_of(policy.variables, policy.function)}

    again = functools.partial(make, dataset=prepared, policy=policy)
    return Algorithm(init, step, of_state, c.num_updates, "fqe", env, c, again, prepared.dataset, identity)


def fit(algorithm: Algorithm, state: State, data: Dataset, iterations: Any) -> State:
    """The state after so many iterations, for `jit` and `vmap`; `data` is `algorithm.data`, as an argument."""
    return jax.lax.fori_loop(0, iterations, lambda _, state: algorithm.step(state, data)[0], state)


def values(algorithm: Algorithm, state: State, obs: jax.Array, key: Key) -> jax.Array:
    """Q(s, π(s)) in units of the rewards as each critic has it, f32 [members, n], of raw observations [n, …].

    Of the first observations of episodes their mean is the estimate of Paine et al. 2020, section 3.
    """
    agent = Agent(algorithm.config, algorithm.env)
    action = agent.act(state.target_policy, obs, key)
    normalized = running_statistics.normalize(state.obs_statistics, obs)
    return state.center + state.spread * agent.critics(state.params["critic"], normalized, action)


def _numbered(dataset: Dataset | Prepared, env: Environment, config: Any) -> Any:
    """Prepared, with episodes numbered, and the statistics by which critics normalise observations."""
    if isinstance(dataset, Prepared) and isinstance(dataset.dataset, EpisodeDataset):
        return dataset
    if isinstance(dataset, Prepared) or dataset.metadata.normalization != "none":
        raise Refused("fqe needs a dataset as it was read, for that is what the policy takes; this one was prepared")
    ready = prepare(dataset, env.observation_space, env.action_space, config).dataset
    assert ready is not None
    episode: Any = np.repeat(np.arange(len(ready.ends), dtype=np.int32), ready.ends - ready.starts)
    fields = {name: getattr(ready, name) for name in Dataset.__dataclass_fields__}
    return Prepared(EpisodeDataset(**fields, episode=episode), dataset.statistics())
