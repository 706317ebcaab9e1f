"""The algorithm contract: three pure functions, and what the runner needs to know about them."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from rljax.envs import AutoReset, Environment, EpisodeStatistics, Guard
from rljax.envs.auto_reset import ResetPolicy, pool_size_for
from rljax.envs.check import check_types
from rljax.spaces import Box, Discrete
from rljax.types import Key, Metrics, PyTree, Refused


class Policy(struct.PyTreeNode):
    """A trained policy, ready to act: raw observations in, actions in the environment's own units out.

    It is a pytree, so it passes through `jit` and `vmap` as an argument.

    Fields:
      variables: parameters and observation statistics.
      initial_memory: what a recurrent policy remembers before the first step of ONE episode; `()` without memory.
      function: `(variables, key, obs, memory, deterministic) -> (action, memory)`.
    """

    variables: PyTree
    initial_memory: PyTree
    function: Callable[..., tuple[jax.Array, PyTree]] = struct.field(pytree_node=False)

    def apply(self, key: Key, obs: PyTree, memory: PyTree, deterministic: bool = True) -> tuple[jax.Array, PyTree]:
        """Acts and remembers: observations [..., obs] and memory [..., memory] to actions [..., action] and memory."""
        return self.function(self.variables, key, obs, memory, deterministic)

    def __call__(self, key: Key, obs: PyTree, deterministic: bool = True) -> jax.Array:
        """Acts: observations [..., obs] to actions [..., action]. For policies without memory."""
        if jax.tree.leaves(self.initial_memory):
            raise Refused("a policy with memory is called by policy.apply(key, obs, memory), from initial_memory")
        return self.apply(key, obs, self.initial_memory, deterministic)[0]


class Algorithm(NamedTuple):
    """Three pure functions, made by `<algorithm>.make(env, config)`.

    Fields:
      init: `(key) -> state`; everything that training carries, hyperparameters (`state.hyper`) included.
      step: `(state) -> (state, metrics)`; one training iteration.
      policy: `(state) -> Policy`.
      steps_per_iteration: environment steps made by one call of `step`, over all environments and devices; updates,
        for an offline algorithm.
      name, env, config, make: what was made from what, for the run folder and for sharding.
      data: the dataset of an algorithm that learns from one, `(state, data) -> (state, metrics)`: always an argument,
        since XLA would copy a constant into the program. None for others.
    """

    init: Callable[[Key], Any]
    step: Callable[..., tuple[Any, Metrics]]
    policy: Callable[[Any], Policy]
    steps_per_iteration: int
    name: str
    env: Environment
    config: Any
    make: Callable[..., "Algorithm"]
    data: Any = None


def require(config: Any, field: str, valid: bool, allowed: str) -> None:
    """Refuses a bad value of a config with one line: the field, the value and what is allowed."""
    if not valid:
        where = f"{type(config).__module__.rpartition('.')[2]}.{type(config).__name__}"
        raise Refused(f"{where}: {field} = {getattr(config, field)!r} is not allowed; it must be {allowed}")


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices over whose mesh axis an algorithm runs under `shard_map`, each with a share; without a name, one."""

    axis_name: str | None = None

    @property
    def count(self) -> int:
        return jax.lax.axis_size(self.axis_name) if self.axis_name else 1

    def mean(self, tree: PyTree) -> PyTree:
        """Averages over devices."""
        return jax.lax.pmean(tree, self.axis_name) if self.axis_name else tree

    def local(self, key: Key) -> Key:
        """A key of this device's own, for what must differ between devices."""
        return jax.random.fold_in(key, jax.lax.axis_index(self.axis_name)) if self.axis_name else key

    def environments(self, env: Environment, num_envs: int, reset_policy: ResetPolicy) -> AutoReset:
        """This device's share of `num_envs` environments, which report their episodes.

        Raises:
          ValueError: a field of the environment's states has a wrong type.
        """
        check_types(env)
        pool_size = pool_size_for(num_envs) // self.count
        return AutoReset(EpisodeStatistics(Guard.around(env)), num_envs // self.count, reset_policy, pool_size)


def discrete(env: Environment, name: str) -> tuple[int, bool]:
    """The number of actions, and whether observations are images.

    Raises:
      ValueError: actions are not `Discrete`, or observations neither a vector nor an image.
    """
    space, obs = env.action_space, env.observation_space
    if not isinstance(space, Discrete):
        raise Refused(f"{name} needs a Discrete action space, {env!r} has {space}")
    if not isinstance(obs, Box) or len(obs.shape) not in (1, 3):
        raise Refused(f"{name} needs observations [n] or [height, width, channels], {env!r} has {obs}")
    return space.n, is_image(env, name)


def is_image(env: Environment, name: str) -> bool:
    """Whether observations are images, [height, width, channels].

    Raises:
      ValueError: the channels come first, by the sizes of the axes.
    """
    shape = env.observation_space.shape
    if len(shape) != 3:
        return False
    if 2 * shape[0] <= min(shape[1:]):
        raise Refused(
            f"{name} needs images [height, width, channels], {env!r} has {list(shape)}: move channels to the end"
        )
    return True


def episode_metrics(metrics: dict[str, jax.Array], done: jax.Array, axis_name: str | None = None) -> Metrics:
    """What the environments of a rollout report, over all devices.

    Args:
      metrics: of `EpisodeStatistics` and the task, arrays [T, N].
      done: bool [T, N].

    Returns:
      `episode/return` and `episode/length` of the episodes that ended (NaN where none did); means of the others.
    """

    def mean(x: jax.Array) -> jax.Array:
        return jax.lax.pmean(x.mean(), axis_name) if axis_name else x.mean()

    ended = mean(done)
    rest = dict(metrics)
    totals = {f"episode/{name}": rest.pop(f"episode_{name}") for name in ("return", "length")}
    of_episodes = {name: mean(total * done) / jnp.where(ended > 0, ended, jnp.nan) for name, total in totals.items()}
    return of_episodes | {f"env/{name}": mean(x) for name, x in rest.items()}


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_from_dict(config_type: type, values: dict[str, Any]) -> Any:
    """The inverse of `config_to_dict`; unknown fields are refused, and values are checked as always."""
    known = {field.name for field in dataclasses.fields(config_type)}
    if unknown := sorted(set(values) - known):
        raise Refused(f"{config_type.__module__}.Config has no field {', '.join(unknown)}; it has {sorted(known)}")
    return config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
