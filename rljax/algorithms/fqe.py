"""Fitted Q evaluation: the value of a given policy, from a dataset in which others acted.

Le, Voloshin and Yue 2019, "Batch policy learning under constraints" (arXiv 1903.08738), algorithm 3: Q of the policy π
is fitted to r + γ Q'(s', π(s')). Paine et al. 2020, "Hyperparameter selection for offline reinforcement learning"
(arXiv 2007.09055): policies are ranked by the mean of Q(s₀, π(s₀)) over the first observations of the data's episodes.
Hao et al. 2021, "Bootstrapping fitted Q-evaluation for off-policy inference" (arXiv 2102.03607): fits to episodes drawn
with replacement tell how uncertain it is.

The policy is part of the state, so that one program evaluates any policy of one kind, and many at once:

    algorithm = fqe.make(env, fqe.Config(), dataset, policy)
    state = fqe.of(algorithm.init(key), another_policy)
    state = jax.jit(lambda state, data: fqe.fit(algorithm, state, data, 100_000))(state, algorithm.data)
    fqe.values(algorithm, state, first_observations, key).mean()

`rljax.analysis.off_policy_evaluation` evaluates many policies under `vmap`, and makes a table with intervals.
"""

import dataclasses
import functools
from typing import Any, ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.blocks import DenseNetwork, Optimizer
from rljax.algorithms.core.contract import Algorithm, continuous, sha256_of
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.algorithms.core.offline import assemble
from rljax.algorithms.iql import Value
from rljax.config import Count, Fraction, Share
from rljax.data import Dataset, OfflineBatch
from rljax.data.prepared import Prepared, RewardScale, prepare
from rljax.envs import Environment
from rljax.nn.ensemble import over_ensemble
from rljax.ops import running_statistics
from rljax.ops.returns import bootstrapped
from rljax.policy import Policy
from rljax.spaces import ArraySpace, Box, Space
from rljax.types import Key, Metrics, PyTree, Refused


@dataclasses.dataclass(frozen=True)
class Config(Optimizer, DenseNetwork):
    """Settings of fitted Q evaluation."""

    num_updates: Count = 1
    """Batches learned from per iteration."""
    batch_size: Count = 256
    """Transitions of a batch, over all devices."""
    members: Count = 8
    """Number of critics, each with its own target; their spread is part of the interval."""
    bootstrap: bool = True
    """Whether each critic learns from episodes drawn with replacement, as many as there are; else all learn from
    all."""
    deterministic: bool = True
    """Whether the policy's mode is evaluated; else actions are sampled from it."""
    discount: Fraction = 0.99
    """Discount γ of future rewards."""
    target_rate: Share = 0.005
    """Rate τ at which the target critics move towards the critics at each update. Of the initial error, n updates leave
    the share exp(-n τ (1 - γ)) at best: it takes many."""
    layer_norm: bool = False
    """Layer normalisation, against values that diverge where the policy leaves the data."""

    offline_updates: ClassVar[int] = 0
    # The data stay in their own units, as the policy takes raw observations; the critics scale their inputs.
    normalize_observation: ClassVar[bool] = False
    image_shift: ClassVar[int] = 0
    reward_scale: ClassVar[RewardScale] = "none"
    reward_bias: ClassVar[float] = 0.0
    calibrated: ClassVar[bool] = False
    learns_from_rewards: ClassVar[bool] = True


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    target_rate: jax.Array


class EpisodeDataset(Dataset, kw_only=True):
    """A dataset whose transitions carry the number of their episode.

    Fields:
      episode: int32 [N], counted from 0.
    """

    episode: jax.Array


class Agent(core.Agent):
    """The critics and their update. The evaluated policy and the data's scales are frozen in the learner.

    Args:
      config: settings.
      observation_space, action_space: spaces of the critics' inputs, actions in [-1, 1].
      actions: the box of the policy's actions.
      prepared: the dataset, with episodes numbered.
      policy: the evaluated policy.
    """

    hyper_type = Hyper
    config: Config

    def __init__(
        self,
        config: Config,
        observation_space: Space,
        action_space: ArraySpace,
        network: nn.Module | None = None,
        *,
        actions: Box,
        prepared: Prepared,
        policy: Policy,
    ):
        self.actions, self.prepared, self.evaluated = actions, prepared, policy
        super().__init__(config, observation_space, action_space, network)

    def build(self, network: nn.Module | None) -> None:
        self.value = Value(self.config, self.observation_space)

    def init(self, key: Key) -> Learner:
        c, data = self.config, self.prepared.dataset
        critic_key, episode_key = jax.random.split(key)
        episodes = int(data.episode[-1]) + 1
        weight = jnp.ones((c.members, episodes), jnp.float32)
        if c.bootstrap:
            drawn = jax.random.randint(episode_key, (c.members, episodes), 0, episodes)
            weight = jax.vmap(lambda x: jnp.bincount(x, length=episodes))(drawn).astype(jnp.float32)
        center, spread = float(np.mean(data.return_to_go)), float(np.std(data.return_to_go))
        spread = spread if spread > 1e-6 * abs(center) else abs(center) or 1.0  # where all are alike
        # Critics give (Q - center) / spread; a critic's resample has each episode as often as it weighs.
        frozen = {
            "policy": self.evaluated,
            "statistics": self.prepared.statistics,
            "episode_weight": weight,
            "center": jnp.float32(center),
            "spread": jnp.float32(spread),
        }
        keys = jax.random.split(critic_key, c.members)
        critics = jax.vmap(lambda key: self.value.init(key, self.example_obs, self.example_action))(keys)
        return Learner.init({"critic": critics}, self.optimizers(self.hyper()), ("critic",), frozen)

    def optimizers(self, hyper: Hyper) -> Optimizers:
        return {"critic": optax.adam(hyper.learning_rate)}

    def policy_action(self, policy: Policy, obs: jax.Array, key: Key) -> jax.Array:
        """The policy's actions [..., d], scaled to [-1, 1] as the dataset's, for raw observations [..., n]."""
        action = policy(key, obs, self.config.deterministic)
        space = self.actions
        unit = jax.vmap(space.to_unit)(action.reshape(-1, *space.shape)).reshape(action.shape)
        return jnp.clip(unit, -1.0, 1.0)

    def critics(self, params: PyTree, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Outputs of all members, [members, batch], for normalised observations and actions."""
        c = self.config
        return over_ensemble(lambda p: self.value.apply(p, obs, action), c.members, c.precision)(params)

    def sample(self, learner: Learner, source: Any, key: Key, hyper: Hyper) -> OfflineBatch:
        """Batches in the critics' units; `next_action` is the policy's, `weight` [num_updates, batch, members]."""
        frozen, (sample_key, policy_key) = learner.frozen, jax.random.split(key)
        batches, center, spread = source.sample(sample_key, hyper.discount), frozen["center"], frozen["spread"]
        episode = source.data.episode[batches.index]
        return batches.replace(
            # q = (Q - center) / spread of r + γ Q' = r + γ (center + spread q').
            reward=(batches.reward + (batches.discount - 1.0) * center) / spread,
            obs=running_statistics.normalize(frozen["statistics"], batches.obs),
            next_obs=running_statistics.normalize(frozen["statistics"], batches.next_obs),
            next_action=self.policy_action(frozen["policy"], batches.next_obs, policy_key),
            weight=jnp.moveaxis(frozen["episode_weight"][:, episode], 0, -1),
        )

    def update(self, learner: Learner, batch: OfflineBatch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step of each critic towards r + γ Q'(s', π(s')) with its own target, which follows."""
        next_value = self.critics(learner.targets["critic"], batch.next_obs, batch.next_action)
        target = bootstrapped(batch.reward[None], batch.discount[None], next_value)

        def loss(params: PyTree) -> jax.Array:
            squared = jnp.square(self.critics(params, batch.obs, batch.action) - target)
            return (batch.weight.T * squared).mean(-1).sum()  # a sum over members: none is slower for the others

        error, gradient = jax.value_and_grad(loss)(learner.params["critic"])
        learner = learner.descend("critic", devices.mean(gradient), self.optimizers(hyper)["critic"])
        mean = learner.frozen["center"] + learner.frozen["spread"] * target.mean()
        metrics = {"loss/critic": error / self.config.members, "value/mean": mean}
        return learner.move_target("critic", hyper.target_rate), metrics


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    policy: Policy | None = None,
) -> Algorithm:
    """Fitted Q evaluation of a policy on a dataset.

    Truncated episodes bootstrap from the value where they were cut; terminated ones do not. An evaluation of the runner
    is the estimate itself: the mean of Q(s₀, π(s₀)) over the first observations and critics, and its deviation over
    critics.

    Args:
      env: the task; only its spaces are used.
      config: settings; the defaults where None.
      dataset: with observations and actions in the environment's units.
      policy: the policy to evaluate; its arrays are copied into the state, where another's may replace them (`of`).

    Raises:
      Refused: the environment's spaces do not fit, the dataset does not fit them or was normalised, or the policy has
        a memory.
    """
    c: Any = config or Config()
    if dataset is None or policy is None:
        raise Refused("fqe needs a dataset, and the policy that is to be evaluated on it")
    if jax.tree.leaves(policy.initial_memory):
        raise Refused("fqe evaluates policies without memory: a transition does not tell what one remembers")
    continuous(env, "fqe", vectors=True)
    prepared = _numbered(dataset, env, c)
    actions = cast(Box, env.action_space)
    agent_type = functools.partial(Agent, actions=actions, prepared=prepared, policy=policy)

    def make_again(env: Environment, config: Config, prepared: Prepared) -> Algorithm:
        return make(env, config, prepared, policy)

    algorithm = assemble("fqe", env, c, agent_type, make_again, prepared)
    data = prepared.dataset

    def evaluate(state: Any, key: Key) -> dict[str, jax.Array]:
        first = jax.tree.map(lambda x: np.asarray(x)[data.starts], data.obs)
        estimates = values(algorithm, state, first, key).mean(-1)
        return {"value": estimates.mean(), "value_deviation": estimates.std()}

    return algorithm._replace(
        policy=lambda state: state.learner.frozen["policy"],
        identity=lambda: {"policy_sha256": sha256_of(policy.variables, policy.function)},
        evaluate=evaluate,
    )


def of(state: Any, policy: Policy) -> Any:
    """The same state, in which another policy of the same kind is evaluated."""
    return state.replace(learner=state.learner.replace(frozen=state.learner.frozen | {"policy": policy}))


def fit(algorithm: Algorithm, state: Any, data: Dataset, iterations: Any) -> Any:
    """The state after `iterations` iterations, for `jit` and `vmap`; `data` is `algorithm.data`, as an argument."""
    return jax.lax.fori_loop(0, iterations, lambda _, state: algorithm.step(state, data)[0], state)


def values(algorithm: Algorithm, state: Any, obs: jax.Array, key: Key) -> jax.Array:
    """Q(s, π(s)) of each critic, in units of the rewards, f32 [members, n], for raw observations [n, …].

    The mean over the episodes' first observations is the estimate of Paine et al. 2020, section 3.
    """
    agent, frozen = cast(Agent, algorithm.agent), state.learner.frozen
    action = agent.policy_action(frozen["policy"], obs, key)
    normalized = running_statistics.normalize(frozen["statistics"], obs)
    return frozen["center"] + frozen["spread"] * agent.critics(state.params["critic"], normalized, action)


def _numbered(dataset: Dataset | Prepared, env: Environment, config: Any) -> Any:
    """The prepared dataset, with episodes numbered, and the statistics by which critics normalise observations."""
    if isinstance(dataset, Prepared) and isinstance(dataset.dataset, EpisodeDataset):
        return dataset
    if isinstance(dataset, Prepared) or dataset.metadata.normalization != "none":
        raise Refused("fqe needs a dataset as it was read, for that is what the policy takes; this one was prepared")
    ready = prepare(dataset, env.observation_space, env.action_space, config).dataset
    assert ready is not None
    episode: Any = np.repeat(np.arange(len(ready.ends), dtype=np.int32), ready.ends - ready.starts)
    fields = {name: getattr(ready, name) for name in Dataset.__dataclass_fields__}
    return Prepared(EpisodeDataset(**fields, episode=episode), dataset.statistics())
