"""Which folders can be a run's, and which runs a folder can go on with."""

import json
import math
from pathlib import Path

import pytest

import rljax
from rljax.training.folder import check_folder, run_folder, write_description, write_json
from rljax.training.loading import read_description
from rljax.types import Refused

DESCRIPTION = {
    "algorithm": "ppo",
    "env": {"name": "hopper", "healthy_z_range": [0.7, "inf"]},
    "config": {"anneal_steps": 256, "hidden": [8, 8], "sampler": {"width": 4}},
    "data": {"name": "medium", "sha256": "ab", "weights": "cd"},
    "keys": [[0, 1], [0, 2]],
    "key_impl": "fry",
    "hyper": {},
    "total_steps": 256,
    "settings": {"base": "runs/a", "progress": True},
}


@pytest.mark.parametrize("folder", ["gs://bucket/run", Path("s3://bucket/run"), "hf://x", "file:///tmp/x"])
def test_a_url_is_no_folder(folder):
    with pytest.raises(Refused, match="is an address; only folders and files of this machine are allowed"):
        run_folder(folder)
    with pytest.raises(Refused, match="is an address"):
        rljax.load(folder)


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folder("~/runs/x") == tmp_path / "runs" / "x"
    assert run_folder("a~/b [c]") == Path("a~/b [c]")


def test_a_file_or_a_name_that_is_too_long_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="file is a file"):
        run_folder(tmp_path / "file")
    with pytest.raises(Refused, match="nobody-of-this-name"):
        run_folder("~nobody-of-this-name/runs")


@pytest.fixture
def folder(tmp_path):
    write_description(tmp_path, DESCRIPTION)
    return tmp_path


def changed(part, **values):
    return DESCRIPTION | {part: DESCRIPTION[part] | values}


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (changed("settings", base="runs/b"), "settings.base was 'runs/a' and is now 'runs/b'"),
        (changed("settings", demos="x"), "settings.demos was None and is now 'x'"),
        (changed("data", weights="ce"), "data.weights was 'cd' and is now 'ce'"),
        (changed("config", sampler={"width": 8}), "config.sampler.width was 4 and is now 8"),
        (DESCRIPTION | {"keys": [[0, 1], [0, 3]]}, "keys[1][1] was 2 and is now 3"),
        (DESCRIPTION | {"keys": [0, 1]}, "keys[0] was [0, 1] and is now 0; keys[1] was"),
        (DESCRIPTION | {"data": None}, "data was {"),
    ],
)
def test_another_run_is_refused_in_one_line_that_names_what_differs(folder, now, message):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(Refused) as error:
        check_folder(folder, now, resume=True)
    assert f"{folder} holds another run: {message}" in str(error.value)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_run_itself_may_be_longer_and_watched_in_another_way(folder):
    now = changed("settings", progress=False, log_every=5, devices=2) | {"total_steps": 512}
    check_folder(folder, now, resume=True)
    with pytest.raises(Refused, match=r"holds a run already: --resume .* continues it, --overwrite moves it aside"):
        check_folder(folder, now, resume=False)


def test_a_setting_that_follows_the_length_of_the_run_can_be_kept(folder):
    now = changed("config", anneal_steps=512) | {"total_steps": 512}
    with pytest.raises(Refused, match=r"where that follows total_steps \(256, now 512\), keep it: --anneal-steps 256$"):
        check_folder(folder, now, resume=True)


def test_checkpoints_of_nobody_knows_which_run_are_refused(tmp_path):
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    check_folder(tmp_path, DESCRIPTION, resume=False)  # one that was cut off is removed
    (tmp_path / "checkpoints" / "1" / "MANIFEST.json").touch()
    with pytest.raises(Refused, match=r"has checkpoints but no config\.json"):
        check_folder(tmp_path, DESCRIPTION, resume=True)


def test_what_is_not_finite_is_null_in_json_and_a_word_in_a_config(folder):
    assert read_description(folder)["env"]["healthy_z_range"] == [0.7, math.inf]
    path = folder / "evaluation.json"
    write_json(path, {"mean": math.nan, "range": (-math.inf, 1.0), "n": 3})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"mean": None, "range": [None, 1.0], "n": 3}
    # As it was written before, which Python alone reads.
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"inf"', "Infinity"))
    check_folder(folder, DESCRIPTION, resume=True)
