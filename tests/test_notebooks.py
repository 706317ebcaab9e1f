"""Every notebook runs from top to bottom, with small budgets."""

from pathlib import Path
from typing import Any

import mujoco
import nbformat
import pytest
from nbclient import NotebookClient

from rljax.envs.mujoco.rendering import NoGraphics, Renderer

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SMALL: dict[str, dict[str, Any]] = {
    "01_quickstart": {"STEPS": 6144, "EPISODES": 4},
    # MJX compiles a cheetah for a minute, and a pendulum for seconds.
    "02_physics": {
        "TASK": "'inverted_pendulum'",
        "STEPS": 4096,
        "EPISODES": 4,
        "BATCHES": (1, 4),
        "SECONDS": 0.1,
        "FRAMES": 20,
    },
    "03_off_policy": {"STEPS": 1200, "EPISODES": 2, "TEMPERATURES": [0.01, 1.0]},
    "04_planning": {"STEPS": 2000, "PPO_STEPS": 4096, "DISCOUNTS": [0.5, 0.9]},
    "05_offline": {"STEPS": 40, "ONLINE_STEPS": 240, "EPISODES": 2, "METHODS": ("IQL",)},
    "06_steering": {"UPDATES": 20, "STEPS": 400, "EPISODES": 4, "DEMONSTRATIONS": 4, "CRITIC_UPDATES": 10},
}
# The kind of the film, if there is one, and how many figures.
PICTURES = {
    "01_quickstart": ("image/gif", 2),
    "02_physics": ("video/mp4", 2),
    "03_off_policy": ("image/gif", 3),
    "04_planning": (None, 3),
    "05_offline": (None, 4),
    "06_steering": (None, 4),
}


QUICK = ("01_quickstart",)


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=() if p.stem in QUICK else pytest.mark.slow) for p in NOTEBOOKS]
)
def test_notebook_runs(path, tmp_path, monkeypatch):
    if PICTURES[path.stem][0] == "video/mp4":
        try:
            Renderer(mujoco.MjModel.from_xml_string("<mujoco/>")).close()
        except NoGraphics as error:
            pytest.skip(str(error))
    notebook = nbformat.read(path, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += "\n" + "\n".join(f"{name} = {value}" for name, value in SMALL[path.stem].items())
    monkeypatch.setenv("PYTHONPATH", str(path.parents[1]))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # Jupyter chooses its own, which shows figures
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    film, pictures = PICTURES[path.stem]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == pictures
    data = [output.get("data", {}) for output in outputs]
    assert film is None or any(film in d or f"data:{film};base64" in d.get("text/html", "") for d in data)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_outputs_and_without_paths_of_a_machine(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any(cell.outputs for cell in code)
    assert str(Path.home()) not in path.read_text()
    assert path.stat().st_size < 2**20
