"""Environments: the contract, the wrappers, auto-reset, and tasks by name."""

from typing import TYPE_CHECKING

from rljax.envs.auto_reset import AutoReset
from rljax.envs.check import check_env
from rljax.envs.environment import Environment, State, initial_state
from rljax.envs.registry import make, register, registered
from rljax.envs.wrappers import (
    ActionChunk,
    ActionRepeat,
    EpisodeStatistics,
    ExecutionMismatch,
    Guard,
    ObservationHistory,
    RescaleAction,
    TimeLimit,
    Wrapper,
)

if TYPE_CHECKING:
    import gymnasium

__all__ = [
    "ActionChunk",
    "ActionRepeat",
    "AutoReset",
    "Environment",
    "EpisodeStatistics",
    "ExecutionMismatch",
    "Guard",
    "ObservationHistory",
    "RescaleAction",
    "State",
    "TimeLimit",
    "Wrapper",
    "check_env",
    "initial_state",
    "make",
    "register",
    "registered",
    "to_gymnasium",
]


def to_gymnasium(env: Environment, render_mode: str | None = None, render_fps: int | None = None) -> "gymnasium.Env":
    """Makes a Gymnasium environment of ours, for libraries that train on those; Gymnasium is imported only here.

    Args:
      env: one environment, not a batch with auto-reset.
      render_mode: None, or "rgb_array" for frames by `env.render`.
      render_fps: frames per second that Gymnasium's video recorder assumes; where None, the environment's
        `control_rate`, or 30 if it has none.

    Raises:
      ValueError: Gymnasium is missing.
    """
    from rljax.envs.adapters.common import import_package

    import_package("to_gymnasium", "gymnasium", "gymnasium")
    from rljax.envs.adapters.to_gymnasium import GymnasiumEnv

    return GymnasiumEnv(env, render_mode, render_fps)
