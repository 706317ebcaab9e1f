import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"

# PyDLL keeps the interpreter's lock, as a deadlock inside XLA may: no signal handler or Python thread could run.
HANGS = """
import ctypes

def test_passes():
    pass

def test_hangs_in_c():
    ctypes.PyDLL(None).sleep(100)
"""


def test_every_test_has_a_timeout(pytestconfig):
    assert 0 < float(pytestconfig.getini("faulthandler_timeout")) <= 3600
    assert pytestconfig.getini("faulthandler_exit_on_timeout") is True


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hung_test_is_killed_with_its_stack_shown(tmp_path, workers):
    (tmp_path / "test_hangs.py").write_text(HANGS)
    command = [sys.executable, "-m", "pytest", "-c", str(PYPROJECT), "--rootdir", str(tmp_path), f"-n={workers}"]
    # The project's own settings, but for how long a test may take.
    command += ["-o", "faulthandler_timeout=1", "-p", "no:cacheprovider", str(tmp_path / "test_hangs.py")]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    start = time.monotonic()
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=90)
    output = run.stdout + run.stderr
    assert run.returncode != 0
    assert time.monotonic() - start < 90
    assert "Timeout (0:00:01)!" in output
    assert "in test_hangs_in_c" in output, output
