"""What an object is, as plain JSON types: two that differ in a setting are told apart, in another process too."""

import dataclasses
import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rljax.spaces import Box


def identity(instance: Any) -> dict[str, Any]:
    """The class of an object that holds constants only, and those of its public attributes that can be described.

    Numbers, text, arrays, functions, trees and dataclasses of them, and environments (by their `spec`) can be. Anything
    else, such as a simulator, is left out; so is what a wrapper took over from its `env`.
    """
    inner = getattr(instance, "env", None)
    own = {
        name: value
        for name, value in sorted(vars(instance).items())
        if not name.startswith("_") and value is not getattr(inner, name, _UNKNOWN)
    }
    described = {name: _describe(value) for name, value in own.items()}
    constants = {name: value for name, value in described.items() if value is not _UNKNOWN}
    return {"class": _name(type(instance)), "constants": constants}


_UNKNOWN = object()
_SHOWN = 16
"""Elements of an array that is written out; a larger one is told by its hash."""


def _describe(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Box):
        return _describe(vars(value))
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return str(np.dtype(value))
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _describe_array(value)
    if isinstance(value, list | tuple):
        items = [_describe(item) for item in value]
        return _UNKNOWN if any(item is _UNKNOWN for item in items) else items
    if isinstance(value, Mapping):
        named = {str(name): _describe(item) for name, item in value.items()}
        return _UNKNOWN if any(item is _UNKNOWN for item in named.values()) else named
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _describe_callable(value)
    if isinstance(spec := getattr(value, "spec", None), dict):
        return spec
    if dataclasses.is_dataclass(value):
        return _describe({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    leaves = jax.tree.leaves(value)
    return _UNKNOWN if len(leaves) == 1 and leaves[0] is value else _describe(leaves)


def _describe_array(value: Any) -> Any:
    if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.dtype.kind in "biuf" and array.size <= _SHOWN:
        return array.tolist()
    return f"{array.dtype}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def _describe_callable(function: Any) -> str:
    """Its name; of a lambda, whose name says nothing, its text as well."""
    if function.__name__ != "<lambda>":
        return _name(function)
    try:
        return f"{_name(function)} {hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]}"
    except (OSError, TypeError):  # typed at a prompt
        return _name(function)


def _name(value: Any) -> str:
    return f"{value.__module__}:{value.__qualname__}"
