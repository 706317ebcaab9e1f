"""experiments/planning.py as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def run(folder, *flags):
    command = [sys.executable, str(ROOT / "experiments" / "planning.py"), "--runs", str(folder / "runs"), *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_map_is_solved_printed_and_drawn(tmp_path):
    (tmp_path / "maze.txt").write_text("S..\n.#.\n..G\n")
    done = run(tmp_path, "--map", "maze.txt", "--discount", "0.9", "--method", "policy_iteration")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1] == "↓ # ↓"
    assert lines[2] == "→ → G"
    folder = tmp_path / "runs" / "planning" / "maze"
    assert {path.name for path in folder.iterdir()} == {"solution.npz", "summary.json", "values.png"}
    assert abs(json.loads((folder / "summary.json").read_text())["value_of_start"] - 0.9**3) < 1e-5
    with np.load(folder / "solution.npz") as solution:
        assert solution["policy"].shape == (9,)
    again = run(tmp_path, "--map", "maze.txt", "--method", "soft_value_iteration", "--temperature", "0.01")
    assert again.returncode == 2
    assert "maze holds a run already: --overwrite moves it aside, another --name starts beside it" in again.stderr
    soft = run(tmp_path, "--map", "maze.txt", "--method", "soft_value_iteration", "--overwrite")
    assert soft.returncode == 0, soft.stderr
    assert (folder.with_name("maze.1") / "solution.npz").is_file()
    with np.load(folder / "solution.npz") as solution:
        assert solution["policy"].shape == (9, 4)


def test_without_a_discount_there_are_values_and_plain_json(tmp_path):
    done = run(tmp_path, "--world", "taxi", "--discount", "1", "--method", "policy_iteration")
    assert done.returncode == 0, done.stderr
    assert "not certified, for γ = 1" in done.stdout
    folder = tmp_path / "runs" / "planning" / "taxi"
    summary = json.loads(
        (folder / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON")
    )
    assert summary["bound"] is None
    assert 5 < summary["value_of_start"] < 15
    with np.load(folder / "solution.npz") as solution:
        assert np.isfinite(solution["values"]).all()


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    (tmp_path / "bad.txt").write_text("S..\n.G\n")
    for flags, message in (
        (("--world", "txi"), "unknown world 'txi'; did you mean taxi?"),
        (("--map", "bad.txt"), "lines must all have one length, got [3, 2]"),
        (("--world", "taxi", "--slip", "0.1"), "taxi does not take slip"),
        (("--temperature", "0"), "temperature must be above 0, got 0.0"),
        (("--world", "garnet"), "garnet needs num_states, num_actions, successors; it takes: "),
        (("--world", "gridworld"), "world gridworld is drawn in a text file; give it by --map"),
    ):
        done = run(tmp_path, *flags)
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1].startswith("error: ")
        assert message in done.stderr
        assert not (tmp_path / "runs").exists()
