"""Small maths with no state of its own: returns, running statistics, diagnostics."""

from rljax.ops import metrics, returns, running_statistics

__all__ = ["metrics", "returns", "running_statistics"]
