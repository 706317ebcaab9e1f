"""Small maths with no state of its own: returns, running statistics, diagnostics."""

from rljax.ops import categorical, metrics, returns, running_statistics

__all__ = ["categorical", "metrics", "returns", "running_statistics"]
