"""Logs are never lost, and a log that is down never stops training."""

import sys
import types

import pytest

from rljax.training.logs import CsvLog, TensorBoardLog, WandbLog
from rljax.types import Refused

NAN = float("nan")


def test_csv_leaves_cells_empty_where_nothing_was_measured(tmp_path):
    log = CsvLog(tmp_path / "metrics.csv", ["step", "a", "b"])
    log.write([{"step": 1, "a": 0.5}, {"step": 2, "a": NAN, "b": 3.0}])
    # Readable at once, before the log is closed.
    assert (tmp_path / "metrics.csv").read_text() == "step,a,b\n1,0.5,\n2,,3.0\n"
    log.close()


def test_csv_drops_rows_past_the_checkpoint_and_a_line_cut_off_by_a_crash(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,a,b\n1,0.5,\n2,0.6,\n3,0.7,\n4,0.")
    log = CsvLog(path, ["step", "a", "b"], resume_step=2)
    log.write([{"step": 3, "a": 0.8}])
    log.close()
    assert path.read_text() == "step,a,b\n1,0.5,\n2,0.6,\n3,0.8,\n"


def test_csv_of_another_run_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,c\n1,2\n")
    with pytest.raises(ValueError, match="has other columns than this run"):
        CsvLog(tmp_path / "metrics.csv", ["step", "a"], resume_step=1)


def test_csv_gains_columns_and_keeps_those_of_evaluations(tmp_path):
    """A run may be resumed with evaluations that it began without, or without those that it began with."""
    path = tmp_path / "metrics.csv"
    path.write_text("step,evaluation/return,a\n1,9.0,0.5\n2,,0.6\n")
    log = CsvLog(path, ["step", "evaluation/length", "a", "new"], resume_step=2)
    log.write([{"step": 3, "a": 0.8, "evaluation/length": 7, "new": 1}])
    log.close()
    assert path.read_text() == ("step,evaluation/length,a,new,evaluation/return\n1,,0.5,,9.0\n2,,0.6,,\n3,7,0.8,1,\n")


def test_csv_that_is_damaged_is_refused_in_one_line(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,a\nx,2\n")
    with pytest.raises(Refused, match="is damaged: a row has no whole number as its step"):
        CsvLog(tmp_path / "metrics.csv", ["step", "a"], resume_step=1)


def test_tensorboard_writes_events(tmp_path):
    log = TensorBoardLog(tmp_path)
    log.write(10, {"loss/value": 1.0})
    log.close()
    assert b"loss/value" in next(tmp_path.glob("events.out.tfevents*")).read_bytes()


class Run:
    def __init__(self):
        self.logged = []

    def log(self, values, step):
        if step >= 2:
            raise ConnectionError("no route to host")
        self.logged.append((step, values))

    def finish(self):
        pass


def test_wandb_that_fails_on_the_way_warns_once_and_is_left_out(tmp_path, monkeypatch):
    run = Run()
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: run))
    log = WandbLog(tmp_path, {})
    log.write(1, {"a": 1.0})
    with pytest.warns(UserWarning, match="left out from step 2 on: no route to host"):
        log.write(2, {"a": 1.0})
    log.write(3, {"a": 1.0})
    log.close()
    assert run.logged == [(1, {"a": 1.0})]


def test_wandb_that_does_not_answer_never_stops_training(tmp_path, monkeypatch):
    def init(**_):
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.warns(UserWarning, match="W&B does not answer"):
        log = WandbLog(tmp_path, {})
    log.write(1, {"a": 1.0})
    log.close()


def test_wandb_that_is_not_installed_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'rljax\[wandb\]'"):
        WandbLog(tmp_path, {})


def test_wandb_knows_a_run_by_an_id_of_its_own_and_a_resumed_one_again(tmp_path, monkeypatch):
    """By the name of its folder, runs of two algorithms, machines or settings were one."""
    ids = []

    def init(id, **_):
        ids.append(id)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for folder in (tmp_path / "ppo" / "cartpole-seed0", tmp_path / "pqn" / "cartpole-seed0"):
        folder.mkdir(parents=True)
        for _ in range(2):
            WandbLog(folder, {}).close()
    first, again, second, _ = ids
    assert first == again
    assert first != second
