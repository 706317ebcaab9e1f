"""The command: what it lists, copies and runs, and one line with exit code 2 for bad input."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import rljax
from rljax import command, experiments
from rljax.command.parser import options_of
from rljax.types import Refused

ROOT = Path(__file__).parents[2]


def refused(capsys, *arguments):
    """The one line with which the command refuses."""
    try:
        code = command.main(list(arguments))
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    return err


def test_what_needs_no_jax_does_not_import_it():
    code = """
import sys
from rljax.command import main
for arguments in ([], ["--help"], ["--version"], ["train"], ["copy"], ["list", "algorithms"], ["nothing"]):
    main(arguments)
assert not {"jax", "numpy", "flax", "mujoco"} & set(sys.modules), sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for word in (*command.SUBCOMMANDS, rljax.__version__, "rljax train diffusion_policy", "Soft actor-critic"):
        assert word in done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines() if line} >= set(rljax.algorithms.NAMES)


def test_a_reader_that_has_gone_is_no_error():
    command = [sys.executable, "-m", "rljax", "list", "algorithms"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_names_of_rljax_are_found_when_they_are_used():
    assert {"load", "make", "__version__"} <= set(dir(rljax))
    assert rljax.envs.make is rljax.make
    with pytest.raises(AttributeError, match="'rljax' has no attribute 'lode'"):
        getattr(rljax, "lo" + "de")
    assert not hasattr(rljax, "nothing.at_all")
    assert not hasattr(rljax, "__nothing__")


def test_the_near_name_is_told(capsys):
    assert "did you mean train? " in refused(capsys, "trian")
    assert "did you mean ppo? " in refused(capsys, "train", "ppp")
    assert "did you mean dqn" in refused(capsys, "copy", "dqnn")


def test_bad_flags_are_refused_in_one_line(capsys, tmp_path):
    assert "rljax list --help" in refused(capsys, "list", "tasks")
    assert "required: RUN" in refused(capsys, "play")
    assert "--port 0 is not allowed" in refused(capsys, "play", str(tmp_path), "--port", "0")
    assert "must be different ones" in refused(capsys, "play", str(tmp_path), "--members", "1", "1")
    for name in ("play", "video"):
        assert "is not a run folder: it has no config.json" in refused(capsys, name, str(tmp_path))
    assert "is not a run folder" in refused(capsys, "report", str(tmp_path))
    assert "is not a run folder" in refused(capsys, "compare", str(tmp_path))


def test_options_of_an_environment_are_json_or_text():
    assert options_of(["a=0.5", "b=true", "c=[1, 2]", "engine=native", "d=a=b"]) == {
        "a": 0.5,
        "b": True,
        "c": [1, 2],
        "engine": "native",
        "d": "a=b",
    }
    for text in ("a", "=1", "a-b=1"):
        with pytest.raises(Refused, match="must look like"):
            options_of([text])


def test_an_experiment_is_copied_once(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["copy", "a2c"]) == 0
    assert (tmp_path / "a2c.py").read_text() == (ROOT / "experiments" / "a2c.py").read_text()
    (tmp_path / "a2c.py").write_text("mine")
    capsys.readouterr()
    assert "is not overwritten" in refused(capsys, "copy", "a2c")
    assert (tmp_path / "a2c.py").read_text() == "mine"


def test_an_experiment_is_known_by_its_name_and_leaves_python_as_it_was(capsys):
    before = sys.argv, sys.modules["__main__"]
    with pytest.raises(SystemExit) as end:
        command.main(["train", "planning", "--help"])
    assert end.value.code == 0
    assert "usage: rljax train planning [-h]" in capsys.readouterr().out
    assert (sys.argv, sys.modules["__main__"]) == before


def test_an_experiment_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.main(["train", "planning", "--world", "cliff_walking"])
    assert "run folder: runs/planning/cliff_walking" in capsys.readouterr().out
    assert (tmp_path / "runs" / "planning" / "cliff_walking" / "summary.json").exists()


def test_environments_are_listed_as_they_are(capsys):
    assert command.main(["list", "envs"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert {name for name in rows if name in rljax.envs.registered()} == {*rljax.envs.registered()} - {"spaces_only"}
    assert all(word in rows["hopper"] for word in ("11 numbers", "3 numbers", "1000", "native, mjx, warp", "Hopper-v5"))
    assert all(word in rows["cartpole"] for word in ("4 numbers", "2 choices", "500"))
    assert "32 × 32 × 1 bytes" in rows["catch"]
    assert {"brax:", "gymnasium:"} <= set(rows)


def test_settings_are_listed_by_experiment(capsys):
    assert command.main(["list", "settings"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "mountain_car_continuous" in rows["sac"]
    assert "antmaze" in rows["iql"]


@pytest.mark.skipif(importlib.util.find_spec("rljax.deploy") is None, reason="no rljax.deploy")
def test_export_is_known_by_its_name(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["export", "--help"])
    assert end.value.code == 0
    assert "usage: rljax export" in capsys.readouterr().out


def test_tuned_settings_are_those_of_the_experiment():
    from rljax.algorithms import ppo, sac

    hopper = experiments.tuned("sac", "Hopper-v5")
    assert isinstance(hopper.config, sac.Config)
    assert (hopper.env, hopper.total_steps, hopper.config.layer_norm) == ("hopper", 500_000, True)
    assert hopper.config.anneal_steps == 500_000  # as experiments/sac.py does, where `anneal` is set
    assert experiments.tuned("sac", "pendulum").config.anneal_steps == 0
    fast = experiments.tuned("ppo", "hopper", accelerated=True)
    assert isinstance(fast.config, ppo.Config)
    assert fast.config.num_envs > experiments.tuned("ppo", "hopper").config.num_envs
    with pytest.raises(Refused, match="dqn has no settings tuned for 'ant'; it has them for cartpole"):
        experiments.tuned("dqn", "ant")
    with pytest.raises(Refused, match="it has them for no task"):
        experiments.tuned("gr_rl", "lace")  # of several stages, without a config
