"""Plots are images with the right lines in them."""

import json

import numpy as np
import pytest
from PIL import Image

from rljax.analysis import plots


def write_run(folder, members=4, hyper=None, evaluations=True, task="cartpole", logs=6):
    """A run whose return rises from 0 towards 100 + member."""
    folder.mkdir(parents=True)
    hyper = hyper or {}
    (folder / "config.json").write_text(json.dumps({"algorithm": "ppo", "env": {"name": task}}))
    columns = ["step", "member", "seed", "seconds", *(f"hyper/{name}" for name in hyper)]
    lines = [",".join([*columns, "episode/return", "evaluation/return"])]
    for log in range(1, logs + 1):
        for member in range(members):
            value = (100 + member) * log / logs
            first = "" if log == 1 and member == 0 else f"{value}"
            cells = [log * 50_000, member, member, log * 1.5, *(values[member] for values in hyper.values())]
            lines.append(",".join(map(str, [*cells, first, value if evaluations and log % 2 == 0 else ""])))
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def assert_image(path):
    with Image.open(path) as image:
        assert image.width > 800
        assert image.height > 400
        assert len(image.convert("RGB").getcolors(2**20)) > 20


def test_learning_curve(tmp_path):
    figure = plots.learning_curve(write_run(tmp_path / "run"), path=tmp_path / "made" / "curve.png", target=90)
    assert_image(tmp_path / "made" / "curve.png")
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "ppo on cartpole"
    assert axes.get_ylabel() == "Evaluation return"
    assert [line.get_label() for line in axes.lines][-1] == "target 90"
    assert len(axes.lines) == 4 + 1 + 1  # each seed, the statistic, the target
    np.testing.assert_allclose(axes.lines[4].get_xdata(), [100_000, 200_000, 300_000])
    np.testing.assert_allclose(axes.lines[4].get_ydata(), [33.83333, 67.66667, 101.5], rtol=1e-5)


def test_learning_curve_falls_back_to_training_episodes(tmp_path):
    figure = plots.learning_curve(write_run(tmp_path / "run", members=1, evaluations=False))
    (axes,) = figure.axes
    assert axes.get_ylabel() == "Return of training episodes"
    assert len(axes.lines) == 1
    assert len(axes.lines[0].get_xdata()) == 5


def test_learning_curve_of_a_sweep_has_a_line_per_setting(tmp_path):
    run = write_run(tmp_path / "run", hyper={"learning_rate": [0.1, 0.1, 0.2, 0.2]})
    (axes,) = plots.learning_curve(run).axes
    assert [line.get_label() for line in axes.lines] == ["learning_rate=0.1", "learning_rate=0.2"]


def test_more_settings_than_colors(tmp_path):
    run = write_run(tmp_path / "run", members=12, hyper={"learning_rate": list(np.geomspace(1e-4, 1, 12))}, logs=2)
    (axes,) = plots.learning_curve(run, path=tmp_path / "many.png").axes
    assert len({tuple(line.get_color()) for line in axes.lines}) == 12
    assert_image(tmp_path / "many.png")


def test_a_single_log_is_seen(tmp_path):
    (axes,) = plots.learning_curve(write_run(tmp_path / "run", members=3, logs=1), "episode/return").axes
    assert all(line.get_marker() == "o" for line in axes.lines)


def test_compare(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    runs.append(write_run(tmp_path / "c", evaluations=False, members=2))
    (axes,) = plots.compare(runs, path=tmp_path / "compare.png").axes
    assert_image(tmp_path / "compare.png")
    assert axes.get_ylabel() == "Return of training episodes", "the metric must be one that all of the runs have"
    (axes,) = plots.compare(runs[:2], labels=["one", "two"], path=tmp_path / "two.svg").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]
    assert (tmp_path / "two.svg").stat().st_size > 1000
    with pytest.raises(ValueError, match="as many as runs"):
        plots.compare(runs, labels=["one"])
    with pytest.raises(ValueError, match="at least one"):
        plots.compare([])


@pytest.mark.parametrize(
    ("values", "scale"), [([1e-4, 1e-4, 1e-3, 1e-3], "log"), ([1, 2, 3, 4], "linear"), (["relu", "tanh"] * 2, "linear")]
)
def test_sweep(tmp_path, values, scale):
    run = write_run(tmp_path / "run", hyper={"x": values})
    (axes,) = plots.sweep(run, "hyper/x", path=tmp_path / "sweep.png").axes
    assert_image(tmp_path / "sweep.png")
    assert (axes.get_xscale(), axes.get_xlabel()) == (scale, "x")
    assert len(axes.get_xticks()) == len(set(values))


def test_sweep_draws_other_settings_apart_and_knows_what_was_swept(tmp_path):
    run = write_run(tmp_path / "run", hyper={"x": [1, 2, 1, 2], "clip": [0.1, 0.1, 0.2, 0.2]})
    (axes,) = plots.sweep(run, "x").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["clip=0.1", "clip=0.2"]
    with pytest.raises(ValueError, match="did not sweep 'y'; it swept: x, clip"):
        plots.sweep(run, "y")


def test_steps_are_short():
    formatted = [plots.format_steps(value) for value in (0, 500, 2500, 1_000_000, 1_250_000, 2e9, -12_000)]
    assert formatted == ["0", "500", "2.5k", "1M", "1.25M", "2B", "\N{MINUS SIGN}12k"]
