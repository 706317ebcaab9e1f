"""What the adapters share: packages that may be missing, names that may be wrong."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from rljax.types import PyTree, Refused


def import_package(prefix: str, package: str, install: str) -> Any:
    """Imports an optional package.

    Raises:
      ValueError: it, or something it imports, is missing; `install` is what to hand to pip.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise Refused(f"{prefix}: needs {package}: pip install {install} ({error})") from error


def unknown_name(prefix: str, name: str, known: Iterable[str]) -> Refused:
    """The error for a task that the library does not have, in one line, with the near ones first."""
    names = {other.lower(): other for other in known}
    near = [names[other] for other in difflib.get_close_matches(name.lower(), names)]
    suggestion = f"did you mean {' or '.join(near)}? " if near else ""
    listed = ", ".join(sorted(names.values()))
    return Refused(f"unknown environment '{prefix}:{name}'; {suggestion}known: {listed}")


def like(new: PyTree, old: PyTree) -> PyTree:
    """`new` as arrays of the types of `old`: a state that changes its types from step to step cannot be scanned."""

    def convert(new: Any, old: jax.Array) -> jax.Array:
        return new if jnp.issubdtype(old.dtype, jax.dtypes.prng_key) else jnp.asarray(new, old.dtype)

    return jax.tree.map(convert, new, old)
