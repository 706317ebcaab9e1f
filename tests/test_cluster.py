"""The files for clusters: they can be read, and the commands in them are ones that rljax takes."""

import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rljax import experiment
from rljax.training import joining

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "docs" / "cluster"
RAY = ("ray_train", "ray_tune")


def jobset():
    (job,) = yaml.safe_load((CLUSTER / "jobset.yaml").read_text())["spec"]["replicatedJobs"]
    return job["template"]["spec"]


def parsed(command, monkeypatch):
    """The settings that a command line gives to an experiment."""
    _, script, *arguments = command
    found: list[Any] = []
    real = experiment.main
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "main", lambda _, *given: real(found.append, *given))
        patch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return found[0]


def test_the_job_of_slurm_is_a_script_that_resumes(monkeypatch):
    text = (CLUSTER / "slurm.sbatch").read_text()
    subprocess.run(["bash", "-n", CLUSTER / "slurm.sbatch"], check=True)
    assert {"#SBATCH --requeue", "#SBATCH --signal=TERM@120"} <= set(text.splitlines())
    (line,) = re.findall(r"^ *(python .*)$", text, re.M)
    settings = parsed(shlex.split(line), monkeypatch)
    assert settings.run.resume
    assert settings.run.distributed == "auto"


def test_pods_of_kubernetes_start_together_and_know_of_each_other(monkeypatch):
    spec = jobset()
    assert (spec["completionMode"], spec["backoffLimit"], spec["template"]["spec"]["restartPolicy"]) == (
        "Indexed",
        0,
        "Never",
    )
    (container,) = spec["template"]["spec"]["containers"]
    settings = parsed(container["command"], monkeypatch)
    assert settings.run.resume
    (volume,) = container["volumeMounts"]
    assert str(settings.run.runs) == volume["mountPath"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "1"))
    assert joining.tasks() == joining.Tasks("JAX_NUM_PROCESSES", spec["parallelism"], 1)
    assert spec["parallelism"] == spec["completions"]


def test_the_job_of_skypilot_resumes_from_the_bucket(monkeypatch):
    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
    assert task["resources"]["use_spot"]
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)
    settings = parsed(shlex.split(task["run"].strip().splitlines()[-1]), monkeypatch)
    assert settings.run.resume
    assert str(settings.run.runs) in task["file_mounts"]


@pytest.mark.parametrize("name", RAY)
def test_without_ray_its_experiments_name_the_extra(name, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "experiments" / f"{name}.py"), run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: ray is not installed: pip install 'rljax[ray]'\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
@pytest.mark.parametrize("name", RAY)
def test_an_experiment_runs_on_the_cluster_that_is_there(name, tmp_path, monkeypatch):
    """Run where RAY_ADDRESS says that there is one; on a loaded machine Ray itself may not start."""
    if "RAY_ADDRESS" not in os.environ:
        pytest.skip("needs a cluster of Ray's: RAY_ADDRESS")
    tiny = ["--num-envs", "4", "--rollout-length", "8", "--num-minibatches", "2", "--hidden", "8"]
    tiny += ["--total-steps", "640", "--evaluation-episodes", "2", "--final-episodes", "2", "--runs", str(tmp_path)]
    tiny += ["--workers", "2"] if name == "ray_train" else ["--trials", "2"]
    command = [sys.executable, str(ROOT / "experiments" / f"{name}.py"), *tiny]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "return after 640 steps" in done.stdout if name == "ray_train" else "best return" in done.stdout
