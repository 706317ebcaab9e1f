"""Auto-reset, on episodes whose start and length are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.envs import AutoReset, TimeLimit, initial_state, make
from rljax.envs.environment import Environment
from rljax.spaces import Box, Discrete

POLICIES = ["pool", "full", "first"]
every_policy = pytest.mark.parametrize("policy", POLICIES)


class Walk(Environment):
    """Starts at a random whole number and goes up by one per step; terminates after `length` steps.

    The reward is the successor observation, so that it can be told from every other.
    """

    def __init__(self, length=3):
        self.length = length
        self.observation_space = Box(-np.inf, np.inf, (1,))
        self.action_space = Discrete(2)

    def reset(self, key):
        start = 100.0 * jnp.ceil(100_000.0 * jax.random.uniform(key, (1,)))
        return initial_state({"position": start, "age": jnp.zeros((), jnp.int32)}, start)

    def step(self, state, action):
        position, age = state.physics["position"] + 1.0, state.physics["age"] + 1
        return state.replace(
            physics={"position": position, "age": age},
            obs=position,
            reward=position[0],
            terminated=age >= self.length,
            truncated=jnp.zeros((), bool),
        )


def run(env, steps, seed=0, refresh_every=None):
    """(first state, states after each step), stacked by a scan."""
    refresh_key = jax.random.key(seed + 1)  # not folded from `key`: fold_in(key, i) equals split(key, n)[i]

    @jax.jit
    def scan(key):
        def body(state, index):
            if refresh_every:
                state = env.refresh(state, jax.random.fold_in(refresh_key, index // refresh_every))
            state = env.step(state, jnp.zeros(env.num_envs, jnp.int32))
            return state, state

        first = env.reset(key)
        return first, jax.lax.scan(body, first, jnp.arange(steps))[1]

    return scan(jax.random.key(seed))


def starts(first, states):
    """The observation that each episode of each environment began with: [episodes, num_envs]."""
    begun = np.asarray(states.obs)[..., 0][np.asarray(states.done)[:, 0]]
    return np.concatenate([np.asarray(first.obs).T, begun])


STEPS = 12


def experience(policy):
    """A compiled function from a key to the (observation, transition) of each step."""
    env = AutoReset(TimeLimit(Walk(length=4), 3), 2, policy)

    def step(state, _):
        action = jnp.zeros(2, jnp.int32)
        after = env.step(state, action)
        return after, env.transition(state, action, after)

    return jax.jit(lambda key: jax.lax.scan(step, env.reset(key), None, STEPS)[1])


experiences = {policy: experience(policy) for policy in POLICIES}


@every_policy
def test_the_successor_observation_survives_the_reset(policy):
    first, states = run(AutoReset(Walk(length=2), 3, policy), 4)
    start = np.asarray(first.obs)
    np.testing.assert_array_equal(states.info["next_obs"][0], start + 1)
    np.testing.assert_array_equal(states.info["next_obs"][1], start + 2)  # the last of the episode
    np.testing.assert_array_equal(states.obs[0], start + 1)
    assert np.all(np.asarray(states.obs[1]) % 100 == 0)  # the first of the next one
    np.testing.assert_array_equal(states.info["next_obs"][2], states.obs[1] + 1)


@every_policy
def test_reward_terminated_and_truncated_belong_to_the_step_just_made(policy):
    _, states = run(AutoReset(Walk(length=2), 3, policy), 4)
    assert np.asarray(states.terminated)[:, 0].tolist() == [False, True, False, True]
    assert not np.any(states.truncated)
    np.testing.assert_array_equal(states.reward, states.info["next_obs"][..., 0])
    _, states = run(AutoReset(TimeLimit(Walk(length=9), 2), 3, policy), 4)
    assert np.asarray(states.truncated)[:, 0].tolist() == [False, True, False, True]
    assert not np.any(states.terminated)


class Sticky(Walk):
    """Leaves `truncated` as it found it, as a task may that has never heard of time limits."""

    def step(self, state, action):
        return super().step(state, action).replace(truncated=state.truncated)


@every_policy
def test_a_truncation_does_not_stick_to_the_next_episode(policy):
    _, states = run(AutoReset(TimeLimit(Sticky(length=9), 2), 1, policy), 5)
    assert np.asarray(states.truncated)[:, 0].tolist() == [False, True, False, True, False]


def test_auto_reset_with_a_pool_does_not_replay_the_first_state_for_ever():
    begun = starts(*run(AutoReset(Walk(length=3), 4, "pool"), 30))
    assert begun.shape == (11, 4)
    for column in begun.T:
        assert len(set(column)) == len(column)


def test_auto_reset_with_full_resets_draws_a_fresh_state_for_every_episode():
    begun = starts(*run(AutoReset(Walk(length=3), 4, "full"), 30))
    assert len(set(begun.ravel())) == begun.size


def test_auto_reset_to_the_first_state_repeats_each_environments_own():
    begun = starts(*run(AutoReset(Walk(length=3), 4, "first"), 30))
    assert len(set(begun[0])) == 4
    np.testing.assert_array_equal(begun, np.broadcast_to(begun[0], begun.shape))


def test_a_small_pool_repeats_until_it_is_refreshed():
    env = AutoReset(Walk(length=1), 1, "pool", pool_size=2)
    assert len(set(starts(*run(env, 20))[:, 0])) == 1 + 2
    assert len(set(starts(*run(env, 20, refresh_every=2))[:, 0])) == 1 + 20


def test_refreshing_a_pool_changes_only_what_later_resets_will_be():
    env = AutoReset(Walk(), 2, "pool")
    state = env.reset(jax.random.key(0))
    fresh = env.refresh(state, jax.random.key(1))
    assert np.all(fresh.info["pool"].obs != state.info["pool"].obs)
    same = fresh.replace(info=fresh.info | {"pool": state.info["pool"]})
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_refreshing_a_few_replaces_the_oldest_in_turn():
    env = AutoReset(Walk(), num_envs=2, pool_size=5)
    state = env.reset(jax.random.key(0))
    pools = [np.asarray(state.info["pool"].obs[:, 0])]
    for seed in range(3):
        state = env.refresh(state, jax.random.key(seed + 1), count=2)
        pools.append(np.asarray(state.info["pool"].obs[:, 0]))
    changed = [np.flatnonzero(after != before).tolist() for before, after in itertools.pairwise(pools)]
    assert changed == [[0, 1], [2, 3], [0, 4]]
    whole = env.refresh(state, jax.random.key(9), count=5)
    assert (np.asarray(whole.info["pool"].obs[:, 0]) != pools[-1]).all()


@pytest.mark.parametrize("policy", ["full", "first"])
def test_refreshing_does_nothing_without_a_pool(policy):
    env = AutoReset(Walk(), 2, policy)
    state = env.reset(jax.random.key(0))
    assert env.refresh(state, jax.random.key(1)) is state


@every_policy
def test_a_state_keeps_its_structure_and_types_so_that_it_can_be_carried_by_a_scan(policy):
    env = AutoReset(make("pendulum"), 3, policy)
    state = jax.eval_shape(env.reset, jax.random.key(0))
    after = jax.eval_shape(env.step, state, jnp.zeros((3, 1)))
    assert jax.tree.structure(state) == jax.tree.structure(after)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after)):
        assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, new.weak_type)


@every_policy
def test_a_vmap_over_seeds_equals_the_single_runs(policy):
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(experiences[policy]))(keys)
    for index, key in enumerate(keys):
        one = experiences[policy](key)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x: x[index], together), one)  # noqa: B023
    assert len(set(np.asarray(together.obs)[:, 0].ravel().tolist())) == 6  # the seeds really differ


def test_a_transition_holds_what_was_seen_done_and_reached():
    env = AutoReset(Walk(length=1), 2)
    state = env.reset(jax.random.key(0))
    action = jnp.ones(2, jnp.int32)
    after = env.step(state, action)
    transition = env.transition(state, action, after)
    np.testing.assert_array_equal(transition.obs, state.obs)
    np.testing.assert_array_equal(transition.next_obs, state.obs + 1)
    np.testing.assert_array_equal(transition.action, action)
    np.testing.assert_array_equal(transition.reward, (state.obs + 1)[:, 0])
    assert np.all(transition.terminated)
    assert not np.any(transition.truncated)
    assert np.all(after.obs != transition.next_obs)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(POLICIES), st.integers(0, 2**31 - 1))
def test_acting_always_goes_on_from_where_the_last_step_led_unless_the_episode_ended(policy, seed):
    made = jax.tree.map(np.asarray, experiences[policy](jax.random.key(seed)))
    ended = (made.terminated | made.truncated)[:-1]
    np.testing.assert_array_equal(made.obs[1:][~ended], made.next_obs[:-1][~ended])
    assert np.all(made.obs[1:][ended] % 100 == 0)
    np.testing.assert_array_equal(made.next_obs, made.obs + 1)
    np.testing.assert_array_equal(made.truncated[:, 0], np.arange(1, STEPS + 1) % 3 == 0)
    assert not made.terminated.any()


def test_episodes_of_different_lengths_are_reset_each_at_its_own_end():
    env = AutoReset(make("cartpole"), 4, "full")
    _, states = run(env, 40)
    done = np.asarray(states.done)
    ends = done.sum(0)
    assert np.all(ends >= 2)
    assert not np.all(done == done[:, :1])
    fresh = np.abs(np.asarray(states.obs)[done]) <= 0.05
    assert fresh.all()
    moved = np.abs(np.asarray(states.info["next_obs"])[done]).max(-1) > 0.2
    assert moved.all()
    np.testing.assert_array_equal(np.asarray(states.info["elapsed"])[done], 0)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"num_envs": 1, "policy": "none"}, "policy must be one of .*'none'"),
        ({"num_envs": 1, "pool_size": 0}, "pool_size must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        AutoReset(Walk(), **settings_)
