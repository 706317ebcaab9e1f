"""Replay on the device."""

from rljax.data.replay import Batch, Replay, ReplayState

__all__ = ["Batch", "Replay", "ReplayState"]
