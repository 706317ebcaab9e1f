"""Reading run folders, whole and damaged."""

import json

import numpy as np
import pytest

from rljax.analysis.runs import curve, final_values, read_metrics, read_run, return_metric

METRICS = """step,member,seed,seconds,hyper/learning_rate,episode/return,evaluation/return,loss/policy
100,0,5,1.0,0.001,,,0.5
100,1,6,1.0,0.01,2.0,,0.6
200,0,5,2.0,0.001,3.0,30.0,0.4
200,1,6,2.0,0.01,4.0,40.0,
"""


def write_run(folder, metrics=METRICS, config='{"algorithm": "ppo", "env": {"name": "cartpole"}}', evaluation=None):
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(metrics)
    (folder / "config.json").write_text(config)
    if evaluation is not None:
        (folder / "evaluation.json").write_text(evaluation if isinstance(evaluation, str) else json.dumps(evaluation))
    return folder


def test_empty_cells_are_nan(tmp_path):
    metrics = read_metrics(write_run(tmp_path / "run"))
    np.testing.assert_array_equal(metrics["step"], [100, 100, 200, 200])
    np.testing.assert_array_equal(metrics["episode/return"], [np.nan, 2, 3, 4])
    np.testing.assert_array_equal(metrics["loss/policy"], [0.5, 0.6, 0.4, np.nan])


def test_carriage_returns_are_line_ends(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "metrics.csv").write_bytes(METRICS.replace("\n", "\r\n").encode())
    np.testing.assert_array_equal(read_metrics(folder)["step"], [100, 100, 200, 200])


def test_run(tmp_path):
    run = read_run(write_run(tmp_path / "ppo" / "cartpole-seed0"))
    assert (run.name, run.algorithm, run.task) == ("ppo/cartpole-seed0", "ppo", "cartpole")
    assert (run.steps, run.seconds, run.evaluation) == (200, 2.0, None)
    assert run.metric_names == ["episode/return", "evaluation/return", "loss/policy"]
    np.testing.assert_array_equal(run.hyper["learning_rate"], [0.001, 0.01])
    labels = {label: list(positions) for label, positions in run.settings()}
    assert labels == {"learning_rate=0.001": [0], "learning_rate=0.01": [1]}
    assert [list(positions) for _, positions in run.settings(without="learning_rate")] == [[0, 1]]


def test_curve_has_the_steps_with_values(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    steps, values = curve(run, "episode/return")
    np.testing.assert_array_equal(steps, [100, 200])
    np.testing.assert_array_equal(values, [[np.nan, 3], [2, 4]])
    steps, values = curve(run, "evaluation/return")
    np.testing.assert_array_equal(steps, [200])
    np.testing.assert_array_equal(values, [[30], [40]])


def test_a_step_logged_again_after_a_resume_replaces_the_first(tmp_path):
    run = read_run(write_run(tmp_path / "run", METRICS + "200,0,5,9.0,0.001,7.0,70.0,0.1\n"))
    np.testing.assert_array_equal(curve(run, "evaluation/return")[1], [[70], [40]])


def test_unknown_metric_names_those_there_are(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    with pytest.raises(ValueError, match="'loss/value'; it has: episode/return, evaluation/return, loss/policy"):
        curve(run, "loss/value")


def test_return_metric_falls_back_where_there_was_no_evaluation(tmp_path):
    both = read_run(write_run(tmp_path / "a"))
    training_only = read_run(write_run(tmp_path / "b", METRICS.replace("30.0", "").replace("40.0", "")))
    neither = read_run(write_run(tmp_path / "c", "step,member,loss\n1,0,2\n"))
    assert return_metric([both]) == "evaluation/return"
    assert return_metric([both, training_only]) == "episode/return"
    with pytest.raises(ValueError, match="it has: loss"):
        return_metric([both, neither])


def test_final_values_prefer_the_final_evaluation(tmp_path):
    members = [{"member": 1, "deterministic": {"mean": 41.0}}, {"member": 0, "deterministic": {"mean": 31.0}}]
    run = read_run(write_run(tmp_path / "a", evaluation={"steps": 250, "episodes": 10, "members": members}))
    values, source = final_values(run)
    np.testing.assert_array_equal(values, [31, 41])
    assert source == "final evaluation, deterministic, 10 episodes"
    assert run.steps == 250
    values, source = final_values(run, "loss/policy")
    np.testing.assert_array_equal(values, [0.4, 0.6])  # each member's last value, though at different steps
    stochastic = [{"member": 0, "deterministic": None, "stochastic": {"mean": 1.0}}]
    run = read_run(write_run(tmp_path / "b", evaluation={"members": stochastic}))
    np.testing.assert_array_equal(final_values(run)[0], [1, np.nan])
    run = read_run(write_run(tmp_path / "c"))
    assert final_values(run)[1] == "last logged evaluation/return"


def test_an_evaluation_from_before_the_run_went_on_is_left_out(tmp_path):
    members = [{"member": m, "deterministic": {"mean": 500.0}} for m in (0, 1)]
    folder = write_run(tmp_path / "run", evaluation={"steps": 100, "members": members})
    with pytest.warns(UserWarning, match=r"evaluation\.json is of step 100, the run at 200: left out"):
        run = read_run(folder)
    values, source = final_values(run)
    np.testing.assert_array_equal(values, [30, 40])
    assert source == "last logged evaluation/return"
    assert run.steps == 200


def test_null_is_the_score_of_a_member_that_diverged(tmp_path):
    members = [{"member": m, "deterministic": {"mean": None}, "stochastic": {"mean": 1.0}} for m in (0, 1)]
    run = read_run(write_run(tmp_path / "run", evaluation={"steps": 200, "members": members}))
    values, source = final_values(run)
    np.testing.assert_array_equal(values, [np.nan, np.nan])
    assert source == "final evaluation, deterministic"


def test_swept_names_stay_text(tmp_path):
    run = read_run(write_run(tmp_path / "run", "step,member,hyper/activation,x\n1,0,relu,1\n1,1,tanh,2\n"))
    assert [label for label, _ in run.settings()] == ["activation=relu", "activation=tanh"]


def test_a_line_still_being_written_is_left_out(tmp_path):
    folder = write_run(tmp_path / "run", METRICS + "300,0,5,3.0,0.001,5.0,50")  # of 50.0 or of 503.1?
    with pytest.warns(UserWarning, match="unfinished last line"):
        assert len(read_metrics(folder)["step"]) == 4


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("", "no column `step`"),
        ("step,loss\n1,2\n", "no column `member`"),
        ("step,member,loss,loss\n1,0,1,1\n", "occurs twice"),
        ("step,member,loss\n", "no rows yet"),
        ("step,member,loss\n1,0,1\n2,0\n", "line 3 has 2 cells instead of 3"),
        ("step,member,loss\n1,0,1\n2,0,x\n", "line 3, column `loss`: 'x' is not a number"),
        ("step,member,loss\n,0,1\n", "line 2 has no `step`"),
        ('step,member,loss\n1,0,"1\n', "damaged: line 2"),
    ],
)
def test_damaged_metrics_are_named_in_one_line(tmp_path, metrics, message):
    with pytest.raises(ValueError, match=message) as error:
        read_run(write_run(tmp_path / "run", metrics))
    assert "metrics.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_metrics_that_are_not_text(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "metrics.csv").write_bytes(METRICS.encode() + b"\xff\xfe\n")
    with pytest.raises(ValueError, match="is not text"):
        read_metrics(folder)


@pytest.mark.parametrize("text", ["{", "[1]", '{"members": [1]}', '{"members": 3}'])
def test_damaged_evaluation(tmp_path, text):
    with pytest.raises(ValueError, match=r"evaluation\.json is damaged") as error:
        read_run(write_run(tmp_path / "run", evaluation=text))
    assert "\n" not in str(error.value)


def test_not_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"no metrics\.csv"):
        read_run(tmp_path)
    folder = write_run(tmp_path / "run")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        read_run(folder)
