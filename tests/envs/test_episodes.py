"""Whole episodes: each cut at its own end, with what is remembered, and no two alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs import TimeLimit
from rljax.envs.episodes import play
from rljax.policy import Policy
from tests.toys import ContinuousClock, Drift, limited


def count(bias, key, obs, memory, deterministic):
    """The number of the step, in every environment, plus a parameter."""
    assert not deterministic
    return memory[:, None] + bias, memory + 1, ()


def test_episodes_end_where_the_task_does_and_the_memory_begins_anew():
    policy = Policy(jnp.float32(0.5), jnp.float32(0), count)
    env = TimeLimit(ContinuousClock(5, True), 9)
    steps, noted, ends = play(env, policy, jax.random.key(0), 3, lambda memory: memory)
    np.testing.assert_array_equal(ends, [5, 10, 15])
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated), ends - 1)
    assert not steps.truncated.any()
    np.testing.assert_allclose(steps.action[:, 0], 0.5 + np.tile(np.arange(5), 3))
    np.testing.assert_allclose(noted, 1 + np.tile(np.arange(5), 3))


def test_a_time_limit_cuts_and_successors_are_what_actions_lead_to():
    steps, noted, ends = play(limited(Drift(), 7), Policy(jnp.float32(0), jnp.float32(0), count), jax.random.key(0), 4)
    assert noted == ()
    np.testing.assert_array_equal(np.flatnonzero(steps.truncated), ends - 1)
    np.testing.assert_array_equal(ends, [7, 14, 21, 28])
    inside = ~steps.truncated[:-1]
    np.testing.assert_array_equal(steps.next_obs[:-1][inside], steps.obs[1:][inside])
    assert len(np.unique(steps.obs[::7, 0])) == 4


def test_what_has_no_end_is_refused():
    with pytest.raises(ValueError, match="whole episodes need a time limit"):
        play(Drift(), Policy((), jnp.float32(0), count), jax.random.key(0), 2)
