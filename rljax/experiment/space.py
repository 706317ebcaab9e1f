"""The space of a search: which values each hyperparameter may have, in the words of a command line."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rljax.types import Refused

_FORM = "NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=VALUE,VALUE,…, such as learning_rate=1e-4..1e-2:log"


class Range(NamedTuple):
    """All numbers from `low` to `high`; with `log` drawn by their logarithm; whole ones where both ends are."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Range | tuple[str, ...]]
"""By the name of a setting, a range or the texts of its values."""


def parse(texts: Sequence[str] | Mapping[str, str]) -> dict[str, Range | tuple[str, ...]]:
    """The space that texts such as `learning_rate=1e-4..1e-2:log` and `hidden=64,128` describe.

    Raises:
      Refused: a text of another form, a range without numbers in it, or a name that is given twice.
    """
    entries = [(name, text) for name, text in texts.items()] if isinstance(texts, Mapping) else []
    if not isinstance(texts, Mapping):
        for text in texts:
            name, equals, values = text.partition("=")
            if not equals or not name.strip() or not values.strip():
                raise Refused(f"{text!r} is not allowed in a space; it must look like {_FORM}")
            entries.append((name.strip().replace("-", "_"), values.strip()))
    names = [name for name, _ in entries]
    if twice := [name for name in names if names.count(name) > 1]:
        raise Refused(f"the space names {twice[0]} twice; give all its values at once")
    return {name: _one(name, text) for name, text in entries}


def _one(name: str, text: str) -> Range | tuple[str, ...]:
    if ".." not in text:
        values = tuple(value.strip() for value in text.split(","))
        if "" in values or len(set(values)) < len(values):
            raise Refused(f"{name}={text} is not allowed in a space; its values must be different, with commas between")
        return values
    ends, colon, scale = text.partition(":")
    low, _, high = ends.partition("..")
    try:
        if scale != ("log" if colon else ""):
            raise ValueError
        found = Range(_number(low), _number(high), bool(colon))
    except ValueError:
        raise Refused(f"{name}={text} is not allowed in a space; it must look like {_FORM}") from None
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high):
        raise Refused(f"{name}={text} is not allowed in a space; the low end must be below the high one")
    if found.log and found.low <= 0:
        raise Refused(f"{name}={text} is not allowed in a space; a logarithmic range must be above 0")
    return found


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def changed(settings: Any, values: Mapping[str, Any]) -> Any:
    """The settings of an experiment with other values, of its own fields or of its config's.

    Args:
      values: by name, a number, or a text, which is read as a value of the field's kind: `64x32` as the widths of two
        layers, and `64` as those of as many layers as there are.

    Raises:
      Refused: there is no such setting, or the text is of another kind, or the config refuses the value.
    """
    own = {field.name for field in dataclasses.fields(settings)} - {"config", "run", "env"}
    config = {field.name for field in dataclasses.fields(settings.config)}
    for name in values:
        if name not in own | config:
            raise Refused(f"there is no setting {name!r}; there are {', '.join(sorted(own | config))}")
    ours = {name: _read(name, value, getattr(settings, name)) for name, value in values.items() if name in own}
    theirs = {n: _read(n, value, getattr(settings.config, n)) for n, value in values.items() if n not in own}
    return dataclasses.replace(settings, **ours, config=dataclasses.replace(settings.config, **theirs))


def _read(name: str, value: Any, like: Any) -> Any:
    """A value from the command line, of the kind that the setting has now."""
    if isinstance(value, float) and isinstance(like, int) and not isinstance(like, bool) and value.is_integer():
        return int(value)
    if not isinstance(value, str) or isinstance(like, str):
        return value
    if isinstance(like, tuple):
        parts = value.split("x")
        if not all(part.isdecimal() for part in parts):
            raise Refused(f"{name} = {value!r} is not allowed; it must be whole numbers, such as 64x64")
        return tuple(map(int, parts)) * (max(1, len(like)) if len(parts) == 1 else 1)
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return words[value.lower()]
    try:
        return int(value) if isinstance(like, int) and not isinstance(like, bool) else _number(value)
    except ValueError:
        return value  # which the config refuses, or has for a word


def flags(settings: Any, values: Mapping[str, Any]) -> str:
    """The flags that give an experiment these values, as far as they are not its own already."""
    after = changed(settings, values)
    shown = []
    for name in values:
        place = after if hasattr(after, name) else after.config
        value, flag = getattr(place, name), f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            shown.append(flag if value else f"--no-{flag[2:]}")
        else:
            text = " ".join(map(str, value)) if isinstance(value, tuple) else repr(value)
            shown.append(f"{flag} {text.strip(chr(39))}")
    return " ".join(shown)
