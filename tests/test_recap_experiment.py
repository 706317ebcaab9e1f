"""Recap's iterations from the command line: cached, resumed exactly, with labels that reach the policy."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rljax import training
from rljax.algorithms import diffusion, recap
from rljax.data import formats
from rljax.types import Refused
from tests.test_demonstration_experiments import demonstrations  # noqa: F401
from tests.test_offline_experiments import cli  # noqa: F401

TINY = ["--task", "pick_and_place", "--demonstrations", "4", "--rollouts", "3", "--no-progress"]
TINY += ["--value-updates", "20", "--policy-updates", "20", "--value.hidden", "8", "--value.batch-size", "16"]
TINY += ["--policy.width", "16", "--policy.blocks", "1", "--policy.batch-size", "16", "--policy.sampler-steps", "2"]


def untrained(*_, **__):
    raise ValueError("trained anew")


def contents(folder):
    """When each file was written that a second call has no reason to write."""
    again = {"settings.json", "result.json", "value.png"}
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name not in again}


def test_iterations_are_cached_and_labels_reach_the_policy(cli, tmp_path, monkeypatch):  # noqa: F811
    code, out, err = cli("recap", *TINY, "--iterations", "0")
    assert (code, "warning" in err) == (0, False), err
    folder = tmp_path / "runs" / "recap" / "pick_and_place-recap-seed0"
    first, result = contents(folder), json.loads((folder / "result.json").read_text())
    assert "recap on pick_and_place" in out
    assert len(result["iterations"]) == 1

    # One more iteration goes on from there.
    code, _, err = cli("recap", *TINY, "--iterations", "1")
    assert (code, "warning" in err) == (0, False), err
    result, found = json.loads((folder / "result.json").read_text()), contents(folder)
    assert first.items() <= found.items()
    assert [row["episodes"] for row in result["iterations"]] == [4, 7]
    assert result["iterations"][0]["good_in_demonstrations"] == pytest.approx(0.3, abs=0.01)
    demos, rollouts = (formats.load(folder / path) for path in ("demonstrations.hdf5", "0-policy/rollouts.hdf5"))
    assert len(rollouts.ends) == 3
    assert (rollouts.terminated | rollouts.truncated)[rollouts.ends - 1].all()
    label = np.load(folder / "1-value" / "labels.npz")["label"]
    assert label.shape == (demos.size + rollouts.size,)
    assert label.mean() == pytest.approx(0.4, abs=0.01)
    assert (folder / "1-value" / "value.png").stat().st_size > 1000
    config = json.loads((folder / "1-policy" / "config.json").read_text())["config"]
    assert (config["labels"], config["acts_with"], config["label_dropout"]) == (2, recap.POSITIVE, 0.3)

    # A second call trains nothing, and another run is not mixed up with this one.
    monkeypatch.setattr(training, "train", untrained)
    assert cli("recap", *TINY, "--iterations", "1")[0] == 0
    assert contents(folder) == found
    assert json.loads((folder / "result.json").read_text()) == result
    code, _, err = cli("recap", *TINY, "--iterations", "1", "--policy-updates", "30")
    assert code == 2
    assert err.endswith("holds another run: policy_updates was 20 and is now 30; choose another --name\n")


@pytest.mark.slow
def test_interrupted_rollouts_leave_no_half_file_and_are_played_again(cli, tmp_path, monkeypatch):  # noqa: F811
    whole = tmp_path / "runs" / "recap" / "whole" / "0-policy" / "rollouts.hdf5"
    arguments = [*TINY, "--iterations", "0", "--method", "plain", "--name"]
    assert cli("recap", *arguments, "whole")[0] == 0
    about = formats._about

    def interrupt(dataset):
        if dataset.metadata.policy == "plain, iteration 0":
            raise KeyboardInterrupt
        return about(dataset)

    with monkeypatch.context() as patch:
        patch.setattr(formats, "_about", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cli("recap", *arguments, "stopped")
    stopped = tmp_path / "runs" / "recap" / "stopped" / "0-policy"
    assert not [path for path in stopped.iterdir() if "hdf5" in path.name]
    assert cli("recap", *arguments, "stopped")[0] == 0
    expected, found = formats.load(whole), formats.load(stopped / "rollouts.hdf5")
    for name in ("obs", "action", "reward", "terminated", "truncated", "next_obs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_signal_ends_it_with_a_shells_code(cli, monkeypatch):  # noqa: F811
    monkeypatch.setattr(training, "train", lambda *_, **__: SimpleNamespace(interrupted=15))
    assert cli("recap", *TINY)[0] == 143


def test_each_method_tells_its_policy_something_else(cli, demonstrations, tmp_path, monkeypatch):  # noqa: F811
    """Of demonstrations from a file; the policy itself is not trained."""
    told: dict[str, Any] = {}

    def make(env, config, data, **arguments):
        told.update(arguments, config=config)
        raise Refused("far enough")

    monkeypatch.setattr(diffusion, "make", make)
    arguments = [*TINY, "--task", "push_t", "--demos", demonstrations, "--method"]
    for method in ("recap", "recap_contrastive", "plain"):
        told.clear()
        code, _, err = cli("recap", *arguments, method)
        assert (code, err.splitlines()[-1]) == (2, "error: far enough")
        folder, config = tmp_path / "runs" / "recap" / f"push_t-{method}-seed0", told.pop("config")
        assert (config.labels, config.acts_with) == ((2, 1) if method == "recap" else (0, -1))
        assert (folder / "0-value").exists() == (method != "plain")
        if method == "plain":
            assert told == {}
            continue
        label = np.load(folder / "0-value" / "labels.npz")["label"]
        assert set(label) == {recap.NEGATIVE, recap.POSITIVE}
        expected = {"label": label} if method == "recap" else {"weight": np.where(label == 1, 1.0, -0.1)}
        assert told.keys() == expected.keys()
        np.testing.assert_array_equal(*told.values(), *expected.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "foo"], "method = foo is not allowed; it must be recap, recap_contrastive or plain"),
        (["--rollouts", "0"], "rollouts = 0 is not allowed; it must be at least 2"),
        (["--later-share", "1"], "later_share = 1.0 is not allowed; it must be in (0, 1)"),
        (["--task", "hopper"], "task = hopper is not allowed; it must be lace, pick_and_place or push_t"),
        (
            ["--policy.labels", "3"],
            "policy.labels and policy.acts_with follow from --method; leave them out",
        ),
        (["--task", "push_t"], "has no demonstrator; there is one for PickAndPlace, Lace"),
    ],
)
def test_what_is_not_allowed_is_said_in_one_line_and_leaves_nothing(cli, arguments, message, tmp_path):  # noqa: F811
    code, out, err = cli("recap", *arguments)
    assert not (tmp_path / "runs").exists()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.endswith(f"{message}\n")
    assert err.count("\n") == 1
