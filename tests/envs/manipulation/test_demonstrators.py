"""Demonstrators: they succeed; their faults come as often as asked, are labelled, and cost time."""

import chex
import jax
import numpy as np
import pytest

import rljax
from rljax.envs.manipulation import demonstrators
from rljax.envs.manipulation.demonstrators import HESITATION, NONE, SLIP, WRONG_APPROACH, Manner
from rljax.training.evaluate import evaluate

EPISODES = 40
TASKS = ["lace", "pick_and_place"]
FAULTY = Manner(slip=0.01, hesitation=0.01, wrong_approach=0.4, noise=0.001)


@pytest.fixture(scope="module", params=TASKS)
def env(request):
    return rljax.make(request.param, threads=1, reward="staged")


def episodes(env, manner):
    return demonstrators.demonstrate(env, demonstrators.make(env, manner), jax.random.key(0), EPISODES)


@pytest.fixture(scope="module")
def clean(env):
    return episodes(env, Manner())


@pytest.fixture(scope="module")
def faulty(env):
    return episodes(env, FAULTY)


def lengths(demonstrations):
    return np.diff(demonstrations.ends, prepend=0)


def onsets(demonstrations, label):
    """Where steps of this label begin."""
    before = np.roll(demonstrations.fault, 1)
    before[0] = NONE
    before[demonstrations.ends[:-1]] = NONE
    return (demonstrations.fault == label) & (before != label)


def test_shapes_and_ends(env, clean):
    count = clean.ends[-1]
    chex.assert_shape([clean.obs, clean.next_obs], (count, *env.observation_space.shape))
    chex.assert_shape(clean.action, (count, *env.action_space.shape))
    chex.assert_shape([clean.reward, clean.terminated, clean.truncated, clean.fault, clean.phase], (count,))
    last = clean.ends - 1
    assert (clean.terminated | clean.truncated).sum() == EPISODES
    assert (clean.terminated | clean.truncated)[last].all()
    inner = np.setdiff1d(np.arange(count), last)
    np.testing.assert_array_equal(clean.next_obs[inner], clean.obs[inner + 1])
    assert ((env.action_space.low <= clean.action) & (clean.action <= env.action_space.high)).all()


def test_without_faults_it_succeeds_stage_by_stage(clean):
    assert clean.terminated[clean.ends - 1].mean() >= 0.95
    assert (clean.fault == NONE).all()
    for reward in np.split(clean.reward, clean.ends[:-1]):
        assert (np.diff(reward) >= 0).all()
        assert set(reward) <= {-1.0, -0.75, -0.5, -0.25, 0.0}
        assert reward[-1] == 0.0


def test_faults_come_as_often_as_asked_and_cost_time(env, clean, faulty):
    assert (faulty.reward >= -1).all()
    assert (faulty.reward <= 0).all()
    assert lengths(faulty).mean() > 1.2 * lengths(clean).mean()
    # Hesitation may begin wherever nothing else goes wrong.
    could = (faulty.fault == NONE).sum()
    assert onsets(faulty, HESITATION).sum() / could == pytest.approx(FAULTY.hesitation, rel=0.6)
    # A hand slips only where it holds something that it has to keep.
    assert 0 < onsets(faulty, SLIP).sum() / could < 1.5 * FAULTY.slip
    for label, least, most in ((SLIP, 1, 6), (HESITATION, 1, 31)):
        starts = np.flatnonzero(onsets(faulty, label))
        runs = [np.argmax(np.append(faulty.fault[start:], -1) != label) for start in starts]
        assert least <= min(runs) <= max(runs) <= most
    # Those in a row count as one; later approaches, after a slip, may go wrong too.
    first = [labels[labels != HESITATION][0] == WRONG_APPROACH for labels in np.split(faulty.fault, faulty.ends[:-1])]
    assert np.mean(first) == pytest.approx(FAULTY.wrong_approach, abs=0.2)


def test_after_faults_it_tries_again_and_succeeds(faulty):
    success = faulty.terminated[faulty.ends - 1]
    faults = [set(labels) for labels in np.split(faulty.fault, faulty.ends[:-1])]
    assert success.mean() > 0.8
    for label in (SLIP, HESITATION, WRONG_APPROACH):
        with_it = np.array([label in labels for labels in faults])
        assert with_it.sum() >= 3
        assert success[with_it].mean() > 0.6


def test_who_gives_up_fails(env):
    manner = Manner(wrong_approach=1.0, give_up=1.0)
    given_up = episodes(env, manner)
    assert not given_up.terminated.any()
    last = given_up.ends - 1
    assert (given_up.fault[last] == HESITATION).all()
    np.testing.assert_allclose(given_up.action[last], given_up.action[last - 5], atol=0.02)


def test_as_a_policy_under_execution_mismatch_it_takes_longer(env, clean):
    """And deterministic is without faults."""
    mismatch = {"delay": 1, "smoothing": 0.5, "rate_limit": 0.1}
    mismatched = rljax.make(env.unwrapped.name, threads=1, mismatch=mismatch)
    policy = demonstrators.make(mismatched, Manner(wrong_approach=1.0, noise=0.1))
    played = jax.jit(lambda key: evaluate(mismatched, policy, key, EPISODES))(jax.random.key(0))
    assert played.highest["success"].mean() >= 0.95
    assert played.lengths.mean() > 1.1 * lengths(clean).mean()


def test_what_is_refused():
    with pytest.raises(ValueError, match="has no demonstrator; there is one for PickAndPlace, Lace"):
        demonstrators.make(rljax.make("push_t", threads=1))
    with pytest.raises(ValueError, match=r"Manner: slip must be between 0 and 1, got 2"):
        Manner(slip=2.0)
    with pytest.raises(ValueError, match=r"Manner: speed must be above 0, got 0"):
        Manner(speed=0.0)
    env = rljax.make("lace", threads=1, max_episode_steps=None)
    with pytest.raises(ValueError, match="whole episodes need a time limit"):
        demonstrators.demonstrate(env, demonstrators.make(env), jax.random.key(0), 2)
