"""A dataset as an agent learns from it: normalised, scaled, its actions in [-1, 1]."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from rljax.data.dataset import Dataset
from rljax.ops import running_statistics
from rljax.spaces import ArraySpace, Box, as_given, example, parts
from rljax.types import PyTree, Refused

ActionNormalization = Literal["minmax", "quantiles", "bounds"]
QUANTILES = (0.01, 0.99)
"""Quantiles that become -1 and 1 under "quantiles", as in openpi."""
RewardScale = Literal["none", "returns"] | float
"""Scale of rewards: none; returns, 1000 / (highest - lowest return of an episode); or a factor."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A dataset made ready, and the scales that make an environment's experience alike.

    Fields:
      dataset: a `Dataset`, or chunks that are sampled in its place; None is enough to load a policy.
      statistics: statistics with which the observations were normalised; empty where they were not.
      scale, bias: the rewards were multiplied by one, then the other was added.
      actions: the box that is [-1, 1] for the agent, in the environment's units; None stands for the bounds.
      after_truncation: return-to-go after the end of a truncated episode.
    """

    dataset: Any
    statistics: running_statistics.Statistics
    scale: float = 1.0
    bias: float = 0.0
    actions: Box | None = None
    after_truncation: float = 0.0


def prepare(
    dataset: Dataset | Prepared | None,
    observation_space: Any,
    action_space: Any,
    config: Any,
    action_normalization: ActionNormalization = "bounds",
) -> Prepared:
    """Makes a dataset ready, on the host; one that is ready already stays as it is.

    Args:
      config: has normalize_observation, reward_scale, reward_bias, discount, calibrated and learns_from_rewards.
      action_normalization: see `action_box`.

    Raises:
      ValueError: observations or actions are not of these spaces, or the rewards cannot be scaled, or there are none.
    """
    if isinstance(dataset, Prepared):
        return dataset
    nothing = running_statistics.init(example(observation_space), observation_space)
    if dataset is None:
        return Prepared(None, nothing)
    name = dataset.metadata.name
    check_spaces(dataset, observation_space, action_space)
    if config.learns_from_rewards:
        dataset.require_rewards()
    statistics = nothing
    # Whole numbers are numbers: a vector's type does not say what is learned from it.
    obs, next_obs = (as_given(observation_space, x, np) for x in (dataset.obs, dataset.next_obs))
    if config.normalize_observation:
        statistics = dataset.replace(obs=obs, next_obs=next_obs).statistics(observation_space)
        obs, next_obs = (normalized(statistics, x) for x in (obs, next_obs))
    box = action_box(dataset.action, action_space, action_normalization)
    action, next_action = (in_unit(box, x) for x in (dataset.action, dataset.next_action))
    scale = 1.0 if isinstance(config.reward_scale, str) else float(config.reward_scale)
    if config.reward_scale == "returns":
        if (spread := np.ptp(dataset.returns)) == 0:
            raise Refused(f"{name}: all episodes have the same return, so reward_scale = 'returns' is not possible")
        scale = float(1000.0 / spread)
    reward = (np.asarray(dataset.reward) * scale + config.reward_bias).astype(np.float32)
    before = dataset.metadata.normalization
    steps = [before] * (before != "none") + ["observations normalised"] * config.normalize_observation
    steps += [
        f"rewards times {scale:.6g} plus {config.reward_bias:g}",
        f"actions in [-1, 1] of their {action_normalization}",
    ]
    # The fingerprint is the read data's: computed values may differ by rounding from machine to machine.
    metadata = dataclasses.replace(dataset.identified().metadata, normalization=", ".join(steps))
    ready = dataset.replace(
        obs=obs, next_obs=next_obs, action=action, next_action=next_action, reward=reward, metadata=metadata
    )
    beyond = lowest_to_come(reward, config.discount) if config.calibrated else 0.0
    return Prepared(ready.discounted(config.discount, beyond), statistics, scale, config.reward_bias, box, beyond)


def action_box(action: Any, space: Box, how: ActionNormalization) -> Box:
    """The part of a space of actions that is to be [-1, 1], after the actions [N, d] of a dataset.

    minmax: from the data's least to their greatest value in each dimension, as in Diffusion Policy (arXiv 2303.04137).
      quantiles: between the data's 1st and 99th percentile; values beyond are clipped. bounds: the whole space, of
      which data may use a small part. A dimension that never varies is one value in the first two.
    """
    if how not in get_args(ActionNormalization):
        raise Refused(f"action_normalization = {how!r} is not allowed; it must be minmax, quantiles or bounds")
    if how == "bounds":
        return space
    ends = (0.0, 1.0) if how == "minmax" else QUANTILES
    low, high = np.clip(np.quantile(np.asarray(action), ends, axis=0), space.low, space.high)
    return Box(low, high)


def in_unit(box: Box, action: Any) -> np.ndarray:
    """Actions [..., d] of the environment in an agent's units, clipped to the box; on the host."""
    return np.clip(box.to_unit(np.asarray(action)), -1.0, 1.0).astype(np.float32)


def lowest_to_come(reward: np.ndarray, discount: float) -> float:
    """A lower bound of the return after a cut: the least reward of all [N] for ever, or 0 if that is less.

    For an episode that fails a task with a sparse reward r it makes every return-to-go r / (1 - γ), as in the code of
    Nakamoto et al. 2023 (Cal-QL). -inf where no bound is known, γ = 1.
    """
    least = min(float(reward.min()), 0.0)
    if discount < 1.0:
        return least / (1.0 - discount)
    return -np.inf if least else 0.0


def normalized(statistics: running_statistics.Statistics, x: PyTree) -> PyTree:
    """`running_statistics.normalize` on the host: a dataset that is streamed does not fit on the device."""
    return running_statistics.normalize(statistics, jax.tree.map(np.asarray, x), on_host=True)


def check_spaces(dataset: Dataset, observation_space: Any, action_space: Any) -> None:
    """Refuses observations or actions that are not of these spaces, in one line."""
    name = dataset.metadata.name
    found = flatten_dict(dataset.obs, sep="/") if isinstance(dataset.obs, Mapping) else {"": dataset.obs}
    wanted = parts(observation_space)
    if set(found) != set(wanted):
        have, need = (", ".join(filter(None, sorted(x))) or "(none)" for x in (found, wanted))
        raise Refused(f"{name}: observations have the parts {have}, the environment's {need}")
    action = np.asarray(dataset.action)
    shapes = {f"observations {part}".strip(): (x.shape[1:], wanted[part].shape) for part, x in found.items()}
    for what, (shape, expected) in (shapes | {"actions": (action.shape[1:], action_space.shape)}).items():
        if shape != expected:
            raise Refused(f"{name}: {what} have the shape {list(shape)}, the environment's {list(expected)}")
    for obs in (dataset.obs, dataset.next_obs):
        for part, x in (flatten_dict(obs, sep="/") if isinstance(obs, Mapping) else {"": obs}).items():
            _check_values(f"{name}: observations {part}".rstrip(), np.asarray(x), wanted[part])
    if action.dtype.kind != "f":
        raise Refused(f"{name}: actions are of type {action.dtype}, as choices are; they must be floating point")
    low, high = action.min(0), action.max(0)
    if (low < action_space.low - 1e-4).any() or (high > action_space.high + 1e-4).any():
        raise Refused(
            f"{name}: actions go from {low.min():g} to {high.max():g}, the environment allows "
            f"{action_space.low.min():g} to {action_space.high.max():g}"
        )


def _check_values(what: str, x: np.ndarray, space: ArraySpace) -> None:
    """Refuses images of another type than the space's, and choices that are not of the space."""
    image = isinstance(space, Box) and len(space.shape) == 3
    if image and x.dtype != space.dtype:
        raise Refused(f"{what} are images of type {x.dtype}, and the environment's of {np.dtype(space.dtype)}")
    if isinstance(space, Box):
        return
    if x.dtype.kind not in "iu":
        raise Refused(f"{what} are of type {x.dtype}, and must be whole numbers, for the environment's are {space}")
    least, most = x.min(0), x.max(0)
    if (least < 0).any() or (most >= np.asarray(space.n)).any():
        raise Refused(f"{what} go from {least.min()} to {most.max()}, and the environment's are {space}")
