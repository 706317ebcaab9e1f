"""Histories of observations: the newest of them side by side along the last axis, the oldest first.

A history of vectors [n] is a vector [length * n]; one of images [height, width, channels] has length * channels
channels; one of single numbers is a vector [length], and one of choices is several choices. So it is an observation
like any other.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.spaces import Box, Dict, Discrete, MultiDiscrete, Space
from rljax.types import PyTree


def space_of(space: Space, length: int) -> Space:
    """The space of histories of this length."""
    if length == 1:
        return space
    if isinstance(space, Dict):
        return Dict({name: space_of(inner, length) for name, inner in space.spaces.items()})
    if not isinstance(space, Box):
        return MultiDiscrete(((space.n,) if isinstance(space, Discrete) else space.n) * length)
    low, high = (np.tile(x if x.ndim else x[None], length) for x in (space.low, space.high))
    return Box(low, high, dtype=space.dtype)


def beginning(space: Space, obs: PyTree, length: int) -> PyTree:
    """The history [..., shape of its space] of a first observation [..., shape of the space], which stands for all."""
    if length == 1:
        return obs
    if isinstance(space, Dict):
        return {name: beginning(inner, obs[name], length) for name, inner in space.spaces.items()}
    return jnp.tile(obs if space.shape else jnp.asarray(obs)[..., None], length)


def pushed(history: PyTree, obs: PyTree, length: int) -> PyTree:
    """A history [..., shape of its space] after another observation [..., shape of the space]."""
    if length == 1:
        return obs

    def push(history: jax.Array, newest: jax.Array) -> jax.Array:
        newest = newest if newest.ndim == history.ndim else newest[..., None]
        return jnp.concatenate([history[..., newest.shape[-1] :], newest], axis=-1)

    return jax.tree.map(push, history, obs)


def side_by_side(frames: Any) -> Any:
    """Frames [batch, length, …] to histories [batch, …]; NumPy's from NumPy's."""
    batch, length, *shape = frames.shape
    if length == 1:
        return frames[:, 0]
    if not shape:
        return frames
    xp: Any = np if isinstance(frames, np.ndarray) else jnp
    return xp.moveaxis(frames, 1, -2).reshape(batch, *shape[:-1], length * shape[-1])


def tiled(statistics: PyTree, length: int) -> PyTree:
    """Statistics of single observations for their histories; a scalar belongs to a part that has none."""
    return jax.tree.map(lambda x: jnp.tile(x, length) if jnp.ndim(x) else x, statistics)
