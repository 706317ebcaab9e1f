"""The loop of updates from a dataset.

One iteration draws batches from the dataset, which is an argument of `step`, and learns from each; a step is one
update. Online, the same agent also acts in the environment, and a share of each batch is the dataset's: the loop of
experience.py, on the same learner (`continued`).
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax import devices
from rljax.algorithms.core import contract, experience
from rljax.algorithms.core.agent import Agent
from rljax.algorithms.core.contract import Algorithm, continuous
from rljax.algorithms.core.learner import Learner
from rljax.algorithms.core.sources import Drawn
from rljax.config import BelowOne, Config, Must, require
from rljax.data import Dataset
from rljax.data.prepared import Prepared, RewardScale, prepare
from rljax.envs import Environment
from rljax.ops import running_statistics
from rljax.types import Key, Metrics, PyTree, Refused


@dataclasses.dataclass(frozen=True)
class OfflineConfig(Config):
    """Settings of every offline algorithm; list it before a `ReplayConfig` among the bases of a `Config`.

    Settings of environments and replay apply online only.
    """

    normalize_observation: bool = True
    """Whether observations are shifted and scaled by the dataset's mean and deviation."""
    reward_scale: RewardScale = "none"
    """Factor of the rewards: a number, none for 1, or returns for 1000 / (highest - lowest return of an episode), as in
    IQL for MuJoCo."""
    reward_bias: float = 0.0
    """Offset of each (scaled) reward; -1 for AntMaze."""
    offline_updates: int = 0
    """Updates per offline iteration, whose batches are drawn together; 100 are a fifth faster on a GPU. 0 uses
    num_updates, which always applies online."""
    offline_share: BelowOne = 0.5
    """Share of the dataset in each batch online (a half in Cal-QL and RLPD)."""
    n_step: Annotated[int, Must("1", lambda x: x == 1)] = 1
    """Rewards summed before bootstrapping from a value; always 1 offline."""

    calibrated: ClassVar[bool] = False
    """Whether returns-to-go bound the values; they then include what may follow where an episode was cut."""
    learns_from_rewards: ClassVar[bool] = True
    """Whether a dataset without rewards is refused."""

    @property
    def fixed(self) -> tuple[str, ...]:
        """Hyperparameters that cannot be swept: the returns-to-go of the data are discounted once, for all members."""
        return ("discount",) if self.calibrated else ()

    def __post_init__(self) -> None:
        super().__post_init__()
        scale = self.reward_scale
        known = scale in ("none", "returns") if isinstance(scale, str) else scale > 0
        require(self, "reward_scale", known, "one of none, returns, or a positive number")
        delay = getattr(self, "policy_delay", 1)
        divides = self.offline_updates >= 0 and self.offline_updates % delay == 0
        bound = "0 or more" if delay == 1 else f"0 or a multiple of policy_delay = {delay}"
        require(self, "offline_updates", divides, bound)


class State(struct.PyTreeNode):
    """The whole state of training but the data; once saved and restored, it resumes bit for bit."""

    iteration: jax.Array
    key: Key
    hyper: Any
    learner: Learner
    obs_statistics: running_statistics.Statistics

    @property
    def params(self) -> PyTree:
        return self.learner.params


class Loop(contract.Loop):
    """Draws from a dataset and learns. Holds constants; what changes is in `State`.

    Args:
      name: name of the algorithm.
      env: one environment, with actions in the agent's units.
      agent: the agent that learns.
      statistics: mean and variance of the dataset's observations.
    """

    def __init__(self, name: str, env: Environment, agent: Agent, statistics: running_statistics.Statistics):
        super().__init__(name, env, agent, agent.config.offline_updates or agent.config.num_updates, "updates")
        self.statistics = statistics

    def init(self, key: Key) -> State:
        key, learner_key = jax.random.split(key)
        statistics = jax.tree.map(jnp.copy, self.statistics)
        return State(jnp.int32(0), key, self.agent.hyper(), self.agent.init(learner_key), statistics)

    def step(self, state: State, data: Any = None) -> tuple[State, Metrics]:
        if data is None:
            raise Refused(f"{self.name} learns from a dataset: {self.name}.make(env, config, dataset)")
        key, sample_key, learn_key = jax.random.split(state.key, 3)
        hyper = self.agent.now(state.hyper, state.iteration * float(self.per_iteration))
        c = self.config
        source = Drawn(data, self.per_iteration, devices.share("batch_size", c.batch_size), c.image_shift)
        batches = self.agent.sample(state.learner, source, devices.local(sample_key), hyper)
        learner, metrics, _ = self.agent.learn(state.learner, batches, devices.local(learn_key), hyper)
        return state.replace(iteration=state.iteration + 1, key=key, learner=learner), metrics


def assemble(
    name: str,
    env: Environment,
    config: Any,
    agent_type: Callable[..., Agent],
    make: Callable[..., Algorithm],
    dataset: Dataset | Prepared | None,
    online: bool = False,
    random_start: bool = False,
    network: nn.Module | None = None,
    vectors: bool = False,
) -> Algorithm:
    """The algorithm of an agent that learns from a dataset.

    Args:
      agent_type: `(config, observation_space, action_space, network) -> Agent`.
      make: the function that made it, `(env, config, dataset, …)`.
      dataset: what to learn from; None is enough to load a policy.
      online: act and learn in the environment as well.
      random_start: online, the first `learning_starts` actions are random; else they are the agent's.
      network: a flax module in place of convolutions, or None.
      vectors: whether observations must be vectors.
    """
    continuous(env, name, vectors=vectors)
    prepared = prepare(dataset, env.observation_space, env.action_space, config)
    acts_in = continuous(env, name, prepared.actions)
    agent = agent_type(config, acts_in.observation_space, acts_in.action_space, network)
    options: dict[str, Any] = {"online": True} if online else {}
    options |= {} if network is None else {"network": network}

    def remake(config: Any) -> Algorithm:
        return make(env, config, prepared, **options)

    if online:
        return experience.assemble(name, env, agent, remake, prepared, random_start, acts_in, network)
    return Loop(name, acts_in, agent, prepared.statistics).algorithm(env, remake, prepared.dataset, network)


def continued(state: Any) -> Callable[[Any], Any]:
    """Puts the learner of an offline state into a fresh online one: the `initialize` of `training.train`."""
    return lambda fresh: fresh.replace(learner=state.learner)


def in_batches(function: Callable[..., jax.Array], size: int, *trees: PyTree) -> np.ndarray:
    """The results [N, …] of a compiled function for rows [N, …], applied to `size` rows at a time in one shape."""
    rows = len(jax.tree.leaves(trees)[0])
    whole = -(-rows // size) * size
    padded = jax.tree.map(lambda x: np.resize(np.asarray(x), (whole, *np.shape(x)[1:])), trees)
    starts = range(0, whole, size)
    parts = [np.asarray(function(*jax.tree.map(lambda x, i=i: x[i : i + size], padded))) for i in starts]
    return np.concatenate(parts)[:rows]
