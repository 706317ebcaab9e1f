"""The README's example, as it stands, in a fresh interpreter; only the number of steps is small."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(code, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_examples_of_the_readme_run(tmp_path):
    first, second, robots, *_ = blocks()
    assert "200_000" in first
    assert "length=100)" in second
    code = first.replace("200_000", "4096") + second.replace("length=100)", "length=2)")
    code += "print(env.action_space.contains(action), states.iteration)\n"
    code += robots + "sb3_env.reset(seed=0)\n"
    output = run(code, tmp_path)
    assert any(line.startswith("True [2 2") for line in output.splitlines()), output
    assert (tmp_path / "runs" / "readme" / "evaluation.json").exists()


def test_the_example_of_replay_runs(tmp_path):
    replay = blocks()[3]
    assert " 20_000," in replay
    code = "import jax\nimport rljax\nfrom rljax import training\n" + replay.replace(" 20_000,", " 1200,")
    assert "(4, 25000)" in run(code + "print(result.state.experience.replay.data.reward.shape)\n", tmp_path)


def test_the_example_of_parts_and_networks_runs(tmp_path):
    code = "import jax\nimport rljax\n" + blocks()[4]
    code += "params = jax.eval_shape(algorithm.agent.init, jax.random.key(0)).params['policy']['params']\n"
    assert "(1024, 64)" in run(code + "print(params['actor']['encoder']['Dense_0']['kernel'].shape)\n", tmp_path)


def test_the_example_of_offline_learning_runs(tmp_path):
    offline = blocks()[5]
    assert all(steps in offline for steps in (" 100_000,", " 50_000,"))
    offline = offline.replace(" 100_000,", " 20,").replace(" 50_000,", " 20,")
    code = "import jax\nimport numpy as np\nimport rljax\nfrom rljax import training\n"
    code += "from rljax.data import Dataset, Metadata, formats\nfrom rljax.types import Transition\n"
    code += "r, none = np.random.default_rng(0), np.zeros(300, bool)\n"
    code += (
        "t = Transition(r.normal(size=(300, 11)), r.uniform(-1, 1, (300, 3)), r.normal(size=300), none, none.copy(), "
    )
    code += "r.normal(size=(300, 11)))\nt.truncated[99::100] = True\n"
    code += "import pathlib\npathlib.Path('runs/datasets').mkdir(parents=True)\n"
    code += "formats.save_d4rl(Dataset.of(t, Metadata('hopper-medium-v0')), 'runs/datasets/hopper-medium-v0.hdf5')\n"
    assert "20 (1, " in run(
        code + offline + "print(result.steps, result.state.experience.replay.data.reward.shape)\n", tmp_path
    )


def test_the_example_of_a_dataset_of_ones_own_runs(tmp_path):
    code = "import numpy as np\nfrom rljax.data import formats\n"
    code += "obs = next_obs = np.zeros((4, 11))\naction, reward = np.zeros((4, 3)), np.zeros(4)\n"
    code += "terminated, truncated = np.arange(4) == 3, np.zeros(4, bool)\n"
    assert "4" in run(code + blocks()[6] + "print(formats.load('own.hdf5').size)\n", tmp_path)


def test_the_example_of_planning_runs(tmp_path):
    code = "import rljax\n" + blocks()[7] + "print(round(float(lake.start @ solution.values), 3), maze.num_states)\n"
    assert "0.415 15" in run(code, tmp_path)


def test_files_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / target).exists(), target
