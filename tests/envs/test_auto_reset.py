"""Auto-reset, on episodes whose start and length are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.algorithms import ppo
from rljax.algorithms.core.agent import Agent
from rljax.algorithms.core.experience import Loop, ReplayConfig
from rljax.algorithms.core.learner import Learner
from rljax.envs import AutoReset, RescaleAction, TimeLimit, initial_state, make
from rljax.envs.environment import Environment
from rljax.spaces import Box, Discrete
from rljax.types import Refused
from tests.toys import Clock

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


class Ragged(Walk):
    """Lasts from 1 to 4 steps; knows the key that it was reset with."""

    def reset(self, key):
        physics = {"drawn": jax.random.key_data(key), "left": jax.random.randint(key, (), 1, 5)}
        return initial_state(physics, jnp.zeros(1))

    def step(self, state, action):
        left = state.physics["left"] - 1
        return state.replace(physics=state.physics | {"left": left}, reward=jnp.float32(0), terminated=left == 0)


def run(env, steps, seed=0):
    """(first state, states after each step), stacked by a scan."""

    @jax.jit
    def scan(key):
        first = env.reset(key)
        return first, stepped(env, first, steps)

    return scan(jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=(0, 2))
def stepped(env, state, steps):
    """The states after each step."""

    def body(state, _):
        state = env.step(state, jnp.zeros(env.num_envs, jnp.int32))
        return state, state

    return jax.lax.scan(body, state, None, steps)[1]


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


@pytest.mark.parametrize("num_envs", [5, 300])
def test_a_pooled_state_starts_one_episode_whatever_the_lengths(num_envs):
    env = AutoReset(Ragged(), num_envs)
    states = run(env, 40)[1]
    begun = np.asarray(states.physics["drawn"])[np.asarray(states.done)]
    assert len(begun) > 10 * num_envs
    assert len(np.unique(begun, axis=0)) == len(begun)


def test_a_pool_may_be_split_where_all_its_unused_states_lie_in_one_part():
    """As when a run goes on with other devices than it was saved with."""
    whole, part = AutoReset(Ragged(), 4, pool_size=12), AutoReset(Ragged(), 2, pool_size=6)
    first, states = run(whole, 5)
    state = jax.tree.map(lambda x: x[-1], states)
    pool = state.info["fresh"]
    assert not pool.used[:6].all()
    state = state.replace(info=state.info | {"fresh": pool.replace(used=pool.used.at[:6].set(True))})
    halves = [jax.tree.map(lambda x: x[: len(x) // 2], state), jax.tree.map(lambda x: x[len(x) // 2 :], state)]
    made = [states] + [stepped(part, half, 20) for half in halves]
    begun = [np.asarray(first.physics["drawn"])] + [np.asarray(x.physics["drawn"])[np.asarray(x.done)] for x in made]
    assert min(len(x) for x in begun[2:]) > 10
    assert len(np.unique(np.concatenate(begun), axis=0)) == sum(map(len, begun))


class Idle(Agent):
    """Always does the same."""

    def hyper(self):
        return ()

    def init(self, key):
        return Learner.init({"policy": ()}, {"policy": optax.identity()})

    def act(self, variables, obs, memory, key, deterministic):
        return jnp.zeros((32, 1)), memory, ()


def test_all_episodes_of_off_policy_collection_start_from_states_of_their_own():
    """1,920 episodes that end together by their time limit; rollouts have one step, as they have off-policy."""
    config = ReplayConfig(num_envs=32, replay_size=32 * 120)
    env = RescaleAction(make("pendulum", max_episode_steps=2))
    loop = Loop("idle", env, Idle(config, env.observation_space, env.action_space))

    @jax.jit
    def collected(key):
        def collect(state, key):
            return state.replace(experience=loop.collect(state, key, (), trained=True)[0]), None

        return jax.lax.scan(collect, loop.init(key), jax.random.split(jax.random.key(1), 120))[0].experience

    obs = np.asarray(collected(jax.random.key(0)).replay.data.obs)
    begun = obs[:, ::2].reshape(-1, 3)
    assert begun.shape == (1920, 3)
    assert len(np.unique(begun, axis=0)) == 1920


def test_all_episodes_of_ppo_start_from_states_of_their_own():
    env = make("pendulum", max_episode_steps=2)
    config = ppo.Config(num_envs=8, rollout_length=2, num_epochs=1, num_minibatches=1, hidden=(2,))
    algorithm = ppo.make(env, config)

    @jax.jit
    def trained(key):
        def step(state, _):
            state = algorithm.step(state)[0]
            return state, state.env_state.obs  # both steps of an episode are made: it is the next one's first

        return jax.lax.scan(step, algorithm.init(key), None, 40)[1]

    begun = np.asarray(trained(jax.random.key(0))).reshape(-1, 3)
    assert len(np.unique(begun, axis=0)) == len(begun) == 320


@every_policy
def test_no_random_key_in_the_states_ever_comes_again(policy):
    """Of a task that keeps a key in its state: a copied key would repeat its noise."""
    env = AutoReset(make("finite:frozen_lake", max_episode_steps=3), 8, policy)
    _, states = run(env, 30)
    keys = np.asarray(jax.random.key_data(states.physics[1]))
    assert len(np.unique(keys.reshape(-1, keys.shape[-1]), axis=0)) == 8 * 30


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
    state = jax.jit(env.reset)(jax.random.key(0))
    action = jnp.ones(2, jnp.int32)
    after = jax.jit(env.step)(state, action)
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
        ({"num_envs": 3, "pool_size": 3}, "pool_size must be more than num_envs = 3, got 3"),
    ],
)
def test_bad_settings_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        AutoReset(Walk(), **settings_)


class Accumulating(Clock):
    """Its metrics add to those of the step before, from what a reset begins with."""

    def reset(self, key):
        return super().reset(key).replace(metrics={"reached": jnp.zeros((), bool), "left": jnp.float32(9.0)})

    def step(self, state, action):
        after = super().step(state, action)
        metrics = {"reached": state.metrics["reached"] | (action == 1), "left": state.metrics["left"] - 1.0}
        return after.replace(metrics=metrics)


@every_policy
def test_metrics_that_a_task_adds_to_begin_anew_with_each_episode(policy):
    env = AutoReset(TimeLimit(Accumulating(2, False), 2), 2, policy)
    state, step, metrics = env.reset(jax.random.key(0)), jax.jit(env.step), []
    for action in ([0, 1], [0, 0], [1, 0], [0, 0]):
        state = step(state, jnp.array(action))
        metrics.append(state.metrics)
    reached, left = (np.stack([m[name] for m in metrics]) for name in ("reached", "left"))
    assert reached.tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]
    assert left[:, 0].tolist() == [8, 7, 8, 7]


@every_policy
def test_first_episodes_may_begin_at_any_age_and_later_ones_do_not(policy):
    env = AutoReset(make("pendulum", max_episode_steps=50), 64, policy, random_age=True)
    state = jax.jit(env.reset)(jax.random.key(0))
    age = np.asarray(state.info["elapsed"])
    assert age.min() < 10
    assert age.max() >= 40
    assert len(np.unique(age)) > 25

    def step(state, _):
        state = env.step(state, jnp.zeros((64, 1)))
        return state, state.truncated

    _, truncated = jax.jit(lambda s: jax.lax.scan(step, s, None, 149))(state)
    for ends, begun in zip(np.asarray(truncated).T, age):
        np.testing.assert_array_equal(np.flatnonzero(ends) + 1, 50 * np.arange(1, 4)[: ends.sum()] - begun)


def test_ages_need_a_clock():
    with pytest.raises(Refused, match="random_age = True needs a TimeLimit"):
        jax.eval_shape(AutoReset(Clock(3, True), 4, random_age=True).reset, jax.random.key(0))
