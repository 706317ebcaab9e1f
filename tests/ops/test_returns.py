"""Returns and advantages: worked out by hand, against rlax, and by their identities."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import strategies as st

from rljax.ops import returns

T, N = 12, 4
gae = jax.jit(returns.gae)
lambda_returns = jax.jit(returns.lambda_returns)
discounted_returns = jax.jit(returns.discounted_returns)
n_step_returns = jax.jit(returns.n_step_returns, static_argnums=5)


def _rollout(seed, terminates=0.0, truncates=0.0):
    """A random sequence [T, N] whose values agree: next_value[t] = value[t + 1] unless an episode ended at t."""
    rng = np.random.default_rng(seed)
    reward, value, after_reset = rng.normal(size=(3, T, N))
    terminated = rng.random((T, N)) < terminates
    truncated = rng.random((T, N)) < truncates
    following = np.concatenate([value[1:], rng.normal(size=(1, N))])
    next_value = np.where(terminated | truncated, after_reset, following)
    return tuple(jnp.asarray(x, jnp.float32) for x in (reward, value, next_value)) + (
        jnp.asarray(terminated),
        jnp.asarray(truncated),
    )


def _backwards(reward, next_value, terminated, truncated, discount, lambda_):
    """The definition, step by step in float64."""
    result = np.zeros(reward.shape)
    for n in range(reward.shape[1]):
        for t in reversed(range(reward.shape[0])):
            future = float(next_value[t, n])
            if t + 1 < reward.shape[0] and not truncated[t, n]:
                future = (1 - lambda_) * future + lambda_ * result[t + 1, n]
            result[t, n] = float(reward[t, n]) + (0.0 if terminated[t, n] else discount * future)
    return result


def test_gae_by_hand_with_termination_and_truncation_mid_sequence():
    reward = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    value = jnp.array([10.0, 20.0, 30.0, 40.0, 50.0])
    next_value = jnp.array([20.0, 100.0, 40.0, 200.0, 60.0])
    terminated = jnp.array([False, True, False, False, False])
    truncated = jnp.array([False, False, False, True, False])
    # discount 1/2, lambda 1/2. delta = 1 + 10 - 10, 2 - 20, 3 + 20 - 30, 4 + 100 - 40, 5 + 30 - 50.
    # A = 1 + (-18) / 4, -18 (ends), -7 + 64 / 4, 64 (cut off: bootstrapped, and nothing flows back), -15.
    advantage = gae(reward, value, next_value, terminated, truncated, 0.5, 0.5)
    np.testing.assert_allclose(advantage, [-3.5, -18.0, 9.0, 64.0, -15.0])


def test_trap_a_time_limit_is_not_the_end_of_the_task():
    one = jnp.ones(1)
    yes, no = jnp.array([True]), jnp.array([False])
    for function, extra in ((lambda_returns, (0.95,)), (discounted_returns, ()), (n_step_returns, (3,))):
        np.testing.assert_allclose(function(one, 10 * one, no, yes, 0.9, *extra), [10.0])
        np.testing.assert_allclose(function(one, 10 * one, yes, no, 0.9, *extra), [1.0])
        np.testing.assert_allclose(function(one, 10 * one, yes, yes, 0.9, *extra), [1.0])  # termination wins
    np.testing.assert_allclose(gae(one, 2 * one, 10 * one, no, yes, 0.9, 0.95), [8.0])
    np.testing.assert_allclose(gae(one, 2 * one, 10 * one, yes, no, 0.9, 0.95), [-1.0])


def test_n_step_returns_by_hand():
    reward = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    next_value = jnp.array([8.0, 16.0, 100.0, 32.0, 64.0])
    terminated = jnp.zeros(5, bool)
    truncated = jnp.array([False, False, True, False, False])
    # discount 1/2, n = 2: 1 + 2/2 + 16/4; 2 + 3/2 + 100/4 (cut off after it); 3 + 100/2; 4 + 5/2 + 64/4; 5 + 64/2.
    result = n_step_returns(reward, next_value, terminated, truncated, 0.5, 2)
    np.testing.assert_allclose(result, [6.0, 28.5, 53.0, 22.5, 37.0])
    terminated, truncated = truncated, terminated
    result = n_step_returns(reward, next_value, terminated, truncated, 0.5, 2)
    np.testing.assert_allclose(result, [6.0, 3.5, 3.0, 22.5, 37.0])


@pytest.mark.parametrize("terminates", [0.0, 0.3])
def test_gae_agrees_with_rlax(terminates):
    reward, value, next_value, terminated, truncated = _rollout(0, terminates)
    discount = 0.9 * (1.0 - terminated)
    values = jnp.concatenate([value, next_value[-1:]])
    # rlax reads the successor's value from the next step, which is multiplied by 0 where the episode terminated.
    reference = jax.vmap(rlax.truncated_generalized_advantage_estimation, (1, 1, None, 1), 1)
    expected = reference(reward, discount, 0.8, values)
    np.testing.assert_allclose(gae(reward, value, next_value, terminated, truncated, 0.9, 0.8), expected, atol=1e-5)


@pytest.mark.parametrize("terminates", [0.0, 0.3])
def test_lambda_and_n_step_returns_agree_with_rlax(terminates):
    reward, _, next_value, terminated, truncated = _rollout(1, terminates)
    discount = 0.9 * (1.0 - terminated)
    expected = jax.vmap(functools.partial(rlax.lambda_returns, lambda_=0.8), 1, 1)(reward, discount, next_value)
    result = lambda_returns(reward, next_value, terminated, truncated, 0.9, 0.8)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    for n in (1, 3, T, T + 3):
        reference = functools.partial(rlax.n_step_bootstrapped_returns, n=n)
        expected = jax.vmap(reference, 1, 1)(reward, discount, next_value)
        result = n_step_returns(reward, next_value, terminated, truncated, 0.9, n)
        np.testing.assert_allclose(result, expected, atol=1e-5)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
def test_random_episodes_agree_with_the_definition(seed, discount, lambda_):
    reward, value, next_value, terminated, truncated = _rollout(seed, 0.2, 0.2)
    expected = _backwards(reward, next_value, terminated, truncated, discount, lambda_)
    result = lambda_returns(reward, next_value, terminated, truncated, discount, lambda_)
    np.testing.assert_allclose(result, expected, atol=1e-4)
    # With consistent values, GAE is the lambda return less the value (Schulman et al. 2016, section 3).
    advantage = gae(reward, value, next_value, terminated, truncated, discount, lambda_)
    np.testing.assert_allclose(advantage, expected - value, atol=1e-4)


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(st.integers(0, 2**31), st.floats(0, 1))
def test_lambda_one_is_the_monte_carlo_return_and_lambda_zero_one_step(seed, discount):
    reward, value, next_value, terminated, truncated = _rollout(seed, 0.2, 0.2)
    rest = (terminated, truncated, discount)
    monte_carlo = discounted_returns(reward, next_value, *rest)
    np.testing.assert_allclose(monte_carlo, _backwards(reward, next_value, *rest, 1.0), atol=1e-4)
    np.testing.assert_allclose(gae(reward, value, next_value, *rest, 1.0), monte_carlo - value, atol=1e-4)
    np.testing.assert_allclose(n_step_returns(reward, next_value, *rest, T), monte_carlo, atol=1e-4)
    one_step = reward + discount * jnp.where(terminated, 0.0, next_value)
    np.testing.assert_allclose(lambda_returns(reward, next_value, *rest, 0.0), one_step, atol=1e-5)
    np.testing.assert_allclose(n_step_returns(reward, next_value, *rest, 1), one_step, atol=1e-5)


def test_a_constant_reward_is_worth_the_geometric_series():
    reward, no = jnp.ones(2000), jnp.zeros(2000, bool)
    expected = 1 / (1 - 0.99)
    np.testing.assert_allclose(discounted_returns(reward, jnp.zeros(2000), no, no, 0.99)[0], expected, rtol=1e-4)
    # The true value is a fixed point at every step, whatever lambda, n, and the cuts.
    value, cut = jnp.full(2000, expected), no.at[jnp.arange(0, 2000, 7)].set(True)
    np.testing.assert_allclose(lambda_returns(reward, value, no, cut, 0.99, 0.7), expected, rtol=1e-5)
    np.testing.assert_allclose(n_step_returns(reward, value, no, cut, 0.99, 5), expected, rtol=1e-5)
    np.testing.assert_allclose(gae(reward, value, value, no, cut, 0.99, 0.95), 0.0, atol=1e-3)


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_nothing_leaks_from_one_episode_into_the_one_before(ending):
    reward, value, next_value, no, _ = _rollout(2)
    end = no.at[5].set(True)
    terminated, truncated = (end, no) if ending == "terminated" else (no, end)
    other_reward, other_value, other_next = reward.at[6:].add(7.0), value.at[6:].add(9.0), next_value.at[6:].add(5.0)
    rest = (terminated, truncated, 0.9)
    for a, b in (
        (gae(reward, value, next_value, *rest, 0.9), gae(other_reward, other_value, other_next, *rest, 0.9)),
        (lambda_returns(reward, next_value, *rest, 0.9), lambda_returns(other_reward, other_next, *rest, 0.9)),
        (n_step_returns(reward, next_value, *rest, 4), n_step_returns(other_reward, other_next, *rest, 4)),
    ):
        np.testing.assert_array_equal(a[:6], b[:6])
        assert float(jnp.abs(a[6:] - b[6:]).max()) > 1


def test_the_value_of_a_terminal_observation_is_never_used():
    reward, value, next_value, terminated, truncated = _rollout(3, 0.3)
    poisoned = jnp.where(terminated, jnp.inf, next_value)
    rest = (terminated, truncated, 0.9)
    np.testing.assert_array_equal(gae(reward, value, poisoned, *rest, 0.9), gae(reward, value, next_value, *rest, 0.9))
    for function, extra in ((lambda_returns, 0.9), (n_step_returns, 3)):
        expected = function(reward, next_value, *rest, extra)
        np.testing.assert_array_equal(function(reward, poisoned, *rest, extra), expected)


def test_discounts_and_lambdas_may_be_vmapped():
    rollout = _rollout(4, 0.2, 0.2)
    discounts, lambdas = jnp.array([0.5, 0.99]), jnp.array([0.0, 0.95])
    both = jax.jit(jax.vmap(returns.gae, (None,) * 5 + (0, 0)))(*rollout, discounts, lambdas)
    for i in range(2):
        np.testing.assert_allclose(both[i], gae(*rollout, discounts[i], lambdas[i]), atol=1e-5)


def test_wrong_shapes_and_a_bad_n_are_refused():
    reward, value, next_value, terminated, truncated = _rollout(5)
    with pytest.raises(AssertionError):
        returns.gae(reward, value[:-1], next_value, terminated, truncated, 0.9, 0.9)
    with pytest.raises(AssertionError):
        returns.lambda_returns(reward, next_value, terminated[:, 0], truncated, 0.9, 0.9)
    with pytest.raises(ValueError, match="at least 1"):
        returns.n_step_returns(reward, next_value, terminated, truncated, 0.9, 0)


def test_accumulated_returns_begin_anew_after_each_episode_and_go_on_where_they_stopped():
    reward = jnp.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0], [8.0, 8.0]])
    done = jnp.array([[False, False], [False, True], [False, False], [True, False]])
    # discount 1/2, from 2 and from 0: 1 + 2 / 2, 2 + 2 / 2, 4 + 3 / 2, 8 + 5.5 / 2; and 1, 2.5 (ends), 4, 8 + 4 / 2.
    expected = [[2.0, 1.0], [3.0, 2.5], [5.5, 4.0], [10.75, 10.0]]
    start = jnp.array([2.0, 0.0])
    totals, last = returns.accumulated_returns(reward, done, 0.5, start)
    np.testing.assert_allclose(totals, expected)
    np.testing.assert_allclose(last, [0.0, 10.0])
    first, between = returns.accumulated_returns(reward[:2], done[:2], 0.5, start)
    second, _ = returns.accumulated_returns(reward[2:], done[2:], 0.5, between)
    np.testing.assert_allclose(jnp.concatenate([first, second]), expected)


def test_what_follows_a_termination_is_not_multiplied_but_left_out():
    def total(value):
        return returns.bootstrapped(jnp.ones(3), jnp.array([0.0, 0.9, 0.0]), value).sum()

    value = jnp.array([jnp.nan, 2.0, jnp.inf])
    np.testing.assert_allclose(returns.bootstrapped(jnp.ones(3), jnp.array([0.0, 0.9, 0.0]), value), [1.0, 2.8, 1.0])
    np.testing.assert_allclose(jax.grad(total)(value), [0.0, 0.9, 0.0])
    # An advantage that is not finite stays in its own episode.
    flags = jnp.array([False, True, False]), jnp.zeros(3, bool)
    reward = jnp.array([1.0, 1.0, jnp.nan])
    found = returns.gae(reward, jnp.zeros(3), jnp.zeros(3), *flags, 0.9, 1.0)
    np.testing.assert_allclose(found[:2], [1.9, 1.0], rtol=1e-6)


vtrace = jax.jit(returns.vtrace)


def test_vtrace_by_hand_with_termination_and_truncation():
    """Discount 1/2, λ = 1, weights 2 (clipped to 1), 1/2, 1, 1/2 and 2 (clipped)."""
    log_ratio = jnp.log(jnp.array([2.0, 0.5, 1.0, 0.5, 2.0]))
    reward = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    value = jnp.array([10.0, 20.0, 30.0, 40.0, 50.0])
    next_value = jnp.array([20.0, 30.0, 100.0, 200.0, 60.0])
    terminated = jnp.array([False, False, True, False, False])
    truncated = jnp.array([False, False, False, True, False])
    # δ = 1 (1 + 10 - 10), 1/2 (2 + 15 - 20), 3 - 30, 1/2 (4 + 100 - 40), 5 + 30 - 50. Corrections, from the end: -15;
    # 32 (cut off: bootstrapped, and nothing flows back); -27 (ends); -1.5 + 1/4 (-27); 1 + 1/2 (-8.25).
    target, advantage = vtrace(log_ratio, reward, value, next_value, terminated, truncated, 0.5)
    np.testing.assert_allclose(target, [6.875, 11.75, 3.0, 72.0, 35.0])
    # r + γ v' - V, with the target of the next step in v', or the value of the successor where it is cut.
    np.testing.assert_allclose(advantage, [1 + 11.75 / 2 - 10, 2 + 1.5 - 20, 3 - 30, 4 + 100 - 40, 5 + 30 - 50])


@pytest.mark.parametrize("lambda_", [1.0, 0.8])
@pytest.mark.parametrize("clip", [1.0, 0.7])
def test_vtrace_agrees_with_rlax(lambda_, clip):
    reward, value, next_value, terminated, truncated = _rollout(6, 0.3)
    next_value = jnp.concatenate([value[1:], next_value[-1:]])  # rlax has the successor's value from the next step
    log_ratio = 0.5 * jax.random.normal(jax.random.key(0), reward.shape)
    discount = 0.9 * (1.0 - terminated)
    reference = functools.partial(
        rlax.vtrace_td_error_and_advantage, lambda_=lambda_, clip_rho_threshold=clip, clip_pg_rho_threshold=clip
    )
    expected = jax.vmap(reference, 1, 1)(value, next_value, reward, discount, jnp.exp(log_ratio))
    rest = (reward, value, next_value, terminated, truncated)
    target, advantage = vtrace(log_ratio, *rest, 0.9, lambda_, clip)
    np.testing.assert_allclose(target - value, expected.errors, atol=1e-5)
    rho = jnp.minimum(jnp.exp(log_ratio), clip)
    np.testing.assert_allclose(rho * advantage, expected.pg_advantage, atol=1e-5)


def test_vtrace_on_policy_is_the_lambda_return():
    reward, value, next_value, terminated, truncated = _rollout(7, 0.2, 0.2)
    rest = (terminated, truncated, 0.9)
    target, advantage = vtrace(jnp.zeros_like(reward), reward, value, next_value, *rest, 0.8)
    np.testing.assert_allclose(target, lambda_returns(reward, next_value, *rest, 0.8), atol=1e-5)
    np.testing.assert_allclose(advantage, gae(reward, value, next_value, *rest, 0.8), atol=1e-5)


def test_vtrace_neither_leaks_between_episodes_nor_uses_the_value_of_a_terminal_observation():
    reward, value, next_value, terminated, truncated = _rollout(8, 0.3, 0.2)
    log_ratio = 0.3 * jax.random.normal(jax.random.key(1), reward.shape)
    rest = (terminated, truncated, 0.9, 0.9)
    poisoned = jnp.where(terminated, jnp.inf, next_value)
    once, again = (vtrace(log_ratio, reward, value, x, *rest) for x in (next_value, poisoned))
    np.testing.assert_array_equal(once, again)
    end = (terminated | truncated).at[5].set(True)
    cut = (terminated & end, end & ~terminated, 0.9, 0.9)
    first = vtrace(log_ratio, reward, value, next_value, *cut)
    other = vtrace(log_ratio, reward.at[6:].add(7.0), value.at[6:].add(9.0), next_value.at[6:].add(5.0), *cut)
    for a, b in zip(first, other, strict=True):
        np.testing.assert_array_equal(a[:6], b[:6])
        assert float(jnp.abs(a[6:] - b[6:]).max()) > 1
