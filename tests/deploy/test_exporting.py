"""`rljax.export` and its command: files, cards and refusals."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import a2c
from rljax.deploy import exporting
from rljax.deploy.__main__ import main
from rljax.deploy.card import card
from rljax.deploy.source import Source
from rljax.ops import running_statistics
from rljax.policy import Policy
from rljax.spaces import example
from rljax.types import Refused
from tests.deploy.policies import of_case, of_function
from tests.runs import train
from tests.toys import CounterConfig, counter


def steering(env, config):
    """Learns nothing, at once: a counter whose policy looks where the pole falls."""

    def act(variables, key, obs, memory, deterministic):
        return (variables[0] * obs[..., 2] > 0).astype(jnp.int32), memory, ()

    return counter(config)._replace(policy=lambda state: Policy(state.params[:1], (), act))


STEERING = types.SimpleNamespace(Config=CounterConfig, make=steering)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a few steps, of an algorithm that compiles at once."""
    folder = tmp_path_factory.mktemp("runs") / "counter" / "tiny"
    train(steering(None, CounterConfig()), 2, folder=folder, checkpoint_every=1)
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run folder of a few steps of A2C."""
    folder = tmp_path_factory.mktemp("runs") / "a2c" / "tiny"
    config = a2c.Config(num_envs=2, rollout_length=4, hidden=(4,), normalize_observation=True)
    train(a2c.make(rljax.make("cartpole"), config), 16, folder=folder, checkpoint_every=8)
    return folder


@pytest.mark.slow
def test_a_run_becomes_a_file_and_a_card(learned, tmp_path, capsys):
    pytest.importorskip("onnx")
    path = tmp_path / "below" / "cart.onnx"
    assert main([str(learned), str(path), "--observations", "50"]) == 0
    said = capsys.readouterr().out
    assert "largest difference 0 actions on 50 observations of its task under the policy" in said
    assert sorted(x.name for x in path.parent.iterdir()) == ["cart.onnx", "cart.onnx.json"]
    about = json.loads((path.parent / "cart.onnx.json").read_text())
    assert about["run"] == "a2c/tiny"
    assert (about["algorithm"], about["task"], about["format"]) == ("a2c", "cartpole", "onnx")
    assert (about["steps"], about["total_steps"], about["which"], about["member"]) == (16, 16, "newest", 0)
    [obs], [action] = about["inputs"], about["outputs"]
    assert (obs["name"], obs["shape"], obs["dtype"]) == ("obs", [1, 4], "float32")
    assert (action["name"], action["dtype"], action["count"]) == ("action", "int32", 2)
    assert about["verified"]["largest_difference"] == 0
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert properties["algorithm"] == "a2c"
    assert json.loads(properties["inputs"]) == about["inputs"]
    assert properties["parameters_sha256"] == about["parameters_sha256"]


def test_an_earlier_checkpoint_is_another_file(run, tmp_path):
    how = {"name": "cart", "observations": 20, "algorithm": STEERING}
    made = [rljax.export(run, tmp_path / f"{n}.h", which=n, **how) for n in (1, 2)]
    assert [(x.card["steps"], x.card["checkpoint"]) for x in made] == [(1, 1), (2, 2)]
    assert (made[0].card["run"], made[0].card["algorithm"]) == ("counter/tiny", "counter")
    assert made[0].card["parameters_sha256"] != made[1].card["parameters_sha256"]
    text = made[1].path.read_text()
    assert "static inline void cart(const float *obs, int32_t *action)" in text
    assert made[1].card["parameters_sha256"] in text


def test_bad_input_is_refused_and_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    policy, env = of_case("dqn")
    with pytest.raises(Refused, match=r"suffix '\.pt'; it must be one of \.stablehlo, \.onnx, \.h"):
        rljax.export(policy, tmp_path / "a.pt", env=env)
    with pytest.raises(Refused, match="pass env="):
        rljax.export(policy, tmp_path / "a.h")
    with pytest.raises(Refused, match="observations = 0"):
        rljax.export(policy, tmp_path / "a.h", env=env, observations=0)
    with pytest.raises(Refused, match="cannot be the name of a function in C"):
        rljax.export(policy, tmp_path / "a.h", env=env, name="1st")
    sorting, spaces = of_function(lambda x: jnp.sort(x), 3, 3)
    with pytest.raises(Refused, match="the primitive sort"):
        rljax.export(sorting, tmp_path / "a.h", env=spaces)
    assert main([str(tmp_path / "none"), str(tmp_path / "a.h")]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        with pytest.raises(Refused, match=r"pip install 'rljax\[onnx\]'"):
            rljax.export(run, tmp_path / "a.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "compare", lambda *_: (0.01, 1.0, {}))
        with pytest.raises(Refused, match="is not the policy, and was not kept"):
            rljax.export(policy, tmp_path / "a.stablehlo", env=env, observations=5)
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_a_header_is_said_not_to_be_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.c_header, "compiler", lambda: None)
    policy, env = of_case("dqn")
    made = rljax.export(policy, tmp_path / "a.h", env=env)
    assert "not verified: no C compiler" in made.text
    assert made.difference is None
    assert made.card["verified"] is None


def test_a_card_names_what_moves_the_robot_and_how_often():
    env = rljax.make("inverted_pendulum")
    policy, _ = of_function(lambda x: x[:, :1], 4, 1)
    about = card(Source(policy, env), {})
    assert (about["joints"], about["actuators"]) == (["slider", "hinge"], ["slide"])
    assert about["control_rate_hz"] == pytest.approx(25.0)
    assert (about["outputs"][0]["low"], about["outputs"][0]["high"]) == (-3.0, 3.0)


def test_a_card_has_the_initial_memory_and_the_noise():
    policy, env = of_case("diffusion")
    inputs = {x["name"]: x for x in card(Source(policy, env, deterministic=False), {})["inputs"]}
    assert inputs["memory/step"]["initial"] == -1
    assert inputs["memory/chunk"]["initial"] == 0.0
    assert inputs["noise"]["distribution"] == "normal"


def test_statistics_can_be_an_argument_of_an_exported_function():
    space = rljax.make("cartpole").observation_space
    statistics = running_statistics.init(example(space))
    exported = jax.export.export(jax.jit(running_statistics.normalize))(statistics, example(space))
    again = jax.export.deserialize(exported.serialize())
    obs = np.float32([1.0, -2.0, 0.5, 3.0])
    np.testing.assert_array_equal(again.call(statistics, obs), running_statistics.normalize(statistics, obs))


@pytest.mark.slow
def test_a_policy_in_its_own_task_is_verified_by_rollouts(tmp_path):
    policy, env = of_case("diffusion")
    made = rljax.export(policy, tmp_path / "a.stablehlo", env=env, observations=30)
    assert made.card["verified"]["origin"] == "of its task under the policy"
    assert made.difference <= 1e-5
