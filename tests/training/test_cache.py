"""The compilation cache: on by default, where the user wants it."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from rljax.training import enable_compilation_cache, program
from tests.algorithms.cases import made


@pytest.fixture
def unset():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_cache_lies_in_the_users_cache_folder(unset, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "rljax" / "xla")


def test_the_cache_can_be_turned_off(unset, monkeypatch):
    monkeypatch.setenv("RLJAX_CACHE", "off")
    enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_cache_of_the_users_own_is_left_as_it_is(unset, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


@pytest.mark.parametrize("case", ["ppo", "sac"])
def test_another_value_of_a_hyperparameter_compiles_nothing(case):
    """Its programs are the same text, and so are found in the cache."""
    algorithm = made(case)
    config = dataclasses.replace(algorithm.config, learning_rate=0.123, discount=0.9)
    texts = []
    for one in (algorithm, algorithm.remake(config)):
        built: Any = program.build(one, None, 1, "threefry2x32")
        assert float(built.hyper["learning_rate"]) == pytest.approx(one.config.learning_rate)
        key = np.asarray(jax.random.key_data(jax.random.key(0)))
        state, totals = built.shapes(key, built.hyper)
        data = () if one.data is None else (one.data,)
        lowered = [built.init.lower(key, built.hyper), built.run.lower(state, totals, np.int32(0), np.int32(1), *data)]
        texts.append([program.as_text() for program in lowered])
    assert texts[0] == texts[1]
