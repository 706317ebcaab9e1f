"""Policy and value: standard deviations, however they are parameterised."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import ppo
from rljax.nn.actor_critic import ActorCritic
from rljax.spaces import Box


@pytest.mark.parametrize(("std_type", "depends"), list(itertools.product(("log", "softplus"), (False, True))))
def test_the_deviation_starts_as_asked_and_depends_on_the_state_where_asked(std_type, depends):
    config = ppo.Config(hidden=(), initial_log_std=-0.5, std_type=std_type, state_dependent_std=depends)
    network = ActorCritic(config, Box(-1.0, 1.0, (2,)), (Box(-1.0, 1.0, (3,)),) * 2)
    obs, reset = jax.random.normal(jax.random.key(1), (1, 5, 3)), jnp.zeros((1, 5), bool)
    distribution = jax.jit(lambda key: network.init_with_output(key, obs, (), reset)[0][0])(jax.random.key(0))
    log_std = np.broadcast_to(distribution.log_std, (1, 5, 2))
    np.testing.assert_allclose(log_std, -0.5, atol=0.06 if depends else 1e-6)
    assert (len(np.unique(log_std)) == 10) == depends
