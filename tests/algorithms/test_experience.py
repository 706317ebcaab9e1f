"""The loop of agents with replay: sequences, extras that are written back, and a buffer that is filled again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax.algorithms.core.agent import Agent, Hyper
from rljax.algorithms.core.experience import Loop, ReplayConfig
from rljax.algorithms.core.learner import Learner
from rljax.envs import RescaleAction
from tests.toys import Drift, limited


class Remembering(Agent):
    """Learns from sequences, and writes back for each step how often it was seen; its action is always 0."""

    hyper_type = Hyper
    rewrites = True

    @property
    def extras(self):
        return jax.ShapeDtypeStruct((), jnp.float32)

    def init(self, key):
        return Learner.init({"policy": jnp.zeros(())}, {"policy": optax.identity()})

    def acting(self, learner, hyper):
        return {}

    def act(self, variables, obs, memory, key, deterministic):
        batch = obs.shape[:-1]
        return jnp.zeros((*batch, 1)), memory, jnp.zeros(batch)

    def sample(self, learner, source, key, hyper):
        return source.sequences(key, 3)

    def learn(self, learner, batches, key, hyper):
        metrics = {"share/first": batches.is_first.mean(), "shape": jnp.float32(batches.steps.reward.ndim)}
        return learner, metrics, batches.steps.extras + 1.0


CONFIG = ReplayConfig(num_envs=4, rollout_length=3, num_updates=2, batch_size=2, replay_size=48, learning_starts=24)


def run(loop, state, iterations):
    return jax.jit(lambda s: jax.lax.scan(lambda s, _: loop.step(s), s, None, iterations))(state)


def test_extras_are_written_back_for_the_sequences_that_were_drawn_and_for_no_other_step():
    env = RescaleAction(limited(Drift(), 5))
    loop = Loop("remembering", env, Remembering(CONFIG, env.observation_space, env.action_space))
    state, metrics = run(loop, loop.init(jax.random.key(0)), 1)
    assert not np.asarray(state.experience.replay.data.extras).any()  # nothing is learned yet
    for _ in range(6):
        before = state
        state, metrics = run(loop, state, 1)
        seen, was = (np.asarray(s.experience.replay.data.extras) for s in (state, before))
        grown = (seen != was) & (seen != 0)
        if not float(metrics["updates"][0]):
            assert not grown.any()
            continue
        # Two updates of two sequences of three steps, some of which may be the same.
        assert 3 <= grown.sum() <= 12
        assert set(np.unique(seen - was)) <= {0.0, 1.0} | {-x for x in np.unique(was)}


def test_sequences_tell_the_first_steps_of_episodes():
    env = RescaleAction(limited(Drift(), 3))
    loop = Loop("remembering", env, Remembering(CONFIG, env.observation_space, env.action_space))
    _, metrics = run(loop, loop.init(jax.random.key(0)), 200)
    share = np.asarray(metrics["share/first"].total / np.maximum(metrics["share/first"].count, 1.0))[20:]
    np.testing.assert_allclose(share.mean(), 1 / 3, atol=0.03)


def test_a_run_without_its_replay_fills_it_again_before_it_learns():
    """The trained policy acts on, and the first update comes when `learning_starts` steps are stored again."""
    env = RescaleAction(limited(Drift(), 5))
    loop = Loop("remembering", env, Remembering(CONFIG, env.observation_space, env.action_space))
    state, metrics = run(loop, loop.init(jax.random.key(0)), 6)
    np.testing.assert_array_equal(metrics["updates"], [0, 2, 2, 2, 2, 2])
    nothing = jax.tree.map(jnp.zeros_like, state.experience.replay)
    emptied = state.replace(experience=state.experience.replace(replay=nothing))
    _, metrics = run(loop, emptied, 4)
    np.testing.assert_array_equal(metrics["updates"], [0, 2, 2, 2])
    full = dataclasses.replace(CONFIG, learning_starts=1000)  # more than the buffer holds
    loop = Loop("remembering", env, Remembering(full, env.observation_space, env.action_space))
    _, metrics = run(loop, loop.init(jax.random.key(0)), 90)
    assert np.flatnonzero(metrics["updates"])[0] == 83
