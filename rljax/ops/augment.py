"""Augmentation of images that a learner of values is shown."""

from typing import Any

import jax
import jax.numpy as jnp

from rljax.types import Key, PyTree

SHIFT_STREAM = 0x5417
"""Keys of the shifts of a batch are `fold_in(key, this)`: `split` folds in small numbers, and a large one cannot
collide with them."""


def random_shift(key: Key, images: jax.Array, most: int) -> jax.Array:
    """Images [..., height, width, channels], each shifted by up to `most` pixels, with its edges repeated.

    Kostrikov, Yarats and Fergus 2020, "Image augmentation is all you need" (DrQ, arXiv 2004.13649), section 3.1.
    """
    *batch, height, width, channels = images.shape
    flat = images.reshape(-1, height, width, channels)
    padded = jnp.pad(flat, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    places = jax.random.randint(key, (flat.shape[0], 2), 0, 2 * most + 1)

    def crop(image: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (place[0], place[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, places).reshape(*batch, height, width, channels)


def shift_batch(key: Key, batch: Any, most: int) -> Any:
    """A batch [batch, …] whose images are shifted by up to `most` pixels, those of `obs` and `next_obs` apart."""
    if not most:
        return batch
    names = [name for name in ("obs", "next_obs") if name in batch.__dataclass_fields__]
    keys = jax.random.split(jax.random.fold_in(key, SHIFT_STREAM))
    shifted = {name: shift_images(k, getattr(batch, name), 1, most) for k, name in zip(keys, names, strict=False)}
    return batch.replace(**shifted)


def shift_images(key: Key, obs: PyTree, leading: int, most: int) -> PyTree:
    """`random_shift` of all images among observations with `leading` axes before their own."""
    leaves, structure = jax.tree.flatten(obs)
    keys = jax.random.split(key, len(leaves))
    shifted = [random_shift(k, x, most) if x.ndim == leading + 3 else x for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, shifted)
