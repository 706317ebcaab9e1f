"""The benchmark of offline algorithms: which runs are made, and how they become a table."""

import dataclasses
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from benchmarks import campaign, offline
from rljax.data import Dataset
from rljax.types import Transition

NAME = "hopper-medium"
DISCOUNTED = offline.discounted


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "discounted", lambda settings, name: {"discounted": [1.0]})
    (tmp_path / "datasets").mkdir()
    facts = {"normalized_score": 50.0, "best_return": 3234.3, "sha256": "ab12"}  # D4RL's 100
    (tmp_path / "datasets" / "hopper.json").write_text(json.dumps({"medium": facts}))
    folders = {"runs": tmp_path, "results": tmp_path / "results"}
    return offline.Settings(datasets=(NAME,), algorithms=("iql",), seeds=2, peer_seeds=2, **folders)


def finished(settings, seed, value, name=NAME, algorithm="iql", discount=0.99, **more):
    folder = offline.own_folder(settings, algorithm, name, seed)
    folder.mkdir(parents=True)
    member = {"seed": seed, "deterministic": {"mean": value} | more, "stochastic": {"mean": value}}
    (folder / "config.json").write_text(json.dumps({"config": {"discount": discount}}))
    (folder / "versions.json").write_text(json.dumps({"versions": {"rljax": "0.2.0", "commit": "0123456789ab"}}))
    record = {"steps": 50_000, "episodes": 100, "members": [member]}
    (folder / "evaluation.json").write_text(json.dumps(record))
    (folder / "metrics.csv").write_text(f"step,seed,seconds,evaluation/return\n50000,{seed},60,{value}\n")


def test_the_table_has_what_is_finished_and_only_the_rest_is_run(settings):
    assert (len(list(offline.own_jobs(settings))), len(list(offline.peer_jobs(settings)))) == (2, 2)
    finished(settings, 1, 1607.0)
    (command,) = offline.own_jobs(settings)
    assert command[command.index("--seed") + 1] == "0"
    record = offline.record(settings)
    (table,) = record["records"]  # nothing says how the returns are discounted
    assert table["columns"][3:] == ["IQL", "commits"]
    assert table["rows"] == [[NAME, "50.0", "100.0", "50.0 (1)", "0123456"]]
    assert record["runs"][0]["data"] == "ab12"


def test_discounted_returns_stand_beside_those_of_the_data(settings, monkeypatch):
    """Two episodes, the expert's second: 1 + 0.99 and 2 + 0.99 * 2; iql_far maximises something else."""
    both = "hopper-medium-expert"
    settings = dataclasses.replace(settings, datasets=(both,))
    facts = {"normalized_score": 50.0, "best_return": 3234.3, "sha256": "ab12"}
    (settings.runs / "datasets" / "hopper.json").write_text(json.dumps({"medium-expert": facts}))
    monkeypatch.setattr(offline, "discounted", DISCOUNTED)
    ends = np.array([False, True, False, True])
    steps = {"obs": np.zeros((4, 1)), "action": np.zeros((4, 1)), "reward": np.array([1.0, 1.0, 2.0, 2.0])}
    steps |= {"next_obs": np.zeros((4, 1)), "terminated": ends, "truncated": np.zeros(4, bool)}
    monkeypatch.setattr(offline.formats, "load", lambda path: Dataset.of(Transition(**steps)))
    finished(settings, 0, 1607.0, both, mean_discounted=3.0)
    finished(settings, 1, 1607.0, both, mean_discounted=5.0)
    finished(settings, 0, 1607.0, both, "iql_far", 0.997, mean_discounted=9.0)
    (_, table) = offline.record(settings)["records"]
    assert table["columns"] == ["dataset", "its episodes", "IQL", "commits"]
    assert table["rows"] == [[both, "2.0 and 4.0", "4.0 (3.0 to 5.0) (2)", "0123456"]]


def test_the_mean_of_curves_has_the_steps_that_all_seeds_have(settings, monkeypatch, tmp_path):
    for seed, value in ((0, 1607.0), (1, 3234.3)):
        finished(settings, seed, value)
    with (offline.own_folder(settings, "iql", NAME, 1) / "metrics.csv").open("a") as file:
        file.write("60000,1,70,1607.0\n")  # this one was lengthened
    monkeypatch.setattr(plt, "close", lambda figure: None)
    offline.draw(settings)
    thick = max(plt.gcf().axes[0].lines, key=lambda line: line.get_linewidth())
    plt.gcf().clear()
    np.testing.assert_allclose(thick.get_xydata(), [[50_000, 75.0]], rtol=1e-3)
    assert (tmp_path / "offline.png").stat().st_size > 1000


def test_runs_that_are_committed_count_where_they_are_asked_for(settings):
    """Of as many updates; a run of this machine comes before them."""
    finished(settings, 1, 1607.0)
    own = {"implementation": "rljax", "algorithm": "iql", "dataset": NAME, "updates": 50_000, "score": 10.0}
    runs = [own | {"seed": 0}, own | {"seed": 1}, own | {"implementation": "CORL", "seed": 0, "score": 20.0}]
    runs.append(own | {"implementation": "CORL", "seed": 1, "updates": 1000})
    campaign.write(settings, "offline-scores", {"runs": runs})
    assert len(offline.results(settings)) == 1
    settings = dataclasses.replace(settings, committed=True)
    assert list(offline.own_jobs(settings)) == []
    assert [command[command.index("--seed") + 1] for command in offline.peer_jobs(settings)] == ["1"]
    assert [(r["implementation"], round(r["score"])) for r in offline.results(settings)] == [
        ("rljax", 10),
        ("rljax", 50),
        ("CORL", 20),
    ]


def test_a_run_of_other_settings_is_not_counted(settings):
    """Neither of as many updates as another campaign asked for, nor on the way to more."""
    finished(settings, 0, 1607.0)
    finished(settings, 1, 1607.0)
    short = dataclasses.replace(settings, updates=1000)
    (offline.own_folder(settings, "iql", NAME, 0) / "config.json").write_text(
        json.dumps({"total_steps": 1000, "config": {"discount": 0.99}})
    )
    (command,) = offline.own_jobs(settings)
    assert command[command.index("--seed") + 1] == "0"
    assert [run["seed"] for run in offline.results(settings)] == [1]
    path = offline.peer_result(settings, "iql", NAME, 0)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"updates": 1000}))
    assert len(list(offline.peer_jobs(settings))) == 2
    assert len(list(offline.peer_jobs(short))) == 1


def test_variants_are_runs_of_their_algorithm_with_further_flags(settings):
    settings = dataclasses.replace(settings, algorithms=("bc_10", "cql_long", "iql_corl"), seeds=1)
    commands = {command[1]: command for command in offline.own_jobs(settings)}
    assert list(commands) == [f"experiments/{name}.py" for name in ("bc", "cql", "iql")]
    for name, flag, value in (
        ("bc", "--top", "0.1"),
        ("cql", "--target-rate", "0.02"),
        ("iql", "--initialization", "uniform"),
    ):
        command = commands[f"experiments/{name}.py"]
        assert command[command.index(flag) + 1] == value
    assert list(offline.peer_jobs(settings)) == []  # CORL has no such variants
    (far,) = offline.own_jobs(dataclasses.replace(settings, algorithms=("iql_far",)))
    assert far[far.index("--discount") + 1] == "0.997"
    assert not set(offline.WHERE_NAMED) & set(offline.Settings().algorithms)  # hours, unless they are named
