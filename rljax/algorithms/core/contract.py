"""The algorithm contract: pure functions, and what the runner needs to know about them."""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax import devices
from rljax.algorithms.core.agent import Agent
from rljax.data.chunks import digest
from rljax.envs import AutoReset, Environment, EpisodeStatistics, Guard, RescaleAction
from rljax.envs.auto_reset import ResetPolicy, pool_size_for
from rljax.envs.check import check_types
from rljax.envs.identity import describe
from rljax.nn.encoder import is_image
from rljax.ops import running_statistics
from rljax.ops.trees import chosen
from rljax.policy import Policy
from rljax.spaces import ArraySpace, Box, Discrete, as_given, parts
from rljax.types import Key, Mean, Metrics, PyTree, Refused


class Algorithm(NamedTuple):
    """Pure functions, made by `<algorithm>.make(env, config)`, and what they were made from.

    Fields:
      init: `(key) -> state`; everything that training carries, hyperparameters (`state.hyper`) included.
      step: `(state) -> (state, metrics)`, or `(state, data) -> …` with a dataset; one training iteration.
      policy: `(state) -> Policy`.
      agent: the agent, for callers that need more of it, such as values; None where there is none.
      name, env, config: for the run folder.
      per_iteration: units of training that one call of `step` makes, over all environments and devices.
      unit: what `per_iteration` counts: environment steps, or updates.
      remake: `(config) -> Algorithm`, the same with other settings; it refuses what `make` refuses.
      data: the dataset of an algorithm that learns from one. It is always an argument of `step`, since XLA would copy a
        constant into the program.
      identity: its further inputs, by name, such as the SHA-256 of a steered policy or a custom network in words.
        config.json holds them, and a resumed run must match.
      evaluate: `(state, key) -> scores`, f32 [] by name, in place of episodes, for an algorithm that has none: pure, as
        `step` is. The highest "score", where there is one, decides which checkpoint and which policies are the best.
      loop: the `Loop` that it was assembled from, for what takes its place in part, such as actors in threads
        (training/sebulba.py) or elsewhere (rljax.remote); None where there is none.
    """

    init: Callable[[Key], Any]
    step: Callable[..., tuple[Any, Metrics]]
    policy: Callable[[Any], Policy]
    agent: Agent | None
    name: str
    env: Environment
    config: Any
    per_iteration: int
    unit: Literal["steps", "updates"]
    remake: Callable[[Any], "Algorithm"]
    data: Any = None
    identity: Callable[[], dict[str, str]] | None = None
    evaluate: Callable[[Any, Key], dict[str, jax.Array]] | None = None
    loop: Any = None


def sha256_of(tree: PyTree, *functions: Callable) -> str:
    """The SHA-256 of a tree's arrays and of the descriptions of functions (see `identity.describe`), in hexadecimal."""
    lines = [f"{jax.tree_util.keystr(path)} {digest(x)}" for path, x in jax.tree_util.tree_leaves_with_path(tree)]
    lines += [json.dumps(describe(function), sort_keys=True) for function in functions]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def policy_of(agent: Agent, env: Environment, state: Any) -> Policy:
    """The policy of an agent: it normalises, asks the agent, and rescales to the environment's units.

    Args:
      env: the environment with actions in the agent's units, as `continuous` makes it.
      state: a training state.

    Returns:
      A policy with the variables that `agent.acting` gives, "obs_statistics" and, where actions are rescaled,
      "action_range": what -1 and 1 are in the environment's units.
    """
    normalize, space = agent.config.normalize_observation, agent.observation_space
    variables = {"obs_statistics": state.obs_statistics, **agent.acting(state.learner, state.hyper)}
    if isinstance(env, RescaleAction):
        variables["action_range"] = env.onto
    # Without the data's box, which is among the variables: so a loaded policy is the same.
    rescale = RescaleAction(env.env).rescale if isinstance(env, RescaleAction) else None

    def act(
        variables: PyTree, key: Key, obs: PyTree, memory: PyTree, deterministic: bool
    ) -> tuple[jax.Array, PyTree, PyTree]:
        obs = as_given(space, obs)
        obs = running_statistics.normalize(variables["obs_statistics"], obs) if normalize else obs
        action, memory, extras = agent.act(variables, obs, memory, key, deterministic)
        if rescale is not None:
            action = rescale(action, variables["action_range"])
        return action, memory, extras

    return Policy(variables, agent.initial_memory, act)


class Loop:
    """What the loops share. They hold constants; what changes is in their `State`.

    Args:
      name: name of the algorithm.
      env: one environment, with actions in the agent's units: for a bounded `Box`, in [-1, 1].
      agent: what learns.
      per_iteration, unit: see `Algorithm`.
    """

    def __init__(
        self, name: str, env: Environment, agent: Agent, per_iteration: int, unit: Literal["steps", "updates"] = "steps"
    ):
        self.name, self.env, self.agent, self.per_iteration, self.unit = name, env, agent, per_iteration, unit
        self.config: Any = agent.config

    def init(self, key: Key) -> Any:
        raise NotImplementedError

    def step(self, state: Any, *data: Any) -> tuple[Any, Metrics]:
        raise NotImplementedError

    def policy(self, state: Any) -> Policy:
        return policy_of(self.agent, self.env, state)

    def normalize(self, statistics: running_statistics.Statistics, obs: PyTree) -> PyTree:
        if not self.config.normalize_observation:
            return obs
        return running_statistics.normalize(statistics, as_given(self.env.observation_space, obs))

    def environments(self) -> AutoReset:
        """This device's share of the config's environments."""
        c = self.config
        return environments(self.env, c.num_envs, c.reset_policy, c.random_age)

    def algorithm(
        self,
        env: Environment,
        remake: Callable[[Any], Algorithm],
        data: Any = None,
        network: nn.Module | None = None,
    ) -> Algorithm:
        """The algorithm of this loop.

        Args:
          env: the task, in which policies act.
          remake, data: see `Algorithm`.
          network: the custom network that the agent was made with.
        """
        return Algorithm(
            init=self.init,
            step=self.step,
            policy=self.policy,
            agent=self.agent,
            name=self.name,
            env=env,
            config=self.config,
            per_iteration=self.per_iteration,
            unit=self.unit,
            remake=remake,
            data=data,
            identity=identity_of(network),
            loop=self,
        )


def environments(env: Environment, num_envs: int, reset_policy: ResetPolicy, random_age: bool = False) -> AutoReset:
    """This device's share of `num_envs` environments, which report their episodes.

    Raises:
      Refused: a field of the environment's states has a wrong type.
    """
    check_types(env)
    pool_size = pool_size_for(num_envs) // devices.count()
    counted = EpisodeStatistics(Guard.around(env))
    return AutoReset(counted, num_envs // devices.count(), reset_policy, pool_size, random_age)


def in_words(network: nn.Module) -> str:
    """A network's class and settings on one line; without addresses, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(network).split()))


def identity_of(network: nn.Module | None) -> Callable[[], dict[str, str]] | None:
    """The `Algorithm.identity` of a custom network: its class and settings in words, since folders hold no code."""
    return None if network is None else lambda: {"network": in_words(network)}


def for_each(memory: PyTree, count: int) -> PyTree:
    """Memory of one environment for all of them, leaves [count, …]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), memory)


def cleared(memory: PyTree, fresh: jax.Array, initial: PyTree) -> PyTree:
    """Memory [num_envs, …], with that of a new episode, `initial`, in environments that are `fresh`."""
    return chosen(fresh, initial, memory)


def discrete(env: Environment, name: str, config: Any, network: nn.Module | None) -> None:
    """Checks that an algorithm for discrete actions fits an environment.

    Raises:
      Refused: actions are not `Discrete`, images have their channels first, or settings make no sense for an image.
    """
    if not isinstance(env.action_space, Discrete):
        raise Refused(f"{name} needs a Discrete action space, {env!r} has {env.action_space}")
    observable(env, name)
    no_layer = not config.hidden and network is None
    if is_image(env.observation_space) and (no_layer or config.normalize_observation):
        field = "hidden = ()" if no_layer else "normalize_observation = True"
        raise Refused(f"{name}.Config: {field} is not allowed for images")


def any_actions(env: Environment, name: str, config: Any, network: nn.Module | None) -> Environment:
    """The environment with actions in the agent's units, be they choices or vectors.

    Each action of a vector that has both bounds is rescaled; one that has a single bound is clipped to it.

    Raises:
      Refused: actions are neither `Discrete`, `MultiDiscrete` nor a one-dimensional `Box`; images have their channels
        first, or settings make no sense for an image.
    """
    space = env.action_space
    if not isinstance(space, ArraySpace) or (isinstance(space, Box) and len(space.shape) != 1):
        raise Refused(
            f"{name} needs a Discrete, MultiDiscrete or one-dimensional Box action space, {env!r} has {space}"
        )
    observable(env, name)
    if is_image(env.observation_space) and not config.hidden and network is None:
        raise Refused(f"{name}.Config: hidden = () is not allowed for images; it must have one width or more")
    return RescaleAction(env) if isinstance(space, Box) and not space.unbounded else env


def continuous(env: Environment, name: str, actions: Box | None = None, vectors: bool = False) -> RescaleAction:
    """The environment with actions in [-1, 1], mapped to its bounds or to the box `actions`.

    Args:
      vectors: whether observations must be vectors.

    Raises:
      Refused: actions are not a bounded, one-dimensional `Box`; observations are no vector, where they must be, or
        images have their channels first.
    """
    space, obs = env.action_space, env.observation_space
    if not isinstance(space, Box) or len(space.shape) != 1 or not space.bounded:
        raise Refused(f"{name} needs a one-dimensional Box of actions with bounds, {env!r} has {space}")
    if vectors and not (isinstance(obs, Box) and len(obs.shape) == 1):
        raise Refused(f"{name} needs observations [n], {env!r} has {obs}")
    observable(env, name)
    return RescaleAction(env, actions)


def observable(env: Environment, name: str) -> None:
    """Checks the observations, part by part.

    Raises:
      Refused: the channels of an image come first, by the sizes of the axes.
    """
    for part, space in parts(env.observation_space).items():
        shape = list(space.shape)
        if 0 in shape:
            raise Refused(f"{name} needs observations with something in them, {env!r} has {shape} {part}".rstrip())
        if len(shape) == 3 and 2 * shape[0] <= min(shape[1:]):
            where = f" as {part!r}" if part else ""
            raise Refused(
                f"{name} needs images [height, width, channels], {env!r} has {shape}{where}: move channels to the end"
            )


def episode_metrics(metrics: dict[str, jax.Array], done: jax.Array) -> Metrics:
    """Metrics of a rollout's environments, over all devices.

    Args:
      metrics: of `EpisodeStatistics` and the task, arrays [T, N].
      done: bool [T, N].

    Returns:
      `episode/return` and `episode/length` over the episodes that ended; the others over all steps at which they are
      finite, since a task need not report each at every step.
    """
    rest = dict(metrics)
    means = {f"episode/{name}": Mean.of(rest.pop(f"episode_{name}"), done) for name in ("return", "length")}
    means |= {f"env/{name}": Mean.of(x, jnp.isfinite(x)) for name, x in rest.items()}
    return devices.total(means)
