"""Files of offline data: what is refused at the door, in one line that says where."""

import json
import os
import re

import gymnasium
import h5py
import numpy as np
import pytest

from rljax.data.formats import load, save_d4rl, save_minari
from rljax.spaces import Box, Discrete, MultiDiscrete
from tests.data.test_formats import ACTIONS, OBSERVATIONS, at, d4rl_rows, episodes_of, written

SPACES = {"action_space": Box(-0.5, 0.5, (1,)), "observation_space": Box(-1, 1, (2,))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, "no rewards, as sets to imitate or of many goals have none"),
        ({"timeouts": None}, "no timeouts, as in D4RL's oldest files; give max_episode_steps"),
        ({"rewards": np.zeros((6, 2))}, r"rewards has the shape \(6, 2\), and must have one axis"),
        (
            {"rewards": np.float32(1)},
            r"rewards must be an array of numbers, and has the type float32 and the shape \(\)",
        ),
        ({"actions": ["left"] * 6}, "actions must be an array of numbers, and has the type object"),
        ({"actions": None, "actions/arm": np.zeros(6)}, "actions must be an array of numbers, and has the type object"),
        (
            {"actions": np.zeros((5, 1))},
            "arrays must have one length, of at least 1, and have observations 6, actions 5",
        ),
        ({"timeouts": np.zeros(7), "terminals": np.zeros(7)}, "arrays must have one length.* terminals 7, timeouts 7"),
        ({"rewards": np.array([0, 1, np.nan, 0, 0, 0])}, r"rewards\[2\] is nan; only finite float32 are allowed"),
        ({"observations": np.full((6, 2), 1e39)}, r"observations\[0, 0\] is inf; only finite float32 are allowed"),
        ({"next_observations": np.zeros((6, 3))}, r"observations and next_observations must be shaped alike"),
        ({"terminals": np.array([0, 0, 0, 2, 0, 0])}, r"terminals\[3\] is 2; only 0 and 1 are allowed"),
        ({"timeouts": np.array([0, 0.5, 0, 0, 0, 0])}, r"timeouts\[1\] is 0.5; only 0 and 1 are allowed"),
        ({"timeouts": at(*range(6))}, "no step has a successor; at least one must"),
        ({"actions": np.full((6, 1), -0.6)}, r"actions\[0, 0\] is -0\.6, and must lie in \[-0\.5, 0\.5\]"),
        ({"actions": np.zeros((6, 2))}, r"actions have the shape \(2,\), and the space \(1,\)"),
        ({"observations": np.zeros((6, 4))}, r"observations have the shape \(4,\), and the space \(2,\)"),
    ],
)
def test_d4rl_refusals_are_one_line_that_names_the_file(tmp_path, changes, message):
    path = written(tmp_path / "bad.hdf5", d4rl_rows(**changes))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {message}") as error:
        load(path, **SPACES)
    assert "\n" not in str(error.value)


def test_actions_out_of_bounds_by_rounding_are_clipped(tmp_path):
    path = written(tmp_path / "a.hdf5", d4rl_rows(actions=np.array([-0.50009, 0.50009, 0.3, 0, 0, 0])[:, None]))
    np.testing.assert_array_equal(load(path, **SPACES).action[:3, 0], np.float32([-0.5, 0.5, 0.3]))
    assert load(path).action[0, 0] == np.float32(-0.50009)
    discrete = written(tmp_path / "b.hdf5", d4rl_rows(actions=np.array([0, 1, 2, 3, 2, 1])))
    assert load(discrete, action_space=Discrete(4)).action.dtype == np.int64
    with pytest.raises(ValueError, match=r"actions\[3\] is 3, and must lie in \[0, 2\]"):
        load(discrete, action_space=Discrete(3))
    with pytest.raises(ValueError, match="actions are of type float32, and must be integers in Discrete"):
        load(written(tmp_path / "c.hdf5", d4rl_rows(actions=np.zeros(6))), action_space=Discrete(3))
    several = written(
        tmp_path / "d.hdf5", d4rl_rows(actions=np.array([[0, 0], [1, 3], [2, 0], [0, 1], [0, 0], [0, 0]]))
    )
    assert load(several, action_space=MultiDiscrete((3, 4))).action.dtype == np.int64
    with pytest.raises(ValueError, match=r"actions\[1, 1\] is 3, and must lie in \[0, 2\]"):
        load(several, action_space=MultiDiscrete((4, 3)))


def test_what_is_no_file_of_data_is_refused(tmp_path):
    def refused(path, message):
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {message}") as error:
            load(path)
        assert "\n" not in str(error.value)

    refused(tmp_path / "nothing.hdf5", "no such file or folder")
    refused(tmp_path, "a folder without data/main_data.hdf5")
    for content in (b"", b"text", b"\x80\x04cposix\nsystem\n"):
        (tmp_path / "x.hdf5").write_bytes(content)
        refused(tmp_path / "x.hdf5", "neither HDF5 nor npz, or damaged")
    # Both are cut in half.
    whole = written(tmp_path / "whole.hdf5", d4rl_rows(600)).read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.hdf5", "damaged, or not readable: .*truncated file")
    np.savez(tmp_path / "whole.npz", **d4rl_rows(600))
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.npz", "neither HDF5 nor npz, or damaged")
    (tmp_path / "flipped.npz").write_bytes(whole.replace(np.float32(300).tobytes(), b"\xff" * 4))
    refused(tmp_path / "flipped.npz", "damaged, or not readable: Bad CRC-32")


class Hostile:
    """Unpickled, it would end the test's process."""

    def __reduce__(self):
        return os._exit, (1,)


def test_nothing_is_unpickled_and_rewards_must_be_there(tmp_path):
    path = tmp_path / "x.npz"
    arrays = d4rl_rows(timeouts=None)
    np.savez(path, **arrays | {"actions": np.array([Hostile()] * 6)})
    with pytest.raises(ValueError, match=r"x\.npz: actions must be an array of numbers, and has the type object"):
        load(path, layout="ogbench")
    np.savez(path, **{k: x for k, x in arrays.items() if k != "rewards"})
    with pytest.raises(ValueError, match=r"x\.npz: no rewards, as sets to imitate or of many goals have none"):
        load(path, layout="ogbench")
    np.savez(path, **arrays, masks=np.full(6, 0.5))
    with pytest.raises(ValueError, match=r"x\.npz: masks\[0\] is 0\.5; only 0 and 1"):
        load(path)


def replace(file, name, x):
    del file[name]
    if x is not None:
        file[name] = x


@pytest.mark.parametrize(
    ("name", "x", "message"),
    [
        ("episode_1", None, "no group episode_1, though there are 2; they must be numbered from 0"),
        ("episode_2", None, "2 episodes; there must be some, and metadata.json says 3"),
        ("episode_1/rewards", None, "episode_1: no rewards; there is actions, observations, terminations, truncations"),
        ("episode_1/observations", np.zeros((4, 3)), "episode_1: 4 observations and 4 rewards; there must be 5"),
        ("episode_1/actions", np.zeros((3, 2)), "episode_1: 3 actions and 4 rewards; there must be 4"),
        ("episode_1/truncations", np.zeros(5), "episode_1: 5 truncations and 4 rewards; there must be 4"),
        ("episode_1/rewards", np.zeros(0), "episode_1: no steps; an episode must have one at least"),
        (
            "episode_1/rewards",
            np.zeros((4, 1)),
            r"episode_1: rewards has the shape \(1,\) at each step, and must have \(\)",
        ),
        ("episode_1/observations", np.zeros((5, 4)), r"episode_1: observations has the shape \(4,\) .* have \(3,\)"),
        ("episode_1/actions", np.zeros((4, 3)), r"episode_1: actions has the shape \(3,\) at each step, .* \(2,\)"),
        ("episode_1/terminations", [0, 1, 0, 0], "episode_1: ends at step 1 of 4; only the last may be an end"),
        ("episode_1/truncations", [1, 0, 0, 1], "episode_1: ends at step 0 of 4"),
        ("episode_1/terminations", [0, 0, 0, 3], r"episode_1: terminations\[3\] is 3; only 0 and 1"),
        ("episode_1/rewards", [0, np.inf, 0, 0], r"episode_1: rewards\[1\] is inf; only finite"),
        ("episode_1/observations", ["a"] * 5, "episode_1: observations must be an array of numbers"),
    ],
)
def test_minari_refusals_are_one_line_that_names_the_episode(tmp_path, name, x, message):
    save_minari(episodes_of([(3, True), (4, False), (2, True)]), tmp_path / "a-v0", ACTIONS, OBSERVATIONS)
    with h5py.File(tmp_path / "a-v0/data/main_data.hdf5", "a") as file:
        replace(file, name, x)
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / 'a-v0'))}: {message}") as error:
        load(tmp_path / "a-v0")
    assert "\n" not in str(error.value)


def test_tuples_and_dicts_of_actions_are_refused_and_open_episodes_are_truncated(tmp_path):
    save_minari(episodes_of([(3, True), (4, False)]), tmp_path / "a-v0", ACTIONS, OBSERVATIONS)
    with h5py.File(tmp_path / "a-v0/data/main_data.hdf5", "a") as file:
        replace(file, "episode_1/truncations", np.zeros(4, bool))
    np.testing.assert_array_equal(load(tmp_path / "a-v0").truncated, at(6, size=7))
    with h5py.File(tmp_path / "a-v0/data/main_data.hdf5", "a") as file:
        replace(file, "episode_0/actions", None)
        file["episode_0/actions/_index_0"] = np.zeros(3)
    with pytest.raises(
        ValueError, match="a-v0: episode_0: actions must be an array of numbers, and has the type object"
    ):
        load(tmp_path / "a-v0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"metadata\.json: no such file"),
        ("{", r"metadata\.json: not JSON"),
        ("[1]", r"metadata\.json: must hold a JSON object, and holds a list"),
        ('{"total_episodes": 7}', r"a-v0: 1 episodes; there must be some, and metadata\.json says 7"),
        ('{"observation_space": "Box"}', r"metadata\.json: observation_space does not describe a space"),
        ('{"action_space": "{\\"type\\": \\"Box\\"}"}', r"metadata\.json: action_space does not describe a space"),
        ({"type": "Box", "shape": [64, 64, 3]}, r"observations has the shape \(3,\) .* must have \(64, 64, 3\)"),
        (
            {"type": "Dict", "subspaces": {"a": {"type": "Discrete"}}},
            r"observations has the shape \(3,\) .* {'a': \(\)}",
        ),
    ],
)
def test_minari_metadata_that_do_not_fit_are_refused(tmp_path, content, message):
    save_minari(episodes_of([(3, True)]), tmp_path / "a-v0", ACTIONS, OBSERVATIONS)
    metadata = tmp_path / "a-v0/data/metadata.json"
    if content is None:
        metadata.unlink()
    else:
        is_space = isinstance(content, dict)
        metadata.write_text(json.dumps({"observation_space": json.dumps(content)}) if is_space else content)
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path / "a-v0")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_saved_is_refused(tmp_path):
    data, tree = episodes_of([(3, True), (2, False)]), episodes_of([(3, True)], tree=True)
    gap = data.replace(next_obs=data.next_obs + np.asarray(at(1, 2, 4, size=5), np.float32)[:, None])
    with pytest.raises(ValueError, match=r"a\.hdf5: D4RL's layout has one array of observations"):
        save_d4rl(tree, tmp_path / "a.hdf5")
    for arguments, message in [
        ((data, "a", ACTIONS, OBSERVATIONS), "must end with its name, and 'a' must read as hopper/medium-v0"),
        ((data, "a-v0", ACTIONS, OBSERVATIONS, "x/a-v0"), "must end with its name, and 'x/a-v0' must read"),
        ((data, "a-v0", Box(-1, 1, (3,)), OBSERVATIONS), r"actions have the shape \(2,\), and the space \(3,\)"),
        ((data, "a-v0", Box(-0.5, 0.5, (2,)), OBSERVATIONS), r"actions\[0, 0\] is 0\.7\d*, and must lie in \[-0\.5, 0"),
        ((data, "a-v0", ACTIONS, Box(0, 1, (4,))), r"observations have the shape \(3,\), and the space \(4,\)"),
        ((tree, "a-v0", ACTIONS, OBSERVATIONS), r"observations have the shape {'image': \(2, 2\)"),
        ((gap, "a-v0", ACTIONS, OBSERVATIONS), "next_obs of transition 1 is not obs of the next one"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            save_minari(arguments[0], tmp_path / arguments[1], *arguments[2:])
        assert str(tmp_path) in str(error.value)
    with pytest.raises(ValueError, match=r"save_minari: .* is not a space; allowed are"):
        save_minari(data, tmp_path / "a-v0", ACTIONS, gymnasium.spaces.Box(0, 1, (3,)))
    assert os.listdir(tmp_path) == []
