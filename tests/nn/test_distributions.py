"""Distributions against scipy, Monte Carlo and finite gradients at the extremes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rljax.algorithms import ppo
from rljax.nn.distributions import (
    Categorical,
    Gaussian,
    MultiCategorical,
    TanhGaussian,
    categorical,
    gaussian,
    head_size,
    raw_deviation,
)
from rljax.spaces import Box, Discrete, MultiDiscrete
from rljax.types import Refused

LOGITS = jnp.array([[0.0, 1.0, -2.0], [3.0, 3.0, 3.0]])
MEAN = jnp.array([[0.3, -1.0], [2.0, 0.0]])
LOG_STD = jnp.array([-0.5, 0.4])
OTHER_MEAN, OTHER_LOG_STD = jnp.array([[0.0, -0.5], [1.0, 1.0]]), jnp.array([[0.1, 0.0], [-0.3, 0.2]])
SAMPLES = 100_000
EXTREMES = list(itertools.product([-10.0, -1.0, 0.0, 1.0, 10.0], [-5.0, -2.0, 0.0, 2.0]))


def _draw(distribution, n=SAMPLES):
    keys = jax.random.split(jax.random.key(0), n)
    return jax.jit(jax.vmap(distribution.sample_and_log_prob))(keys)


def test_categorical_matches_scipy():
    probs = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    categorical = Categorical(LOGITS)
    for action in range(3):
        np.testing.assert_allclose(categorical.log_prob(jnp.array(action)), np.log(probs[:, action]), atol=1e-6)
    np.testing.assert_allclose(categorical.log_prob(jnp.array([2, 0])), np.log([probs[0, 2], probs[1, 0]]), atol=1e-6)
    np.testing.assert_allclose(categorical.entropy(), scipy.stats.entropy(probs, axis=-1), atol=1e-6)
    other = Categorical(LOGITS[::-1])
    np.testing.assert_allclose(categorical.kl(other), scipy.stats.entropy(probs, probs[::-1], axis=-1), atol=1e-6)
    np.testing.assert_array_equal(categorical.mode(), [1, 0])


def test_categorical_samples_with_its_probabilities():
    actions, log_probs = _draw(Categorical(LOGITS))
    assert actions.dtype == jnp.int32
    assert actions.shape == log_probs.shape == (SAMPLES, 2)
    frequencies = np.stack([np.mean(np.asarray(actions) == a, axis=0) for a in range(3)], -1)
    np.testing.assert_allclose(frequencies, jax.nn.softmax(LOGITS), atol=0.01)
    np.testing.assert_allclose(-log_probs.mean(0), Categorical(LOGITS).entropy(), atol=0.01)


def test_categorical_with_forbidden_actions_has_finite_entropy_kl_and_gradients():
    masked = jnp.array([1.0, -jnp.inf, 0.0])
    entropy, gradient = jax.value_and_grad(lambda logits: Categorical(logits).entropy())(masked)
    np.testing.assert_allclose(entropy, scipy.stats.entropy(np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()), atol=1e-6)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    kl, gradient = jax.value_and_grad(lambda logits: Categorical(logits).kl(Categorical(jnp.zeros(3) + masked)))(masked)
    np.testing.assert_allclose(kl, 0.0, atol=1e-6)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    assert Categorical(jnp.zeros(3)).kl(Categorical(masked)) == jnp.inf
    actions, _ = _draw(Categorical(masked), 1000)
    assert not bool(jnp.any(actions == 1))


def test_categorical_is_finite_with_huge_logits():
    logits = jnp.array([1e4, -1e4, 0.0])

    def everything(logits):
        distribution = Categorical(logits)
        return distribution.entropy() + distribution.log_prob(jnp.array(1)) + distribution.kl(Categorical(jnp.zeros(3)))

    value, gradient = jax.value_and_grad(everything)(logits)
    assert bool(jnp.isfinite(value))
    assert bool(jnp.all(jnp.isfinite(gradient)))


CHOICES = MultiDiscrete((3, 2, 4))
HEAD = jax.random.normal(jax.random.key(7), (5, 9), jnp.float32)


def of_each_choice(head):
    """The probabilities of each choice, by NumPy."""
    return [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in np.split(np.asarray(head, np.float64), [3, 5], -1)]


def test_several_choices_are_a_product_of_categoricals():
    assert [head_size(space) for space in (CHOICES, Discrete(3), Box(-1.0, 1.0, (4,)))] == [9, 3, 4]
    distribution, probs = categorical(CHOICES, HEAD), of_each_choice(HEAD)
    assert isinstance(distribution, MultiCategorical)
    for action in itertools.product(range(3), range(2), range(4)):
        expected = sum(np.log(p[:, a]) for p, a in zip(probs, action, strict=True))
        np.testing.assert_allclose(distribution.log_prob(jnp.array(action)), expected, rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(), sum(scipy.stats.entropy(p, axis=-1) for p in probs), rtol=1e-5)
    other = of_each_choice(HEAD[::-1])
    kl = sum(scipy.stats.entropy(p, q, axis=-1) for p, q in zip(probs, other, strict=True))
    np.testing.assert_allclose(distribution.kl(categorical(CHOICES, HEAD[::-1])), kl, rtol=1e-5)
    np.testing.assert_array_equal(distribution.mode(), np.stack([p.argmax(-1) for p in probs], -1))
    one = categorical(MultiDiscrete((9,)), HEAD)
    np.testing.assert_allclose(one.entropy(), categorical(Discrete(9), HEAD).entropy(), rtol=1e-6)


def test_several_choices_are_drawn_with_their_probabilities_independently():
    actions, log_probs = _draw(categorical(CHOICES, HEAD[0]))
    assert actions.dtype == jnp.int32
    assert actions.shape == (SAMPLES, 3)
    assert log_probs.shape == (SAMPLES,)
    probs = of_each_choice(HEAD[0])
    joint = np.zeros((3, 2, 4))
    np.add.at(joint, tuple(np.asarray(actions).T), 1 / SAMPLES)
    np.testing.assert_allclose(joint, np.einsum("i,j,k->ijk", *probs), atol=0.01)


def test_several_choices_have_finite_gradients_and_none_between_choices():
    def everything(head):
        distribution = categorical(CHOICES, head)
        uniform = categorical(CHOICES, jnp.zeros(9))
        return distribution.log_prob(jnp.array([2, 1, 3])) + distribution.entropy() + distribution.kl(uniform)

    for scale in (1.0, 1e4):
        assert jnp.isfinite(jax.grad(everything)(scale * HEAD[0])).all()
    # By hand: the gradient of log softmax is the one-hot action less the probabilities.
    gradient = jax.grad(lambda head: categorical(CHOICES, head).log_prob(jnp.array([2, 1, 3])))(HEAD[0])
    chosen = np.array([0, 0, 1, 0, 1, 0, 0, 0, 1])
    np.testing.assert_allclose(gradient, chosen - np.concatenate(of_each_choice(HEAD[0])), rtol=1e-4, atol=1e-6)


def test_gaussian_matches_scipy_with_a_shared_log_std():
    gaussian = Gaussian(MEAN, LOG_STD)
    action = jnp.array([[0.1, 2.0], [-1.0, 0.0]])
    reference = scipy.stats.norm(np.asarray(MEAN), np.exp(LOG_STD))
    np.testing.assert_allclose(gaussian.log_prob(action), reference.logpdf(action).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(gaussian.entropy(), reference.entropy().sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(gaussian.mode(), MEAN)
    scalar = Gaussian(MEAN, jnp.array(0.3))
    np.testing.assert_allclose(scalar.entropy(), 2 * scipy.stats.norm(0, np.exp(0.3)).entropy() * np.ones(2), rtol=1e-5)


def test_gaussian_kl_matches_monte_carlo_and_vanishes_only_at_itself():
    gaussian, other = Gaussian(MEAN, LOG_STD), Gaussian(OTHER_MEAN, OTHER_LOG_STD)
    actions, log_probs = _draw(gaussian)
    estimate = (log_probs - other.log_prob(actions)).mean(0)
    np.testing.assert_allclose(gaussian.kl(other), estimate, rtol=0.03)
    np.testing.assert_allclose(gaussian.kl(gaussian), 0.0, atol=1e-6)
    # By hand: N(0, 1) to N(1, 2): log 2 + (1 + 1) / 8 - 1/2.
    kl = Gaussian(jnp.zeros(1), jnp.zeros(1)).kl(Gaussian(jnp.ones(1), jnp.log(2.0) * jnp.ones(1)))
    np.testing.assert_allclose(kl, np.log(2) + 0.25 - 0.5, rtol=1e-6)


def test_gaussian_samples_have_its_moments():
    actions, log_probs = _draw(Gaussian(MEAN, LOG_STD))
    np.testing.assert_allclose(actions.mean(0), MEAN, atol=0.02)
    np.testing.assert_allclose(actions.std(0), np.broadcast_to(np.exp(LOG_STD), (2, 2)), rtol=0.02)
    np.testing.assert_allclose(-log_probs.mean(0), Gaussian(MEAN, LOG_STD).entropy(), atol=0.02)


def test_tanh_gaussian_density_is_the_change_of_variables():
    u = np.array([[0.1, -2.0], [3.0, 0.0]])
    reference = scipy.stats.norm(np.asarray(MEAN), np.exp(LOG_STD)).logpdf(u) - np.log(1 - np.tanh(u) ** 2)
    tanh_gaussian = TanhGaussian(MEAN, LOG_STD)
    np.testing.assert_allclose(tanh_gaussian.log_prob_of_pre_squash(jnp.asarray(u)), reference.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(tanh_gaussian.log_prob(jnp.tanh(jnp.asarray(u))), reference.sum(-1), rtol=1e-4)


def test_tanh_gaussian_density_integrates_to_one():
    action = jnp.linspace(-1, 1, 20_001)[1:-1, None]
    density = jnp.exp(TanhGaussian(jnp.array([0.4]), jnp.array([-0.7])).log_prob(action))
    np.testing.assert_allclose(np.trapezoid(density, action[:, 0]), 1.0, atol=1e-3)


def test_tanh_gaussian_samples_lie_within_the_bounds_and_its_entropy_estimate_is_unbiased():
    distribution = TanhGaussian(jnp.array([0.4]), jnp.array([-0.7]))
    actions, log_probs = _draw(distribution)
    assert float(jnp.abs(actions).max()) <= 1
    grid = np.linspace(-1, 1, 200_001)[1:-1]
    log_density = scipy.stats.norm(0.4, np.exp(-0.7)).logpdf(np.arctanh(grid)) - np.log1p(-(grid**2))
    entropy = -np.trapezoid(np.exp(log_density) * log_density, grid)
    np.testing.assert_allclose(-log_probs.mean(), entropy, atol=0.01)
    key = jax.random.key(5)
    np.testing.assert_array_equal(distribution.entropy(key), -distribution.sample_and_log_prob(key)[1])
    np.testing.assert_array_equal(distribution.sample(key), distribution.sample_and_log_prob(key)[0])
    np.testing.assert_allclose(distribution.mode(), np.tanh([0.4]), rtol=1e-6)


def test_tanh_gaussian_kl_matches_monte_carlo_of_the_squashed_densities():
    p, q = TanhGaussian(MEAN, LOG_STD), TanhGaussian(OTHER_MEAN, OTHER_LOG_STD)
    u = jax.random.normal(jax.random.key(0), (SAMPLES, *MEAN.shape)) * jnp.exp(LOG_STD) + MEAN
    sampled = (p.log_prob_of_pre_squash(u) - q.log_prob_of_pre_squash(u)).mean(0)
    np.testing.assert_allclose(p.kl(q), sampled, rtol=0.03)
    np.testing.assert_allclose(p.kl(p), 0.0, atol=1e-6)


def test_trap_tanh_log_probability_is_computed_from_the_pre_squash_action():
    # tanh(12) is exactly 1 in f32: through atanh the sample would look as if it were clipped at u = 7.25.
    distribution = TanhGaussian(jnp.array([12.0]), jnp.array([-5.0]))
    action, log_prob = distribution.sample_and_log_prob(jax.random.key(0))
    u = np.float64(distribution.pre_squash.sample(jax.random.key(0))[0])
    assert float(action[0]) == 1.0
    slope = 2 * (np.log(2) - u - np.log1p(np.exp(-2 * u)))
    expected = scipy.stats.norm(12.0, np.exp(-5.0)).logpdf(u) - slope
    np.testing.assert_allclose(log_prob, expected, rtol=1e-3)
    assert float(distribution.log_prob(action)) < -1e5  # what the inverse would have said


@pytest.mark.parametrize("member", ["sample_and_log_prob", "log_prob", "entropy"])
def test_tanh_gaussian_is_finite_with_finite_gradients_at_the_extremes(member):
    def loss(mean, log_std):
        distribution = TanhGaussian(mean[None], log_std[None])
        if member == "sample_and_log_prob":
            action, log_prob = distribution.sample_and_log_prob(jax.random.key(0))
            return log_prob + action.sum()
        if member == "log_prob":
            return distribution.log_prob(jnp.ones(1)) + distribution.log_prob(-jnp.ones(1))
        return distribution.entropy(jax.random.key(1))

    means, log_stds = jnp.array(EXTREMES).T
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1))))(means, log_stds)
    assert bool(jnp.all(jnp.isfinite(values)))
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in gradients)


def test_tanh_correction_is_exact_and_finite_far_out():
    u = jnp.array([[-100.0], [-30.0], [0.0], [30.0], [100.0]])
    distribution = TanhGaussian(jnp.zeros(1), jnp.zeros(1))
    correction = distribution.pre_squash.log_prob(u) - distribution.log_prob_of_pre_squash(u)
    # log(1 - tanh^2) = log 4 - 2 |u| far out, and 0 at 0.
    np.testing.assert_allclose(
        correction, [np.log(4) - 200, np.log(4) - 60, 0, np.log(4) - 60, np.log(4) - 200], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "distribution",
    [Categorical(LOGITS), categorical(CHOICES, HEAD), Gaussian(MEAN, LOG_STD), TanhGaussian(MEAN, LOG_STD)],
)
def test_distributions_pass_through_jit(distribution):
    keys = jax.random.key(1)
    jitted = jax.jit(lambda d, key: d.sample_and_log_prob(key))(distribution, keys)
    eager = distribution.sample_and_log_prob(keys)
    for a, b in zip(jitted, eager, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("log_std", [-6.0, -0.5, 0.0, 2.0, 20.0])
def test_the_raw_deviation_of_a_softplus_gives_the_deviation_that_was_asked_for(log_std):
    raw = raw_deviation(log_std, "softplus")
    by_numpy = np.log(np.logaddexp(0.0, raw) + 1e-3)
    found = gaussian(jnp.zeros(2), jnp.full(2, raw), "softplus").log_std
    np.testing.assert_allclose(found, [log_std] * 2, atol=1e-5)
    np.testing.assert_allclose(by_numpy, log_std, atol=1e-9)
    assert raw_deviation(log_std, "log") == log_std


def test_a_softplus_has_no_deviation_of_a_thousandth_or_less():
    with pytest.raises(Refused, match=r"deviation of -7\.0 is not allowed for a softplus; it must be above -6\.91"):
        ppo.Config(initial_log_std=-7.0, std_type="softplus")
    assert np.isfinite(gaussian(jnp.zeros(2), jnp.float32(-200.0), "softplus").log_std)
