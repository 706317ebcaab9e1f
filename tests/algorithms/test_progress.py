"""The progress critic against what is left to do; the filter by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import progress
from rljax.algorithms.progress import Config, detection, drops, relabelled, with_failures
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


def learned(config, data, iterations=2000):
    algorithm = progress.make(limited(Drift(), 5), config, data)
    state, device = jax.jit(algorithm.init)(jax.random.key(0)), jax.tree.map(jnp.asarray, algorithm.data)
    run = jax.jit(lambda s, d: jax.lax.scan(lambda s, _: algorithm.step(s, d), s, None, iterations))
    state, _ = run(state, device)
    return progress.progress(algorithm, state, data, batch_size=64)


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
    with pytest.raises(ValueError, match="dataset: no episode terminates, so that none shows what success is"):
        relabelled(data.replace(terminated=np.zeros(7, bool)), Config())


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
    with pytest.raises(ValueError, match="online must be False"):
        progress.make(limited(Drift(), 5), online=True)
