"""The members of a run by their flags: seeds and sweeps."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rljax import training
from rljax.experiment.settings import LARGEST_SEED, Run
from rljax.types import Key, Refused


def keys_of(seeds: Sequence[int]) -> Key:
    """The keys [seeds] of seeds up to 2^63 - 1: those of `jax.random.key`, which drops all bits of a seed but 32."""
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise Refused(f"seed = {seed} is not allowed; it must be from 0 to {LARGEST_SEED}")
    words = np.asarray(seeds, np.uint64)
    keys = jax.vmap(jax.random.key)((words & np.uint64(2**32 - 1)).astype(np.uint32))
    upper = (words >> np.uint64(32)).astype(np.uint32)
    if not upper.any():
        return keys
    data = np.array(jax.random.key_data(keys))
    data[:, 0::2] = upper[:, None]  # where JAX puts them if jax_enable_x64 is on
    return jax.random.wrap_key_data(jnp.asarray(data), impl=str(jax.random.key_impl(keys)))


def members_of(settings: Run) -> tuple[list[int], dict[str, np.ndarray] | None]:
    """The seed of each member and the swept values of each: every setting of the grid with every seed."""
    grid: dict[str, list[float]] = {}
    for name, values in _swept(settings).items():
        if ".." not in values:
            grid[name] = _numbers(name, values, ",")
        elif settings.population is None:
            raise Refused(f"sweep = '{name}={values}' is not allowed without --population; list values: {name}=1,2")
    seeds = range(settings.seed, settings.seed + settings.seeds)
    members = list(itertools.product(*grid.values(), seeds))
    if len(members) == 1 and grid:
        raise Refused(f"sweep = {settings.sweep} has one value; set it as a flag of its own")
    hyper = {name: np.array([member[i] for member in members]) for i, name in enumerate(grid)}
    return [int(member[-1]) for member in members], hyper or None


def population_of(settings: Run) -> training.PopulationBased | None:
    """The population of the flags, with the ranges among --sweep; None for none."""
    if settings.population is None:
        return None
    ranges = {}
    for name, text in _swept(settings).items():
        if ".." in text:
            low, *high = _numbers(name, text, "..")
            ranges[name] = (low, *high)
    if not ranges:
        raise Refused(f"population = {settings.population} needs a range in --sweep, such as learning_rate=1e-5..1e-2")
    method = {"pbt": training.PopulationBased, "halving": training.SuccessiveHalving}[settings.population]
    return method(ranges, settings.population_every)  # type: ignore[arg-type]  # which refuses other lengths


def _swept(settings: Run) -> dict[str, str]:
    """The texts of the values of --sweep, by name."""
    swept: dict[str, str] = {}
    for text in settings.sweep:
        name, _, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if name in swept:
            raise Refused(f"sweep = {settings.sweep} names {name} twice; give all its values at once")
        swept[name] = values.strip()
    return swept


def _numbers(name: str, text: str, separator: str) -> list[float]:
    try:
        return [float(value) for value in text.split(separator)]
    except ValueError:
        found = f"{name}={text}" if text else name
        raise Refused(f"sweep = {found!r} is not allowed; it must look like learning_rate=1e-4,3e-4") from None
