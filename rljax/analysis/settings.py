"""Settings of runs: those that differ between runs, and those that are not the defaults."""

from collections.abc import Sequence
from typing import Any

from rljax.analysis.runs import Run, format_value
from rljax.types import Refused


def flat(value: Any, name: str = "") -> dict[str, str]:
    """The leaves of nested dictionaries as texts, by their path, such as "config.sampler.steps"."""
    if isinstance(value, dict):
        pairs = (flat(x, f"{name}.{key}" if name else str(key)) for key, x in value.items())
        return {path: text for part in pairs for path, text in part.items()}
    if isinstance(value, list):
        return {name: f"[{', '.join(_text(x) for x in value)}]"}
    return {name: _text(value)}


def settings_of(run: Run) -> dict[str, str]:
    """All that config.json says of a run, as texts by path, without its keys."""
    parts = ("algorithm", "env", "config", "data", "settings", "total_steps")
    return flat({part: run.config.get(part) for part in parts if run.config.get(part) is not None})


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings in which runs differ: name to the value in each, a dash where a run has none."""
    read = [settings_of(run) for run in runs]
    names = dict.fromkeys(name for settings in read for name in settings)
    values = {name: [settings.get(name, "–") for settings in read] for name in names}
    return {name: found for name, found in values.items() if len(set(found)) > 1}


def defaults_of(run: Run) -> dict[str, str]:
    """The defaults of the settings of a run's algorithm, by name; empty for an algorithm that rljax does not have."""
    from rljax import algorithms
    from rljax.config import config_to_dict

    try:
        return flat(config_to_dict(algorithms.get(run.algorithm).Config()))
    except (Refused, TypeError):  # TypeError: a config without defaults
        return {}


def _text(value: Any) -> str:
    return format_value(value) if isinstance(value, float) else str(value)
