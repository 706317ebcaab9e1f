"""Importance sampling: by hand, against exact values of a finite MDP, and by its identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.algorithms import planning
from rljax.envs.finite import chain, from_lists
from rljax.ops import importance

ESTIMATORS = [importance.weighted, importance.per_decision_weighted]
both = pytest.mark.parametrize("estimator", ESTIMATORS, ids=["weighted", "per_decision"])


@jax.jit
def estimates(target, behavior, reward, mask, discount):
    """[of whole episodes, per decision, effective sample size]."""
    w = importance.log_weights(target, behavior, mask)
    return jnp.stack([*(e(w, reward, mask, discount) for e in ESTIMATORS), importance.effective_sample_size(w)])


def test_two_episodes_by_hand():
    """Ratios 2, 1/2, 3 and 1/2, 4; the second episode is a step shorter, and what is in its padding does not count."""
    ratio = jnp.array([[2.0, 0.5, 3.0], [0.5, 4.0, jnp.nan]])
    reward = jnp.array([[1.0, 2.0, 4.0], [8.0, 16.0, jnp.inf]])
    mask = jnp.array([[True, True, True], [True, True, False]])
    weight = importance.log_weights(jnp.log(ratio), jnp.zeros((2, 3)), mask)
    np.testing.assert_allclose(jnp.exp(weight), [[2, 1, 3], [0.5, 2, 2]], rtol=1e-6)
    # Returns with γ = 1/2: 1 + 1 + 1 and 8 + 8; the weights are 3 and 2.
    np.testing.assert_allclose(importance.weighted(weight, reward, mask, 0.5), (3 * 3 + 2 * 16) / 5, rtol=1e-6)
    by_step = (2 * 1 + 0.5 * 8) / 2.5 + 0.5 * (1 * 2 + 2 * 16) / 3 + 0.25 * (3 * 4 + 2 * 0) / 5
    np.testing.assert_allclose(importance.per_decision_weighted(weight, reward, mask, 0.5), by_step, rtol=1e-6)
    np.testing.assert_allclose(importance.effective_sample_size(weight), 25 / 13, rtol=1e-6)


# Few shapes, for each is compiled.
arrays = st.tuples(
    st.sampled_from([1, 5]), st.sampled_from([1, 7]), st.integers(0, 2**32 - 1), st.floats(0, 1, width=32)
)


def random_episodes(shape, seed):
    rng = np.random.default_rng(seed)
    target, behavior, reward = rng.normal(size=(3, *shape)).astype(np.float32)
    return target, behavior, reward, np.arange(shape[1]) < rng.integers(1, shape[1] + 1, shape[0])[:, None]


@settings(max_examples=60, deadline=None)
@given(case=arrays)
def test_of_what_acted_itself_it_is_the_mean_discounted_return(case):
    *shape, seed, discount = case
    target, _, reward, mask = random_episodes(shape, seed)
    whole, by_step, size = estimates(target, target, reward, mask, discount)
    powers = np.array([float(discount) ** t for t in range(shape[1])])
    expected = (np.where(mask, reward, 0) * powers).sum(1).mean()
    np.testing.assert_allclose([whole, by_step], expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(size, shape[0], rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(case=arrays, scale=st.floats(-100, 100, width=32), shift=st.floats(-50, 50))
def test_units_of_rewards_and_of_densities_do_not_matter(case, scale, shift):
    *shape, seed, discount = case
    target, behavior, reward, mask = random_episodes(shape, seed)
    plain = np.array(estimates(target, behavior, reward, mask, discount))
    scaled = estimates(target, behavior, scale * reward, mask, discount)
    np.testing.assert_allclose(scaled, plain * [scale, scale, 1], rtol=1e-4, atol=1e-4 * max(1, abs(scale)))
    # Actions in other units, in episodes of one length: all densities change by one factor.
    mask[:] = True
    plain = estimates(target, behavior, reward, mask, discount)
    moved = estimates(target + np.float32(shift), behavior, reward, mask, discount)
    np.testing.assert_allclose(moved, plain, rtol=2e-3, atol=2e-3)
    # An estimate by whole episodes is a mean of returns, so that it lies among them; so does the size of the sample.
    returns = (reward * np.array([float(discount) ** t for t in range(shape[1])])).sum(1)
    assert returns.min() - 1e-4 <= plain[0] <= returns.max() + 1e-4
    assert 1 - 1e-4 <= plain[2] <= shape[0] + 1e-4


def test_a_thousand_steps_neither_overflow_nor_vanish():
    rng = np.random.default_rng(0)
    target, behavior = 30 * rng.normal(size=(2, 20, 1000)).astype(np.float32)
    reward, mask = rng.normal(size=(20, 1000)).astype(np.float32), np.ones((20, 1000), bool)
    ratio = np.cumsum(np.float64(target) - behavior, 1)
    assert np.abs(ratio).max() > 1000  # exp of which no float64 holds
    weight = np.exp(ratio - ratio.max(0))
    weight /= weight.sum(0)
    discounted = reward * 0.99 ** np.arange(1000)
    expected = [weight[:, -1] @ discounted.sum(1), (weight * discounted).sum(), 1 / (weight[:, -1] ** 2).sum()]
    np.testing.assert_allclose(estimates(target, behavior, reward, mask, 0.99), expected, rtol=1e-2, atol=1e-2)


def test_an_impossible_episode_weighs_nothing_and_nothing_else_is_nan():
    reward, mask = jnp.array([[1.0, 10.0], [2.0, 20.0]]), jnp.ones((2, 2), bool)
    target = jnp.array([[0.0, -jnp.inf], [0.0, 0.0]])
    np.testing.assert_allclose(estimates(target, jnp.log(jnp.full((2, 2), 0.5)), reward, mask, 1.0), [22, 21.5, 1])
    never = jnp.full((2, 2), -jnp.inf)
    assert np.isnan(estimates(never, jnp.zeros((2, 2)), reward, mask, 1.0)).all()


# A chain of 4 states: action 1 leads on with 0.8, else one stays; action 0 leads back; the end pays 1 and is terminal.
GAMMA = 0.9
CHAIN = from_lists(
    {
        s: {0: [(1.0, max(s - 1, 0), -0.1, False)], 1: [(0.8, s + 1, float(s == 2), s == 2), (0.2, s, 0.0, False)]}
        for s in range(3)
    }
    | {3: {a: [(1.0, 3, 0.0, True)] for a in range(2)}},
    GAMMA,
)


def chain_episodes(behavior, target, count, horizon, seed):
    """What [S, A] probabilities of action 1 do in the chain; rewards are the expected ones of a state and an action."""
    rng, states = np.random.default_rng(seed), np.zeros(count, int)
    probability = np.stack([np.asarray(CHAIN.probabilities)[a] for a in range(2)])
    follows = None if CHAIN.successors is None else np.asarray(CHAIN.successors)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("target", "behavior", "reward", "mask")}
    for _ in range(horizon):
        action = (rng.random(count) < behavior[states]).astype(int)
        of = [np.where(action == 1, p[states], 1 - p[states]) for p in (target, behavior)]
        with np.errstate(divide="ignore"):
            row = np.log(of[0]), np.log(of[1]), np.asarray(CHAIN.rewards)[action, states], states != 3
        for name, x in zip(columns, row):
            columns[name].append(x)
        k = (np.cumsum(probability[action, :, states], 1) < rng.random(count)[:, None] - 1e-9).sum(1)
        k = np.minimum(k, probability.shape[1] - 1)
        states = np.where(states == 3, 3, k if follows is None else follows[action, k, states])
    return [np.stack(x, 1).astype(bool if name == "mask" else np.float32) for name, x in columns.items()]


def exact(target):
    """V of a stochastic policy in state 0, from (I - γ P) V = r."""
    one_by_one = [CHAIN.under(jnp.full(4, a)) for a in range(2)]
    matrix = [np.asarray(chain.matrix(m), np.float64) for m in one_by_one]
    share = np.stack([1 - target, target])
    p = sum(w[:, None] * m for w, m in zip(share, matrix))
    r = (share * np.asarray(CHAIN.rewards, np.float64)).sum(0)
    return np.linalg.solve(np.eye(4) - GAMMA * p, r)[0]


TARGETS = {"stochastic": np.array([0.9, 0.7, 0.8, 0.5]), "deterministic": np.ones(4)}
BEHAVIOR = np.array([0.6, 0.5, 0.7, 0.5])


@pytest.mark.parametrize("kind", TARGETS)
def test_estimates_converge_to_the_exact_value(kind):
    target, errors = TARGETS[kind], []
    truth = exact(target)
    if kind == "deterministic":
        np.testing.assert_allclose(planning.policy_evaluation(CHAIN, jnp.ones(4, int))[0], truth, rtol=1e-6)
    for count in (100, 100_000):
        runs = [estimates(*chain_episodes(BEHAVIOR, target, count, 25, seed), GAMMA) for seed in range(3)]
        errors.append(np.abs(np.array(runs)[:, :2] - truth).mean(0))
    np.testing.assert_array_less(errors[1], 0.006)
    np.testing.assert_array_less(errors[1], errors[0])


@both
def test_intervals_hold_the_truth_nearly_as_often_as_they_say(estimator):
    target = TARGETS["stochastic"]
    truth, repeats = exact(target), 100
    made = [np.stack(x) for x in zip(*(chain_episodes(BEHAVIOR, target, 200, 25, seed) for seed in range(repeats)))]

    @jax.jit
    @jax.vmap
    def interval(key, target, behavior, reward, mask):
        weight = importance.log_weights(target, behavior, mask)
        return importance.bootstrap_interval(estimator, key, weight, reward, mask, GAMMA, resamples=100)

    low, high = interval(jax.random.split(jax.random.key(0), repeats), *made)
    assert (low < high).all()
    assert ((low < truth) & (truth < high)).mean() > 0.8  # 0.88 of 0.95: an estimate of few episodes is biased


def test_under_vmap_as_one_by_one():
    cases = [random_episodes((5, 7), seed) for seed in range(3)]
    together = jax.vmap(functools.partial(estimates, discount=0.9))(*map(np.stack, zip(*cases)))
    np.testing.assert_allclose(together, [estimates(*case, 0.9) for case in cases], rtol=1e-5)
