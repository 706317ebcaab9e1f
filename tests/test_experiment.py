"""The command line: help, bad input, a run, its resumption."""

import json
import runpy
import sys
from pathlib import Path

import pytest

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
    for flag in ("--env", "--seeds", "--sweep", "--resume", "--discount", "--clip-range", "--memory", "--wandb"):
        assert flag in out
    assert out.count("(default:") > 40


def test_defaults_depend_on_the_task_by_any_of_its_names(cli):
    assert "(default: 2000000)" in cli("--env", "Pendulum-v1", "--help")[1]
    assert "(default: 200000)" in cli("--env", "cartpole", "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "cartpol"], "error: unknown environment 'cartpol'; did you mean cartpole?"),
        (["--discount", "-1"], "discount = -1.0 is not allowed"),
        (["--num-minibatches", "7"], "num_minibatches = 7 is not allowed"),
        (["--sweep", "learning_rate"], "error: sweep = 'learning_rate' is not allowed; it must look like"),
        (["--sweep", "speed=1,2"], "error: ppo cannot sweep 'speed'"),
        (["--seeds", "0"], "error: seeds = 0 is not allowed; it must be at least 1"),
        (["--devices", "64"], "error: devices = 64 is not allowed"),
        (["--total-steps", "0"], "error: total_steps = 0 is not allowed"),
        (["--env", "t_maze", "--num-envs", "6"], "num_minibatches = 4 is not allowed"),
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


def test_a_run_leaves_its_folder_and_resumes_only_as_itself(cli, tmp_path):
    code, out, err = cli(*TINY)
    assert code == 0, err
    folder = tmp_path / "runs" / "ppo" / "cartpole-seed0"
    assert json.loads((folder / "evaluation.json").read_text())["steps"] == 64
    assert (folder / "learning_curve.png").stat().st_size > 1000
    assert "Return over 2 episodes after 64 steps" in out
    code, _, err = cli(*TINY)
    assert code == 2
    assert err == "error: runs/ppo/cartpole-seed0 holds a run already; resume it, or choose another name\n"
    code, _, err = cli(*TINY, "--discount", "0.5", "--resume")
    assert code == 2
    assert "holds another run: config.discount was 0.99 and is now 0.5" in err
    assert cli(*TINY, "--resume")[0] == 0
    assert cli(*TINY, "--overwrite")[0] == 0
    assert (tmp_path / "runs" / "ppo" / "cartpole-seed0.1" / "config.json").exists()


def test_a_sweep_with_seeds_makes_a_grid(cli, tmp_path):
    code, _, err = cli(*TINY, "--seeds", "2", "--sweep", "learning_rate=1e-3,1e-4", "--name", "grid")
    assert code == 0, err
    members = json.loads((tmp_path / "runs" / "ppo" / "grid" / "evaluation.json").read_text())["members"]
    settings = [(member["hyper"]["learning_rate"], member["seed"]) for member in members]
    assert settings == [(1e-3, 0), (1e-3, 1), (1e-4, 0), (1e-4, 1)]
