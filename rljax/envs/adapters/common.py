"""What the adapters share: packages that may be missing, names and spaces that may be wrong."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from rljax.spaces import Box
from rljax.types import Key, PyTree, Refused


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
    """The error for a task that the library does not have, in one line, with similar names first."""
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


def box(name: str, low: Any, high: Any, shape: Any, dtype: Any = jnp.float32) -> Box:
    """A library's bounds as a `Box`, after they were checked.

    Raises:
      Refused: they are no bounds; `name` names the environment and its space.
    """
    try:
        return Box(low, high, tuple(shape), dtype)
    except Refused as error:
        raise Refused(f"{name}: {error}") from None


def check_observation(name: str, declared: Any, observed: Any) -> None:
    """Raises `Refused` where a reset's observation has another shape than the observation space."""
    if tuple(declared) != tuple(observed):
        raise Refused(
            f"{name}: a reset shows {list(observed)}, but the observation space is {list(declared)}; they must agree"
        )


def rekey(tree: PyTree, key: Key) -> PyTree:
    """`tree` with every random key in it drawn anew, and nothing else changed.

    A reset state may be copied, and copies that keep its key see the same noise.
    """
    leaves, structure = jax.tree.flatten(tree)
    for i, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            key, own = jax.random.split(key)
            bits = jax.random.bits(own, jax.random.key_data(leaf).shape, jnp.uint32)
            leaves[i] = jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
    return jax.tree.unflatten(structure, leaves)
