"""Datasets made ready: parts are given to networks in training as they are in acting, or refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import bc, progress
from rljax.data.prepared import check_spaces, prepare
from rljax.ops import running_statistics
from rljax.spaces import Box, Dict, Discrete, MultiDiscrete, as_given, vector
from rljax.types import Refused
from tests.algorithms.cases import LOOKING, OFFLINE
from tests.datasets import dataset_of, looking_data

SPACE = Dict(
    {
        "board": Box(0, 255, (2, 3), np.uint8),
        "count": Box(0, 99, (), np.int32),
        "bytes": Box(0, 255, (4,), np.uint8),
        "one": Box(-1.0, 1.0, ()),
        "z": vector(2),
        "word": Discrete(3),
        "words": MultiDiscrete((2, 3)),
        "image": Box(0, 255, (3, 3, 1), np.uint8),
        "light": Box(0.0, 1.0, (3, 3, 1)),
    }
)
ACTIONS = Box(-1.0, 1.0, (1,))


def observed(size=40, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "board": rng.integers(0, 256, (size, 2, 3), np.uint8),
        "count": rng.integers(0, 99, size, np.int32),
        "bytes": rng.integers(0, 256, (size, 4), np.uint8),
        "one": rng.uniform(-1, 1, size).astype(np.float32),
        "z": rng.normal(size=(size, 2)).astype(np.float32),
        "word": rng.integers(0, 3, size, np.int32),
        "words": rng.integers(0, (2, 3), (size, 2), np.int32),
        "image": rng.integers(0, 256, (size, 3, 3, 1), np.uint8),
        "light": rng.uniform(0, 1, (size, 3, 3, 1)).astype(np.float32),
    }


def data(obs):
    return dataset_of(np.zeros((40, 1)), np.zeros((40, 1)), np.zeros(40), name="mine").replace(obs=obs, next_obs=obs)


def test_every_kind_of_part_is_normalised_alike_in_training_and_in_acting():
    obs = observed()
    ready = prepare(data(obs), SPACE, ACTIONS, bc.Config())
    acting = running_statistics.normalize(ready.statistics, as_given(SPACE, jax.tree.map(jnp.asarray, obs)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), ready.dataset.obs, acting)
    for name in ("board", "count", "bytes", "one", "z"):
        np.testing.assert_allclose(ready.dataset.obs[name].mean(0), 0.0, atol=1e-5)
    for name in ("word", "words", "image"):
        np.testing.assert_array_equal(ready.dataset.obs[name], obs[name])
    empty = prepare(None, SPACE, ACTIONS, bc.Config()).statistics  # with which a policy is loaded
    assert jax.tree.map(np.shape, empty.mean) == jax.tree.map(np.shape, ready.statistics.mean)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("image", lambda x: (x / 255).astype(np.float32), "image are images of type float32, and .* of uint8"),
        ("image", lambda x: x.astype(np.int32) + 300, "image are images of type int32, and the environment's of uint8"),
        ("light", lambda x: x.astype(np.uint8), "light are images of type uint8, and the environment's of float32"),
        ("word", lambda x: x + 7, r"word go from 7 to 9, and the environment's are Discrete\(3\)"),
        ("word", lambda x: x + 0.5, r"word are of type float64, and must be whole numbers"),
        ("words", lambda x: x - 1, r"words go from -1 to 1, and the environment's are MultiDiscrete\(\(2, 3\)\)"),
        ("z", lambda x: x[:, :1], r"z have the shape \[1\], the environment's \[2\]"),
    ],
)
def test_parts_that_are_not_of_their_space_are_refused_in_one_line(name, change, message):
    obs = observed()
    with pytest.raises(Refused, match=f"^mine: observations {message}"):
        check_spaces(data(obs | {name: change(obs[name])}), SPACE, ACTIONS)


def test_parts_that_are_missing_are_named():
    with pytest.raises(Refused, match=r"^mine: observations have the parts z, the environment's board, bytes, count"):
        check_spaces(data({"z": observed()["z"]}), SPACE, ACTIONS)


def test_progress_is_measured_of_observations_with_parts():
    known = looking_data()
    config = progress.Config(**OFFLINE, num_atoms=5, cnn_channels=(2,))
    algorithm = progress.make(LOOKING, config, known, succeeded=np.ones(len(known.ends)))
    found = progress.progress(algorithm, algorithm.init(jax.random.key(0)), known, batch_size=64)
    assert found.shape == (known.size,)
    assert np.isfinite(found).all()


def test_what_is_taken_from_data_with_another_range_of_actions_is_another_policy(tmp_path):
    from rljax.training import StartFrom
    from tests.runs import train

    known = looking_data()
    half = known.replace(action=known.action * 0.25)
    small = bc.Config(**OFFLINE, cnn_channels=(2,))
    train(bc.make(LOOKING, small, half), 1, folder=tmp_path / "old")
    wide = dataclasses.replace(small, action_normalization="bounds")
    with pytest.raises(Refused, match="was trained on actions of another range"):
        train(bc.make(LOOKING, wide, half), 1, start_from=StartFrom(tmp_path / "old", ("policy",)))
    train(bc.make(LOOKING, small, half), 1, start_from=StartFrom(tmp_path / "old", ("policy",)))
