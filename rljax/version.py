"""The release of this code, as in pyproject.toml."""

__version__ = "0.2.0"
