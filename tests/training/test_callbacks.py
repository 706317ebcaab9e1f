"""Callbacks: when they are called, with what, and that they may stop a run; and evaluation in another environment."""

import json
from typing import ClassVar

import jax
import numpy as np
import pytest

import rljax
from rljax.data import Feed
from rljax.training import Callback, StopAtReturn
from rljax.types import Refused
from tests import runs
from tests.toys import counter

KEY = jax.random.key(0)


class Notes(Callback):
    """Notes all that it is told."""

    def __init__(self, stop_at=None):
        self.notes, self.stop_at = [], stop_at

    def on_log(self, steps, rows):
        self.notes.append(("log", steps, len(rows), rows[-1]["step"]))
        return "enough" if steps == self.stop_at else None

    def on_evaluate(self, steps, score, state):
        self.notes.append(("evaluate", steps, score, float(state.params[0])))

    def on_save(self, steps, checkpoint):
        self.notes.append(("save", steps, checkpoint.name))


def train(callbacks=(), steps=8, **how):
    plan = {"log_every": 2, "evaluate_every": 4, "checkpoint_every": 4, "evaluation_episodes": 1, "final_episodes": 1}
    return runs.train(counter(), steps, KEY, callbacks=callbacks, **plan | how)


def test_callbacks_are_called_at_logs_evaluations_and_checkpoints(tmp_path):
    notes = Notes()
    result = train([notes], folder=tmp_path / "run")
    # The counter's policy lasts for the three steps of an episode, each of which pays 1.
    assert notes.notes == [
        ("log", 2, 1, 2),
        ("log", 4, 1, 4),
        ("evaluate", 4, 3.0, 4.0),
        ("save", 4, "4"),
        ("log", 6, 1, 6),
        ("log", 8, 1, 8),
        ("evaluate", 8, 3.0, 8.0),
        ("save", 8, "8"),
    ]
    assert result.stopped is None
    assert train().state.params[0] == result.state.params[0] == 8


def test_a_callback_stops_a_run_which_is_saved_evaluated_and_can_go_on(tmp_path):
    folder = tmp_path / "run"
    result = train([Notes(), Notes(stop_at=6)], folder=folder)
    assert (result.stopped, result.steps, result.interrupted) == ("enough", 6, None)
    assert (folder / "checkpoints" / "6").exists()
    assert json.loads((folder / "evaluation.json").read_text())["steps"] == 6
    assert train(folder=folder, resume=True).steps == 8


@pytest.mark.parametrize(("threshold", "steps"), [(3.0, 4), (3.5, 8)])
def test_a_run_stops_at_its_return(threshold, steps):
    result = train([StopAtReturn(threshold)])
    assert result.steps == steps
    assert (result.stopped == "the evaluation's return, 3.00, has reached 3") == (steps == 4)


def test_policies_are_evaluated_in_the_environment_that_is_given():
    longer = rljax.make("cartpole", max_episode_steps=5)
    result = train(evaluate_in=longer)
    member = result.evaluation["members"][0]["deterministic"]
    assert member["mean_length"] == 5
    assert [row["evaluation/return"] for row in result.rows if "evaluation/return" in row] == [5.0, 5.0]
    np.testing.assert_array_equal(result.state.params, train().state.params)


def test_an_evaluation_with_other_spaces_is_refused():
    with pytest.raises(Refused, match="evaluate_in must have the observation_space of the algorithm's environment"):
        train(evaluate_in=rljax.make("pendulum"))


def test_what_is_no_callback_is_refused_before_anything_is_written(tmp_path):
    for callbacks in ([print], StopAtReturn(1.0)):
        with pytest.raises(Refused, match="callbacks must be a list of objects of subclasses"):
            train(callbacks, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Late(Feed):
    """Data of which there is nothing at every other time that it is asked, and then enough for one step."""

    spec: ClassVar = {"name": "late"}
    example = jax.ShapeDtypeStruct((1,), np.float32)
    asked = 0

    def left(self, iteration):
        self.asked += 1
        return self.asked % 2

    def at(self, iteration, place, state=None):
        return place(np.float32([iteration]))


class Slices(Callback):
    """Notes the steps after each slice, and stops at some."""

    def __init__(self, stop_at=None):
        self.steps, self.stop_at = [], stop_at

    def on_slice(self, steps, state):
        assert state.params[0] == steps
        self.steps.append(steps)
        return "enough" if steps == self.stop_at else None


def test_a_run_waits_for_a_feed_and_tells_its_callbacks_of_every_slice():
    algorithm = counter()
    fed = algorithm._replace(step=lambda state, data: algorithm.step(state), data=Late())
    slices = Slices()
    result = runs.train(fed, 3, KEY, callbacks=[slices])
    assert slices.steps == [1, 1, 2, 2, 3]
    assert result.steps == 3
    assert runs.train(fed, 9, KEY, callbacks=[Slices(stop_at=2)]).stopped == "enough"
