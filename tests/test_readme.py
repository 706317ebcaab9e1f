"""The README's example, as it stands, in a fresh interpreter; only the number of steps is small."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_python_examples_of_the_readme_run(tmp_path):
    text = (ROOT / "README.md").read_text()
    first, second, robots = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "200_000" in first
    assert "length=100)" in second
    code = first.replace("200_000", "4096") + second.replace("length=100)", "length=2)")
    code += "print(env.action_space.contains(action), states.iteration)\n"
    code += robots + "sb3_env.reset(seed=0)\n"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    assert any(line.startswith("True [2 2") for line in done.stdout.splitlines()), done.stdout
    assert (tmp_path / "runs" / "readme" / "evaluation.json").exists()


def test_files_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / target).exists(), target
