"""An ensemble taken one by one (bfloat16 on a CPU) equals one taken by vmap, values and gradients."""

import chex
import jax
import jax.numpy as jnp
import pytest

from rljax.nn.ensemble import over_ensemble


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_equals_vmap(backend, precision, monkeypatch):
    weights = jax.random.normal(jax.random.key(0), (3, 4, 2))
    shifts = {"a": jnp.arange(3.0)}
    x = jax.random.normal(jax.random.key(1), (5, 4))

    def one(weight, shift):
        return x @ weight + shift["a"], shift["a"]

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    mapped = over_ensemble(one, 3, precision)
    monkeypatch.undo()
    chex.assert_trees_all_close(mapped(weights, shifts), jax.vmap(one)(weights, shifts), rtol=1e-6)
    gradients = [jax.grad(lambda w, f=f: jnp.square(f(w, shifts)[0]).sum())(weights) for f in (mapped, jax.vmap(one))]
    chex.assert_trees_all_close(*gradients, rtol=1e-5)
