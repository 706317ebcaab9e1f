"""Windows of a dataset, by hand."""

import jax
import numpy as np
import pytest

from rljax.data.chunks import Chunks
from tests.datasets import dataset_of

# Two episodes, of 3 and of 2 steps; observations 0 … 4, actions ten times that.
DATA = dataset_of(
    np.arange(5)[:, None], 10 * np.arange(5)[:, None], np.zeros(5), truncated=np.array([0, 0, 1, 0, 1]), name="mine"
)


def on_device(chunks):
    return jax.tree.map(jax.numpy.asarray, chunks)


def test_windows_end_and_begin_with_their_episode():
    chunks = on_device(Chunks.of(DATA, history=3, horizon=3, label=[0, 1, 0, 1, 1], weight=[1, 1, 0, 1, 0.5]))
    batch = jax.jit(lambda key: chunks.sample(key, 200))(jax.random.key(0))
    expected = {
        0: ([0, 0, 0], [0, 10, 20], 0, 1.0),
        1: ([0, 0, 1], [10, 20, 20], 1, 1.0),
        2: ([0, 1, 2], [20, 20, 20], 0, 0.0),
        3: ([3, 3, 3], [30, 40, 40], 1, 1.0),
        4: ([3, 3, 4], [40, 40, 40], 1, 0.5),
    }
    newest = np.asarray(batch.obs[:, -1]).astype(int)
    assert set(newest) == set(expected)
    for row, at in enumerate(newest):
        obs, action, label, weight = expected[at]
        assert batch.obs[row].tolist() == obs
        assert batch.action[row, :, 0].tolist() == action
        assert (batch.label[row], batch.weight[row]) == (label, weight)


def test_steps_are_drawn_uniformly():
    chunks = on_device(Chunks.of(DATA, 1, 1))
    batch = jax.jit(lambda key: chunks.sample(key, 20_000))(jax.random.key(1))
    np.testing.assert_allclose(np.bincount(np.asarray(batch.obs[:, 0]).astype(int)) / 20_000, 0.2, atol=0.02)


def test_a_share_of_the_data_pads_at_its_own_ends():
    """As on one of several devices, or in a block."""
    part = jax.tree.map(lambda x: x[1:4], on_device(Chunks.of(DATA, history=2, horizon=2)))
    batch = part.sample(jax.random.key(0), 100)
    pairs = {(int(o[-1]), *map(int, o[:-1]), *map(int, a[:, 0])) for o, a in zip(batch.obs, batch.action)}
    assert pairs == {(1, 1, 10, 20), (2, 1, 20, 20), (3, 3, 30, 30)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": [0, 1]}, r"mine: label has the shape \(2,\), and must be \[5\]"),
        ({"weight": np.zeros(5)}, "mine: weights must be finite, and one of them positive"),
        ({"weight": [0, 0, 0, 0, -1]}, "mine: weights must be finite, and one of them positive"),
        ({"weight": [1, 1, 1, 1, np.nan]}, "mine: weights must be finite"),
    ],
)
def test_labels_and_weights_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Chunks.of(DATA, 1, 1, **options)
