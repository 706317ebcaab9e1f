"""The progress critic against what is left to do; the filter by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import progress
from rljax.algorithms.progress import Config, detection, drops, joined, relabelled, stalls, with_failures
from rljax.data import concatenate
from rljax.envs.spaces_only import SpacesOnly
from tests.datasets import dataset_of
from tests.toys import Drift, limited

SMALL = {"hidden": (32, 32), "batch_size": 64, "learning_rate": 1e-3, "critic_learning_rate": 1e-3}


def walks(slips=(), length=20, episodes=8):
    """Walks from 0 to `length`, a place a step; at each of `slips` one goes back by ten, and on again. It succeeds."""
    places = list(range(length))
    for slip in slips:
        at = places.index(slip)
        places[at:at] = [slip, *range(slip - 10, slip)]
    place = np.tile(places, episodes) / length
    last = np.tile(np.arange(len(places)) == len(places) - 1, episodes)
    obs = np.stack([place, 0.0 * place], -1)
    # What is done does not matter, so that no critic has a guess to make.
    action = np.random.default_rng(0).uniform(-2, 4, (len(obs), 1))
    return dataset_of(obs, action, np.where(last, 0.0, -1.0), np.roll(obs, -1, 0), terminated=last)


def run(algorithm, iterations):
    state, device = jax.jit(algorithm.init)(jax.random.key(0)), jax.tree.map(jnp.asarray, algorithm.data)
    steps = jax.jit(lambda s, d: jax.lax.scan(lambda s, _: algorithm.step(s, d), s, None, iterations))
    return steps(state, device)[0]


def learned(config, data, iterations=2000):
    algorithm = progress.make(limited(Drift(), 5), config, data, succeeded=np.ones(len(data.ends)))
    return progress.progress(algorithm, run(algorithm, iterations), data, batch_size=64)


def test_rewards_are_at_the_end_of_success_alone():
    ends = np.array([0, 0, 0, 1, 0, 0, 1], bool)
    data = dataset_of(
        np.zeros((7, 2)), np.zeros((7, 1)), np.zeros(7), terminated=ends & (np.arange(7) < 4), truncated=ends
    )
    found = relabelled(data, Config(rewarded_steps=2, discount=0.5))
    np.testing.assert_array_equal(found.reward, [0, 0, 0.5, 1, 0, 0, 0])
    np.testing.assert_array_equal(found.terminated, [0, 0, 1, 1, 0, 0, 1])
    timed = relabelled(data, Config(target="time"))
    np.testing.assert_allclose(timed.reward, [0, 1 / 3, 2 / 3, 1])
    assert timed.terminated.all()
    with pytest.raises(ValueError, match="dataset: no episode succeeds, so that none shows what success is"):
        relabelled(data.replace(terminated=np.zeros(7, bool)), Config())


def test_an_end_is_a_success_where_the_task_says_so():
    """Three episodes terminate, and one of them has failed."""
    data = dataset_of(np.zeros((3, 2)), np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match=r"dataset: an episode of .* that terminates may have failed; succeeded="):
        progress.make(limited(Drift(), 5), Config(**SMALL), data)
    with pytest.raises(ValueError, match=r"succeeded has the shape \(2,\), and must be \[3\]"):
        progress.make(limited(Drift(), 5), Config(**SMALL), data, succeeded=[1, 0])
    algorithm = progress.make(limited(Drift(), 5), Config(**SMALL), data, succeeded=[1, 0, 1])
    assert algorithm.data.reward.tolist() == [1.0, 0.0, 1.0]
    task = Drift()
    task.terminates_at_success = True
    assert progress.make(limited(task, 5), Config(**SMALL), data).data.reward.tolist() == [1.0, 1.0, 1.0]
    assert rljax.make("pick_and_place").unwrapped.terminates_at_success


@pytest.mark.parametrize("options", [{}, {"num_atoms": 0}, {"target": "time"}])
def test_progress_is_what_is_left_to_do(options):
    """γ to the number of steps that are left, or the share of time."""
    config = Config(**SMALL, discount=0.9, rewarded_steps=3, target_rate=0.05, **options)
    found = learned(config, walks())[:20]
    expected = np.arange(20) / 19 if options.get("target") else 0.9 ** np.arange(19, -1, -1)
    np.testing.assert_allclose(found, expected, atol=0.08)


def test_it_falls_where_a_walk_slips_back_and_the_filter_finds_it():
    data = walks(slips=(14,))
    config = Config(**SMALL, discount=0.9, rewarded_steps=3, target_rate=0.05)
    found = learned(config, data)
    # Where it slips: the step at 14, after which it is at 4.
    slip = 14
    assert found[slip] - found[slip + 1] > 0.12
    dropped = drops(found, data.ends, 0.12, within=3)
    assert dropped[slip]
    assert dropped.reshape(8, -1)[:, :10].sum() == 0
    fault = np.tile(np.arange(31) == slip, 8)
    result = detection(dropped, fault, data.ends, lead=3)
    assert result.recall == 1.0
    assert result.precision > 0.9


def test_drops_by_hand():
    values = [0.1, 0.5, 0.4, 0.2, 0.6, 0.9, 0.0, 0.3]
    ends = [6, 8]
    np.testing.assert_array_equal(drops(values, ends, 0.15, 1), [0, 0, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(drops(values, ends, 0.15, 2), [0, 1, 1, 0, 0, 0, 0, 0])  # not over an end
    assert not drops(values, ends, 0.5, 3).any()
    # 0.5 falls by three fifths of itself, and 0.4 by half.
    np.testing.assert_array_equal(drops(values, ends, 0.55, 2, relative=True), [0, 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(drops(values, ends, 0.45, 2, relative=True), [0, 1, 1, 0, 0, 0, 0, 0])
    assert not drops([0.001, 0.0], [2], 0.5, 1, relative=True).any()


def test_stalls_by_hand():
    values = [0.1, 0.2, 0.22, 0.2, 0.5, 0.9, 0.3, 0.3, 0.3, 0.6]
    ends, terminated = [6, 10], np.arange(10) == 5
    # Before an arrival nothing stalls; where an episode is cut its last step does.
    np.testing.assert_array_equal(stalls(values, ends, terminated, 0.3, 1), [0, 1, 1, 0, 0, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(stalls(values, ends, terminated, 0.3, 2), [0, 1, 0, 0, 0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(stalls(values, ends, terminated, 0.05, 2), [0, 0, 0, 0, 0, 0, 1, 0, 0, 1])
    assert stalls([0.001, 0.009], [2], [False, False], 0.3, 1).all()  # too little to tell


def test_detection_by_hand():
    ends = [6, 10]
    faults = np.array([0, 0, 1, 1, 0, 1, 0, 1, 0, 0], bool)  # three
    dropped = np.array([0, 1, 0, 0, 0, 0, 0, 1, 0, 1], bool)
    found = detection(dropped, faults, ends, lead=1)
    assert found.precision == pytest.approx(2 / 3)  # the one before the first fault, and that of the third
    assert found.recall == pytest.approx(2 / 3)
    assert found.dropped == pytest.approx(0.3)
    nothing = detection(np.zeros(10, bool), faults, ends, lead=1)
    assert np.isnan(nothing.precision)
    assert nothing.recall == 0.0


def test_what_led_to_a_retry_is_added_as_a_failure():
    data = walks(length=5, episodes=2)
    retry = np.zeros(10, bool)
    retry[[3, 5]] = True  # the second is an episode's first step, before which there is nothing
    both = with_failures(data, retry)
    assert both.ends.tolist() == [5, 10, 13]
    np.testing.assert_array_equal(both.obs[10:], data.obs[:3])
    assert both.terminated[[4, 9, 12]].tolist() == [True, True, False]
    assert both.truncated[12]
    found = relabelled(both, Config(rewarded_steps=2, discount=0.5))
    np.testing.assert_array_equal(found.reward[8:], [0.5, 1, 0, 0, 0])


def test_bad_settings_are_refused():
    for options, message in (
        ({"target": "steps"}, "target = 'steps' is not allowed; it must be one of reward, time"),
        ({"rewarded_steps": 0}, "rewarded_steps = 0 is not allowed; it must be at least 1"),
        ({"target_penalty": 1.0}, "num_atoms = 51 is not allowed; it must be 0 where target_penalty is positive"),
    ):
        with pytest.raises(ValueError, match=message):
            Config(**options)


def test_a_joint_critic_tells_the_progress_of_two_tasks():
    """One walks to 1, the other, whose observations are larger, back from 1 to 0; both show the same places."""
    forth = walks()
    back = dataset_of(
        np.c_[1 - forth.obs[:, :1], np.ones((forth.size, 2))],
        np.tile(forth.action, 2),
        forth.reward,
        np.c_[1 - forth.next_obs[:, :1], np.ones((forth.size, 2))],
        terminated=forth.terminated,
    )
    envs = [limited(Drift(), 5), SpacesOnly(3, [-2.0, -2.0], [4.0, 4.0])]
    env, parts = joined(envs, [forth, back])
    assert env.observation_space.shape == (5,)
    assert env.action_space.shape == (2,)
    np.testing.assert_array_equal(parts[0].obs[:, 2:], np.tile([0, 1, 0], (forth.size, 1)))
    np.testing.assert_array_equal(parts[1].next_obs[:, 3:], np.tile([0, 1], (forth.size, 1)))
    np.testing.assert_allclose(parts[0].action, np.c_[forth.action / 3 - 1 / 3, np.zeros(forth.size)], atol=1e-6)
    np.testing.assert_array_equal(parts[0].next_action[0], parts[0].action[1])
    config = Config(**SMALL, discount=0.9, rewarded_steps=3, target_rate=0.05)
    assert not env.terminates_at_success  # nobody says that these tasks do
    algorithm = progress.make(env, config, concatenate(parts), succeeded=np.ones(16))
    state = run(algorithm, 2000)
    expected = 0.9 ** np.arange(19, -1, -1)
    for part in parts:
        found = progress.progress(algorithm, state, part, batch_size=64)[:20]
        np.testing.assert_allclose(found, expected, atol=0.08)


def test_tasks_that_do_not_fit_are_refused():
    env, data = limited(Drift(), 5), walks(length=5, episodes=2)
    for envs, datasets, message in (
        ([env], [data, data], "progress: 1 environments and 2 datasets; there must be one for each"),
        ([], [], "progress: 0 environments and 0 datasets"),
        ([env, SpacesOnly(3, [-2.0], [4.0])], [data, data], "observations have the shape .2., the environment's .3."),
        ([SpacesOnly(2, [-1.0], [1.0])], [data], "actions go from .* the environment allows -1 to 1"),
        ([SpacesOnly(2, [-np.inf], [1.0])], [data], "progress needs a one-dimensional Box of actions with bounds"),
    ):
        with pytest.raises(ValueError, match=message):
            joined(envs, datasets)
