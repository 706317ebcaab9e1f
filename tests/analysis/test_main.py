"""The command line: what it prints, and one line with exit code 2 for bad input."""

import json
import subprocess
import sys

import pytest

from rljax.analysis import plots
from rljax.analysis.__main__ import main


def write_run(folder, best=100.0, task="cartpole", hyper=False):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"algorithm": "ppo", "env": {"name": task}}))
    lines = ["step,member,seed,seconds,evaluation/return,loss/policy" + (",hyper/learning_rate" if hyper else "")]
    for step in (1000, 2000):
        for member in range(4):
            cells = [step, member, member, step / 1000, best * step / 2000 + member, -0.1]
            lines.append(",".join(map(str, cells + ([0.001 * (1 + member // 2)] if hyper else []))))
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_compare_from_the_shell_is_light_and_needs_no_pyplot(tmp_path):
    a, b = write_run(tmp_path / "ppo" / "first"), write_run(tmp_path / "ppo" / "second", best=50.0)
    code = """
import runpy, sys
import rljax.training
before = set(sys.modules)
from rljax.analysis import __main__, plots, runs, statistics, tables, video
heavy = {"matplotlib", "scipy", "rich", "PIL"} & (set(sys.modules) - before)
assert not heavy, heavy
del sys.modules["rljax.analysis.__main__"]  # runpy warns of a module that runs twice
try:
    runpy.run_module("rljax.analysis", run_name="__main__", alter_sys=True)
finally:
    assert "matplotlib.pyplot" not in sys.modules
"""
    # One process for all of it, since starting Python with jax is most of the time
    command = [sys.executable, "-c", code, "compare", str(a), str(b), "--output", str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for text in ("ppo/first", "ppo/second", "P(ppo/first above ppo/second) = 1.00"):
        assert text in done.stdout
    for steps_mean_or_rate in ("2,000", "101.5", "4,000"):
        assert steps_mean_or_rate in done.stdout
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_the_help_says_where_the_picture_goes(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "default: compare.png in the current folder" in " ".join(capsys.readouterr().out.split())


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = write_run(tmp_path / "run")
    for arguments, message in [
        (["compare", str(run), str(tmp_path / "nothing")], "not a run folder"),
        (["curve", str(run), "--metric", "loss/value"], "it has: evaluation/return, loss/policy"),
        (["sweep", str(run), "learning_rate"], "did not sweep"),
        (["curve", "gs://bucket/run"], "gs:/bucket/run is an address"),
        (["curve", "~/nothing"], f"{tmp_path}/nothing is not a run folder"),
        (["curve", str(run), "--output", str(tmp_path / "x.mp4")], "x.mp4: no such kind of picture; allowed are"),
        (["tables", "--results", str(tmp_path / "nothing")], "no folder of results"),
    ]:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("error: ")
        assert message in captured.err
    with pytest.raises(SystemExit) as exit_:
        main(["compare"])
    assert exit_.value.code == 2


def test_settings_of_a_sweep_are_not_averaged(tmp_path, capsys):
    run = write_run(tmp_path / "ppo" / "sweep", hyper=True)
    assert main(["compare", str(run), "--output", str(tmp_path / "x.png")]) == 0
    out = capsys.readouterr().out
    assert "ppo/sweep [learning_rate=0.001]" in out
    assert "100.5" in out
    assert "ppo/sweep [learning_rate=0.002]" in out
    assert "102.5" in out
    assert main(["sweep", str(run), "learning_rate"]) == 0
    assert (run / "sweep.png").is_file()


def test_names_are_printed_as_they_are(tmp_path, capsys, monkeypatch):
    """Brackets are markup to rich, and colons emoji."""
    monkeypatch.setattr(plots, "compare", lambda *_, **__: None)
    run = write_run(tmp_path / "[bold]ppo" / "lr[red]1 :fire:")
    assert main(["compare", str(run), "--output", str(tmp_path / "x.png")]) == 0
    assert "[bold]ppo/lr[red]1 :fire:" in capsys.readouterr().out
    metric = "loss/[/b]:fire:"
    text = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(text.replace("loss/policy", metric))
    assert main(["compare", str(run), "--metric", metric, "--output", str(tmp_path / "x.png")]) == 0
    assert f"Final results (last logged {metric})" in capsys.readouterr().out


def test_a_defect_keeps_its_traceback(tmp_path, monkeypatch):
    def draw(*_, **__):
        raise ValueError("Incompatible shapes for broadcasting")

    monkeypatch.setattr(plots, "learning_curve", draw)
    with pytest.raises(ValueError, match="Incompatible shapes"):
        main(["curve", str(tmp_path)])


def test_different_tasks_have_no_probability_of_improvement(tmp_path, capsys):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", task="acrobot")
    assert main(["compare", str(a), str(b), "--metric", "loss/policy", "--output", str(tmp_path / "x.png")]) == 0
    out = capsys.readouterr().out
    assert "No probability of improvement" in out
    assert "P(" not in out


def test_curve_and_tables(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    assert main(["curve", str(run), "--target", "90"]) == 0
    assert (run / "learning_curve.png").stat().st_size > 1000
    (tmp_path / "ppo.json").write_text('[{"algorithm": "ppo", "task": "cartpole"}]')
    (tmp_path / "zoo-cpu.json").write_text('{"kind": "profile", "title": "Zoo", "columns": ["a"], "rows": [["1"]]}')
    docs, outputs = tmp_path / "docs", ["--results", str(tmp_path), "--output", str(tmp_path / "README.md")]
    docs.mkdir()
    (docs / "zoo.md").write_text("Before\n\n<!-- table: zoo-cpu.json -->\nold\n<!-- end of table -->\n\nafter\n")
    (docs / "other.md").write_text("No table\n")
    for _ in range(2):  # the second time changes nothing
        assert main(["tables", *outputs, "--docs", str(docs)]) == 0
        assert "## ppo" in (tmp_path / "README.md").read_text(encoding="utf-8")
        out = capsys.readouterr().out
        assert f"wrote {tmp_path / 'README.md'}" in out
        assert f"wrote {docs / 'zoo.md'}" in out
        assert "other.md" not in out
        table = "<!-- table: zoo-cpu.json -->\n\n### Zoo\n\n| a |\n| --- |\n| 1 |\n\n<!-- end of table -->"
        assert (docs / "zoo.md").read_text(encoding="utf-8") == f"Before\n\n{table}\n\nafter\n"
    (tmp_path / "zoo-cpu.json").unlink()
    assert main(["tables", *outputs, "--docs", str(docs)]) == 2
    assert "zoo-cpu.json, which is not there" in capsys.readouterr().err
