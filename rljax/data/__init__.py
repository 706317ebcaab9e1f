"""Replay on the device, and offline datasets."""

from rljax.data.dataset import Dataset, Metadata, OfflineBatch, concatenate, normalized_score
from rljax.data.replay import Batch, Replay, ReplayState
from rljax.data.stream import Feed, Stream

__all__ = [
    "Batch",
    "Dataset",
    "Feed",
    "Metadata",
    "OfflineBatch",
    "Replay",
    "ReplayState",
    "Stream",
    "concatenate",
    "normalized_score",
]
