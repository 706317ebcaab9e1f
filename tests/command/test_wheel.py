"""The wheel, as it would be installed: everything that the command needs is in it, and nothing else."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).parents[2]
CODE = """
import sys
from pathlib import Path
import rljax
from rljax import experiments
from rljax.__main__ import main
installed = Path(sys.argv[1])
assert Path(rljax.__file__).is_relative_to(installed), rljax.__file__
assert experiments.path("ppo").is_relative_to(installed)
for arguments in (
    ["list"],
    ["train", "ppo", "--env", "cartpole", "--total-steps", "64", "--num-envs", "4", "--rollout-length", "8",
     "--num-minibatches", "2", "--hidden", "4", "--final-episodes", "2", "--evaluate-every", "0", "--name", "tiny"],
    ["report", "runs/ppo/tiny"],
    ["compare", "runs/ppo/tiny", "--metric", "loss/policy"],
    ["video", "runs/ppo/tiny", "--max-steps", "3"],
    ["copy", "ppo"],
):
    assert not main(arguments), arguments
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    code = f"import os; os.chdir({str(ROOT)!r}); from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_experiments_and_the_licence_and_no_tests(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    files = {path.name for path in (ROOT / "experiments").glob("*.py")}
    assert {f"rljax/experiments/{name}" for name in files | {"__init__.py"}} <= names
    assert {"rljax/py.typed", "rljax/analysis/page.css", "rljax/envs/manipulation/lace.xml"} <= names
    about = next(name.split("/")[0] for name in names if ".dist-info/" in name)
    assert f"{about}/licenses/LICENSE" in names
    assert {name.split("/")[0] for name in names} == {"rljax", about}
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]
    with zipfile.ZipFile(wheel) as file:
        entries = file.read(f"{about}/entry_points.txt").decode()
    assert "rljax = rljax.command:main" in entries
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"rljax": "rljax.command:main"}


@pytest.mark.slow
def test_the_command_works_from_the_wheel_alone(wheel, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as file:  # as `pip install --no-deps --target` does with a wheel of Python alone
        file.extractall(installed)
    environment = {**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-P", "-c", CODE, str(installed)]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "half_cheetah" in done.stdout
    run = empty / "runs" / "ppo" / "tiny"
    assert (run / "video.mp4").stat().st_size > 0
    assert "rljax train ppo --env cartpole --total-steps 64" in (run / "report.html").read_text()
    assert (empty / "ppo.py").exists()
    assert (empty / "compare.png").exists()
