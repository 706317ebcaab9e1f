"""Configs: the values that fields allow, how others are refused, and conversion to and from JSON.

A field's type says what is allowed: `Literal`, `int`, or one of the types below, as in `discount: Fraction = 0.99`.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Collection
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Must:
    """A constraint on a field, in its `Annotated` type.

    Fields:
      allowed: what is allowed, in words that follow "it must be".
      holds: whether a value is allowed.
    """

    allowed: str
    holds: Callable[[Any], bool]

    def or_none(self) -> "Must":
        """The same constraint, for a field that may be None too."""
        return Must(f"{self.allowed}, or None", lambda x: x is None or self.holds(x))


def one_of(names: Collection[str]) -> Must:
    """The constraint that a value is one of these names."""
    return Must(f"one of {', '.join(names)}", tuple(names).__contains__)


Positive = Annotated[float, Must("positive", lambda x: x > 0)]
NonNegative = Annotated[float, Must("0 or more", lambda x: x >= 0)]
Fraction = Annotated[float, Must("in [0, 1]", lambda x: 0 <= x <= 1)]
Share = Annotated[float, Must("in (0, 1]", lambda x: 0 < x <= 1)]
BelowOne = Annotated[float, Must("in [0, 1)", lambda x: 0 <= x < 1)]
Whole = Annotated[int, Must("0 or more", lambda x: x >= 0)]
Count = Annotated[int, Must("at least 1", lambda x: x >= 1)]
Atoms = Annotated[int, Must("at least 2", lambda x: x >= 2)]
Widths = Annotated[tuple[int, ...], Must("at least 1 in each layer", lambda widths: all(x >= 1 for x in widths))]


@dataclasses.dataclass(frozen=True)
class Config:
    """The base of every config: refuses values that the types of the fields do not allow.

    A subclass checks what relates several fields in its `__post_init__`, after `super().__post_init__()`, by `require`.
    """

    def __post_init__(self) -> None:
        check(self)


def check(config: Any) -> None:
    """Refuses the first field of a dataclass whose type does not allow its value."""
    for field, musts in _musts_of_fields(config.__class__).items():
        for must in musts:
            require(config, field, must.holds(getattr(config, field)), must.allowed)


def require(config: Any, field: str, valid: bool, allowed: str) -> None:
    """Refuses a bad value of a config with one line: the field, the value and what is allowed."""
    if not valid:
        raise Refused(f"{_where(config)}: {field} = {getattr(config, field)!r} is not allowed; it must be {allowed}")


@functools.cache
def _musts_of_fields(config_type: type) -> dict[str, list[Must]]:
    hints = get_type_hints(config_type, include_extras=True)
    return {field.name: _musts(hints[field.name]) for field in dataclasses.fields(config_type)}


def _musts(hint: Any) -> list[Must]:
    """The constraints of a type: the annotated ones, and then the type's own."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:  # the type first: what else is asked of a number fails for a text
        return _musts(parts[0]) + [part for part in parts[1:] if isinstance(part, Must)]
    if kind in (Union, UnionType) and len(parts) == 2 and NoneType in parts:
        return [must.or_none() for part in parts for must in _musts(part)]
    if kind is Literal:
        return [one_of(parts)]
    return _TYPES.get(hint, [])


def _is_number(value: Any) -> bool:
    """Whether it is one number, of Python, NumPy or JAX, and no truth value; infinity and NaN are numbers, too."""
    if value is None or isinstance(value, bool | str | bytes | np.bool_):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number: JAX would only refuse 2.0 in the middle of something else."""
    try:
        return _is_number(operator.index(value)) and not isinstance(value, bool)
    except TypeError:
        return False


def _each(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, tuple | list) and all(holds(value) for value in values)


_TYPES: dict[Any, list[Must]] = {
    bool: [Must("True or False", lambda x: isinstance(x, bool))],
    float: [Must("a number", _is_number)],
    int: [Must("whole, as an int is", _is_whole)],
    tuple[int, ...]: [Must("whole, as an int is", _each(_is_whole))],
    tuple[str, ...]: [Must("a tuple of names", _each(lambda x: isinstance(x, str)))],
}
"""Constraints of types that have no annotation."""


def _where(config: Any) -> str:
    return f"{type(config).__module__.rpartition('.')[2]}.{type(config).__name__}"


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON types (see `plain`).

    Raises:
      Refused: a value that JSON cannot hold, or that its field's type does not allow, with the field's name.
    """
    check(config)
    return plain(config, _where(config))


def config_from_dict(config_type: type, values: dict[str, Any]) -> Any:
    """The inverse of `config_to_dict`; unknown fields are refused, and values are checked as always."""
    known = {field.name for field in dataclasses.fields(config_type)}
    if unknown := sorted(set(values) - known):
        raise Refused(f"{config_type.__module__}.Config has no field {', '.join(unknown)}; it has {sorted(known)}")
    values = from_plain(values)
    return config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def plain(value: Any, where: str = "value") -> Any:
    """A value as plain JSON types: numbers of NumPy and JAX as Python's; what is not finite as a word, such as "inf".

    Args:
      where: what the value is called in an error.

    Raises:
      Refused: it holds something that JSON cannot.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(x, f"{where}.{name}") for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x, f"{where}[{index}]") for index, x in enumerate(value)]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return plain(value.item(), where)
    raise Refused(
        f"{where} is a {type(value).__name__}, which config.json cannot hold; it must be a number, a text, or a tuple"
    )


def from_plain(value: Any) -> Any:
    """The inverse of `plain`, but for the types of containers: words such as "inf" become numbers."""
    if isinstance(value, dict):
        return {name: from_plain(x) for name, x in value.items()}
    if isinstance(value, list):
        return [from_plain(x) for x in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
