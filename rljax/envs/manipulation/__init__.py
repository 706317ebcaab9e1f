"""Manipulation tasks: with named parts of observations and actions, stages, and success."""

from rljax.envs.manipulation.task import ManipulationTask, Progress

__all__ = ["ManipulationTask", "Progress"]
