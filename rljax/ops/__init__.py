"""Small maths with no state of its own: returns, running statistics, exploration, diagnostics."""

from rljax.ops import categorical, exploration, metrics, returns, running_statistics

__all__ = ["categorical", "exploration", "metrics", "returns", "running_statistics"]
