"""Environments: the contract, the wrappers, auto-reset, and tasks by name."""

from rljax.envs.auto_reset import AutoReset
from rljax.envs.environment import Environment, State, initial_state
from rljax.envs.registry import make, register, registered
from rljax.envs.wrappers import ActionRepeat, EpisodeStatistics, RescaleAction, TimeLimit, Wrapper

__all__ = [
    "ActionRepeat",
    "AutoReset",
    "Environment",
    "EpisodeStatistics",
    "RescaleAction",
    "State",
    "TimeLimit",
    "Wrapper",
    "initial_state",
    "make",
    "register",
    "registered",
]
