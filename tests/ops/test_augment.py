"""Random shifts of images, against crops that are made by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.ops.augment import random_shift, shift_images


def test_each_image_is_one_of_the_shifts_and_all_of_them_come():
    image = jnp.arange(12.0).reshape(3, 4, 1)
    padded = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)), mode="edge")
    possible = [padded[y : y + 3, x : x + 4] for y in range(3) for x in range(3)]
    found = np.asarray(random_shift(jax.random.key(0), jnp.broadcast_to(image, (20, 10, 3, 4, 1)), 1)).reshape(
        200, 3, 4, 1
    )
    which = [[np.array_equal(x, y) for y in possible].index(True) for x in found]
    assert set(which) == set(range(9))


def test_only_images_are_shifted():
    obs = {"camera": jnp.eye(6)[None, :, :, None].astype(jnp.uint8), "state": jnp.ones((1, 3)), "words": jnp.array([2])}
    shifted = shift_images(jax.random.key(3), obs, 1, 2)
    assert shifted["camera"].dtype == jnp.uint8
    assert not np.array_equal(shifted["camera"], obs["camera"])
    for part in ("state", "words"):
        np.testing.assert_array_equal(shifted[part], obs[part])
    np.testing.assert_array_equal(shift_images(jax.random.key(3), obs, 1, 0)["camera"], obs["camera"])
