"""Mirrored datasets."""

import numpy as np
import pytest

from rljax.data.mirror import mirror, with_mirror
from rljax.envs.manipulation.push_t import PushT
from rljax.envs.symmetry import Image, Symmetry, affine, blocks_of
from tests.datasets import dataset_of

PARTS = blocks_of(left=1, right=1)
SWAP = affine(PARTS, {"left": Image("right", -1.0), "right": Image("left", -1.0)})
TURN = affine(blocks_of(push=1), {"push": Image("push", -1.0, 1.0)})


def data():
    obs = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    return dataset_of(obs, [[0.0], [1.0], [3.0]], [7.0, 8.0, 9.0], obs + 1, truncated=[0, 1, 1], name="mine")


def test_the_mirror_by_hand():
    mirrored = mirror(data(), Symmetry(SWAP, TURN, SWAP))
    np.testing.assert_array_equal(mirrored.obs, [[-2, -1], [-4, -3], [-6, -5]])
    np.testing.assert_array_equal(mirrored.next_obs, [[-3, -2], [-5, -4], [-7, -6]])
    np.testing.assert_array_equal(mirrored.action, [[1], [0], [-2]])
    np.testing.assert_array_equal(mirrored.next_action, [[0], [0], [-2]])
    np.testing.assert_array_equal(mirrored.reward, [7, 8, 9])
    assert mirrored.obs.dtype == np.float32


def test_with_the_mirror_there_is_twice_as_much_and_episodes_stay_apart():
    both = with_mirror(data(), Symmetry(SWAP, TURN, SWAP))
    np.testing.assert_array_equal(both.obs[:3], data().obs)
    assert both.ends.tolist() == [2, 3, 5, 6]
    np.testing.assert_array_equal(both.returns, [15, 9, 15, 9])


def test_another_tasks_symmetry_is_refused():
    with pytest.raises(ValueError, match=r"mine: observations have the shape \(2,\), the symmetry \[6\]"):
        mirror(data(), PushT.symmetry)
