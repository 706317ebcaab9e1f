"""Descriptions of objects as plain JSON types, which tell settings apart, in another process too."""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import types
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np

from rljax.spaces import Box


def identity(instance: Any) -> dict[str, Any]:
    """The class of an object that holds constants only, and its public attributes that can be described.

    Numbers, text, arrays, functions, trees and dataclasses of them, and environments (by their `spec`) can be. Anything
    else, such as a simulator, is left out; so are attributes that a wrapper took over from its `env`.
    """
    inner = getattr(instance, "env", None)
    own = {
        name: value
        for name, value in sorted(vars(instance).items())
        if not name.startswith("_") and value is not getattr(inner, name, _UNKNOWN)
    }
    with _opened(instance):
        described = {name: _describe(value) for name, value in own.items()}
    return {"class": _name(type(instance)), "constants": _known(described)}


def describe(function: Any) -> Any:
    """A function as plain JSON types: its name, and the values that it holds besides its code.

    These are the arguments of a partial, the variables of a closure, defaults, the object of a method, and the
    attributes of a callable object, as far as they can be described (see `identity`). A lambda, whose name says
    nothing, is described by its text as well. Global variables that it reads are not part of it.
    """
    return _held(function)


_UNKNOWN = object()
_SHOWN = 16
"""Most elements of an array that is written out; a larger one is described by its hash."""
_open: ContextVar[tuple[int, ...]] = ContextVar("_open", default=())
"""The objects being described: an environment may hold a function that holds it."""


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
    if isinstance(value, type):
        return _name(value)
    if id(value) in _open.get():
        return "itself"
    with _opened(value):
        return _describe_object(value)


def _describe_object(value: Any) -> Any:
    if isinstance(value, functools.partial) or (callable(value) and hasattr(value, "__name__")):
        return _describe_callable(value)
    if isinstance(spec := getattr(value, "spec", None), dict):
        return spec
    if dataclasses.is_dataclass(value):
        return _describe({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1 or leaves[0] is not value:
        return _describe(leaves)
    return identity(value) if callable(value) and hasattr(value, "__dict__") else _UNKNOWN


def _describe_array(value: Any) -> Any:
    if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.dtype.kind in "biuf" and array.size <= _SHOWN:
        return array.tolist()
    return f"{array.dtype}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def _describe_callable(function: Any) -> Any:
    """The name of a callable, with the values that it holds if there are any."""
    if isinstance(function, functools.partial):
        arguments, keywords = [_held(x) for x in function.args], _all_held(function.keywords)
        return {"partial": _held(function.func), "arguments": arguments, "keywords": keywords}
    code, held = inspect.unwrap(function), {}  # what is compiled wraps what was written
    if isinstance(code, types.MethodType):
        held["of"] = _held(code.__self__)
    elif isinstance(code, types.FunctionType):
        held["captured"] = _all_held(dict(_captured(code)))
        held["defaults"] = [_held(x) for x in code.__defaults__ or ()]
        held["keywords"] = _all_held(code.__kwdefaults__ or {})
    held = {name: value for name, value in held.items() if value not in ({}, [])}
    return {"function": _text(function)} | held if held else _text(function)


def _captured(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # there is nothing in it yet
            yield name, cell.cell_contents


def _all_held(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _held(value) for name, value in sorted(values.items())}


def _held(value: Any) -> Any:
    """A value that a function holds; an object, such as an agent with its config, by its class and attributes."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    described = _describe(value)
    if described is not _UNKNOWN:
        return described
    return identity(value) if hasattr(value, "__dict__") else _name(type(value))


def _known(described: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in described.items() if value is not _UNKNOWN}


def _text(function: Any) -> str:
    """The name of a function; for a lambda, whose name says nothing, its text as well."""
    if getattr(function, "__name__", "") != "<lambda>":
        return _name(function)
    try:
        return f"{_name(function)} {hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]}"
    except (OSError, TypeError):  # typed at a prompt
        return _name(function)


def _name(value: Any) -> str:
    return f"{value.__module__}:{getattr(value, '__qualname__', value.__name__)}"


@contextlib.contextmanager
def _opened(value: Any) -> Iterator[None]:
    before = _open.set((*_open.get(), id(value)))
    try:
        yield
    finally:
        _open.reset(before)
