"""What the offline algorithms share: settings, and the loop of updates from a dataset.

One iteration draws batches from the dataset, which is an argument of `step`, and learns from each; a step is one
update. Made with `online=True`, the same agent acts in the environment and learns from batches of which a share is the
dataset's: the loop of off_policy.py, on the same state of the learner (`continued`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.algorithms import off_policy
from rljax.algorithms.base import Algorithm, Devices, Policy, require
from rljax.algorithms.off_policy import Learner, acting, annealed, continuous, scan_for_means
from rljax.data import Dataset
from rljax.data.prepared import Prepared, RewardScale, prepare
from rljax.envs import Environment
from rljax.ops import running_statistics
from rljax.types import Key, Metrics, PyTree, Refused


@dataclasses.dataclass(frozen=True)
class OfflineConfig:
    """Settings of every offline algorithm, before a `ReplayConfig` among the bases of its `Config`.

    Those of environments and replay hold where it continues online.
    """

    normalize_observation: bool = True
    """Observations are shifted and scaled by the dataset's mean and deviation."""
    reward_scale: RewardScale = "none"
    """Factor of the rewards: a number, none for 1, or returns for 1000 / (highest - lowest return of an episode), as in
    IQL for MuJoCo."""
    reward_bias: float = 0.0
    """Offset of each (scaled) reward; -1 for AntMaze."""
    offline_updates: int = 0
    """Updates of an iteration offline, for which batches are drawn together: 100 are a fifth faster on a GPU. 0 uses
    num_updates, which also counts online."""
    offline_share: float = 0.5
    """Share of the dataset in each batch online (a half in Cal-QL and RLPD)."""

    calibrated: ClassVar[bool] = False
    """Whether values are bounded by returns-to-go, which then count what may follow where an episode was cut."""
    learns_from_rewards: ClassVar[bool] = True
    """Whether a dataset without rewards is refused."""

    @property
    def fixed(self) -> tuple[str, ...]:
        """Hyperparameters that cannot be swept: the returns-to-go of the data are discounted once, for all members."""
        return ("discount",) if self.calibrated else ()

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        scale = self.reward_scale
        known = scale in ("none", "returns") if isinstance(scale, str) else scale > 0
        require(self, "reward_scale", known, "one of none, returns, or a positive number")
        delay = getattr(self, "policy_delay", 1)
        divides = self.offline_updates >= 0 and self.offline_updates % delay == 0
        bound = "0 or more" if delay == 1 else f"0 or a multiple of policy_delay = {delay}"
        require(self, "offline_updates", divides, bound)
        require(self, "offline_share", 0 <= self.offline_share < 1, "in [0, 1)")
        require(self, "n_step", self.n_step == 1, "1")  # type: ignore[attr-defined]


class State(struct.PyTreeNode):
    """All of training but the data: save it, and it resumes bit for bit."""

    iteration: jax.Array
    key: Key
    hyper: Any
    learner: Learner
    obs_statistics: running_statistics.Statistics

    @property
    def params(self) -> PyTree:
        return self.learner.params


def assemble(
    name: str, env: Environment, config: Any, agent_type: Any, hyper_type: Any, make: Callable[..., Algorithm],
    dataset: Dataset | Prepared | None, online: bool, axis_name: str | None, random_start: bool = False,
) -> Algorithm:  # fmt: skip
    """The algorithm of an agent whose `init`, `act` and `learn` are as those of `iql.Agent`.

    Args:
      dataset: what to learn from; None is enough to load a policy.
      online: act and learn in the environment as well.
      random_start: online, the first `learning_starts` actions are random; else they are the agent's.
    """
    continuous(env, name)
    prepared = prepare(dataset, env.observation_space, env.action_space, config)
    agent_env = continuous(env, name, prepared.actions)
    make = functools.partial(make, dataset=prepared, online=online)
    if online:
        return off_policy.assemble(
            name, env, config, agent_type, hyper_type, make, axis_name, prepared, random_start
        )  # fmt: skip
    c, devices, num_updates = config, Devices(axis_name), config.offline_updates or config.num_updates
    agent = agent_type(c, env.observation_space.shape[0], env.action_space.shape[0], axis_name)

    def init(key: Key) -> State:
        key, actor_key, critic_key = jax.random.split(key, 3)
        hyper = hyper_type(**{field: jnp.float32(getattr(c, field)) for field in hyper_type.__dataclass_fields__})
        statistics = jax.tree.map(jnp.copy, prepared.statistics)
        return State(jnp.int32(0), key, hyper, agent.init(actor_key, critic_key), statistics)

    def step(state: State, data: Dataset | None = None) -> tuple[State, Metrics]:
        if data is None:
            raise Refused(f"{name} learns from a dataset: {name}.make(env, config, dataset)")
        key, sample_key, learn_key = jax.random.split(state.key, 3)
        if c.batch_size % devices.count:
            raise Refused(f"batch_size = {c.batch_size} does not divide over {devices.count} devices")
        hyper = annealed(state.hyper, state.iteration * float(num_updates), c)
        size = c.batch_size // devices.count
        batches = data.sample(devices.local(sample_key), num_updates * size, hyper.discount)
        batches = jax.tree.map(lambda x: x.reshape(num_updates, size, *x.shape[1:]), batches)
        learner, metrics = agent.learn(state.learner, batches, devices.local(learn_key), hyper)
        return state.replace(iteration=state.iteration + 1, key=key, learner=learner), metrics

    def policy(state: State) -> Policy:
        variables = {
            "params": state.params["policy"], "obs_statistics": state.obs_statistics, "action_range": agent_env.onto
        }  # fmt: skip
        return Policy(variables, (), acting(agent, agent_env, c.normalize_observation))

    return Algorithm(init, step, policy, num_updates, name, env, c, make, prepared.dataset)


def continued(state: Any) -> Callable[[Any], Any]:
    """Puts the learner of an offline state into a fresh online one: the `initialize` of `training.train`."""
    return lambda fresh: fresh.replace(learner=state.learner)


def in_batches(function: Callable[..., jax.Array], size: int, *arrays: Any) -> np.ndarray:
    """A compiled function of rows [N, …], `size` at a time, all of one shape: what it gives for each row, [N, …]."""
    rows = len(arrays[0])
    padded = [np.resize(np.asarray(x), (-(-rows // size) * size, *np.shape(x)[1:])) for x in arrays]
    parts = [np.asarray(function(*(x[i : i + size] for x in padded))) for i in range(0, len(padded[0]), size)]
    return np.concatenate(parts)[:rows]


def each_batch(
    update: Callable[[Learner, Any, Key], tuple[Learner, Metrics]], learner: Learner, batches: Any, key: Key
) -> tuple[Learner, Metrics]:
    """One update with each of the batches [num_updates, batch, …]; the means of their metrics."""
    keys = jax.random.split(key, jax.tree.leaves(batches)[0].shape[0])
    return scan_for_means(lambda learner, x: update(learner, *x), learner, (batches, keys))
