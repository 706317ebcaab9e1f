"""The command line: help, bad input, a run, its resumption."""

import json
import math
import re
import runpy
import sys
from pathlib import Path

import av
import jax
import numpy as np
import pytest

import rljax
from rljax import experiment, pipeline, training
from rljax.envs.classic.cartpole import CartPole
from rljax.experiment import summary
from rljax.training.lock import locked
from rljax.training.members import seeds_of
from rljax.types import Refused

SCRIPT = Path(__file__).parents[1] / "experiments" / "ppo.py"
TINY = ["--num-envs", "4", "--rollout-length", "8", "--num-minibatches", "2", "--hidden", "8", "--total-steps", "64"]
TINY += ["--evaluation-episodes", "2", "--final-episodes", "2", "--devices", "1", "--no-progress"]


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Calls the script as a shell would: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_help_explains_every_field(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for flag in (
        "--env",
        "--seeds",
        "--sweep",
        "--resume",
        "--discount",
        "--clip-range",
        "--memory",
        "--wandb",
        "--video",
    ):
        assert flag in out
    assert out.count("(default:") > 40


def test_defaults_depend_on_the_task_by_any_of_its_names(cli):
    assert "(default: 2000000)" in cli("--env", "Pendulum-v1", "--help")[1]
    assert "(default: 200000)" in cli("--env", "cartpole", "--help")[1]


def test_defaults_depend_on_where_the_physics_runs(cli, monkeypatch):
    def steps(*arguments):
        out = cli("--env", "hopper", *arguments, "--help")[1]
        return re.findall(r"--total-steps INT.*?default:\s+(\d+)", out, re.S)[0]

    assert steps() == "1000000"
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")  # only the help is asked for, so JAX never starts on it
    assert steps() == "50000000"
    assert steps("--engine", "native") == "1000000"
    assert "(default: 200000)" in cli("--env", "cartpole", "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--env", "hopper", "--engine", "bullet"],
            "error: engine must be one of auto, native, mjx, warp, got 'bullet'",
        ),
        (["--env", "cartpole", "--engine", "mjx"], "error: cartpole: got an unexpected keyword argument 'engine'"),
        (["--env", "cartpol"], "error: unknown environment 'cartpol'; did you mean cartpole?"),
        (["--discount", "-1"], "discount = -1.0 is not allowed"),
        (["--num-minibatches", "7"], "num_minibatches = 7 is not allowed"),
        (["--sweep", "learning_rate"], "error: sweep = 'learning_rate' is not allowed; it must look like"),
        (["--sweep", "speed=1,2"], "error: ppo cannot sweep 'speed'"),
        (["--seeds", "0"], "Run: seeds = 0 is not allowed; it must be at least 1"),
        (["--devices", "64"], "error: devices = 64 is not allowed"),
        (["--total-steps", "0"], "error: total_steps = 0 is not allowed"),
        (["--env", "t_maze", "--num-envs", "6"], "num_minibatches = 4 is not allowed"),
        (["--seed", "-1"], "Run: seed = -1 is not allowed; it must be 0 or more"),
        (["--seed", str(2**63)], "Run: seed = 9223372036854775808 is not allowed; it must be at most"),
        (["--seed", str(2**63 - 1), "--seeds", "2"], "the last seed must be at most 9223372036854775807"),
        (["--final-episodes", str(2**31)], "error: final_episodes = 2147483648 is not allowed; it must be below 2^31"),
        (["--hidden", "8", str(2**31)], "error: hidden = 2147483648 is not allowed; it must be below 2^31"),
        (["--total-steps", str(10**18)], "error: total_steps = 1000000000000000000 is not allowed; iterations must be"),
        (
            ["--start-parts", "policy"],
            "start_parts = ('policy',) is not allowed; it must be empty without",
        ),
        (["--start-from", "nowhere"], "nowhere is not a run folder: it has no config.json"),
        (["--name", "x" * 300], "cannot be written to: File name too long"),
        (["--runs", "gs://bucket/runs"], "error: gs:/bucket/runs is an address; only folders and files of this"),
        (["--runs=~nobody-of-that-name/runs"], "error: ~nobody-of-that-name/runs: "),
    ],
)
def test_bad_input_is_one_line_exit_2_and_leaves_nothing(cli, arguments, message, tmp_path):
    code, _, err = cli(*arguments)
    assert code == 2
    # tyro frames and wraps its own errors
    flat = " ".join(err.replace("│", " ").split())
    assert message in flat
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError("Incompatible shapes for broadcasting"), FloatingPointError("a NaN")])
def test_a_defect_keeps_its_traceback(cli, error, monkeypatch):
    """JAX's errors, and those of the user's environment, say where they are from; so do JAX's own of jax_debug_nans."""

    def make(*_, **__):
        raise error

    monkeypatch.setattr(rljax, "make", make)
    with pytest.raises(type(error), match=str(error)):
        cli(*TINY)


def test_training_that_diverged_is_one_line_and_exit_code_1(cli, monkeypatch):
    def train(*_, **__):
        raise training.Diverged("training diverged: loss/policy is not finite at step 64")

    monkeypatch.setattr(training, "train", train)
    assert cli(*TINY)[::2] == (1, "error: training diverged: loss/policy is not finite at step 64\n")


def test_where_a_run_is_left_is_asked_before_training_and_may_be_the_home_folder(cli, tmp_path, monkeypatch):
    folders = []

    def train(*_, folder, **__):
        folders.append(folder)
        raise Refused("far enough")

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cli(*TINY, "--runs=~/runs")[2] == "error: far enough\n"
    assert folders == [tmp_path / "home" / "runs" / "ppo" / "cartpole-seed0"]
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    code, _, err = cli(*TINY, "--runs", "file")
    assert (code, err) == (2, "error: file/ppo/cartpole-seed0 cannot be written to: file is not a folder\n")
    assert len(folders) == 1


def test_a_name_is_printed_as_it_is(tmp_path, capsys):
    """Brackets are markup to rich, and colons emoji."""
    folder = Path("runs") / "lr[red]1 [/b] :fire: [bold]"
    summary.summarize(
        training.Result(None, None, 64, [], None, 0.1, 0.2, None, None, folder, "1 device"), None, "steps"
    )
    out = capsys.readouterr().out
    assert f"run folder: {folder}   policy: rljax.load('{folder}')\n" in out


def test_a_run_too_short_for_an_episode_has_no_curve(tmp_path, capsys):
    rows = [{"step": 64, "episode/return": math.nan}]
    summary.summarize(
        training.Result(None, None, 64, rows, None, 0.1, 0.2, None, None, tmp_path, "1 device"), None, "steps"
    )
    assert f"run folder: {tmp_path}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_seeds_have_64_bits_and_below_2_to_32_are_those_of_jax():
    seeds = [0, 7, 2**32 - 1, 2**32, 2**32 + 7, 5_000_000_000, 2**63 - 1]
    keys = experiment.keys_of(seeds)
    data = np.asarray(jax.random.key_data(keys))

    def of_jax(seeds):
        return [np.asarray(jax.random.key_data(jax.random.key(seed))) for seed in seeds]

    assert len({tuple(words) for words in data.tolist()}) == len(seeds)
    np.testing.assert_array_equal(data[:3], of_jax(seeds[:3]))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(data, of_jax(seeds))
    assert seeds_of(keys) == seeds
    for seed in (-1, 2**63):
        with pytest.raises(Refused, match=f"seed = {seed} is not allowed; it must be from 0 to"):
            experiment.keys_of([0, seed])


def test_a_run_leaves_its_folder_and_resumes_only_as_itself(cli, tmp_path):
    code, out, err = cli(*TINY)
    assert code == 0, err
    folder = tmp_path / "runs" / "ppo" / "cartpole-seed0"
    assert json.loads((folder / "evaluation.json").read_text())["steps"] == 64
    assert (folder / "learning_curve.png").stat().st_size > 1000
    assert "Return over 2 episodes after 64 steps" in out
    assert "ready after" in err  # --no-progress hides the bar, and no line
    assert "step           64   evaluation return" in err
    code, _, err = cli(*TINY)
    assert code == 2
    assert err.startswith("error: runs/ppo/cartpole-seed0 holds a run already: --resume (resume=True) continues it, ")
    assert err.endswith("--overwrite moves it aside, another --name starts beside it\n")
    code, _, err = cli(*TINY, "--discount", "0.5", "--resume")
    assert code == 2
    assert "holds another run: config.discount was 0.99 and is now 0.5" in err
    assert cli(*TINY, "--resume")[0] == 0
    assert cli(*TINY, "--overwrite")[0] == 0
    assert (tmp_path / "runs" / "ppo" / "cartpole-seed0.1" / "config.json").exists()
    # For more steps only with the schedule that it has.
    code, _, err = cli(*TINY, "--total-steps", "128", "--resume")
    assert code == 2
    assert "was begun with total_steps = 64, which its schedules follow; give --total-steps 64 to finish it" in err
    assert "keep them with --anneal-steps 64 to go on for longer (" in err
    assert cli(*TINY, "--total-steps", "128", "--resume", "--anneal-steps", "64")[0] == 0
    assert json.loads((folder / "evaluation.json").read_text())["steps"] == 128


def test_a_run_starts_from_another(cli, tmp_path):
    assert cli(*TINY, "--name", "first")[0] == 0
    flags = ["--name", "second", "--learning-rate", "1e-4", "--start-from", "runs/ppo/first", "--start-parts", "policy"]
    code, _, err = cli(*TINY, *flags)
    assert code == 0, err
    config = json.loads((tmp_path / "runs" / "ppo" / "second" / "config.json").read_text())
    recorded = config["settings"]["start_from"]
    assert (recorded["folder"], recorded["parts"]) == (str(tmp_path / "runs" / "ppo" / "first"), ["policy"])
    assert cli(*TINY, *flags, "--resume")[0] == 0
    code, _, err = cli(*TINY, "--hidden", "4", "--name", "third", "--start-from", "runs/ppo/first")
    assert (code, err.count("\n")) == (2, 1)
    assert "does not fit this run" in err


def test_a_sweep_with_seeds_makes_a_grid(cli, tmp_path):
    border = str(2**32 - 1)  # as large as seeds of one word
    flags = ["--seed", border, "--seeds", "2", "--sweep", "learning_rate=1e-3,1e-4", "--name", "grid"]
    code, _, err = cli(*TINY, *flags)
    assert code == 0, err
    members = json.loads((tmp_path / "runs" / "ppo" / "grid" / "evaluation.json").read_text())["members"]
    settings = [(member["hyper"]["learning_rate"], member["seed"]) for member in members]
    assert settings == [(1e-3, 2**32 - 1), (1e-3, 2**32), (1e-4, 2**32 - 1), (1e-4, 2**32)]


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_video_films_the_final_policy_also_of_a_finished_run(cli, tmp_path):
    code, out, err = cli(*TINY, "--seeds", "2", "--name", "film", "--video")
    assert code == 0, err
    path = tmp_path / "runs" / "ppo" / "film" / "video.mp4"
    assert "video: runs/ppo/film/video.mp4" in out
    frames = frames_of(path)
    assert frames.std() > 5
    assert np.abs(np.diff(frames.astype(int), axis=0)).max(axis=(1, 2, 3)).min() > 0  # it moves, in every frame
    path.unlink()
    assert cli(*TINY, "--seeds", "2", "--name", "film", "--resume", "--video")[0] == 0
    np.testing.assert_array_equal(frames_of(path), frames)


def test_video_of_what_cannot_be_drawn_is_refused_before_training(cli, tmp_path, monkeypatch):
    monkeypatch.delattr(CartPole, "render")
    code, _, err = cli(*TINY, "--video")
    assert (code, err) == (2, "error: video = True is not possible: cartpole has no drawing\n")
    assert not list(tmp_path.iterdir())


def test_a_film_that_fails_at_the_end_does_not_lose_the_run(cli, tmp_path, monkeypatch):
    draw, calls = CartPole.render, []

    def render(self, state):
        calls.append(state)
        if len(calls) > 1:  # the first is the check before training
            raise RuntimeError("the screen\nwent dark")
        return draw(self, state)

    monkeypatch.setattr(CartPole, "render", render)
    code, out, err = cli(*TINY, "--video")
    assert code == 0
    warned = "warning: runs/ppo/cartpole-seed0/video.mp4 could not be made: the screen went dark"
    assert err.splitlines()[-1] == warned
    assert "Return over 2 episodes" in out
    assert "video:" not in out
    assert not list((tmp_path / "runs").rglob("*video*"))


def test_a_folder_that_is_being_written_is_not_moved_aside(tmp_path):
    with locked(tmp_path / "run"), pytest.raises(Refused, match="is being written by process"):
        experiment.set_aside(tmp_path / "run")
    (tmp_path / "run").mkdir()
    experiment.set_aside(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run.1"]


def test_settings_that_are_infinite_are_found_again(tmp_path):
    for _ in range(2):
        pipeline.pin(tmp_path, {"patience": float("inf")}, free=())
    with pytest.raises(Refused, match="patience was 'inf' and is now 2"):
        pipeline.pin(tmp_path, {"patience": 2}, free=())
