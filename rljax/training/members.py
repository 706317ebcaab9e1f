"""The members of a run: their keys, and the values that a sweep gives them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from rljax.algorithms.core.contract import Algorithm
from rljax.data import Feed
from rljax.types import Key, Refused


def check_members(algorithm: Algorithm, key: Key, hyper: dict[str, Any] | None) -> tuple[Key, dict[str, np.ndarray]]:
    """The keys, [members] where there are members, and the swept values, every one checked by the config."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.ndim > 1:
        raise Refused("key must be made by jax.random.key, or be a one-dimensional array of such keys")
    swept = {name: np.asarray(values, np.float64) for name, values in (hyper or {}).items()}
    if not swept:
        return key, {}
    sizes = {values.shape for values in swept.values()} | ({key.shape} if key.ndim else set())
    if len(sizes) != 1 or len(next(iter(sizes))) != 1:
        raise Refused(f"keys and swept values must all be arrays of one length, got shapes {sorted(sizes)}")
    known = jax.eval_shape(algorithm.init, jax.random.key(0)).hyper.__dataclass_fields__
    for name, values in swept.items():
        if name not in known:
            raise Refused(f"{algorithm.name} cannot sweep {name!r}; it can sweep {', '.join(known)}")
        if name in getattr(algorithm.config, "fixed", ()):
            raise Refused(
                f"{algorithm.name} cannot sweep {name!r} under this config: what it learns from depends on it"
            )
        for value in values:
            # A whole one as an int, for the field may be one. Made, too: some settings are refused only beside an
            # environment or a dataset.
            value = int(value) if value.is_integer() else float(value)
            algorithm.remake(dataclasses.replace(algorithm.config, **{name: value}))
    if unread := sorted(set(swept) - read_hyperparameters(algorithm)):
        raise Refused(
            f"{algorithm.name} cannot sweep {', '.join(unread)}: nothing reads it under this config, and all members "
            "would be alike; its field in the config says what switches it on"
        )
    members = next(iter(sizes))[0]
    return (key if key.ndim else jnp.broadcast_to(key, (members,))), swept


def read_hyperparameters(algorithm: Algorithm) -> set[str]:
    """The hyperparameters that the next state, or the policy, depends on: the ones that a trace of both keeps.

    A value that is carried along unread, or read for something unused, is not among them.
    """
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    source = algorithm.data.example if isinstance(algorithm.data, Feed) else algorithm.data
    data = () if source is None else (jax.eval_shape(lambda x: x, source),)

    def use(hyper: Any, rest: Any, *data: Any) -> Any:
        state = rest.replace(hyper=hyper)
        after, _ = algorithm.step(state, *data)
        return after.replace(hyper=None), algorithm.policy(state)

    names = list(state.hyper.__dataclass_fields__)
    jaxpr = jax.make_jaxpr(use)(state.hyper, state.replace(hyper=None), *data).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return {name for name, read in zip(names, used) if read}


def seeds_of(keys: Key) -> list[int]:
    """The seeds that keys were made from, as far as a key shows them (its last two words)."""
    return [int(words[-2]) << 32 | int(words[-1]) for words in np.atleast_2d(np.asarray(jax.random.key_data(keys)))]
