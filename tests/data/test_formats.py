"""Files of offline data: exact round trips, and Minari itself as the oracle. Refusals: test_format_refusals.py."""

import hashlib
import json
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
        "classic/random-v3",
        {"CartPole-v1": "cartpole", "Pendulum-v1": "pendulum"}[task],
        "random",
        sha256=sha256(Path(theirs.storage.data_path) / "main_data.hdf5"),
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


class Sampled(gymnasium.Env):
    """Four steps of whatever the spaces hold."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, seed=None, options=None):
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.time += 1
        return self.observation_space.sample(), 1.0, False, self.time == 4, {}


def collected(minari, name, observation_space, action_space=None, **options):
    """A dataset of two episodes by Minari's own collector."""
    action_space = action_space or gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    env = minari.DataCollector(Sampled(observation_space, action_space), **options)
    for seed in range(2):
        env.reset(seed=seed)
        while not env.step(env.action_space.sample())[3]:
            pass
    return env.create_dataset(name)


def test_images_are_read_as_minari_reads_them(minari, tmp_path):
    """JPEG is its default for images, alone and in a dict; colours, and grey of one length or of several."""
    from minari.data_collector import EpisodeBuffer

    box = gymnasium.spaces.Box
    images = box(0, 255, (40, 48, 3), np.uint8)
    theirs = collected(minari, "colour-v0", gymnasium.spaces.Dict({"a": box(-1, 1, (3,)), "pixels": images}))
    ours = load(theirs.storage.data_path)
    for number, episode in enumerate(theirs.iterate_episodes()):
        for name in ("a", "pixels"):
            part = slice(4 * number, 4 * number + 4)
            np.testing.assert_array_equal(ours.obs[name][part], episode.observations[name][:-1])
            np.testing.assert_array_equal(ours.next_obs[name][part], episode.observations[name][1:])
    assert (ours.obs["pixels"].shape, ours.obs["pixels"].dtype) == ((8, 40, 48, 3), np.uint8)
    # Of one length, they are no longer a ragged array.
    grey = np.full((3, 40, 40), 7, np.uint8)
    buffer = EpisodeBuffer(None, None, None, grey, np.zeros(2, int), [1.0, 2.0], [False, True], [False, False])
    spaces = {"observation_space": box(0, 255, (40, 40), np.uint8), "action_space": gymnasium.spaces.Discrete(2)}
    encoded = minari.create_dataset_from_buffers("encoded-v0", [buffer], **spaces)
    np.testing.assert_array_equal(load(encoded.storage.data_path).obs, encoded[0].observations[:-1])
    raw = minari.create_dataset_from_buffers("raw-v0", [buffer], **spaces, jpeg_encoding=False)
    np.testing.assert_array_equal(load(raw.storage.data_path).next_obs, grey[1:])
    with h5py.File(Path(encoded.storage.data_path) / "main_data.hdf5", "a") as file:
        file["episode_0/observations"][1] = 0
    with pytest.raises(ValueError, match="damaged, or not readable: cannot identify image file") as error:
        load(encoded.storage.data_path)
    assert "\n" not in str(error.value)


def test_text_is_left_out_and_said(minari, capsys):
    spaces = gymnasium.spaces
    space = {"direction": spaces.Discrete(4), "image": spaces.Box(0, 255, (7, 7, 3), np.uint8)}
    theirs = collected(minari, "grid-v0", spaces.Dict(space | {"mission": spaces.Text(20)}), spaces.Discrete(7))
    ours = load(theirs.storage.data_path)
    assert set(ours.obs) == set(space)
    assert (ours.size, ours.obs["image"].shape) == (8, (8, 7, 7, 3))
    assert capsys.readouterr().err.endswith("left out, for it is text: observations/mission\n")
    only = collected(minari, "words-v0", spaces.Text(20))
    with pytest.raises(ValueError, match="observations are nothing but text, which is not read"):
        load(only.storage.data_path)


def test_parts_are_flattened_as_gymnasium_flattens_them(minari):
    spaces = gymnasium.spaces
    box = spaces.Box
    space = spaces.Dict(
        {
            "observation": box(-1, 1, (2, 2), np.float32),
            "achieved_goal": box(-1, 1, (2,), np.float64),
            "gripper": spaces.Discrete(3, start=-1),
            "inner": spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3]), box(0, 9, (1,), np.int64))),
        }
    )
    theirs = collected(minari, "goals-v0", space)
    ours = load(theirs.storage.data_path, flatten=True)
    rows = [
        gymnasium.spaces.flatten(theirs.observation_space, tree_at(episode.observations, t))
        for episode in theirs.iterate_episodes()
        for t in range(5)
    ]
    rows = np.stack(rows).reshape(2, 5, -1)
    np.testing.assert_allclose(ours.obs, rows[:, :-1].reshape(8, -1), rtol=1e-6)
    np.testing.assert_allclose(ours.next_obs, rows[:, 1:].reshape(8, -1), rtol=1e-6)
    assert ours.obs.dtype == np.float32
    assert load(theirs.storage.data_path).obs["inner"]["_index_1"].shape == (8, 2)


def tree_at(tree, index):
    """One step of Minari's dicts and tuples."""
    if isinstance(tree, dict):
        return {name: tree_at(x, index) for name, x in tree.items()}
    return tuple(tree_at(x, index) for x in tree) if isinstance(tree, tuple) else tree[index]


@pytest.mark.parametrize(
    ("spec", "task"),
    [
        ({"id": "Hopper-v5", "kwargs": {}}, "hopper"),
        ({"id": "AntMaze_UMaze-v4", "kwargs": {"render_mode": "human"}}, "gymnasium:AntMaze_UMaze-v4"),
        ({"id": "Pendulum-v1", "kwargs": {"g": 5.0}}, None),  # another task by the same name
        (None, None),
    ],
)
def test_the_task_is_the_environment_that_minari_names(tmp_path, spec, task):
    save_minari(episodes_of([(3, True)]).replace(metadata=Metadata("a")), tmp_path / "a-v0", ACTIONS, OBSERVATIONS)
    metadata = tmp_path / "a-v0/data/metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"env_spec": spec and json.dumps(spec)}))
    assert load(tmp_path / "a-v0").metadata.task == task


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
    # The row left out says what was done next.
    np.testing.assert_allclose(data.next_action[:, 0], [0.1, 0.1, 0.3, 0.4])
    assert (data.metadata.name, data.metadata.policy) == ("hopper-medium", "SAC")
    # Saved and read, that is still known.
    save_d4rl(data, tmp_path / "again.hdf5")
    same_arrays(load(tmp_path / "again.hdf5"), data)


def test_d4rl_with_successors_keeps_every_row(tmp_path):
    arrays = d4rl_rows(terminals=at(1).astype("f4")[:, None], timeouts=at(1, 4).astype("u1"), rewards=np.ones((6, 1)))
    arrays["next_observations"] = arrays["observations"] + 1
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
    np.testing.assert_allclose(data.next_action[:, 0], [(i if terminals[i] else i + 1) / 10 for i in kept], rtol=1e-6)
    cut = [not terminals[i] and (i + 1 not in kept) for i in kept]
    np.testing.assert_array_equal(data.truncated, cut)


def ogbench(rows, compact=False):
    """Three trajectories of four transitions as `load_dataset` of seohongpark/ogbench (utils.py) gives them.

    regular: observations s0 s1 s2 s3, next_observations s1 s2 s3 s4, terminals 0 0 0 1
    compact: observations s0 s1 s2 s3 s4, terminals 0 0 0 1 1, valids 1 1 1 1 0
    """
    terminals = rows["terminals"].astype(np.float32)
    following = np.append(terminals[1:], 1.0)
    if compact:
        return rows | {"valids": 1.0 - terminals, "terminals": np.minimum(terminals + following, 1.0)}
    steps = terminals == 0
    kept = {name: x[steps] for name, x in rows.items()}
    return kept | {"next_observations": rows["observations"][1:][steps[:-1]], "terminals": following[steps]}


def published(**more):
    """The arrays of its files: 15 rows, of which the last of each trajectory holds an observation alone; no rewards."""
    number = np.arange(15, dtype=np.float32)
    terminals = np.tile([False] * 4 + [True], 3)
    return {
        "observations": np.stack([number, -number], 1),
        "actions": number[:, None] / 20,
        "terminals": terminals,
    } | more


@pytest.mark.parametrize("more", [{"qpos": np.ones((15, 9)), "qvel": np.ones((15, 8))}, {"button_states": np.ones(15)}])
def test_ogbench_as_published_has_no_rewards_and_is_read_to_imitate(tmp_path, capsys, more):
    path = tmp_path / "cube-play-v0.npz"
    np.savez(path, **published(**more))
    with pytest.raises(
        ValueError, match=r"cube-play-v0\.npz: no rewards, as sets to imitate or of many goals"
    ) as error:
        load(path)
    assert "\n" not in str(error.value)
    capsys.readouterr()
    data = load(path, rewards="optional", action_space=Box(-1, 1, (1,)))
    assert f"{path}: read as of the layout ogbench, for it has {next(iter(more))}" in capsys.readouterr().err
    steps = [i for i in range(15) if i % 5 != 4]
    np.testing.assert_array_equal(data.obs[:, 0], steps)
    np.testing.assert_array_equal(data.next_obs[:, 0], np.add(steps, 1))
    np.testing.assert_allclose(data.next_action[:, 0], np.add(steps, 1) / 20, rtol=1e-6)
    np.testing.assert_array_equal(data.ends, [4, 8, 12])
    assert not data.terminated.any()
    assert not data.reward.any()
    assert data.metadata == Metadata("cube-play-v0", rewards=False, sha256=sha256(path))
    # A file of our own keeps that they are not known.
    save_d4rl(data, tmp_path / "a.hdf5")
    assert not load(tmp_path / "a.hdf5", rewards="optional").metadata.rewards
    with pytest.raises(ValueError, match="no rewards"):
        load(tmp_path / "a.hdf5")
    save_minari(data, tmp_path / "a-v0", Box(-1, 1, (1,)), Box(-np.inf, np.inf, (2,)))
    with pytest.raises(ValueError, match="no rewards"):
        load(tmp_path / "a-v0")


@pytest.mark.parametrize("form", ["raw", "regular", "compact"])
def test_ogbench_with_the_rewards_of_a_task_keeps_every_step_and_success(tmp_path, form):
    """As its singletask sets have them, -1 until success: the last step of one trajectory, and amid another."""
    success = np.isin(np.arange(15), [3, 6, 7])
    rows = published(rewards=success - 1.0, masks=1.0 - success)
    np.savez(tmp_path / "a.npz", **(rows if form == "raw" else ogbench(rows, form == "compact")))
    data = load(tmp_path / "a.npz")
    steps = np.array([i for i in range(15) if i % 5 != 4])
    np.testing.assert_array_equal(data.obs[:, 0], steps)
    np.testing.assert_array_equal(data.reward, success[steps] - 1.0)
    np.testing.assert_array_equal(data.terminated, success[steps])
    np.testing.assert_array_equal(data.next_obs[~data.terminated, 0], steps[~success[steps]] + 1)
    np.testing.assert_array_equal(data.ends, [4, 6, 7, 8, 12])
    assert data.metadata.rewards


def test_an_npz_that_may_be_of_two_layouts_is_not_guessed(tmp_path, capsys):
    """Terminals of one's own mean success at a row, those of OGBench an observation after the last step."""
    arrays = d4rl_rows(terminals=at(5), timeouts=None)
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(ValueError, match=r"own\.npz: terminals may .* layout='d4rl' or layout='ogbench'$") as error:
        load(tmp_path / "own.npz")
    assert "\n" not in str(error.value)
    data = load(tmp_path / "own.npz", layout="d4rl", max_episode_steps=100)
    assert (data.size, data.terminated.tolist()) == (6, at(5).tolist())
    assert load(tmp_path / "own.npz", layout="ogbench").size == 5
    assert capsys.readouterr().err == ""
    np.savez(tmp_path / "own.npz", **arrays, timeouts=np.zeros(6))
    assert load(tmp_path / "own.npz").size == 6
    assert capsys.readouterr().err.endswith("own.npz: read as of the layout d4rl, for it has timeouts\n")
    written(tmp_path / "own.hdf5", arrays)
    with pytest.raises(ValueError, match=r"own\.hdf5: is of the layout d4rl, and not ogbench"):
        load(tmp_path / "own.hdf5", layout="ogbench")
    for option, message in (
        ({"layout": "zarr"}, "one of d4rl, ogbench, minari, push_t"),
        ({"rewards": "no"}, "one of"),
    ):
        with pytest.raises(ValueError, match=f"is not allowed; it must be {message}"):
            load(tmp_path / "own.hdf5", **option)


@pytest.mark.parametrize("timeouts", [np.zeros(12, bool), None])
def test_an_end_that_only_the_successors_show_is_an_end(tmp_path, timeouts):
    """As IQL's and RLPD's loaders split: two episodes of returns 6 and -6 are not one of return 0."""
    episode, time = np.divmod(np.arange(12), 6)
    arrays = d4rl_rows(12, rewards=np.where(episode == 0, 1.0, -1.0), timeouts=timeouts)
    arrays["observations"] = np.stack([episode, time], 1).astype(np.float64)
    arrays["next_observations"] = arrays["observations"] + [0, 1] + 1e-8  # rounding is no gap
    data = load(written(tmp_path / "gap.hdf5", arrays))
    np.testing.assert_array_equal(data.ends, [6, 12])
    np.testing.assert_array_equal(data.returns, [6, -6])
    assert not data.terminated.any()
    assert data.size == 12


def test_ogbench_with_successors(tmp_path):
    arrays = d4rl_rows(timeouts=None, terminals=at(2, 5), masks=~at(5))
    np.savez_compressed(tmp_path / "cube.npz", **arrays, next_observations=arrays["observations"] + 1)
    data = load(tmp_path / "cube.npz")
    np.testing.assert_array_equal(data.reward, np.arange(6))
    np.testing.assert_array_equal(data.terminated, at(5))
    np.testing.assert_array_equal(data.truncated, at(2))
