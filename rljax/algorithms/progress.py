"""A critic of progress, and a filter of demonstrations by it: steps that set the task back are not imitated.

GR-RL (ByteDance Seed 2025, arXiv 2512.01801, section 3.1): a distributional critic on [0, 1] learns by TD3+BC, from a
reward at the end of successes, how far a task is; where its value falls, a human had slipped. Two simpler critics are
here to compare with: one that regresses the share of time that has passed, and one without distributions
(`Config(num_atoms=0)`).

The caller says which episodes have succeeded; in a task that terminates at success alone, all that terminate have
(`Environment.terminates_at_success`). One critic may learn several tasks, as GR-RL's does: `joined`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms import td3, td3_bc
from rljax.algorithms.core.contract import Algorithm, continuous
from rljax.algorithms.core.offline import assemble, in_batches
from rljax.config import Count, Fraction
from rljax.data import Dataset, concatenate
from rljax.data.prepared import Prepared, check_spaces, in_unit
from rljax.envs import Environment
from rljax.envs.spaces_only import SpacesOnly
from rljax.ops import running_statistics
from rljax.spaces import as_given
from rljax.types import PyTree, Refused

Target = Literal["reward", "time"]


@dataclasses.dataclass(frozen=True)
class Config(td3_bc.Config):
    """Settings of the progress critic; further ones are TD3+BC's."""

    learns_from_rewards: ClassVar[bool] = False

    target: Target = "reward"
    """Target of the critic: reward, the discounted reward of the last steps before success; time, the share of an
    episode that has passed."""
    rewarded_steps: Count = 10
    """Number k of steps with a reward at the end of a success; nothing is expected after them."""
    num_atoms: td3.NumAtoms = 51
    """Number of atoms of the distribution; 0 for a critic without distributions."""
    value_min: float = 0.0
    """Smallest atom of the support, the lowest progress."""
    value_max: float = 1.0
    """Largest atom of the support, the highest progress."""
    discount: Fraction = 0.99
    """Discount γ: progress is about γ to the number of steps that are left."""


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    succeeded: Any = None,
) -> Algorithm:
    """A progress critic of a dataset.

    Args:
      env: the dataset's task; used for its spaces, `terminates_at_success`, and evaluation (of TD3+BC's policy, a
        by-product).
      config: settings; the defaults where None.
      dataset: demonstrations; see `with_failures` for what to add.
      succeeded: see `successes`.

    Raises:
      Refused: the environment's spaces do not fit, or the dataset does not fit them, or nothing in it succeeds.
    """
    c = config or Config()
    if isinstance(dataset, Dataset):
        dataset = relabelled(dataset, c, successes(dataset, env, succeeded))
    return assemble("progress", env, c, td3_bc.Agent, make, dataset)


def successes(dataset: Dataset, env: Environment, succeeded: Any = None) -> np.ndarray:
    """Which episodes of a dataset have succeeded: bool [episodes].

    Args:
      succeeded: the same, where it is known; where None they are those that terminate, if success alone terminates.

    Raises:
      Refused: an episode of `env` may terminate for another reason, or `succeeded` has another length.
    """
    name, count = dataset.metadata.name, len(dataset.ends)
    if succeeded is None:
        if not env.unwrapped.terminates_at_success:
            raise Refused(
                f"{name}: an episode of {env!r} that terminates may have failed; succeeded= must say which have not"
            )
        return np.asarray(dataset.terminated)[dataset.ends - 1]
    succeeded = np.asarray(succeeded, bool)
    if succeeded.shape != (count,):
        raise Refused(f"{name}: succeeded has the shape {succeeded.shape}, and must be [{count}], of its episodes")
    return succeeded


def relabelled(dataset: Dataset, config: Config, succeeded: Any = None) -> Dataset:
    """The dataset with the rewards that the critic learns from.

    reward: γ^(T - t) in the last k steps of a success, each of which terminates: so the value of a step is γ to the
    number of steps that are left. Failures terminate without a reward. time: t / T of successes alone, each step for
    itself.

    Args:
      succeeded: bool [episodes]; those that terminate where None.

    Raises:
      ValueError: no episode succeeds.
    """
    if succeeded is None:
        succeeded = np.asarray(dataset.terminated)[dataset.ends - 1]
    if not np.any(succeeded):
        raise Refused(f"{dataset.metadata.name}: no episode succeeds, so that none shows what success is")
    position = np.arange(dataset.size)
    episode = np.searchsorted(dataset.ends, position, side="right")
    left = dataset.ends[episode] - 1 - position
    if config.target == "time":
        passed = (position - dataset.starts[episode]) / np.maximum(dataset.ends - dataset.starts - 1, 1)[episode]
        every = dataset.replace(reward=passed.astype(np.float32), terminated=np.ones(dataset.size, bool))
        return jax.tree.map(lambda x: np.asarray(x)[succeeded[episode]], every)
    rewarded = succeeded[episode] & (left < config.rewarded_steps)
    reward = np.where(rewarded, config.discount**left, 0.0).astype(np.float32)
    return dataset.replace(reward=reward, terminated=rewarded | (left == 0), truncated=np.zeros_like(rewarded))


def with_failures(dataset: Dataset, retry: Any) -> Dataset:
    """Adds, as failures, the beginning of an episode up to each retry.

    Args:
      retry: bool [N], at which steps a new try begins.
    """
    retry = np.asarray(retry, bool)
    episode = np.searchsorted(dataset.ends, np.arange(dataset.size), side="right")
    parts = [dataset]
    for at in np.flatnonzero(retry):
        start = dataset.starts[episode[at]]
        if at == start:
            continue
        part = jax.tree.map(lambda x: np.asarray(x)[start:at], dataset)  # noqa: B023
        last = np.arange(at - start) == at - start - 1
        parts.append(part.replace(terminated=np.zeros_like(last), truncated=last))
    return concatenate(parts)


def joined(envs: Sequence[Environment], datasets: Sequence[Dataset]) -> tuple[SpacesOnly, list[Dataset]]:
    """Several tasks in one pair of spaces, for one critic of all: a stand-in for their environment, and their data.

        env, parts = joined(envs, datasets)
        algorithm = make(env, config, concatenate(parts))
        ...
        first = progress(algorithm, state, parts[0])

    Observations are padded with zeros to the largest task's size and followed by the task's number (one-hot); actions
    are scaled from their own bounds to [-1, 1] and padded likewise. A task counts by its number of steps.

    Args:
      envs, datasets: of each task; only the spaces count.

    Raises:
      ValueError: different numbers of environments and datasets, or a dataset does not fit its environment's spaces.
    """
    if not envs or len(envs) != len(datasets):
        raise Refused(f"progress: {len(envs)} environments and {len(datasets)} datasets; there must be one for each")
    for env, dataset in zip(envs, datasets):
        continuous(env, "progress", vectors=True)
        check_spaces(dataset, env.observation_space, env.action_space)
    obs_size, action_size = (max(x.shape[-1] for x in xs) for xs in zip(*((d.obs, d.action) for d in datasets)))

    def padded(x: Any, size: int) -> np.ndarray:
        return np.pad(np.asarray(x, np.float32), ((0, 0), (0, size - np.shape(x)[1])))

    def part(task: int, space: Any, d: Dataset) -> Dataset:
        which = np.tile(np.eye(len(envs), dtype=np.float32)[task], (d.size, 1))
        obs, next_obs = (np.concatenate([padded(x, obs_size), which], 1) for x in (d.obs, d.next_obs))
        action, following = (padded(in_unit(space, x), action_size) for x in (d.action, d.next_action))
        return d.replace(obs=obs, next_obs=next_obs, action=action, next_action=following)

    spaces = SpacesOnly(obs_size + len(envs), [-1.0] * action_size, [1.0] * action_size)
    spaces.terminates_at_success = all(env.unwrapped.terminates_at_success for env in envs)
    return spaces, [part(i, env.action_space, d) for i, (env, d) in enumerate(zip(envs, datasets))]


def progress(algorithm: Algorithm, state: Any, dataset: Dataset, batch_size: int = 4096) -> np.ndarray:
    """Progress at each step of a dataset, with the recorded actions: [N], the mean of both critics."""
    c, space = algorithm.config, algorithm.env.action_space
    agent: Any = algorithm.agent

    @jax.jit
    def values(obs: PyTree, action: jax.Array) -> jax.Array:
        obs = as_given(algorithm.env.observation_space, obs)
        obs = running_statistics.normalize(state.obs_statistics, obs) if c.normalize_observation else obs
        output = agent.critics(state.params["critic"], obs, jnp.clip(space.to_unit(action), -1.0, 1.0))  # type: ignore[union-attr]
        return agent.value(output).mean(0)

    return in_batches(values, batch_size, dataset.obs, dataset.action)


def drops(progress: Any, ends: Any, threshold: float, within: int, relative: bool = False) -> np.ndarray:
    """At which steps progress [N] falls by more than `threshold` (δ) in the next `within` steps (k): bool [N].

    Args:
      ends: where each episode ends, exclusive; later steps do not count.
      relative: the threshold is a share of the progress made; falling back by n steps is 1 - γ^n, early or late.
    """
    progress = np.asarray(progress, np.float64)
    lowest = _ahead(progress, ends, within).min(0)
    return progress - lowest > threshold * (np.maximum(progress, _LEAST) if relative else 1.0)


def stalls(progress: Any, ends: Any, terminated: Any, gain: float, within: int) -> np.ndarray:
    """At which steps progress [N] does not grow by the share `gain` in the next `within` steps: bool [N].

    No drop does not mean progress: in n steps at a demonstration's pace, progress grows by γ^-n - 1.

    Args:
      ends: as of `drops`.
      terminated: bool [N]; the last `within` steps before one of these do not stall.
    """
    progress, ends = np.asarray(progress, np.float64), np.asarray(ends)
    last = ends[np.searchsorted(ends, np.arange(len(progress)), side="right")] - 1
    arrives = np.asarray(terminated, bool)[last] & (last - np.arange(len(progress)) < within)
    return (_ahead(progress, ends, within).max(0) <= np.maximum(progress, _LEAST) * (1 + gain)) & ~arrives


_LEAST = 0.01
"""Progress below which critics cannot tell it from none."""


def _ahead(progress: np.ndarray, ends: Any, within: int) -> np.ndarray:
    """Progress at each step and at those that follow in its episode, [within + 1, N]."""
    ends, position = np.asarray(ends), np.arange(len(progress))
    last = ends[np.searchsorted(ends, position, side="right")] - 1
    return progress[np.minimum(position + np.arange(within + 1)[:, None], last)]


class Detection(NamedTuple):
    """How well a filter finds faults.

    Fields:
      precision: share of the dropped steps that lie in a fault, or lead to one.
      recall: share of the faults that are found.
      dropped: share of all steps that are dropped.
    """

    precision: float
    recall: float
    dropped: float


def detection(dropped: Any, faults: Any, ends: Any, lead: int) -> Detection:
    """Compares dropped steps, bool [N], with labelled ones.

    Args:
      faults: bool [N]; consecutive steps are one fault.
      lead: number of steps before a fault that count as leading to it; a fault is found if one of them, or of its own,
        is dropped.
    """
    dropped, faults, ends = np.asarray(dropped, bool), np.asarray(faults, bool), np.asarray(ends)
    position = np.arange(len(faults))
    first = np.concatenate([[0], ends[:-1]])[np.searchsorted(ends, position, side="right")]
    begins = faults & ~np.where(position > first, np.roll(faults, 1), False)
    near, found = faults.copy(), []
    for start in np.flatnonzero(begins):
        until = start + 1
        while until < len(faults) and faults[until] and first[until] == first[start]:
            until += 1
        begin = max(start - lead, first[start])
        near[begin:start] = True
        found.append(dropped[begin:until].any())
    precision = float(near[dropped].mean()) if dropped.any() else float("nan")
    return Detection(precision, float(np.mean(found)) if found else float("nan"), float(dropped.mean()))
