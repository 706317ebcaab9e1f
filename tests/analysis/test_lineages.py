"""Lineages of a population are followed from its files, by hand."""

import json
import shutil

import numpy as np
import pytest

from rljax.analysis import plots
from rljax.analysis.__main__ import main
from rljax.analysis.lineages import lineages, read_lineages
from rljax.analysis.runs import read_run
from rljax.types import Refused
from tests.analysis.test_plots import assert_image

SCORES = [[10, 20, 30], [35, 25, 31], [36, 37, 29], [50, 45, 40]]
RATES = [[0.1, 0.01, 0.001], [0.002, 0.01, 0.001], [0.002, 0.003, 0.001], [0.002, 0.003, 0.004]]
SOURCES = [[2, 1, 2], [0, 0, 2], [0, 1, 1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Member 0 copies 2, then 1 copies 0, then 2 copies 1: at the end all come from 2."""
    folder = tmp_path_factory.mktemp("runs") / "pbt"
    folder.mkdir()
    settings = {"population": {"method": "PopulationBased", "ranges": {"learning_rate": [1e-3, 1.0]}}}
    config = {"algorithm": "ppo", "env": {"name": "cartpole"}, "settings": settings}
    (folder / "config.json").write_text(json.dumps(config))
    rows, exchanges = ["step,member,seed,seconds,hyper/learning_rate,evaluation/return"], ["step,member,source,score"]
    for i, scores in enumerate(SCORES):
        step = 1000 * (i + 1)
        rows += [f"{step - 500},{m},{m},1,{RATES[i][m]}," for m in range(3)]
        rows += [f"{step},{m},{m},1,{RATES[i][m]},{score}" for m, score in enumerate(scores)]
        exchanges += [
            f"{step},{m},{source},{scores[m]}" for m, source in enumerate((SOURCES + [[0, 1, 2]])[i]) if i < 3
        ]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    (folder / "population.csv").write_text("\n".join(exchanges) + "\n")
    return folder


def test_lineages_are_followed_forwards_and_backwards(folder):
    found = read_lineages(folder)
    np.testing.assert_array_equal(found.steps, [1000, 2000, 3000, 4000])
    np.testing.assert_array_equal(found.scores, SCORES)
    np.testing.assert_array_equal(found.hyper["learning_rate"], RATES)
    np.testing.assert_array_equal(found.source, [[0, 1, 2], *SOURCES])
    np.testing.assert_array_equal(found.founder, [[0, 1, 2], [2, 1, 2], [2, 2, 2], [2, 2, 2]])
    # The best at the end is member 0, which was member 2 in the first round.
    assert np.argwhere(found.lasting).tolist() == [[0, 2], [1, 0], [2, 0], [3, 0]]


def test_the_figure_shows_scores_and_values_and_what_was_given_up(folder, tmp_path):
    figure = lineages(folder, path=tmp_path / "population.png")
    assert_image(tmp_path / "population.png")
    first, second = figure.axes
    assert (first.get_ylabel(), second.get_ylabel()) == ("Evaluation return", "learning_rate")
    assert second.get_yscale() == "log"
    crosses = [tuple(map(float, np.ravel(line.get_data()))) for line in first.lines if line.get_marker() == "x"]
    assert crosses == [(1000, 10), (2000, 25), (3000, 29)]
    thick = [line.get_xydata().tolist() for line in first.lines if line.get_linewidth() > 2]
    assert thick == [[[1000, 30], [2000, 35]], [[2000, 35], [3000, 36]], [[3000, 36], [4000, 50]]]
    assert main(["population", str(folder), "--output", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").exists()


def test_values_that_exchanges_change_are_no_settings(folder):
    """A learning curve of a population has one line, of all members."""
    run = read_run(folder)
    assert run.hyper == {}
    assert [label for label, _ in run.settings()] == [""]
    assert len(plots.learning_curve(run).axes[0].lines) == 3 + 1


def test_what_is_no_population_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    for text in ("step,member\n1000,0\n", "step,member,source\n1000,9,0\n", "step,member,source\n1000,x,0\n"):
        (tmp_path / "run" / "population.csv").write_text(text)
        with pytest.raises(Refused, match=r"population\.csv is damaged"):
            lineages(tmp_path / "run")
    (tmp_path / "run" / "population.csv").unlink()
    with pytest.raises(Refused, match="was no population"):
        lineages(tmp_path / "run")
