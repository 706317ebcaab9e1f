"""A run that is interrupted, however rudely, and resumed ends in the very state of one that was not."""

import csv
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(folder, agent, mode="train"):
    command = [sys.executable, "-m", "tests.training.driver", str(folder), agent, mode]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def resume(folder, agent):
    code, out, err = finish(start(folder, agent))
    assert code == 0, err
    return out.split(), err


SLOW = pytest.mark.slow


@pytest.fixture(scope="module", params=["ppo", pytest.param("recurrent", marks=SLOW), pytest.param("sac", marks=SLOW)])
def whole(request, tmp_path_factory):
    """An uninterrupted run: its agent, its last line, its metrics."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    line, _ = resume(folder, request.param)
    assert line[:2] == ["finished", "640"]
    return request.param, line, rows(folder)


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_sigterm_saves_exits_cleanly_and_resumes_bit_for_bit(whole, tmp_path):
    agent, line, metrics = whole
    process = start(tmp_path / "run", agent, "slow")
    for text in process.stdout:
        if text.strip() == "at 6":
            process.send_signal(signal.SIGTERM)
            break
    code, out, err = finish(process)
    assert code == 0, err
    assert "interrupted" in out
    assert "Traceback" not in err
    steps = int(out.split()[out.split().index("interrupted") + 1])
    assert 6 * 32 <= steps < 20 * 32
    resumed, err = resume(tmp_path / "run", agent)
    assert f"resumed at step {steps}" in err
    assert resumed == line
    assert rows(tmp_path / "run") == metrics


@pytest.mark.parametrize(("mode", "resumed_at"), [("die-training", 256), ("die-writing", 128), ("die-summing", 128)])
def test_kill_9_loses_at_most_the_work_since_the_last_checkpoint(whole, tmp_path, mode, resumed_at):
    agent, line, metrics = whole
    code, _, err = finish(start(tmp_path / "run", agent, mode))
    assert code == -signal.SIGKILL, err
    resumed, err = resume(tmp_path / "run", agent)
    assert f"resumed at step {resumed_at} " in err
    assert resumed == line
    assert rows(tmp_path / "run") == metrics
