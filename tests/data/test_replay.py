"""The replay buffer against a plain Python list, by hand, and in the compiled program."""

import collections
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.data import Replay
from rljax.data.replay import narrow
from rljax.types import Transition

FLOAT, BOOL = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), bool)
OBS = jax.ShapeDtypeStruct((2,), jnp.float32)
EXAMPLE = Transition(OBS, FLOAT, FLOAT, BOOL, BOOL, OBS)


def transition(time, envs=1, terminated=False, truncated=False):
    """Steps numbered 100 * env + time; the reward is the number, and so are the observations."""
    number = 100.0 * jnp.arange(envs) + time
    obs = jnp.stack([number, -number], axis=-1)
    over, cut = (jnp.full(envs, flag) for flag in (terminated, truncated))
    return Transition(obs, number, number, over, cut, obs + 1)


def filled(replay, steps, terminated=(), truncated=()):
    insert, state = jax.jit(replay.insert), replay.init()
    for t in range(steps):
        state = insert(state, transition(t, replay.num_envs, t in terminated, t in truncated))
    return state


def test_holds_the_newest_in_order():
    replay = Replay(EXAMPLE, 10, num_envs=2)
    state = filled(replay, 7)
    assert replay.length == 5
    assert (int(state.head), int(state.count)) == (2, 5)
    np.testing.assert_array_equal(state.data.reward, [[5, 6, 2, 3, 4], [105, 106, 102, 103, 104]])


@functools.cache
def filled_to(steps):
    return filled(Replay(EXAMPLE, 16, num_envs=2), steps)


@jax.jit
def sample_from_16(state, key):
    return Replay(EXAMPLE, 16, num_envs=2).sample(state, key, 64, 0.9)


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 30), seed=st.integers(0, 1000))
def test_samples_only_what_a_deque_would_hold(steps, seed):
    held: collections.deque[int] = collections.deque(maxlen=8)
    for t in range(steps):
        held.extend([t])
    batch = sample_from_16(filled_to(steps), jax.random.key(seed))
    times, envs = np.asarray(batch.reward) % 100, np.asarray(batch.reward) // 100
    assert set(times) <= set(held)
    assert set(envs) <= {0, 1}
    # All fields of one step come together.
    np.testing.assert_array_equal(batch.obs[:, 0], batch.reward)
    np.testing.assert_array_equal(batch.action, batch.reward)
    np.testing.assert_array_equal(batch.next_obs[:, 0], batch.reward + 1)
    np.testing.assert_array_equal(batch.weight, 1.0)


def test_sampling_is_uniform():
    replay = Replay(EXAMPLE, 20, num_envs=2)
    batch = replay.sample(filled(replay, 13), jax.random.key(0), 20_000, 0.9)
    values, counts = np.unique(batch.reward, return_counts=True)
    np.testing.assert_array_equal(values, [*range(3, 13), *range(103, 113)])
    np.testing.assert_allclose(counts / 20_000, 1 / 20, atol=0.006)


def n_step_by_hand(start, n, last, terminated, truncated, discount):
    """The return of the window that begins at step `start` of the numbered steps, and what follows it."""
    total, factor = 0.0, 1.0
    for t in range(start, start + n):
        assert t <= last, "a window must not run over the write head"
        total += factor * t
        factor *= discount
        if t in terminated:
            return total, t + 1, 0.0
        if t in truncated:
            break
    return total, t + 1, factor


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("steps", [3, 9, 14, 23])
def test_n_step_windows_stop_at_ends_of_episodes_and_before_the_write_head(prioritized, steps):
    terminated, truncated, n = {2, 11, 20}, {6, 16}, 3
    replay = Replay(EXAMPLE, 10, n_step=n, prioritized=prioritized)
    state = filled(replay, steps, terminated, truncated)
    batch = replay.sample(state, jax.random.key(0), 512, 0.5)
    start = np.asarray(batch.obs[:, 0])
    # Every whole window is drawn, and no other.
    np.testing.assert_array_equal(np.unique(start), np.arange(max(0, steps - 10), steps - n + 1))
    for i, t in enumerate(start[:64].astype(int)):
        reward, following, discount = n_step_by_hand(t, n, steps - 1, terminated, truncated, 0.5)
        np.testing.assert_allclose(batch.reward[i], reward)
        np.testing.assert_allclose(batch.next_obs[i, 0], following)
        np.testing.assert_allclose(batch.discount[i], discount)


def test_a_truncated_step_keeps_its_discount_and_a_terminated_one_loses_it():
    replay = Replay(EXAMPLE, 10)
    state = filled(replay, 3, terminated={0}, truncated={1})
    batch = replay.sample(state, jax.random.key(0), 64, 0.9)
    np.testing.assert_allclose(batch.discount, np.where(batch.reward == 0, 0.0, 0.9), rtol=1e-6)


def test_half_of_what_is_drawn_is_of_the_newest():
    replay = Replay(EXAMPLE, 40, num_envs=2, newest=8)  # of 20 steps each 4
    for steps in (2, 30):
        batch = replay.sample(filled(replay, steps), jax.random.key(0), 4096, 0.9)
        time = np.asarray(batch.reward) % 100
        last, count = time.max(), min(steps, 20)
        assert set(time) == set(range(int(last) - count + 1, int(last) + 1))
        new = min(4, count)
        expected = 0.5 + 0.5 * new / count
        assert (time > last - 4).mean() == pytest.approx(expected, abs=0.03)


def test_sequences_are_consecutive_and_do_not_run_over_the_write_head():
    replay = Replay(EXAMPLE, 20, num_envs=2)
    for steps in (4, 10, 17):
        state = filled(replay, steps)
        sequences = replay.sample_sequences(state, jax.random.key(1), 256, 4)
        assert sequences.steps.obs.shape == (4, 256, 2)
        start = np.asarray(sequences.steps.reward[0])
        np.testing.assert_array_equal(sequences.steps.reward, start + np.arange(4)[:, None])
        oldest = max(0, steps - 10)
        np.testing.assert_array_equal(np.unique(start % 100), np.arange(oldest, steps - 3))
    with pytest.raises(ValueError, match="sequences of 11 steps do not fit 10"):
        replay.sample_sequences(state, jax.random.key(1), 2, 11)


def test_priorities_decide_what_is_drawn_and_weights_correct_for_it():
    replay = Replay(EXAMPLE, 8, prioritized=True)
    state = filled(replay, 4)  # all new items alike
    state = replay.prioritize(state, jnp.array([0, 1, 2, 3]), jnp.array([1.0, 1.0, 2.0, 4.0]))
    batch = replay.sample(state, jax.random.key(0), 8000, 0.9, importance_exponent=1.0)
    counts = np.bincount(np.asarray(batch.reward, int), minlength=4) / 8000
    np.testing.assert_allclose(counts, [1 / 8, 1 / 8, 2 / 8, 4 / 8], atol=1e-3)
    # With β = 1 the weighted draws are uniform: w = 1 / (N p), over the largest.
    np.testing.assert_allclose(batch.weight, np.array([1, 1, 1 / 2, 1 / 4])[np.asarray(batch.reward, int)], rtol=1e-5)
    state = replay.insert(state, transition(4))
    newest = replay.sample(state, jax.random.key(1), 8000, 0.9)
    np.testing.assert_allclose(np.mean(np.asarray(newest.reward) == 4), 4 / 12, atol=1e-3)  # the highest so far


def test_narrow_storage_comes_back_as_it_was():
    images = jax.ShapeDtypeStruct((3, 3, 1), jnp.float32)
    example = Transition(images, FLOAT, FLOAT, BOOL, BOOL, images)
    replay = Replay(example, 8, store_as=narrow(example, jnp.uint8))
    assert replay.init().data.obs.dtype == jnp.uint8
    assert replay.init().data.reward.dtype == jnp.float32
    image = jnp.arange(9.0).reshape(1, 3, 3, 1)
    new = transition(1.0).replace(obs=image, next_obs=image + 1)
    batch = replay.sample(replay.insert(replay.init(), new), jax.random.key(0), 2, 0.9)
    assert batch.obs.dtype == jnp.float32
    np.testing.assert_array_equal(batch.obs[0], image[0])
    np.testing.assert_array_equal(batch.next_obs[0], image[0] + 1)
    assert narrow(example, jnp.bfloat16).obs.dtype == jnp.bfloat16
    assert narrow(EXAMPLE.replace(obs=jax.ShapeDtypeStruct((), jnp.int32)), jnp.bfloat16).obs.dtype == jnp.int32


def test_observations_and_extras_of_any_structure_can_be_kept():
    obs = {"image": jax.ShapeDtypeStruct((4, 4), jnp.uint8), "goal": {"xy": OBS}}
    example = EXAMPLE.replace(obs=obs, next_obs=obs, extras={"log_prob": FLOAT})
    replay = Replay(example, 6, num_envs=2)
    items = jax.tree.map(lambda x: jnp.ones((2, *x.shape), x.dtype), example)
    state = replay.insert(replay.insert(replay.init(), items), items)
    steps = replay.sample_sequences(state, jax.random.key(0), 5, 2).steps
    chex.assert_trees_all_equal(steps, jax.tree.map(lambda x: jnp.ones((2, 5, *x.shape), x.dtype), example))


def test_sequences_tell_where_episodes_begin():
    """Episodes end after steps 2 (terminated) and 6 (truncated); the oldest step that is kept has nothing before it."""
    replay = Replay(EXAMPLE, 16, num_envs=2)
    for steps, first in ((8, {0, 3, 7}), (11, {3, 7})):
        state = filled(replay, steps, terminated=(2,), truncated=(6,))
        drawn = replay.sample_sequences(state, jax.random.key(1), 200, 5)
        time = np.asarray(drawn.steps.reward) % 100
        np.testing.assert_array_equal(drawn.is_first, np.isin(time, list(first)))
        env, column = np.asarray(drawn.index) // 8, np.asarray(drawn.index) % 8
        np.testing.assert_array_equal(drawn.steps.reward, np.asarray(state.data.reward)[env, column])


def test_items_are_written_back_where_they_were_drawn():
    """Extras are replaced of the drawn items where it is asked, and of no other item; nothing else changes."""
    replay = Replay(EXAMPLE.replace(extras={"latent": FLOAT}), 12, num_envs=2)
    state = replay.init()
    for t in range(8):
        state = replay.insert(state, transition(t, 2).replace(extras={"latent": jnp.zeros(2)}))
    drawn = replay.sample_sequences(state, jax.random.key(0), 3, 2)
    where = jnp.array([[True, False, True], [True, True, False]])
    new = {"latent": drawn.steps.reward + 0.5}
    after = jax.jit(replay.write)(state, drawn.index, {"extras": new}, where)
    written = np.unique(np.asarray(drawn.index)[np.asarray(where)])
    expected = np.zeros(12)
    expected[written] = np.asarray(state.data.reward).ravel()[written] + 0.5
    np.testing.assert_array_equal(np.asarray(after.data.extras["latent"]).ravel(), expected)
    chex.assert_trees_all_equal(after.replace(data=state.data), state)
    chex.assert_trees_all_equal(after.data.replace(extras=()), state.data.replace(extras=()))
    chex.assert_trees_all_equal(replay.write(state, drawn.index, {"extras": new}, False), state)


def test_size_is_known_before_allocation():
    replay = Replay(EXAMPLE, 1_000_000_000)
    # 2 observations of 2 floats, action, reward, 2 flags; head, count and a priority.
    assert replay.num_bytes == 1_000_000_000 * (2 * 8 + 4 + 4 + 2) + 12


@pytest.mark.parametrize(("capacity", "num_envs", "n_step"), [(3, 1, 3), (10, 5, 2), (4, 8, 1), (8, 1, 0)])
def test_no_room_is_refused(capacity, num_envs, n_step):
    with pytest.raises(ValueError, match="steps each; windows of"):
        Replay(EXAMPLE, capacity, num_envs, n_step)


@pytest.mark.parametrize("prioritized", [False, True])
def test_a_compiled_loop_holds_one_copy(prioritized):
    """Insert and sample a hundred times, with the buffer donated: nothing of the buffer's size is allocated besides."""
    replay = Replay(EXAMPLE, 200_000, num_envs=2, n_step=3, prioritized=prioritized)

    def loop(state, key):
        def body(i, carry):
            state, total = carry
            state = replay.insert(state, transition(i.astype(jnp.float32), 2))
            batch = replay.sample(state, jax.random.fold_in(key, i), 32, 0.9)
            if prioritized:
                state = replay.prioritize(state, batch.index, jnp.abs(batch.reward) + 1.0)
            return state, total + batch.reward.sum()

        return jax.lax.fori_loop(0, 100, body, (state, 0.0))

    compiled = jax.jit(loop, donate_argnums=0).lower(jax.eval_shape(replay.init), jax.random.key(0)).compile()
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= replay.num_bytes
    assert memory.temp_size_in_bytes < replay.num_bytes / 50
    copies = re.findall(r"= \w+\[2,100000[^=]* copy\(", compiled.as_text())
    assert not copies


def test_returns_to_go_are_known_where_the_episode_ended_within_the_horizon():
    """Two environments in a ring that has come around, beside sums worked out over the history."""
    rng, length, steps, horizon = np.random.default_rng(0), 20, 33, 8
    scalar, flag, vector = jnp.float32(0), jnp.array(False), jnp.zeros(1)
    replay = Replay(Transition(vector, vector, scalar, flag, flag, vector), 2 * length, num_envs=2)
    reward = rng.normal(size=(steps, 2)).astype(np.float32)
    terminated = rng.random((steps, 2)) < 0.15
    truncated = (rng.random((steps, 2)) < 0.1) & ~terminated
    state, insert = replay.init(), jax.jit(replay.insert)
    for t in range(steps):
        obs = jnp.zeros((2, 1))
        state = insert(state, Transition(obs, obs, reward[t], terminated[t], truncated[t], obs))
    index, expected, beyond = [], [], []
    for env in range(2):
        for first in range(steps - length, steps):
            window = range(first, min(steps, first + horizon))
            end = next((t for t in window if terminated[t, env] or truncated[t, env]), None)
            total = -np.inf
            if end is not None:
                total = sum(0.9 ** (t - first) * (2 * reward[t, env] + 1) for t in range(first, end + 1))
            index.append(env * length + first % length)
            expected.append(total)
            beyond.append(0.0 if end is None or terminated[end, env] else -50.0 * 0.9 ** (end + 1 - first))
    assert 0 < np.isinf(expected).sum() < len(expected)
    found = replay.returns_to_go(state, jnp.array(index), 0.9, horizon, lambda reward: 2 * reward + 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # A time limit ends nothing: what is to come then is told.
    assert 0 < np.count_nonzero(beyond) < len(beyond)
    found = replay.returns_to_go(state, jnp.array(index), 0.9, horizon, lambda reward: 2 * reward + 1, -50.0)
    np.testing.assert_allclose(found, np.add(expected, beyond), rtol=1e-4)
