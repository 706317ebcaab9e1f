"""Files of offline data: exact round trips, and Minari itself as the oracle. Refusals: test_format_refusals.py."""

import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path

import chex
import gymnasium
import h5py
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.data import Dataset, Metadata
from rljax.data.formats import download, load, save_d4rl, save_minari
from rljax.spaces import Box, Discrete
from rljax.types import Transition

ACTIONS, OBSERVATIONS = Box(-1, 1, (2,)), Box(-np.inf, np.inf, (3,))
METADATA = Metadata("hops", "hopper", "a policy in words", "3", normalization="observations")


def episodes_of(ends, seed=0, discrete=False, tree=False):
    """A dataset of random episodes; `ends` are their lengths, and whether each terminates."""
    rng, episodes = np.random.default_rng(seed), []
    for steps, terminates in ends:
        rows = rng.normal(size=(steps + 1, 3)).astype(np.float32)
        if tree:
            rows = {"inner": {"a": rows}, "image": rng.integers(0, 255, (steps + 1, 2, 2), np.uint8)}
        last = np.arange(steps) == steps - 1
        episodes.append(
            Transition(
                obs=part(rows, slice(None, -1)),
                action=rng.integers(0, 4, steps) if discrete else rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
                reward=rng.normal(size=steps).astype(np.float32),
                terminated=last & terminates,
                truncated=last & (not terminates),
                next_obs=part(rows, slice(1, None)),
            )
        )
    return Dataset.of(jax.tree.map(lambda *x: np.concatenate(x), *episodes), METADATA)


def part(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def same_arrays(a, b):
    chex.assert_trees_all_equal_shapes_and_dtypes(a.replace(metadata=Metadata()), b.replace(metadata=Metadata()))
    chex.assert_trees_all_equal(a.replace(metadata=Metadata()), b.replace(metadata=Metadata()))


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


EPISODES = st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=6)


# Round trips.


@settings(max_examples=25, deadline=None)
@given(ends=EPISODES, seed=st.integers(0, 1000), discrete=st.booleans())
def test_d4rl_round_trips_exactly(ends, seed, discrete):
    data = episodes_of(ends, seed, discrete)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/data.hdf5"
        assert save_d4rl(data, path) == sha256(path)
        read = load(path, action_space=Discrete(4) if discrete else ACTIONS, observation_space=OBSERVATIONS)
        same_arrays(read, data)
        assert read.metadata == Metadata(
            "hops", "hopper", "a policy in words", "3", sha256(path), normalization="observations"
        )
        assert os.listdir(folder) == ["data.hdf5"]


@settings(max_examples=25, deadline=None)
@given(ends=EPISODES, seed=st.integers(0, 1000), discrete=st.booleans(), tree=st.booleans())
def test_minari_round_trips_exactly(ends, seed, discrete, tree):
    data = episodes_of(ends, seed, discrete, tree)
    spaces = (Discrete(4) if discrete else ACTIONS), (TREE if tree else OBSERVATIONS)
    with tempfile.TemporaryDirectory() as root:
        digest = save_minari(data, f"{root}/hops-v0", *spaces)
        for path in ("hops-v0", "hops-v0/data", "hops-v0/data/main_data.hdf5"):
            read = load(f"{root}/{path}", None, *spaces)
            same_arrays(read, data)
            about = Metadata("hops-v0", "hopper", "a policy in words", "3", digest, normalization="observations")
            assert read.metadata == about
        assert os.listdir(root) == ["hops-v0"]


TREE = {"inner": {"a": OBSERVATIONS}, "image": Box(0, 255, (2, 2), np.uint8)}


def test_the_same_data_make_the_same_file(tmp_path):
    data = episodes_of([(3, True)])
    assert save_d4rl(data, tmp_path / "a.hdf5") == save_d4rl(data, tmp_path / "b.hdf5")
    assert load(tmp_path / "a.hdf5", task="walker2d").metadata.task == "walker2d"


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    data, path = episodes_of([(3, True)]), tmp_path / "data.hdf5"
    save_d4rl(data, path)
    with pytest.raises(ValueError, match=r"data\.hdf5: exists already; overwrite=True replaces it"):
        save_d4rl(data, path)
    save_d4rl(episodes_of([(4, True)]), path, overwrite=True)
    assert load(path).size == 4

    save_minari(data, tmp_path / "a-v0", ACTIONS, OBSERVATIONS)
    with pytest.raises(ValueError, match="a-v0: exists already"):
        save_minari(data, tmp_path / "a-v0", ACTIONS, OBSERVATIONS)

    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(h5py.Group, "__setitem__", full)
    with pytest.raises(OSError, match="no space left"):
        save_d4rl(data, path, overwrite=True)
    with pytest.raises(OSError, match="no space left"):
        save_minari(data, tmp_path / "b-v0", ACTIONS, OBSERVATIONS)
    assert sorted(os.listdir(tmp_path)) == ["a-v0", "data.hdf5"]
    assert load(path).size == 4


# Minari as the oracle.


@pytest.fixture
def minari(tmp_path, monkeypatch, recwarn):  # its many warnings of what a dataset could say of itself are not shown
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return pytest.importorskip("minari")


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("discrete", [False, True])
def test_minari_reads_what_we_write(minari, tmp_path, discrete, tree):
    data = episodes_of([(3, True), (1, False), (4, False)], discrete=discrete, tree=tree)
    spaces = (Discrete(4) if discrete else ACTIONS), (TREE if tree else OBSERVATIONS)
    save_minari(data, tmp_path / "hopper" / "medium-v0", *spaces, name="hopper/medium-v0")
    assert list(minari.list_local_datasets()) == ["hopper/medium-v0"]
    theirs = minari.load_dataset("hopper/medium-v0")
    assert (theirs.total_episodes, theirs.total_steps, theirs.id) == (3, 8, "hopper/medium-v0")
    box = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    assert theirs.action_space == (gymnasium.spaces.Discrete(4) if discrete else box)
    assert theirs.spec.minari_version in sys.modules["minari"].supported_dataset_versions
    for episode, start, end in zip(theirs.iterate_episodes(), data.starts, data.ends):
        for ours, of_theirs in (
            (data.action, episode.actions),
            (data.reward, episode.rewards),
            (data.terminated, episode.terminations),
            (data.truncated, episode.truncations),
        ):
            np.testing.assert_array_equal(ours[start:end], of_theirs)
        for step in (0, 1):
            ours = (data.obs, data.next_obs)[step]
            chex.assert_trees_all_equal(
                part(ours, slice(start, end)),
                part(episode.observations, slice(step, step + end - start)),
            )
        assert theirs.observation_space.contains(part(episode.observations, 0))
        assert theirs.action_space.contains(episode.actions[0])


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_we_read_what_minari_writes(minari, task):
    env = minari.DataCollector(gymnasium.make(task, max_episode_steps=30), record_infos=True)
    env.action_space.seed(0)
    for seed in range(4):
        env.reset(seed=seed)
        over = False
        while not over:
            over = any(env.step(env.action_space.sample())[2:4])
    theirs = env.create_dataset("classic/random-v3", algorithm_name="random")
    ours = load(Path(theirs.storage.data_path).parent)
    assert ours.metadata == Metadata(
        "classic/random-v3", policy="random", sha256=sha256(Path(theirs.storage.data_path) / "main_data.hdf5")
    )
    assert (ours.size, len(ours.ends)) == (theirs.total_steps, 4)
    for episode, start, end in zip(theirs.iterate_episodes(), ours.starts, ours.ends):
        np.testing.assert_array_equal(ours.obs[start:end], episode.observations[:-1])
        np.testing.assert_array_equal(ours.next_obs[start:end], episode.observations[1:])
        np.testing.assert_array_equal(ours.action[start:end], episode.actions)
        np.testing.assert_array_equal(ours.reward[start:end], np.float32(episode.rewards))
        np.testing.assert_array_equal(ours.terminated[start:end], episode.terminations)
        np.testing.assert_array_equal(ours.truncated[start:end], episode.truncations & ~episode.terminations)
    assert ours.action.dtype == (np.int64 if task == "CartPole-v1" else np.float32)


def test_images_that_minari_encodes_are_refused(minari):
    space = gymnasium.spaces.Box(0, 255, (40, 40), np.uint8)
    images = np.random.default_rng(0).integers(0, 255, (3, 40, 40), np.uint8)
    from minari.data_collector import EpisodeBuffer

    buffer = EpisodeBuffer(None, None, None, images, np.zeros(2, int), [1.0, 2.0], [False, True], [False, False])
    spaces = {"observation_space": space, "action_space": gymnasium.spaces.Discrete(2)}
    encoded = minari.create_dataset_from_buffers("encoded-v0", [buffer], **spaces)
    with pytest.raises(ValueError, match=r"episode_0: observations (has|must)"):
        load(encoded.storage.data_path)
    raw = minari.create_dataset_from_buffers("raw-v0", [buffer], **spaces, jpeg_encoding=False)
    np.testing.assert_array_equal(load(raw.storage.data_path).next_obs, images[1:])


def test_downloads_need_minari(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(
        ValueError, match=re.escape('mujoco/x-v0: downloads are Minari\'s: pip install "rljax[minari]"')
    ):
        download("mujoco/x-v0")


# D4RL's and OGBench's layouts, by hand and against plain Python.


def d4rl_rows(size=6, **changes):
    number = np.arange(size, dtype=np.float32)
    arrays = {
        "observations": np.stack([number, 100 + number], 1),
        "actions": number[:, None] / 10,
        "rewards": number,
        "terminals": np.zeros(size, bool),
        "timeouts": np.zeros(size, bool),
    }
    arrays |= changes
    return {name: x for name, x in arrays.items() if x is not None}


def written(path, arrays):
    with h5py.File(path, "w") as file:
        for name, x in arrays.items():
            file[name] = x
    return path


def at(*places, size=6):
    return np.isin(np.arange(size), places)


def test_d4rl_without_successors_leaves_out_the_last_row_of_a_truncated_episode(tmp_path):
    # Terminated at 1, truncated at 4; then row 5, which the end of the file cuts.
    arrays = d4rl_rows(terminals=at(1), timeouts=at(4), **{"metadata/algorithm": b"SAC", "infos/qpos": np.ones(6)})
    data = load(written(tmp_path / "hopper-medium.hdf5", arrays))
    np.testing.assert_array_equal(data.reward, [0, 1, 2, 3])
    np.testing.assert_array_equal(data.next_obs[:, 0], [1, 1, 3, 4])  # the terminated one's is never used
    np.testing.assert_array_equal(data.terminated, [0, 1, 0, 0])
    np.testing.assert_array_equal(data.truncated, [0, 0, 0, 1])
    assert (data.metadata.name, data.metadata.policy) == ("hopper-medium", "SAC")


def test_d4rl_with_successors_keeps_every_row(tmp_path):
    arrays = d4rl_rows(terminals=at(1).astype("f4")[:, None], timeouts=at(1, 4).astype("u1"), rewards=np.ones((6, 1)))
    arrays["next_observations"] = arrays["observations"] + 0.5
    data = load(written(tmp_path / "data.hdf5", arrays))
    np.testing.assert_array_equal(data.obs, arrays["observations"])
    np.testing.assert_array_equal(data.next_obs, arrays["next_observations"])
    np.testing.assert_array_equal(data.terminated, at(1))
    np.testing.assert_array_equal(data.truncated, at(4, 5))
    assert data.reward.shape == (6,)


@settings(max_examples=50, deadline=None)
@given(
    flags=st.lists(st.sampled_from(["", "", "terminal", "timeout", "both"]), min_size=2, max_size=15),
    limit=st.none() | st.integers(1, 5),
)
def test_no_successor_is_of_another_episode(flags, limit):
    """Against plain Python: a step is kept if the row below is of its episode, or if it terminated."""
    terminals = np.isin(flags, ["terminal", "both"])
    timeouts, steps = np.isin(flags, ["timeout", "both"]), 0
    if limit is not None:
        for i in range(len(flags)):
            steps += 1
            timeouts[i] = steps == limit
            steps = 0 if timeouts[i] or terminals[i] else steps
    kept = [i for i in range(len(flags)) if terminals[i] or (not timeouts[i] and i + 1 < len(flags))]
    arrays = d4rl_rows(len(flags), terminals=terminals, timeouts=None if limit else timeouts)
    with tempfile.TemporaryDirectory() as folder:
        path = written(f"{folder}/data.hdf5", arrays)
        if not kept:
            with pytest.raises(ValueError, match="no step has a successor"):
                load(path, max_episode_steps=limit)
            return
        data = load(path, max_episode_steps=limit)
    np.testing.assert_array_equal(data.reward, kept)
    np.testing.assert_array_equal(data.terminated, terminals[kept])
    np.testing.assert_array_equal(data.next_obs[:, 0], [i if terminals[i] else i + 1 for i in kept])
    cut = [not terminals[i] and (i + 1 not in kept) for i in kept]
    np.testing.assert_array_equal(data.truncated, cut)


def ogbench_by_its_own_rules(arrays):
    """The successors as OGBench documents them: rows whose terminal is 1 hold a last observation."""
    steps = [i for i in range(len(arrays["terminals"])) if not arrays["terminals"][i]]
    return arrays["observations"][steps], arrays["observations"][[i + 1 for i in steps]], arrays["rewards"][steps]


def test_ogbench_as_published_with_rewards(tmp_path):
    arrays = d4rl_rows(timeouts=None, terminals=at(2, 5).astype("f4"), masks=1 - at(1, 2).astype("f4"), qpos=np.ones(9))
    np.savez(tmp_path / "cube.npz", **arrays)
    data = load(tmp_path / "cube.npz", action_space=Box(-1, 1, (1,)))
    obs, next_obs, reward = ogbench_by_its_own_rules(arrays)
    np.testing.assert_array_equal(data.obs, obs)
    np.testing.assert_array_equal(data.reward, reward)
    np.testing.assert_array_equal(data.terminated, [0, 1, 0, 0])
    np.testing.assert_array_equal(data.truncated, [0, 0, 0, 1])
    np.testing.assert_array_equal(data.next_obs[~data.terminated], next_obs[~data.terminated])
    assert data.metadata == Metadata("cube", sha256=sha256(tmp_path / "cube.npz"))


def test_ogbench_with_successors(tmp_path):
    arrays = d4rl_rows(timeouts=None, terminals=at(2, 5), masks=~at(5))
    np.savez_compressed(tmp_path / "cube.npz", **arrays, next_observations=arrays["observations"] + 1)
    data = load(tmp_path / "cube.npz")
    np.testing.assert_array_equal(data.reward, np.arange(6))
    np.testing.assert_array_equal(data.terminated, at(5))
    np.testing.assert_array_equal(data.truncated, at(2))
