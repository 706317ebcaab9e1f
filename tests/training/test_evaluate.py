"""Evaluation plays whole episodes and adds them up right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.policy import Policy
from rljax.training import evaluate
from tests.toys import Clock, limited


def policy(function, memory=()):
    return Policy((), memory, lambda _, key, obs, memory, deterministic: (*function(key, obs, memory), ()))


def test_returns_and_lengths_of_episodes_known_by_hand():
    """Pays 1 a step and ends after 5, by termination; nothing after the end counts."""
    idle = policy(lambda key, obs, memory: (jnp.zeros(obs.shape[:-1], jnp.int32), memory))
    episodes = evaluate(limited(Clock(5, True), 50), idle, jax.random.key(0), 3, discount=0.5)
    np.testing.assert_array_equal(episodes.returns, [5.0, 5.0, 5.0])
    np.testing.assert_array_equal(episodes.discounted, [1.9375, 1.9375, 1.9375])
    np.testing.assert_array_equal(episodes.lengths, [5, 5, 5])


def test_episodes_of_different_lengths_are_each_played_to_their_own_end():
    push = policy(lambda key, obs, memory: (jnp.ones(obs.shape[:-1], jnp.int32), memory))
    episodes = evaluate(rljax.make("cartpole"), push, jax.random.key(0), 50)
    np.testing.assert_array_equal(episodes.returns, episodes.lengths)
    assert 8 <= episodes.lengths.min() < episodes.lengths.max() <= 11  # as Gymnasium's, always pushed right


def test_memory_starts_anew_and_is_carried_within_an_episode():
    """A policy that counts its steps, and turns at the junction when the count says so."""

    def count(key, obs, memory):
        north = obs[..., 0] > 0
        memory = {"step": memory["step"] + 1, "north": memory["north"] | north}
        turn = jnp.where(memory["north"], 0, 2)
        return jnp.where(memory["step"] > 4, turn, 1), memory

    start = {"step": jnp.int32(0), "north": jnp.zeros((), bool)}
    episodes = evaluate(rljax.make("t_maze", length=4), policy(count, start), jax.random.key(0), 20)
    np.testing.assert_allclose(episodes.returns, 4.0)


def test_lengths_are_steps_of_the_task_where_actions_are_repeated():
    push = policy(lambda key, obs, memory: (jnp.ones(obs.shape[:-1], jnp.int32), memory))
    episodes = evaluate(rljax.make("cartpole", action_repeat=4), push, jax.random.key(0), 10)
    np.testing.assert_array_equal(episodes.returns, episodes.lengths)


def test_an_environment_without_time_limit_is_refused():
    with pytest.raises(ValueError, match="evaluation needs a time limit"):
        evaluate(rljax.make("cartpole", max_episode_steps=0), policy(None), jax.random.key(0))
