"""The search for hyperparameters: spaces in words, members of one program as trials, many processes on one study."""

import contextlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from rljax import experiment, training
from rljax.experiment import references, space
from rljax.experiment import study as studies
from rljax.experiment.space import Range
from rljax.experiment.study import Study
from rljax.training.result import Result
from rljax.types import Refused
from tests.toys import Clock, limited

SCRIPT = Path(__file__).parents[1] / "experiments" / "search.py"
PPO = runpy.run_path(str(SCRIPT.with_name("ppo.py")))
FIXED = ["num_envs=4", "rollout_length=8", "num_minibatches=2", "num_epochs=1", "hidden=8", "total_steps=320"]
TINY = ["--fixed", *FIXED, "--evaluation-episodes", "2", "--final-episodes", "2", "--devices", "1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate=1e-5..1e-2:log", Range(1e-5, 1e-2, True)),
        ("num-epochs=1..8", Range(1, 8, False)),
        ("gae_lambda=0.8..0.99", Range(0.8, 0.99, False)),
        ("target_entropy_per_dim=-2..-0.5", Range(-2, -0.5, False)),
        ("hidden=64,128x32", ("64", "128x32")),
    ],
)
def test_a_space_in_words(text, expected):
    (found,) = space.parse([text]).values()
    assert found == expected
    assert [type(x) for x in found] == [type(x) for x in expected]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["learning_rate"], "'learning_rate' is not allowed in a space; it must look like NAME=LOW..HIGH"),
        (["learning_rate=1e-2..1e-4"], "the low end must be below the high one"),
        (["learning_rate=0..1:log"], "a logarithmic range must be above 0"),
        (["learning_rate=0..1:lin"], "it must look like"),
        (["learning_rate=a..b"], "it must look like"),
        (["learning_rate=0..inf"], "the low end must be below the high one"),
        (["hidden=8,8"], "its values must be different"),
        (["hidden=8", "hidden=16"], "the space names hidden twice"),
    ],
)
def test_what_is_no_space_is_refused_in_one_line(texts, message):
    with pytest.raises(Refused, match=message) as error:
        space.parse(texts)
    assert "\n" not in str(error.value)


def test_values_are_read_as_what_the_setting_is():
    values = {"hidden": "32", "learning_rate": "1e-3", "num_epochs": 3.0, "activation": "relu", "anneal": "false"}
    values |= {"total_steps": "100", "value_clip_range": "0.2", "target_kl": "none"}
    settings = space.changed(PPO["Settings"](), values)
    config = settings.config
    assert (config.hidden, config.learning_rate, config.num_epochs, config.activation) == ((32, 32), 1e-3, 3, "relu")
    assert (settings.anneal, settings.total_steps, config.value_clip_range, config.target_kl) == (False, 100, 0.2, None)
    shown = space.flags(PPO["Settings"](), {"hidden": "8x4", "anneal": "false", "learning_rate": 0.5})
    assert shown == "--hidden 8 4 --no-anneal --learning-rate 0.5"
    for name, value, message in (
        ("speed", "1", "there is no setting 'speed'"),
        ("hidden", "a", "must be whole numbers, such as 64x64"),
        ("num_epochs", "1.5", "num_epochs = '1.5' is not allowed"),
        ("discount", "2", "discount = 2 is not allowed"),
    ):
        with pytest.raises(Refused, match=message):
            space.changed(PPO["Settings"](), {name: value})


def test_scales_are_gymnasiums_and_those_of_random_actions():
    assert references.solved_return("CartPole-v1") == references.solved_return("cartpole") == 475.0
    assert references.solved_return("acrobot") == -100.0
    with pytest.raises(Refused, match="pendulum has no return at which it counts as solved"):
        references.solved_return("pendulum")
    assert references.random_return(limited(Clock(5, True), 9)) == 5.0
    assert references.normalized(475.0, 20.0, 475.0) == 1.0


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
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


def trials_of(folder, name="ppo-cartpole"):
    journal = optuna.storages.journal.JournalFileBackend(str(folder / "runs" / "search" / name / "journal.log"))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(journal)).trials


def test_trials_are_members_of_one_program_and_a_later_call_goes_on(search, tmp_path, monkeypatch):
    programs, train = [], training.train

    def counted(algorithm, keys, steps, options, **how):
        programs.append({name: values.tolist() for name, values in how["hyper"].items()})
        return train(algorithm, keys, steps, options, **how)

    monkeypatch.setattr(training, "train", counted)
    how = ["--space", "learning_rate=1e-4..1e-2:log", "discount=0.98,0.99", "--members", "2", "--seeds", "2"]
    code, out, err = search(*TINY, *how, "--trials", "2")
    assert code == 0, err
    trials = trials_of(tmp_path)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    (program,) = programs  # of two seeds of each
    for name, values in program.items():
        assert values == [float(trial.params[name]) for trial in trials for _ in range(2)]
    assert all(len(trial.intermediate_values) == 10 for trial in trials)
    best = max(trials, key=lambda trial: trial.value)
    assert f"best: trial {best.number}: {best.value:.4g}" in out
    assert "optuna-dashboard runs/search/ppo-cartpole/journal.log" in out
    assert "chosen on the seeds 1000000 to 1000001: show it on others" in out
    # What is printed is a command that trains with the best values.
    (command,) = re.findall(r"python experiments/ppo.py (.*)", out)
    parsed: list[Any] = []
    real = experiment.main
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "main", lambda _, *given: real(parsed.append, *given))
        patch.setattr(sys, "argv", ["ppo.py", *command.split()])
        runpy.run_path(str(SCRIPT.with_name("ppo.py")), run_name="__main__")
    assert parsed[0].config.learning_rate == best.params["learning_rate"]
    assert (parsed[0].config.hidden, parsed[0].total_steps) == ((8, 8), 320)
    # All are begun; and another space is another study.
    assert search(*TINY, *how, "--trials", "2")[0] == 0
    assert len(trials_of(tmp_path)) == 2
    code, _, err = search(*TINY, "--space", "learning_rate=1e-3..1e-2", "--members", "2")
    assert (code, err.count("\n")) == (2, 1)
    assert "error: the study ppo-cartpole was begun with space = " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithm", "iql"], "error: algorithm = 'iql' is not allowed; it must be one of a2c, crossq, dqn, ppo"),
        (["--algorithm", "../search"], "error: algorithm = '../search' is not allowed"),
        (["--space", "speed=1..2"], "error: there is no setting 'speed'"),
        (["--space", "discount=0.9..2"], "discount = 2 is not allowed"),
        (["--space", "hidden=8,16", "--members", "2"], "error: members = 2 needs a value in the space that can be"),
        (
            ["--fixed", "hidden=8", "--space", "hidden=8,16"],
            "error: fixed = ('hidden=8',) is not allowed; hidden is in",
        ),
        (["--fixed", "hidden"], "error: 'hidden' is not allowed here; it must look like NAME=VALUE"),
        (["--envs", "cartpole", "pendulum", "--trials", "1"], "error: pendulum has no return at which"),
        (["--envs", "cartpole", "acrobot", "--solved", "acrobot=a"], "error: solved = ('acrobot=a',) is not allowed"),
        (["--storage", "nowhere://x"], "error: storage = nowhere://x cannot be used: "),
    ],
)
def test_bad_input_is_one_line_and_exit_2(search, arguments, message):
    code, _, err = search(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_search_without_optuna_names_the_extra(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = search(*TINY, "--space", "learning_rate=1e-4..1e-2")
    assert (code, err) == (2, "error: optuna is not installed: pip install 'rljax[search]'\n")


def opened(folder, pruner="none"):
    return Study.opened(folder, "toy", None, {"envs": ["toy"]}, "random", pruner)


SPACE = {"rate": Range(0.0, 1.0), "width": ("8", "16")}


def test_trials_of_a_batch_share_what_a_program_is_compiled_for(tmp_path):
    with opened(tmp_path) as study:
        for _ in range(3):
            trials = study.ask(SPACE, 3, 9, ["rate"])
            assert len(trials) == 3
            assert len({trial.params["width"] for trial in trials}) == 1
            assert len({trial.params["rate"] for trial in trials}) == 3
            study.tell(trials, [1.0, float("nan"), 3.0])
        assert study.ask(SPACE, 3, 9, ["rate"]) == []
        assert study.summary().startswith("study toy: 6 complete, 3 pruned\nbest: trial ")


def test_trials_of_a_process_that_died_are_done_again_and_those_of_one_that_lives_are_not(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.test_search import SPACE, opened\n"
        "with opened(Path(sys.argv[1])) as study:\n"
        "    print(*(trial.params['rate'] for trial in study.ask(SPACE, 2, 4, ['rate'])), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with opened(tmp_path) as study:
        ours = study.ask(SPACE, 1, 4, ["rate"])
        died = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=SCRIPT.parents[1], capture_output=True)
        assert died.returncode == -signal.SIGKILL, died.stderr
        rates = sorted(map(float, died.stdout.split()))
        again = study.ask(SPACE, 2, 4, ["rate"])
        assert sorted(trial.params["rate"] for trial in again) == rates
        assert not {trial.params["rate"] for trial in ours} & set(rates)
        study.give_back(again)  # as on a signal
        last = study.ask(SPACE, 2, 4, ["rate"])
        assert sorted(trial.params["rate"] for trial in last) == rates
        study.give_back(last)  # once too often
        fresh = study.ask(SPACE, 4, 4, ["rate", "width"])
        assert len(fresh) == 3
        assert not {trial.params["rate"] for trial in fresh} & set(rates)


def test_a_program_ends_once_all_of_its_trials_are_worse_than_others(tmp_path):
    reports = runpy.run_path(str(SCRIPT))["Reports"]

    def row(member, value):
        return {"member": member, "evaluation/return": value}

    def stopped(trials, values):
        callback = reports(trials, 1, lambda value: value, studies.np.zeros((len(trials), 0)))
        for step in range(3):
            callback.on_log(step, [row(i, value) for i, value in enumerate(values)])
            reason = callback.on_evaluate(step, None, None)
        return reason

    with opened(tmp_path, "median") as study:
        for value in (5.0, 6.0, 7.0, 8.0, 9.0):
            trials = study.ask(SPACE, 1, 99, ["rate"])
            assert stopped(trials, [value]) is None
            study.tell(trials, [value])
        trials = study.ask(SPACE, 2, 99, ["rate"])
        assert stopped(trials, [9.0, 1.0]) is None  # one of them is good
        study.tell(trials, [9.0, 1.0])
        trials = study.ask(SPACE, 2, 99, ["rate"])
        assert stopped(trials, [2.0, 1.0]) == "worse than other trials"
        study.tell(trials, None)
        assert study.summary().startswith("study toy: 7 complete, 2 pruned\n")


def test_a_signal_gives_the_trials_back(search, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        return Result(None, None, 0, [], None, 0.0, 0.0, int(signal.SIGTERM), None, None, "1 device")

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", interrupted)
        assert search(*TINY, "--space", "learning_rate=1e-4..1e-2", "--trials", "2")[0] == 128 + signal.SIGTERM
    states = [trial.state.name for trial in trials_of(tmp_path)]
    assert states == ["FAIL", "FAIL", "WAITING", "WAITING"]


@pytest.mark.slow
def test_two_processes_share_a_study_and_one_that_is_killed_loses_no_trial(tmp_path):
    command = [sys.executable, str(SCRIPT), *TINY, "--trials", "12", "--members", "2", "--runs", "runs"]
    command += ["--space", "learning_rate=1e-4..1e-2:log", "clip_range=0.1..0.4"]

    def start():
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    processes = [start(), start()]
    try:
        began = time.monotonic()
        while True:
            with contextlib.suppress(KeyError, OSError, ValueError):
                if any(trial.state.name == "RUNNING" for trial in trials_of(tmp_path)):
                    break
            assert time.monotonic() - began < 600
            time.sleep(0.2)
        processes[0].kill()
        processes[0].communicate()
        processes.append(start())
        outputs = [each.communicate(timeout=900) for each in processes[1:]]
    finally:
        for each in processes:
            each.kill()
    assert [each.returncode for each in processes[1:]] == [0, 0], outputs
    trials = trials_of(tmp_path)
    done = [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(done) == 12
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED", "FAIL"}
    workers = {trial.user_attrs["process"] for trial in done}
    assert len(workers) >= 2
    assert json.dumps(sorted(workers))  # names, as the journal has them
    assert not list((tmp_path / "runs" / "search" / "ppo-cartpole" / "processes").glob(f"*-{os.getpid()}-*"))
