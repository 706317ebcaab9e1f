"""The benchmark of budgets: which runs are left, its clock, the best at each budget, and the picture."""

import json
import sys

import numpy as np
import pytest

from benchmarks import budget, campaign
from rljax.types import Refused

RATES = {"rate": 100.0, "random_rate": 1000.0, "compile_seconds": 5.0, "random_steps": 10_000}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "ALGORITHMS", {"ppo": 40_000, "sac": 20_000})
    monkeypatch.setattr(budget, "PEERS", {"sb3 sac": 20_000})
    (tmp_path / "benchmarks").mkdir()
    return budget.Settings(
        algorithms=("ppo", "sac"),
        peers=("sb3 sac",),
        runs=tmp_path / "runs",
        results=tmp_path / "benchmarks" / "results",
        peers_python=tmp_path / "python",
    )


def leave(command, curve):
    """The files that a run of this command leaves."""
    if "--output" in command:
        record = {"curve": curve, "config": {}, "versions": {}, "hardware": {}}
        path = campaign.Path(command[command.index("--output") + 1])
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.write_text(json.dumps(record))
    of = {flag: command[command.index(flag) + 1] for flag in ("--runs", "--name", "--seed")}
    folder = campaign.Path(of["--runs"]) / campaign.Path(command[1]).stem / of["--name"]
    folder.mkdir(parents=True)
    lines = [f"{step},{of['--seed']},{value}" for step, value in curve]
    return (folder / "metrics.csv").write_text("\n".join(["step,seed,evaluation/return", *lines]))


def test_runs_go_on_where_they_stopped_and_each_budget_has_its_best(settings, monkeypatch):
    started = []

    def run_all(commands):
        for command in commands:
            name = campaign.Path(command[1]).stem
            started.append(f"{name} {command[command.index('--seed') + 1]}")
            if len(started) == 3:
                raise KeyboardInterrupt
            steps = range(
                5000, int(command[command.index("--total-steps" if "--env" in command else "--steps") + 1]) + 1, 5000
            )
            gain = {"ppo": 0.01, "sac": 0.1, "budget": 0.05}[name]
            leave(command, [(step, gain * step) for step in steps])

    monkeypatch.setattr(campaign, "run_all", run_all)
    monkeypatch.setattr(
        campaign, "alone", lambda function, algorithm, *_: RATES | {"rate": 1e4 if algorithm == "ppo" else 100.0}
    )
    settings.peers_python.touch()
    monkeypatch.setattr(budget, "peer_rate", lambda *_: RATES | {"rate": 10.0})
    with pytest.raises(KeyboardInterrupt):
        budget.main(settings)
    assert started == ["ppo 0", "ppo 1", "sac 0"]
    assert set(campaign.earlier(settings, budget.NAME)["found"]) == {"rljax ppo"}
    # What the file of results holds is not run again, also where the runs' folders are gone.
    for folder in settings.runs.iterdir():
        folder.rename(folder.with_name(f"{folder.name} elsewhere"))
    started.clear()

    def run_again(commands):
        for command in commands:
            started.clear()
            run_all([command])

    monkeypatch.setattr(campaign, "run_all", run_again)
    budget.main(settings)
    record = campaign.earlier(settings, budget.NAME)
    assert "yet" not in record["notes"]
    assert list(record["found"]["rljax sac"]["curves"]) == ["0", "1"]
    monkeypatch.setattr(campaign, "run_all", lambda commands: started.extend(commands))
    monkeypatch.setattr(budget, "draw", lambda *_: None)
    started.clear()
    budget.main(settings)
    assert not started

    rows = {row[0]: row[1:] for row in record["rows"]}
    assert rows["10,000 steps"] == ["rljax SAC 1,000", "sb3 SAC 500", "rljax PPO 100", "3"]
    assert rows["30,000 steps"] == ["rljax SAC ≥ 2,000", "sb3 SAC ≥ 1,000", "rljax PPO 300", "3"]
    # SAC's 10,000 random steps end after 15 seconds, and 1,000 more are learned from in the next ten; PPO is done.
    assert rows["30 seconds"] == ["rljax SAC 1,000", "sb3 SAC 500", "rljax PPO ≥ 400", "3"]
    assert rows["10 seconds"] == ["rljax SAC 500", "sb3 SAC 250", "rljax PPO 50", "3"]
    assert (settings.results.parent / "budget.png").exists()


def test_seconds_are_those_to_compile_and_steps_by_their_rates():
    np.testing.assert_allclose(budget.seconds_of(RATES, np.array([1000, 10_000, 10_100])), [6.0, 15.0, 16.0])
    assert budget.seconds_of({}, np.array([1])) is None


def test_a_curve_is_as_long_as_all_seeds_and_the_last_evaluation_within_a_budget_counts():
    curves = {"0": [[10, 1.0], [20, 3.0], [30, 9.0]], "1": [[10, 3.0], [20, 5.0]]}
    steps, values = budget.mean_curve({"curves": curves})
    np.testing.assert_allclose((steps, values), ([10, 20], [2.0, 4.0]))
    entry = {"curves": curves, "finished": True}
    assert budget.within(entry, "steps", 19) == (2.0, False)
    assert budget.within(entry, "steps", 20) == (4.0, False)
    assert budget.within(entry, "steps", 100) == (4.0, True)
    assert budget.within(entry, "steps", 9) is None
    assert budget.within(entry, "seconds", 9) is None
    assert budget.within(entry | {"finished": False}, "steps", 20) == (4.0, False)
    assert budget.within(entry | {"finished": False}, "steps", 100) is None


def test_labels_keep_their_order_and_their_distance():
    heights = budget.spread([0.0, 0.1, 5.0, 9.9, 10.0], 1.0, 0.0, 10.0)
    assert heights == sorted(heights)
    assert (np.diff(heights) >= 1.0).all()
    assert heights[0] == 0.0
    assert heights[-1] == 10.0


def test_what_is_not_known_or_not_run_is_refused(settings):
    with pytest.raises(Refused, match="unknown algorithms nothing; known: ppo, sac"):
        budget.main(budget.dataclasses.replace(settings, algorithms=("nothing",)))
    with pytest.raises(Refused, match="nothing has been run: leave out --no-run"):
        budget.main(budget.dataclasses.replace(settings, run=False))
    command = budget.peer(settings, "sb3 sac", settings.runs / "x.json", "--steps", 5)
    assert command[:6] == [
        str(settings.peers_python),
        "benchmarks/peers/budget.py",
        "--library",
        "sb3",
        "--algorithm",
        "sac",
    ]
    assert "experiments/sac.py" in " ".join(next(iter(budget.left(settings, {}, "rljax sac"))))
    assert sys.executable in next(iter(budget.left(settings, {}, "rljax sac")))
