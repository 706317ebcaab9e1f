"""Windows of a dataset, by hand."""

from typing import Any

import jax
import numpy as np
import pytest

import rljax
from rljax.data import Stream
from rljax.data.chunks import Chunks, in_chunks
from rljax.envs import ActionChunk, ObservationHistory
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


def test_a_share_of_the_data_has_no_window_that_its_own_ends_would_cut():
    """As on one of several devices, or in a block: step 1 lacks what was seen before, step 3 what was done after it."""
    part = jax.tree.map(lambda x: x[1:4], on_device(Chunks.of(DATA, history=2, horizon=2)))
    batch = part.sample(jax.random.key(0), 100)
    pairs = {(int(o[-1]), *map(int, o[:-1]), *map(int, a[:, 0])) for o, a in zip(batch.obs, batch.action)}
    assert pairs == {(2, 1, 20, 20)}


EPISODE, TIME = np.repeat(np.arange(20), 50), np.tile(np.arange(50), 20)
LONG = dataset_of(np.stack([EPISODE, TIME], 1), (EPISODE + TIME / 100)[:, None], TIME, truncated=TIME == 49)


@pytest.mark.parametrize("size", [20, 137, 400, 2500])
def test_a_block_of_a_stream_holds_the_very_windows_of_the_episodes(size):
    """Observations are (episode, time), actions episode + time / 100; so each window can be checked."""
    chunks = Chunks.of(LONG, history=3, horizon=8)
    drawn = jax.jit(lambda block, key: block.sample(key, 500))
    for number in range(3):
        block = Stream(chunks, size, 10).block(number)
        assert block.size == size
        batch = jax.tree.map(np.asarray, drawn(on_device(block), jax.random.key(number)))
        seen = batch.obs.reshape(500, 3, 2)
        episode, time = seen[:, -1].T
        past = np.maximum(time[:, None] - np.array([2, 1, 0]), 0)
        np.testing.assert_array_equal(seen, np.stack([np.broadcast_to(episode[:, None], past.shape), past], -1))
        ahead = np.minimum(time[:, None] + np.arange(8), 49)
        np.testing.assert_allclose(batch.action[..., 0], episode[:, None] + ahead / 100, atol=1e-5)


def test_every_step_is_as_likely_to_be_in_a_block():
    stream = Stream(Chunks.of(LONG, history=1, horizon=2), 60, 1)
    count = np.zeros(1000)
    for number in range(400):
        rows = np.asarray(stream.block(number).obs, int)
        np.add.at(count, rows[:, 0] * 50 + rows[:, 1], 1)
    assert count.sum() == 24_000
    by_time = count.reshape(20, 50).sum(0)  # neither the first nor the last steps of episodes come short
    np.testing.assert_allclose(by_time / by_time.mean(), 1.0, atol=0.2)


def test_blocks_that_are_shorter_than_a_window_are_refused():
    with pytest.raises(ValueError, match="dataset: blocks of 9 steps are not allowed; a window has 10"):
        Stream(Chunks.of(LONG, history=3, horizon=8), 9, 1).block(0)


def test_rows_that_were_drawn_have_no_episodes():
    block = Stream(LONG, 100, 1).block(0)
    for use in (lambda: block.returns, lambda: Chunks.of(block, 2, 2), lambda: in_chunks(block, 2, 2)):
        with pytest.raises(ValueError, match="its rows were drawn at random, so that none tells what follows it"):
            use()
    with pytest.raises(ValueError, match="Stream: a dict does not say what a block of it is"):
        Stream({"obs": np.zeros(3)}, 2, 1)


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


def test_a_dataset_in_chunks_is_what_the_environment_gives_that_is_stepped_in_chunks():
    env = rljax.make("pendulum")
    steps, size, history = 200, 3, 4
    actions = np.asarray(jax.random.uniform(jax.random.key(1), (steps, 1), minval=-2.0, maxval=2.0))

    def roll_out(env, actions):
        def step(state, action):
            after = env.step(state, action)
            return after, (state.obs, action, after.reward, after.terminated, after.truncated, after.obs)

        return jax.jit(lambda: jax.lax.scan(step, env.reset(jax.random.key(0)), actions)[1])()

    obs, _, reward, terminated, truncated, next_obs = map(np.asarray, roll_out(env, actions))
    assert truncated[-1]
    assert not truncated[:-1].any()
    single = dataset_of(obs, actions, reward, next_obs, terminated, truncated)
    chunked = in_chunks(single, history, size)
    assert chunked.size == 67 + 67 + 66
    assert len(chunked.ends) == size
    # The last chunk is cut short, and repeats its last action.
    padded = np.concatenate([actions, actions[-1:]]).reshape(67, size)
    expected = roll_out(ActionChunk(ObservationHistory(env, history), size), padded)
    names = ("obs", "action", "reward", "terminated", "truncated", "next_obs")
    for name, x in zip(names, expected, strict=True):
        np.testing.assert_allclose(getattr(chunked, name)[:67], x, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_dataset_in_chunks_stays_within_its_episodes():
    chunked = in_chunks(DATA, history=2, executed=2)
    assert chunked.obs[:, -1].tolist() == [0, 2, 1, 3, 4]
    assert chunked.obs[:, 0].tolist() == [0, 1, 0, 3, 3]
    assert chunked.action.tolist() == [[0, 10], [20, 20], [10, 20], [30, 40], [40, 40]]
    assert chunked.truncated.tolist() == [False, True, True, True, True]


def test_chunks_that_are_not_kept_are_left_out_and_what_comes_before_them_is_cut():
    chunked = in_chunks(DATA, history=2, executed=2, kept=[1, 0, 0, 1, 1])
    assert chunked.obs[:, -1].tolist() == [0, 3, 4]
    assert chunked.next_obs[:, -1].tolist() == in_chunks(DATA, 2, 2).next_obs[[0, 3, 4], -1].tolist()
    assert chunked.truncated.tolist() == [True, True, True]
    assert not chunked.terminated.any()
    with pytest.raises(ValueError, match=r"mine: kept must be bool \[5\], and true somewhere"):
        in_chunks(DATA, 2, 2, kept=np.zeros(5))


def test_labels_weights_and_what_is_kept_are_part_of_what_a_run_learns_from():
    options: tuple[dict[str, Any], ...] = (
        {},
        {"weight": [1, 1, 0, 1, 1]},
        {"weight": [1, 0, 1, 1, 1]},
        {"label": [0, 1, 0, 0, 0]},
    )
    specs = [Chunks.of(DATA, 1, 1, **given).spec for given in options]
    specs += [in_chunks(DATA, 1, 1, kept).spec for kept in (None, [1, 1, 0, 1, 1], [1, 0, 1, 1, 1])]
    assert all(a != b for i, a in enumerate(specs) for b in specs[:i])
    assert Chunks.of(DATA, 1, 1, weight=np.ones(5)).spec == specs[0]
