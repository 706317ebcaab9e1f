"""The algorithm contract: three pure functions, and what the runner needs to know about them."""

import dataclasses
import hashlib
import json
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from rljax.data.chunks import digest
from rljax.envs import AutoReset, Environment, EpisodeStatistics, Guard
from rljax.envs.auto_reset import ResetPolicy, pool_size_for
from rljax.envs.check import check_types
from rljax.envs.identity import describe
from rljax.spaces import Box, Discrete
from rljax.types import Key, Mean, Metrics, PyTree, Refused


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
      identity: what else it was given and does not learn, such as the policy that is steered: the SHA-256 of each, by
        name, which config.json holds. A resumed run must find it again.
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
    identity: Callable[[], dict[str, str]] | None = None


def sha256_of(tree: PyTree, *functions: Callable) -> str:
    """The SHA-256 of all arrays of a tree, and of what functions are (see `identity.describe`), in hexadecimal."""
    lines = [f"{jax.tree_util.keystr(path)} {digest(x)}" for path, x in jax.tree_util.tree_leaves_with_path(tree)]
    lines += [json.dumps(describe(function), sort_keys=True) for function in functions]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def require(config: Any, field: str, valid: bool, allowed: str) -> None:
    """Refuses a bad value of a config with one line: the field, the value and what is allowed."""
    if not valid:
        raise Refused(f"{_where(config)}: {field} = {getattr(config, field)!r} is not allowed; it must be {allowed}")
    _require_whole(config, field)


def _require_whole(config: Any, field: str) -> None:
    """Refuses 2.0 in a field of type int, for JAX would only refuse it in the middle of something else."""
    value, kind = getattr(config, field), type(config).__dataclass_fields__[field].type
    if kind not in (int, int | None, tuple[int, ...], tuple[int, ...] | None) or value is None:
        return
    try:
        for number in value if isinstance(value, tuple | list) else (value,):
            operator.index(number)
    except TypeError:
        raise Refused(f"{_where(config)}: {field} = {value!r} is not allowed; it must be whole, as an int is") from None


def _where(config: Any) -> str:
    return f"{type(config).__module__.rpartition('.')[2]}.{type(config).__name__}"


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
      `episode/return` and `episode/length` over the episodes that ended; the others over all steps at which they are
      finite, since a task may have nothing to say of some.
    """
    rest = dict(metrics)
    means = {f"episode/{name}": Mean.of(rest.pop(f"episode_{name}"), done) for name in ("return", "length")}
    means |= {f"env/{name}": Mean.of(x, jnp.isfinite(x)) for name, x in rest.items()}
    return jax.lax.psum(means, axis_name) if axis_name else means


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON types (see `plain`).

    Raises:
      Refused: a value that JSON cannot hold, or a fraction where a whole number is needed, with the field's name.
    """
    for field in dataclasses.fields(config):
        _require_whole(config, field.name)
    return plain(config, _where(config))


def config_from_dict(config_type: type, values: dict[str, Any]) -> Any:
    """The inverse of `config_to_dict`; unknown fields are refused, and values are checked as always."""
    known = {field.name for field in dataclasses.fields(config_type)}
    if unknown := sorted(set(values) - known):
        raise Refused(f"{config_type.__module__}.Config has no field {', '.join(unknown)}; it has {sorted(known)}")
    values = from_plain(values)
    return config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def plain(value: Any, where: str = "value") -> Any:
    """A value as plain JSON types: numbers of NumPy and JAX as Python's; what is not finite as a word, such as "inf".

    Args:
      where: what the value is called in an error.

    Raises:
      Refused: it holds something that JSON cannot.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(x, f"{where}.{name}") for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x, f"{where}[{index}]") for index, x in enumerate(value)]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return plain(value.item(), where)
    raise Refused(
        f"{where} is a {type(value).__name__}, which config.json cannot hold; it must be a number, a text, or a tuple"
    )


def from_plain(value: Any) -> Any:
    """The inverse of `plain`, but for the types of containers: words such as "inf" become numbers."""
    if isinstance(value, dict):
        return {name: from_plain(x) for name, x in value.items()}
    if isinstance(value, list):
        return [from_plain(x) for x in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
