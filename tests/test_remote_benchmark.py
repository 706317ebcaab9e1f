"""The benchmark of actors over sockets, shortened: processes that are killed, and all that must be refused."""

import pytest

from benchmarks import remote
from rljax.types import Refused


@pytest.mark.slow
def test_an_actor_that_is_killed_comes_back_and_trouble_is_refused(tmp_path):
    settings = remote.Settings(seeds=1, total_steps=3_000, runs=tmp_path, results=tmp_path / "results")
    remote.main(settings)
    found = remote.read(tmp_path / "remote_sac" / "pendulum-seed0")
    assert found["connections"] == {"left": 2, "right": 1, "troublemaker": 4}
    assert found["transitions"]["troublemaker"] == 0
    # One update for each transition after the first 800, which are random.
    assert found["updates"] == 3_000 - 800 + 4
    assert (tmp_path / "results" / "remote-pendulum-cpu.json").exists()


def test_a_log_that_lacks_a_refusal_is_not_passed_over(tmp_path):
    (tmp_path / "evaluation.json").write_text("{}")
    (tmp_path / "actors.log").write_text("refused 127.0.0.1:1: wrong token\n")
    with pytest.raises(Refused, match="says nothing of rubbish in place of a frame, actions of another shape"):
        remote.read(tmp_path)
