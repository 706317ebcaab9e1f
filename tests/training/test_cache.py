"""The compilation cache: on by default, where the user wants it."""

import jax
import pytest

from rljax.training import enable_compilation_cache


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
