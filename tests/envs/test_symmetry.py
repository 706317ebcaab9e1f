"""Symmetries from their parts."""

import numpy as np
import pytest

from rljax.envs.symmetry import Image, affine, blocks_of

BLOCKS = blocks_of(left=2, right=2, time=1)


def test_parts_are_exchanged_and_reflected():
    mirror = affine(BLOCKS, {"left": Image("right", [1, -1]), "right": Image("left", [1, -1]), "time": Image("time")})
    np.testing.assert_array_equal(mirror(np.array([1.0, 2.0, 3.0, 4.0, 5.0])), [3, -4, 1, -2, 5])
    np.testing.assert_array_equal(mirror(mirror(np.arange(5.0))), np.arange(5.0))


def test_offsets_move_values_and_not_their_changes():
    images = {
        "left": Image("left", [[0, -1], [-1, 0]], 10.0),
        "right": Image("right"),
        "time": Image("time", -1.0, 3.0),
    }
    mirror = affine(BLOCKS, images)
    x = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    np.testing.assert_array_equal(mirror(x), [[8, 9, 3, 4, -2]])
    np.testing.assert_array_equal(mirror.velocity(x), [[-2, -1, 3, 4, -5]])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"left": Image("right"), "right": Image("left")}, "missing or unknown: time"),
        ({"left": Image("hand"), "right": Image("left"), "time": Image("time")}, "missing or unknown: hand"),
        (
            {"left": Image("time"), "right": Image("left"), "time": Image("time")},
            r"left from time takes a matrix \(2, 1\)",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        affine(BLOCKS, images)
