"""The benchmark of the accelerator: what it measures again, what fits into its minutes, and parts that fail."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import Part
from rljax.types import Refused

MACHINE = {"cpu": "EPYC", "cores": 2, "backend": "cpu"}


@pytest.fixture
def session(tmp_path, monkeypatch):
    """Settings, the names of the parts that were measured, what each answers, and the clock."""
    made: list[str] = []
    answers: dict[str, Any] = {}
    clock = [0.0]
    chosen = [Part(name, seconds, "products", {"size": 1}) for name, seconds in (("a", 50), ("b", 400), ("c", 100))]

    def measure(part, limit):
        if part.name == "machine":
            return [answers.get("machine", MACHINE)], None
        made.append(part.name)
        clock[0] += part.seconds
        rows, error = answers.get(part.name, ([{"what": part.name, "rate": 1.0, "curve": [1]}], None))
        if isinstance(error, BaseException):
            raise error
        return rows, error

    monkeypatch.setattr(accelerator, "measure", measure)
    monkeypatch.setattr(accelerator, "parts", lambda smallest=False: chosen)
    monkeypatch.setattr(accelerator.time, "monotonic", lambda: clock[0])
    return accelerator.Settings(results=tmp_path), made, answers, chosen


def read(settings):
    return json.loads((settings.results / "accelerator-cpu.json").read_text())


def test_a_part_that_does_not_fit_is_left_for_another_call(session, capsys):
    settings, made, _, _ = session
    accelerator.main(dataclasses.replace(settings, minutes=3))
    assert made == ["a", "c"]
    assert "b: left for another call, since it takes 400 s of 130" in capsys.readouterr().out
    accelerator.main(settings)
    assert made == ["a", "c", "b"]
    assert [row[0] for row in read(settings)["rows"]] == ["a", "b", "c"]  # in their own order
    accelerator.main(settings)
    assert made == ["a", "c", "b"]


def test_a_call_that_was_cut_short_leaves_what_it_measured(session):
    settings, made, answers, _ = session
    answers["b"] = [], KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        accelerator.main(settings)
    assert list(read(settings)["parts"]) == ["a"]
    del answers["b"]
    accelerator.main(settings)
    assert made == ["a", "b", "b", "c"]
    assert "curve" not in read(settings)["columns"]
    assert read(settings)["parts"]["b"]["rows"][0]["curve"] == [1]


def test_a_part_that_fails_says_why_and_comes_last_in_the_next_call(session):
    settings, made, answers, chosen = session
    answers["a"] = [{"what": "half of a", "rate": 2.0}], "ValueError: no such engine"
    accelerator.main(settings)
    assert made == ["a", "b", "c"]
    rows = read(settings)["rows"]
    assert rows[0][:3] == ["half of a", "–", 2.0]
    assert (rows[1][0], rows[1][-1]) == ("a", "failed: ValueError: no such engine")
    chosen.append(Part("d", 10, "products", {}))
    del answers["a"]
    accelerator.main(settings)
    assert made[3:] == ["d", "a"]


def test_other_settings_and_other_hardware_are_measured_again(session):
    settings, made, answers, chosen = session
    accelerator.main(settings)
    chosen[0] = chosen[0]._replace(arguments={"size": 2})
    accelerator.main(settings)
    assert made[3:] == ["a"]
    answers["machine"] = MACHINE | {"cpu": "Xeon"}
    accelerator.main(dataclasses.replace(settings, parts=("c",)))
    assert made[4:] == ["c"]
    assert list(read(settings)["parts"]) == ["c"]
    with pytest.raises(Refused, match="no part begins with nothing"):
        accelerator.main(dataclasses.replace(settings, parts=("nothing",)))
    (settings.results / "accelerator-cpu.json").write_text("{")
    with pytest.raises(Refused, match=r"accelerator-cpu\.json is damaged"):
        accelerator.main(settings)


def test_a_part_has_a_process_and_its_failure_a_line():
    missing = {"algorithm": "nothing", "task": "ant", "engine": "mjx", "seconds": 1.0, "logs": 1}
    rows, error = accelerator.measure(Part("x", 9, "learning", missing), 300)
    assert (rows, error) == ([], "rljax.errors.Refused: there is no experiments/nothing.py")
    rows, error = accelerator.measure(Part("x", 9, "machine", {}), 0.01)
    assert (rows, error) == ([], "ended after 0 s, before it had done")


def test_what_a_part_has_started_ends_with_it(tmp_path, monkeypatch):
    """Else a peer that was too slow would hold the accelerator while the next part runs."""
    program, started = tmp_path / "python", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\nsleep 60 & echo $! > {started}.new\nmv {started}.new {started}\nwait\n")
    program.chmod(0o700)
    monkeypatch.setattr(accelerator.sys, "executable", str(program))
    monkeypatch.setattr(accelerator.tempfile, "tempdir", str(tmp_path))
    rows, error = accelerator.measure(Part("x", 9, "machine", {}), 3.0)
    assert (rows, error) == ([], "ended after 3 s, before it had done")
    state = Path(f"/proc/{int(started.read_text())}/stat")
    for _ in range(100):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("it goes on")


def test_the_line_of_a_failure_is_that_of_its_exception():
    text = "W cuda is old\nTraceback:\n  File x\njax.errors.XlaRuntimeError: out of memory\n----\nFor help see there"
    assert accelerator.why(text) == "jax.errors.XlaRuntimeError: out of memory"
    assert accelerator.why("Killed\n") == "Killed"
    assert accelerator.why("") == "it ended without a word"


@pytest.mark.parametrize("smallest", [False, True])
def test_every_part_is_a_function_with_these_arguments(smallest):
    import inspect

    from benchmarks.accelerator_parts import FUNCTIONS

    parts = accelerator.parts(smallest)
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        inspect.signature(FUNCTIONS[part.function]).bind(**json.loads(json.dumps(part.arguments)))
    names = [part.name for part in parts]
    assert "training, flash_sac, half_cheetah, " + ("native" if smallest else "warp") in names


@pytest.mark.slow
def test_every_part_runs_at_its_least(tmp_path):
    settings = accelerator.Settings(results=tmp_path, smallest=True, minutes=30)
    accelerator.main(settings)
    found = json.loads((tmp_path / "accelerator-smallest-cpu.json").read_text())["parts"]
    failed = {name: entry["error"] for name, entry in found.items() if entry["error"]}
    assert not failed
    assert all(row["rate"] > 0 for entry in found.values() for row in entry["rows"])
