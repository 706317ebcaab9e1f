"""The benchmark of offline algorithms: which runs are made, and how they become a table."""

import dataclasses
import json

import jax
import pytest

from benchmarks import common, offline

NAME = "hopper-medium"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    (tmp_path / "datasets").mkdir()
    facts = {"normalized_score": 50.0, "best_return": 3234.3, "sha256": "ab12"}  # D4RL's 100
    (tmp_path / "datasets" / "hopper.json").write_text(json.dumps({"medium": facts}))
    return offline.Settings(datasets=(NAME,), algorithms=("iql",), seeds=2, peer_seeds=2, runs=tmp_path)


def finished(settings, seed, value):
    folder = offline.own_folder(settings, "iql", NAME, seed)
    folder.mkdir(parents=True)
    member = {"seed": seed, "deterministic": {"mean": value}, "stochastic": {"mean": value}}
    record = {"steps": 50_000, "episodes": 100, "members": [member]}
    (folder / "evaluation.json").write_text(json.dumps(record))
    (folder / "metrics.csv").write_text(f"step,seed,seconds,evaluation/return\n50000,{seed},60,{value}\n")


def test_the_table_has_what_is_finished_and_only_the_rest_is_run(settings):
    assert (len(list(offline.own_jobs(settings))), len(list(offline.peer_jobs(settings)))) == (2, 2)
    finished(settings, 1, 1607.0)
    (command,) = offline.own_jobs(settings)
    assert command[command.index("--seed") + 1] == "0"
    record = offline.table(settings)
    assert record["columns"][3:] == ["IQL"]
    assert record["rows"] == [[NAME, "50.0", "100.0", "50.0 (1)"]]
    assert record["runs"][0]["data"] == "ab12"


def test_runs_that_are_committed_count_where_they_are_asked_for(settings):
    """Of as many updates; a run of this machine comes before them."""
    finished(settings, 1, 1607.0)
    own = {"implementation": "rljax", "algorithm": "iql", "dataset": NAME, "updates": 50_000, "score": 10.0}
    runs = [own | {"seed": 0}, own | {"seed": 1}, own | {"implementation": "CORL", "seed": 0, "score": 20.0}]
    runs.append(own | {"implementation": "CORL", "seed": 1, "updates": 1000})
    path = settings.runs / f"offline-scores-{jax.default_backend()}.json"
    path.write_text(json.dumps({"runs": runs}))
    assert len(offline.results(settings)) == 1
    settings = dataclasses.replace(settings, committed=True)
    assert list(offline.own_jobs(settings)) == []
    assert [command[command.index("--seed") + 1] for command in offline.peer_jobs(settings)] == ["1"]
    assert [(r["implementation"], round(r["score"])) for r in offline.results(settings)] == [
        ("rljax", 10), ("rljax", 50), ("CORL", 20)
    ]  # fmt: skip


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
    assert "cql_long" not in offline.Settings().algorithms  # hours, unless it is named
