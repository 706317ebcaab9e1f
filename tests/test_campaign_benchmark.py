"""The campaign that all benchmarks share: which runs are left, how it goes on, and what it writes."""

import dataclasses
import json
import re
import runpy
import shlex
import sys

import numpy as np
import pytest

from benchmarks import campaign, off_policy
from experiments import dqn
from rljax.analysis.tables import benchmark_page
from rljax.types import Refused


@pytest.fixture
def settings(tmp_path):
    return campaign.Settings(runs=tmp_path / "runs", results=tmp_path / "results")


def make_run(folder, seeds=(0,), mean=1.0, **description):
    """The files that a finished run leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    members = [{"seed": seed, "deterministic": {"mean": mean}, "stochastic": {"mean": mean}} for seed in seeds]
    (folder / "evaluation.json").write_text(json.dumps({"steps": 1000, "episodes": 10, "members": members}))
    (folder / "config.json").write_text(json.dumps(description))
    (folder / "versions.json").write_text(json.dumps({"hardware": {"cpu": "EPYC"}, "versions": {"commit": "0123456"}}))
    (folder / "metrics.csv").write_text(f"step,seed,evaluation/return\n500,{seeds[0]},\n1000,{seeds[0]},{mean}\n")


def test_a_run_counts_if_its_evaluation_is_whole(tmp_path):
    make_run(tmp_path)
    evaluation = campaign.finished(tmp_path, [0])
    assert evaluation is not None
    assert evaluation["steps"] == 1000
    whole = (tmp_path / "evaluation.json").read_text()
    for half in ("", whole[: len(whole) // 2], "3"):
        (tmp_path / "evaluation.json").write_text(half)
        assert campaign.finished(tmp_path, [0]) is None
    (tmp_path / "evaluation.json").write_text(whole)
    (tmp_path / "config.json").unlink()
    assert campaign.finished(tmp_path, [0]) is None
    assert campaign.finished(tmp_path / "nothing", [0]) is None


def test_a_run_of_other_settings_or_seeds_does_not_count(tmp_path):
    make_run(tmp_path, seeds=(0, 1), total_steps=1000, config={"hidden": [64, 64], "discount": 0.99})
    same = {"total_steps": 1000, "config": {"hidden": (64, 64), "discount": 0.99}}
    assert campaign.finished(tmp_path, [0, 1], **same)
    assert campaign.finished(tmp_path, [1], **same)
    assert campaign.finished(tmp_path, [0, 1, 2], **same) is None
    assert campaign.finished(tmp_path, [0], **same | {"total_steps": 2000}) is None
    assert campaign.finished(tmp_path, [0], **same | {"config": {"discount": 0.9}}) is None
    # What is newer than the run was not recorded.
    assert campaign.finished(tmp_path, [0], config={"discount": 0.99, "image_shift": 0})


class Interrupted(Exception):
    pass


def test_a_campaign_that_was_interrupted_goes_on_where_it_stopped(settings, monkeypatch):
    """Of three seeds the first is finished, the second half: after an interruption only the last two are run."""
    folders = {"runs": settings.runs, "results": settings.results}
    settings = off_policy.Settings(tasks=("cartpole",), seeds=3, speed=False, **folders)

    defaults = dataclasses.replace(dqn.TASKS["cartpole"], env="cartpole")
    config = {"discount": dqn.make(defaults).config.discount}
    started = []

    def run_all(commands):
        for command in commands:
            started.append(int(command[command.index("--seed") + 1]))
            folder = settings.runs / "dqn" / command[command.index("--name") + 1]
            if started == [0, 1]:
                folder.mkdir(parents=True)
                (folder / "config.json").write_text("{}")
                raise Interrupted
            make_run(folder, (started[-1],), 10.0 * started[-1], total_steps=defaults.total_steps, config=config)

    monkeypatch.setattr(campaign, "run_all", run_all)
    with pytest.raises(Interrupted):
        off_policy.main("dqn", {"cartpole": 488.0}, settings)
    assert not settings.results.exists()
    off_policy.main("dqn", {"cartpole": 488.0}, settings)
    assert started == [0, 1, 1, 2]
    record = campaign.earlier(settings, "dqn-cartpole")
    assert record["returns_deterministic"] == [0.0, 10.0, 20.0]
    assert record["curves"] == [[[1000, 10.0 * seed]] for seed in range(3)]
    assert record["versions"] == {"commit": "0123456"}  # of the code that ran, not of that which reads
    off_policy.main("dqn", {"cartpole": 488.0}, settings)
    assert started == [0, 1, 1, 2]
    assert "| cartpole | rljax | 0123456 † |" in benchmark_page(settings.results)


def test_what_fails_is_named_when_the_rest_has_run(tmp_path):
    commands = [
        [sys.executable, "-c", "raise SystemExit(3)"],
        [sys.executable, "-c", f"open({str(tmp_path / 'made')!r}, 'w')"],
    ]
    with pytest.raises(Refused, match=r"1 of 2 runs failed: .* ended with exit code 3"):
        campaign.run_all(commands)
    assert (tmp_path / "made").exists()


def test_a_result_is_written_whole_with_where_and_how_it_was_made(settings, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--runs", str(campaign.ROOT / "runs"), "--demos", "/elsewhere/demos.npz"])
    rows = [{"case": "a", "rate": 2.0}, {"case": "b", "ratio": "2×"}]
    record = campaign.table("parts", "A title", rows, "Notes.", scores=[1])
    assert record["columns"] == ["case", "rate", "ratio"]
    assert record["rows"] == [["a", 2.0, "–"], ["b", "–", "2×"]]
    assert record["command"] == "python -m benchmarks.parts --runs runs --demos demos.npz"
    assert record["hardware"]["cores"] >= 1
    assert "commit" in record["versions"]
    campaign.write(settings, "parts", record)
    assert campaign.earlier(settings, "parts") == json.loads(json.dumps(record))
    assert campaign.earlier(settings, "nothing") == {}
    with pytest.raises(TypeError):
        campaign.write(settings, "parts", record | {"scores": {1: object()}})
    assert campaign.earlier(settings, "parts")["scores"] == [1]  # the old one is still whole
    assert "### A title" in benchmark_page(settings.results)
    campaign.result_path(settings, "parts").write_text("<<<<<<< HEAD")
    with pytest.raises(Refused, match=r"parts-.*\.json is damaged"):
        campaign.earlier(settings, "parts")


def test_a_refusal_is_one_line(monkeypatch, capsys):
    def benchmark(settings):
        campaign.require_known("tasks", ["cartpole", "nothing"], ["cartpole"])

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as stop:
        campaign.main(benchmark, campaign.Settings())
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: unknown tasks nothing; known: cartpole\n"


def test_a_rate_counts_all_calls_over_all_their_seconds(monkeypatch):
    clock, made = [0.0], []

    def calls(count):
        made.append(count)
        clock[0] += 0.5 * count

    monkeypatch.setattr(campaign.time, "perf_counter", lambda: clock[0])
    assert campaign.rate(calls, 8.0, warm_up=3) == 2.0
    assert made[:2] == [3, 1]
    assert sum(made[1:]) >= 16


def test_a_column_of_metrics_is_read_of_one_seed_or_of_all(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,seed,loss\n1,0,0.5\n1,1,0.6\n2,0,\n3,0,0.7\n")
    assert campaign.logged(tmp_path, "loss", 0) == [(1, 0.5), (3, 0.7)]
    np.testing.assert_allclose(campaign.logged(tmp_path, "loss"), [(1, 0.5), (1, 0.6), (3, 0.7)])
    assert campaign.logged(tmp_path, "nothing") == []


SCRIPTS = sorted(path.stem for path in (campaign.ROOT / "benchmarks").glob("*.py"))
DOCUMENTS = [campaign.ROOT / "README.md", campaign.ROOT / "benchmarks" / "README.md"]


HELPERS = {"campaign", "accelerator_parts", "before_after", "offline_speed", "steering_scores"}


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - HELPERS))
def test_every_command_that_is_shown_is_parsed(name, monkeypatch):
    """Of the docstrings and the pages, whose records were made by these flags; nothing is measured."""
    parsed: list[campaign.Settings] = []
    real = campaign.main
    monkeypatch.setattr(campaign, "main", lambda _, settings: real(parsed.append, settings))
    texts = [(campaign.ROOT / "benchmarks" / f"{script}.py").read_text().split('"""')[1] for script in SCRIPTS]
    texts += [path.read_text() for path in DOCUMENTS]
    shown = [text for page in texts for text in re.findall(rf"python -m benchmarks\.{name}\b([^\n`;]*)", page)]
    assert shown
    for text in dict.fromkeys(shown):
        monkeypatch.setattr(sys, "argv", [name, *shlex.split(text, comments=True)])
        runpy.run_path(str(campaign.ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
        assert isinstance(parsed.pop(), campaign.Settings)
