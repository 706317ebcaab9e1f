"""Networks and action distributions."""

from rljax.nn import distributions, initializers, networks

__all__ = ["distributions", "initializers", "networks"]
