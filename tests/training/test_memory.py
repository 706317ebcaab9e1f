"""Whether a state fits is known, and said, before anything is allocated."""

import jax
import jax.numpy as jnp
import pytest

import rljax
from rljax.algorithms import sac
from rljax.training import memory
from tests.runs import train

STATE = {"replay": jax.ShapeDtypeStruct((1000, 100), jnp.float32), "key": jax.eval_shape(jax.random.key, 0)}


def test_need_is_compared_with_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 1_700_000)
    memory.check_memory(STATE, members=4, devices=1, saved=())  # 400,008 bytes each
    memory.check_memory(STATE, members=2, devices=1, saved=STATE)
    for members, saved in ((5, ()), (3, STATE)):
        with pytest.raises(ValueError, match=r"training needs 2.\d MB of memory.* state\['replay'\] \(0.4 MB .*1.7 MB"):
            memory.check_memory(STATE, members, devices=2, saved=saved)
    data = jax.ShapeDtypeStruct((100_000,), jnp.float32)
    memory.check_memory(STATE, members=2, devices=2, saved=(), data=data)
    with pytest.raises(ValueError, match=r"2.8 MB of memory, 2.0 MB of it for the data.* or use one device"):
        memory.check_memory(STATE, members=2, devices=5, saved=(), data=data)  # each has its own copy
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    memory.check_memory(STATE, members=10**9, devices=1, saved=())


def test_accelerators_hold_a_share_each(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(memory, "free_bytes", lambda: 900_000)
    memory.check_memory(STATE, members=4, devices=2, saved=STATE)
    with pytest.raises(ValueError, match=r"training needs 1\.2 MB"):
        memory.check_memory(STATE, members=5, devices=2, saved=STATE)
    with pytest.raises(ValueError, match="free"):
        memory.check_memory({"x": jax.ShapeDtypeStruct((500_000,), jnp.float32)}, 1, 2, STATE)


def test_what_is_free_here_is_plausible():
    free = memory.free_bytes()
    assert free is None or 10**7 < free < 10**14


def test_a_buffer_that_cannot_fit_is_refused_before_the_run_folder_is_made(tmp_path):
    algorithm = sac.make(rljax.make("pendulum"), sac.Config(replay_size=2_000_000_000, hidden=(4,)))
    with pytest.raises(ValueError, match=r"GB of memory with its checkpoints, most of it for state.experience.replay"):
        train(algorithm, 100, folder=tmp_path / "run", devices=None)
    assert not (tmp_path / "run").exists()
