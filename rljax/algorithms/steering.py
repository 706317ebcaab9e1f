"""Steering: RL chooses the noise from which a frozen diffusion or flow policy begins.

An action is [noise, chunk]; only the chunk, which the frozen policy made from the noise, is executed. Agents: dsrl.py
(dsrl_sac, dsrl_na), grrl.py (grrl_steer) and residual.py (a baseline). Steps and returns are the task's; grrl_steer
trains on success as its only reward.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.algorithms import diffusion
from rljax.algorithms.core.contract import Algorithm, continuous, sha256_of
from rljax.algorithms.core.experience import assemble
from rljax.algorithms.dsrl import DSRL_NA, Agent, AliasedAgent, Config
from rljax.algorithms.grrl import GRRL, PredictingAgent
from rljax.algorithms.progress import successes
from rljax.algorithms.residual import RESIDUAL, ResidualAgent
from rljax.data import Dataset
from rljax.data.chunks import in_chunks
from rljax.data.prepared import Prepared, check_spaces, in_unit, normalized
from rljax.envs import ActionChunk, Environment, ObservationHistory, RescaleAction
from rljax.envs.environment import State as EnvState
from rljax.envs.wrappers import Wrapper
from rljax.ops import running_statistics
from rljax.ops.history import tiled
from rljax.policy import Policy
from rljax.spaces import Box
from rljax.types import Key, PyTree, Refused

AGENTS: dict[str, type[Agent]] = {
    "dsrl_sac": Agent,
    "dsrl_na": AliasedAgent,
    "grrl_steer": PredictingAgent,
    "residual": ResidualAgent,
}
DEFAULTS: dict[str, Config] = {config.method: config for config in (Config(), DSRL_NA, GRRL, RESIDUAL)}
"""The settings of each method."""


class Steered(Wrapper):
    """An environment whose steps are chunks: of an action [noise, chunk] in [-1, 1] only the chunk is executed.

    Args:
      actions: the steered policy's box for [-1, 1], in units of `env`; the bounds where None.
    """

    def __init__(self, env: Environment, config: Config, actions: Box | None = None):
        sampler = config.sampler
        single = RescaleAction(ObservationHistory(env, sampler.history), actions)
        super().__init__(ActionChunk(single, sampler.executed))
        size = env.action_space.shape[0]  # type: ignore[union-attr]
        self.noise_size, self.chunk_size = config.own_noise * size, sampler.executed * size
        self.action_space = Box(-1.0, 1.0, (self.noise_size + self.chunk_size,))

    def step(self, state: EnvState, action: jax.Array) -> EnvState:
        return self.env.step(state, action[self.noise_size :])


class RewardSuccess(Wrapper):
    """Rewards `metrics["success"]`: success as the task defines it, and not any end of an episode."""

    def __init__(self, env: Environment):
        super().__init__(env)
        if "success" not in jax.eval_shape(env.reset, jax.random.key(0)).metrics:
            raise Refused(f"grrl_steer learns from success, and {env!r} has no metrics['success']")

    def step(self, state: EnvState, action: jax.Array) -> EnvState:
        after = self.env.step(state, action)
        return after.replace(reward=after.metrics["success"].astype(jnp.float32))


class Base(struct.PyTreeNode):
    """The steered policy.

    Fields:
      params: parameters of its denoiser.
      obs_statistics: statistics that normalise its observations.
      action_range: what -1 and 1 of its actions are in the environment's units, each [d]; the bounds where None.
    """

    params: PyTree
    obs_statistics: running_statistics.Statistics
    action_range: tuple[Any, Any] | None = None

    @property
    def actions(self) -> Box | None:
        """`action_range` as a box."""
        if self.action_range is None:
            return None
        low, high = self.action_range
        return Box(np.asarray(low), np.asarray(high))


def make(
    env: Environment,
    config: Config | None = None,
    base: Base | None = None,
    dataset: Dataset | Prepared | None = None,
) -> Algorithm:
    """Steering of a diffusion or flow policy in `env`.

    Args:
      env: the task, with steps of single actions.
      config: settings; `config.sampler` are those of the policy.
      base: the policy; without one, the algorithm can only load a policy.
      dataset: demonstrations in `env`, the share `config.offline_share` of each batch; needed only where it is not 0.

    Raises:
      ValueError: the environment's spaces do not fit, or the dataset does not fit them, or is missing.
    """
    c = config or Config()
    continuous(env, "steering", vectors=True)
    sampler = diffusion.Agent(c.sampler, env.observation_space, env.action_space)
    if base is None:
        unknown = sampler.init(jax.random.key(0)).params["policy"]
        base = Base(unknown, running_statistics.init(jnp.zeros(sampler.obs_size, jnp.float32)))
    told = RewardSuccess(env) if c.method == "grrl_steer" else env
    steered, statistics = Steered(told, c, base.actions), base.obs_statistics
    action_range = RescaleAction(env, base.actions).onto
    mean, m2 = (tiled(x, c.sampler.history) for x in (statistics.mean, statistics.m2))
    prepared = Prepared(None, statistics.replace(mean=mean, m2=m2), scale=c.reward_per_step / c.sampler.executed)
    if isinstance(dataset, Prepared):
        prepared = dataset
    elif dataset is not None and c.offline_share:
        prepared = dataclasses.replace(prepared, dataset=demonstrations(dataset, env, c, prepared, base.actions))
    acts_in = continuous(steered, "steering")
    agent = AGENTS[c.method](c, acts_in.observation_space, acts_in.action_space, sampler=sampler, base=base.params)

    def remake(config: Config) -> Algorithm:
        return make(env, config, base, prepared)

    algorithm = assemble("steering", steered, agent, remake, prepared, random_start=True, acts_in=acts_in)

    def policy(state: Any) -> Policy:
        variables = {
            "params": state.learner.frozen["base"],
            "obs_statistics": base.obs_statistics,
            "action_range": action_range,
            "steering": state.params["policy"],
        }

        def chunk_of(variables: PyTree, obs: jax.Array, key: Key, deterministic: bool) -> jax.Array:
            parts = {"params": variables["steering"], "base": variables["params"]}
            acted, _, _ = agent.act(parts, obs, (), key, deterministic)
            return acted[..., steered.noise_size :].reshape(*obs.shape[:-1], c.sampler.executed, -1)

        return diffusion.chunked_policy(sampler, env, variables, chunk_of)

    return algorithm._replace(policy=policy, env=env, identity=lambda: {"base_sha256": identity(base)})


def demonstrations(
    dataset: Dataset, env: Environment, config: Config, prepared: Prepared, actions: Box | None = None
) -> Dataset:
    """A dataset of single steps in the form of `Steered`, ready to learn from; the noise, which is unknown, is 0."""
    check_spaces(dataset, env.observation_space, env.action_space)
    if config.method == "grrl_steer":
        succeeded = np.zeros(dataset.size, np.float32)
        succeeded[dataset.ends - 1] = successes(dataset, env)
        dataset = dataset.replace(reward=succeeded)
    space: Any = env.action_space
    unit = in_unit(actions or space, dataset.action)
    chunks = in_chunks(dataset.replace(action=unit), config.sampler.history, config.sampler.executed)
    noise = np.zeros((chunks.size, config.own_noise * unit.shape[1]), np.float32)
    obs, next_obs = chunks.obs, chunks.next_obs
    if config.normalize_observation:
        obs, next_obs = (normalized(prepared.statistics, x) for x in (obs, next_obs))
    done = f"{chunks.metadata.normalization}, rewards times {prepared.scale:.6g}"
    return chunks.replace(
        obs=obs,
        next_obs=next_obs,
        action=np.concatenate([noise, chunks.action], axis=1),
        next_action=np.concatenate([noise, chunks.next_action], axis=1),
        reward=np.float32(chunks.reward * prepared.scale),
        metadata=dataclasses.replace(dataset.metadata, normalization=done),
    ).discounted(config.discount)


def base_of(policy: Policy) -> Base:
    """The `base` that `make` takes, from a policy that diffusion.py trained."""
    of = policy.variables
    return Base(of["params"], of["obs_statistics"], of["action_range"])


def identity(base: Base) -> str:
    """The SHA-256 of all arrays of a policy that is steered, in hexadecimal; a resumed run must find it again."""
    return sha256_of(base)
