"""Ranking by a dataset: against closed forms, with densities known and estimated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import bc, fqe
from rljax.analysis import off_policy_evaluation as ope
from rljax.data import Dataset
from rljax.policy import Policy
from rljax.types import Transition
from tests.algorithms.test_fqe import Linear, closed_form, feedback, first, play
from tests.runs import train

NOISE = 0.7
GAINS = {"idle": 0.0, "good": 0.8, "wild": 1.8}


@pytest.fixture(scope="module")
def data():
    return play(Linear(), feedback(0.6, NOISE), 300, 10)


def density(gain, noise=NOISE):
    """Of u = -gain x + noise, written out."""

    def log_prob(obs, action):
        z = (action + gain * (obs - 50) / 10) / noise
        return (-0.5 * z**2 - jnp.log(noise) - 0.5 * jnp.log(2 * jnp.pi)).sum(-1)

    return log_prob


def test_padded_by_hand():
    end = np.array([False, False, True, True, False])
    zeros = np.zeros((5, 1), np.float32)
    steps = Transition(zeros, zeros, np.arange(5.0), end, ~end & False, zeros)
    dataset = Dataset.of(steps)
    np.testing.assert_array_equal(ope.padded(dataset, dataset.reward + 1), [[1, 2, 3], [4, 0, 0], [5, 0, 0]])
    np.testing.assert_array_equal(ope.padded(dataset, np.ones(5, bool)).sum(1), [3, 1, 1])
    assert ope.padded(dataset, np.ones((5, 4))).shape == (3, 3, 4)


def test_an_interval_is_of_critics_and_of_episodes():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = ope.interval(values[None], resamples=4000)
    np.testing.assert_allclose([low, high], values.mean() + 1.96 * 2.0 / 20 * np.array([-1, 1]), atol=0.04)
    np.testing.assert_allclose(ope.interval(np.array([[1.0] * 9, [5.0] * 9])), [1, 5])  # critics that disagree
    assert np.isnan(ope.interval(np.ones((3, 1)))).all()
    assert np.isnan(ope.interval(np.array([[1.0, np.nan]]))).all()


def test_three_policies_in_their_order_and_one_that_is_importance_sampled(data):
    """The noisy policy is near to what acted: there all estimates hold the truth, for 10 steps or for ever."""
    config = fqe.Config(
        num_updates=4,
        batch_size=128,
        members=4,
        learning_rate=3e-3,
        anneal_steps=3000,
        target_rate=0.02,
        discount=0.8,
        hidden=(32, 32),
    )
    policies = {name: feedback(gain) for name, gain in GAINS.items()}
    # The mode of a policy that acts otherwise: a function of its own, so that there are two programs.
    policies["near"] = Policy(
        {"gain": jnp.float32(0.75)}, (), lambda v, k, obs, m, d: (-v["gain"] * (obs - 50) / 10, m, ())
    )
    rows = ope.rank(
        Linear(), data, policies, jax.random.key(0), config, 3000, {"near": density(0.75)}, density(0.6), resamples=200
    )
    assert [row["policy"] for row in rows if row["policy"] != "near"] == ["good", "wild", "idle"]
    x = (first(data)[:, 0] - 50) / 10
    for row in rows:
        truth = closed_form(GAINS.get(row["policy"], 0.75), 0.8)(x).mean()
        np.testing.assert_allclose(row["fqe"], truth, rtol=0.05)
        assert row["fqe_low"] < truth < row["fqe_high"]
        assert row["episodes"] == 300
        assert (row["wis"] is None) == (row["policy"] != "near")

    near = next(row for row in rows if row["policy"] == "near")
    played = play(Linear(), feedback(0.75, NOISE), 20_000, 10, seed=1).discounted(0.8)
    truth = played.return_to_go[played.starts].mean()
    assert near["wis_low"] < truth < near["wis_high"]
    assert near["per_decision_wis_low"] < truth < near["per_decision_wis_high"]
    np.testing.assert_allclose(near["per_decision_wis"], truth, rtol=0.1)
    assert 30 < near["effective_sample_size"] < 290


def test_densities_of_what_acted_are_estimated_by_a_clone(data):
    config = bc.Config(policy="gaussian", hidden=(16,), learning_rate=1e-2, num_updates=10, anneal_steps=1500)
    clone = bc.make(Linear(), config, data)
    state = train(clone, 1500).state
    estimated = ope.log_prob_of_data(ope.gaussian_log_prob(clone, state), data)
    known = ope.log_prob_of_data(density(0.6), data)
    assert estimated.shape == known.shape == (3000,)
    np.testing.assert_allclose(estimated.mean(), known.mean(), atol=0.02)
    assert np.abs(estimated - known).mean() < 0.05
    target = ope.log_prob_of_data(density(0.75), data)
    results = [
        ope.importance_sampling(data, target, behavior, jax.random.key(0), 0.8, resamples=50)
        for behavior in (known, estimated)
    ]
    np.testing.assert_allclose(results[1]["per_decision_wis"], results[0]["per_decision_wis"], rtol=0.1)


def test_importance_sampling_of_what_acted_is_the_mean_return(data):
    known = ope.log_prob_of_data(density(0.6), data)
    row = ope.importance_sampling(data, known, known, jax.random.key(0), 0.9, resamples=200)
    returns = data.discounted(0.9).return_to_go[data.starts]
    np.testing.assert_allclose([row["wis"], row["per_decision_wis"]], returns.mean(), rtol=1e-5)
    half = 1.96 * returns.std() / np.sqrt(300)
    np.testing.assert_allclose([row["wis_low"], row["wis_high"]], returns.mean() + [-half, half], atol=0.4 * half)
    np.testing.assert_allclose(row["effective_sample_size"], 300, rtol=1e-5)


def test_what_does_not_fit_is_refused(data):
    env, key, one = Linear(), jax.random.key(0), {"one": feedback(0.0)}
    for arguments, message in [
        ((env, data, {}, key), "at least one policy"),
        (
            (env, data, one, key, None, 1, {"two": density(0.0)}, density(0.6)),
            "log_probs of two, and there are only one",
        ),
        ((env, data, one, key, None, 1, {"one": density(0.0)}), "log_probs need behavior_log_prob"),
    ]:
        with pytest.raises(ValueError, match=message):
            ope.rank(*arguments)
    clone = bc.make(env, bc.Config(hidden=(4,)), data)
    with pytest.raises(ValueError, match="bc has no density of actions"):
        ope.gaussian_log_prob(clone, clone.init(key))
