"""Policies, called by themselves and inside of other programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.policy import Policy, _compiled
from rljax.types import Refused


def scaled(variables, key, obs, memory, deterministic):
    noise = 0.0 if deterministic else jax.random.normal(key, obs.shape)
    return variables["scale"] * obs + noise, memory, {"noise": jnp.asarray(noise)}


def policy(scale, memory=()):
    return Policy({"scale": jnp.float32(scale)}, memory, scaled)


def test_a_call_is_compiled_once_for_all_variables_and_acts_as_apply_does():
    _compiled.cache_clear()
    obs, key = np.arange(3.0, dtype=np.float32), jax.random.key(0)
    for scale in (2.0, 3.0, 4.0):
        np.testing.assert_array_equal(policy(scale)(key, obs), scale * obs)
        np.testing.assert_allclose(
            policy(scale)(key, obs, deterministic=False), policy(scale).apply(key, obs, (), False)[0], rtol=1e-6
        )
    assert _compiled(scaled)._cache_size() == 2


def test_a_call_may_be_part_of_another_program():
    obs, keys = jnp.ones((4, 3)), jax.random.split(jax.random.key(0), 4)
    each = jax.jit(jax.vmap(lambda p, k, o: p(k, o, deterministic=False), in_axes=(None, 0, 0)))(policy(2.0), keys, obs)
    np.testing.assert_allclose(each[1], policy(2.0)(keys[1], obs[1], False), rtol=1e-6)
    gradient = jax.grad(lambda p: p(keys[0], obs[0]).sum())(policy(2.0)).variables["scale"]
    assert float(gradient) == 3.0


def test_a_policy_with_memory_is_not_called_without_it():
    with pytest.raises(Refused, match=r"a policy with memory is called by policy\.apply"):
        policy(1.0, memory=jnp.zeros(2))(jax.random.key(0), jnp.zeros(3))
