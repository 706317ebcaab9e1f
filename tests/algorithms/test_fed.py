"""The loop that is fed: what it takes in, what its actors run, and what cannot be fed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import rljax
from rljax.algorithms import dqn, flash_sac, ppo, rlpd, sac
from rljax.algorithms.core.fed import Arrived, fed
from rljax.types import Refused, Transition
from tests.datasets import drift_data
from tests.remote.pairs import arm
from tests.toys import Drift, limited

CONFIG = sac.Config(
    num_envs=2,
    rollout_length=2,
    hidden=(4,),
    batch_size=4,
    learning_starts=8,
    replay_size=40,
    normalize_observation=True,
)


def test_actions_are_stored_in_the_agents_units():
    env = arm()
    loop = fed(sac.make(env, CONFIG)).loop
    unit = jnp.float32([[-1.0, -0.25], [0.5, 1.0]])
    np.testing.assert_allclose(loop.in_unit(loop.env.rescale(unit)), unit, atol=1e-6)
    np.testing.assert_allclose(loop.in_unit(jnp.float32([[-1.0, 2.0]])), [[-1.0, 1.0]])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ppo.make(rljax.make("pendulum")), "must learn from a replay"),
        (lambda: sac.make(arm(), sac.Config(n_step=3)), "n_step must be 1"),
        (lambda: flash_sac.make(arm()), "return_bound must be 0"),
        (lambda: dqn.make(rljax.make("cartpole"), dqn.Config(prioritized=True)), "prioritized must be False"),
        (
            lambda: rlpd.make(limited(Drift(), 5), rlpd.Config(executed=2), drift_data()),
            "executed must be 1, without chunks",
        ),
    ],
)
def test_what_cannot_be_fed_is_refused(make, reason):
    with pytest.raises(Refused, match=reason):
        fed(make())


def arrived(loop, iterations=3):
    """Transitions whose rewards are 0, 1, …; of `iterations` from the fifth on."""
    shape = (iterations, 2, 2)
    number = np.arange(np.prod(shape)).reshape(shape)
    obs = np.repeat(number[..., None], 3, -1).astype(np.float32)
    done = number % 4 == 3
    steps = Transition(obs, np.ones((*shape, 2), np.float32), np.float32(number), done, ~done, obs + 1)
    one = np.float32([1])
    return Arrived(np.int32([5]), one, 2 * one, steps, np.float32(number), number, number, number > 5)


def test_an_iteration_takes_in_its_own_row():
    loop = fed(sac.make(arm(), CONFIG)).loop
    state = jax.jit(loop.init)(jax.random.key(0)).replace(iteration=jnp.int32(6))
    experience, metrics = jax.jit(loop.insert)(state, arrived(loop))
    kept = experience.replay.data
    assert experience.replay.count == 2
    np.testing.assert_array_equal(kept.reward[:, :2].T, [[4, 5], [6, 7]])
    np.testing.assert_array_equal(kept.next_obs[:, :2, 0].T, [[5, 6], [7, 8]])
    np.testing.assert_allclose(kept.action[:, :2], 1 / 3, atol=1e-6)  # 1 of -1 to 2
    np.testing.assert_array_equal(kept.terminated[:, :2].T, [[False, False], [False, True]])
    np.testing.assert_allclose(experience.obs_statistics.mean, [5.5] * 3)
    assert metrics["episode/return"].value == 5.5  # of all four, which all ended
    assert metrics["actors/interventions"].value == 0.5
    assert metrics["actors/lag"].value == 4 * (2 + 1 + 0 + 0) / 4
    assert metrics["actors/connected"] == 2


def test_what_actors_run_is_the_agents_exploration_in_the_units_of_the_task():
    algorithm = fed(sac.make(arm(), CONFIG))
    loop = algorithm.loop
    state = jax.jit(loop.init)(jax.random.key(0))
    leaves = jax.tree.leaves(loop.acting(state))
    obs, data = np.float32([1, 2, 3]), jax.random.key_data(jax.random.key(7))
    program = jax.jit(export.deserialize(bytearray(loop.exported())).call)
    action, after, memory = program(leaves, data, [], obs, np.bool_(True))
    key, own = jax.random.split(jax.random.key(7))
    expected = algorithm.policy(state)(own, obs[None], deterministic=False)[0]
    np.testing.assert_allclose(action, expected, rtol=1e-5)
    np.testing.assert_array_equal(after, jax.random.key_data(key))
    assert memory == []
    random = [program(leaves, jax.random.key_data(jax.random.key(i)), [], obs, np.bool_(False))[0] for i in range(200)]
    low, high = np.min(random, 0), np.max(random, 0)
    assert (low < -0.9).all()
    assert (high > 1.9).all()
    assert np.mean(random) == pytest.approx(0.5, abs=0.15)
