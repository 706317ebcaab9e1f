"""Environments and members over several devices; conftest makes four of the CPU."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import training
from rljax.algorithms import ppo, sac
from rljax.training import devices
from rljax.training import program as programs
from rljax.training.devices import make_mesh, shard_environments
from rljax.types import Refused
from tests.runs import read, train
from tests.toys import Clock, ContinuousClock, limited

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("devices", [2, 4])
def test_environments_are_split_and_everything_learned_is_equal_on_all_devices(tiny, devices):
    sharded = shard_environments(tiny, make_mesh(jax.devices()[:devices]))
    state = jax.jit(sharded.init)(jax.random.key(0))
    state, metrics = jax.jit(sharded.step)(state)
    obs = state.env_state.obs
    assert obs.shape == (8, 4)
    assert [shard.data.shape for shard in obs.addressable_shards] == [(8 // devices, 4)] * devices
    # Each device draws its own episodes and its own actions …
    assert len(np.unique(np.asarray(obs), axis=0)) == 8
    # … and all learn the same from all of them.
    for leaf in jax.tree.leaves((state.learner, state.obs_statistics, state.return_statistics)):
        replicas = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(replicas) == devices
        for replica in replicas[1:]:
            np.testing.assert_array_equal(replica, replicas[0])
    assert float(state.obs_statistics.count) == 64.0
    assert jnp.isfinite(metrics["loss/value"])


def test_gradients_and_statistics_are_those_of_the_whole_batch(tiny):
    """Here every environment makes the same experience, so the critic must learn on four devices what it does on one.

    The actors differ, for each device samples actions of its own; the weight of the value loss keeps their share of
    the clipped gradient negligible.
    """
    config = dataclasses.replace(tiny.config, num_minibatches=1, num_epochs=3, value_coefficient=1e3)
    algorithm = ppo.make(limited(Clock(5, True), 5), config)
    states = []
    for version in (algorithm, shard_environments(algorithm, make_mesh(jax.devices()[:4]))):
        state = jax.jit(version.init)(jax.random.key(0))
        states.append(jax.device_get(jax.jit(version.step)(state)[0]))
    params = (state.params["policy"]["params"] for state in states)
    first, second = ({k: v for k, v in each.items() if k in ("critic", "value")} for each in params)
    chex.assert_trees_all_close(first, second, atol=1e-5)
    chex.assert_trees_all_close(states[0].obs_statistics, states[1].obs_statistics, atol=1e-5)


def test_the_runner_splits_one_run_and_saves_and_resumes_it_on_other_devices(tiny, tmp_path):
    first = train(tiny, 128, devices=2, folder=tmp_path / "run", log_every=64)
    assert first.placement == "environments over 2 devices"
    second = train(tiny, 256, devices=4, folder=tmp_path / "run", log_every=64, resume=True)
    assert second.steps == 256
    assert training.load(tmp_path / "run")(jax.random.key(0), jnp.zeros(4)) in (0, 1)


def test_a_replay_buffer_is_split_saved_and_resumed_on_other_devices(tmp_path):
    config = sac.Config(num_envs=8, batch_size=16, num_updates=2, replay_size=160, learning_starts=32, hidden=(4,))
    algorithm = sac.make(limited(ContinuousClock(5, True), 5), config)
    options = {"folder": tmp_path / "run", "log_every": 32}
    first = train(algorithm, 64, devices=2, **options)
    assert first.placement == "environments over 2 devices"
    second = train(algorithm, 128, devices=4, resume=True, **options)
    replay = second.state.experience.replay
    assert second.steps == 128
    assert int(replay.count) == 16
    assert [shard.data.shape for shard in replay.data.reward.addressable_shards] == [(2, 20)] * 4
    # What was there before the move is there after it, and nothing else.
    before = np.asarray(first.state.experience.replay.data.action[:, :8])
    np.testing.assert_array_equal(np.asarray(replay.data.action[:, :8]), before)
    assert np.unique(np.asarray(replay.data.action[:, :16])).size > 100
    np.testing.assert_array_equal(replay.data.action[:, 16:], 0.0)


def test_one_environment_stays_on_one_of_many_devices():
    config = sac.Config(batch_size=8, replay_size=50, learning_starts=10, hidden=(4,))
    algorithm = sac.make(limited(ContinuousClock(5, True), 5), config)
    program = programs.build(algorithm, None, None, "threefry2x32")
    assert program.devices == 1
    with pytest.raises(ValueError, match="num_envs = 1 does not divide over 2 devices"):
        programs.build(algorithm, None, 2, "threefry2x32")


def test_members_are_split_and_train_as_on_one_device(tiny):
    keys = jax.vmap(jax.random.key)(jnp.arange(4))
    split = train(tiny, 192, keys, devices=4)
    assert split.placement == "members over 4 devices"
    chex.assert_trees_all_close(split.state.params, train(tiny, 192, keys).state.params, atol=1e-4)


def test_what_does_not_divide_is_refused_when_asked_for_and_not_split_otherwise(tiny):
    with pytest.raises(ValueError, match="num_envs = 8 does not divide over 3 devices"):
        train(tiny, 64, devices=3)
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    with pytest.raises(ValueError, match="3 members do not divide over 2 devices"):
        train(tiny, 64, keys, devices=2)
    keys = jax.vmap(jax.random.key)(jnp.arange(5))
    assert train(tiny, 64, keys, devices=None).placement == "1 device (5 members do not divide over 4)"


def test_members_take_as_many_devices_as_they_divide_over(tiny):
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    assert train(tiny, 64, keys, devices=None).placement == "members over 3 devices"


@pytest.mark.parametrize(
    ("cores", "members", "devices"), [(2, 1, 2), (2, 4, 2), (2, 5, 5), (4, 6, 6), (4, 10, 5), (8, 5, 8), (2, 11, 2)]
)
def test_a_cpu_is_as_many_devices_as_occupy_its_cores(monkeypatch, cores, members, devices):
    """Members fewer than cores leave some idle; eleven on two cores would be too many threads."""
    made = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(jax.config, "update", lambda name, value: made.append((name, value)))
    training.use_cpu_cores(members=members)
    training.use_cpu_cores(3, members)
    assert made == [("jax_num_cpu_devices", devices), ("jax_num_cpu_devices", 3)]


HIDDEN = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("driver", "environment", "settings", "expected"),
    [
        ("/dev/nvidiactl", {}, {}, True),
        ("/dev/nvidiactl", {"CUDA_VISIBLE_DEVICES": "1,0"}, {}, True),
        ("/dev/nvidiactl", {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}, {}, True),
        ("/dev/nvidiactl", {"CUDA_VISIBLE_DEVICES": ""}, {}, False),
        ("/dev/nvidiactl", {"CUDA_VISIBLE_DEVICES": "-1"}, {}, False),
        ("/dev/nvidiactl", {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, {}, False),
        ("/dev/nvidiactl", {"JAX_PLATFORM_NAME": "cpu"}, {}, False),
        ("/dev/nvidiactl", {"JAX_PLATFORMS": "cpu"}, {}, False),
        ("/dev/nvidiactl", {"JAX_PLATFORMS": "cuda,cpu"}, {}, True),
        ("/dev/nvidiactl", {"JAX_PLATFORMS": "cuda"}, {"jax_platform_name": "cpu"}, False),
        ("/dev/nvidiactl", {}, {"jax_platforms": "cpu"}, False),
        ("/dev/nvidiactl", {"JAX_PLATFORMS": "cuda"}, {"jax_platforms": "cpu"}, False),
        ("/dev/kfd", {}, {}, True),
        ("/dev/kfd", {"HIP_VISIBLE_DEVICES": ""}, {}, False),
        ("/dev/null", {}, {}, False),
    ],
)
def test_an_accelerator_is_expected_where_jax_would_use_one(driver, environment, settings, expected, monkeypatch):
    """A machine with a GPU, on which a user may have asked for the CPU in any of the ways that JAX has."""
    for name in HIDDEN:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(devices, "_PLATFORMS", environment.get("JAX_PLATFORMS"))
    held = {"jax_platforms": environment.get("JAX_PLATFORMS"), "jax_platform_name": None} | settings
    config = types.SimpleNamespace(**held, values=held)
    monkeypatch.setattr(devices, "jax", types.SimpleNamespace(config=config))
    monkeypatch.setattr(devices, "Path", lambda path: types.SimpleNamespace(exists=lambda: path == driver, glob=iter))
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name.startswith("jax_") or None)
    assert training.expect_accelerator() == expected


def test_a_defect_in_an_algorithm_does_not_pass_for_environments_that_do_not_divide(tiny, monkeypatch):
    def broken(*_, **__):
        raise ValueError("a defect")

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # on a CPU nothing is split unless that is asked for
    with pytest.raises(ValueError, match="a defect") as error:
        programs.build(tiny._replace(init=broken), None, None, "threefry2x32")
    assert not isinstance(error.value, Refused)


def started(*arguments):
    """A process of distributed_driver.py."""
    command = [sys.executable, "-m", "tests.training.distributed_driver", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), **pipes)


def free_address():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    address = free_address()
    processes = [started(address, 2, rank, 2, tmp_path / "two", 10_000_000) for rank in range(2)]
    rows, began = tmp_path / "two" / "metrics.csv", time.monotonic()
    while not (rows.exists() and rows.read_text().count("\n") > 3):
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        assert time.monotonic() - began < 240
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    one, two = (out.split()[-3:] for out, _ in outputs)
    assert one == two == [one[0], str(int(signal.SIGTERM)), "None"]
    assert [path.name for path in (tmp_path / "two" / "checkpoints").iterdir()] == [str(int(one[0]) // 64)]


def test_two_processes_train_one_agent(tmp_path):
    """Over localhost, two processes of two devices end where one of four does; saved, resumed, loaded."""
    address = free_address()
    processes = [started(address, 2, rank, 2, tmp_path / "two") for rank in range(2)]
    processes += [started("-", 1, 0, 4, tmp_path / "one")]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    one, two, alone = (np.array([float(x) for x in out.split()[-5:]]) for out, _ in outputs)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, alone, rtol=1e-3, atol=1e-8)


@pytest.mark.slow
def test_members_over_two_processes_are_those_of_one(tmp_path):
    """Rows, evaluations and the policies of all members, after a resumption."""
    address, folders = free_address(), (tmp_path / "two", tmp_path / "one")
    processes = [started(address, 2, rank, 2, folders[0], "members") for rank in range(2)]
    processes += [started("-", 1, 0, 4, folders[1], "members")]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    assert len({out.splitlines()[-1] for out, _ in outputs}) == 1
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in read(folder)] for folder in folders]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4 * 8
    evaluations = [json.loads((folder / "evaluation.json").read_text()) for folder in folders]
    assert evaluations[0] == evaluations[1]
