"""Statistics against values worked out by hand, scipy, and samples whose true mean is known."""

import numpy as np
import pytest
from scipy import stats

from rljax.analysis.statistics import (
    bootstrap_interval,
    interquartile_mean,
    probability_of_improvement,
    spread,
    spread_band,
    spread_in_words,
)


def test_interquartile_mean_by_hand():
    assert interquartile_mean([0, 1, 2, 3, 4, 5, 6, 1000]) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean([1, 2, 30]) == 11  # a quarter of 3 scores rounds down to none
    assert interquartile_mean([7]) == 7


def test_interquartile_mean_takes_all_scores_together_or_along_an_axis():
    x = np.random.default_rng(0).normal(size=(8, 3))
    np.testing.assert_allclose(interquartile_mean(x), stats.trim_mean(x.ravel(), 0.25))
    np.testing.assert_allclose(interquartile_mean(x, axis=0), np.sort(x, axis=0)[2:6].mean(0))


def test_a_diverged_seed_is_not_trimmed_away():
    x = [1.0, 2.0, 3.0, np.nan]
    # scipy 1.15 sorts NaN to the top and trims it away like a best seed; newer releases do not
    assert np.isnan(interquartile_mean(x))
    np.testing.assert_array_equal(np.isnan(interquartile_mean([[1.0, 2.0], [np.nan, 3.0]], axis=0)), [True, False])
    assert np.isnan(bootstrap_interval(x)).all()
    assert np.isnan(probability_of_improvement(x, [1.0, 2.0])).all()


def test_no_scores_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        interquartile_mean([])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match=r"\[seeds, tasks\]"):
        bootstrap_interval(np.zeros((2, 2, 2)))


def test_interval_agrees_with_scipy_and_repeats():
    x = np.random.default_rng(1).normal(size=12)
    rng = np.random.default_rng(0)
    expected = stats.bootstrap((x,), np.mean, n_resamples=500, method="percentile", rng=rng).confidence_interval
    assert bootstrap_interval(x, resamples=500) == pytest.approx(tuple(expected))
    assert bootstrap_interval(x, resamples=500) == bootstrap_interval(x, resamples=500)
    assert bootstrap_interval(x, resamples=500) != bootstrap_interval(x, resamples=500, seed=1)


def test_interval_of_one_seed_is_unknown_and_of_equal_seeds_a_point():
    assert np.isnan(bootstrap_interval([3.0])).all()
    assert np.isnan(bootstrap_interval([[3.0, 4.0]])).all()
    assert bootstrap_interval([3.0] * 5) == (3.0, 3.0)
    assert bootstrap_interval([3.0] * 5, interquartile_mean) == (3.0, 3.0)


@pytest.mark.parametrize("statistic", [np.mean, interquartile_mean])
def test_interval_covers_the_truth_about_as_often_as_it_says(statistic):
    rng = np.random.default_rng(0)
    intervals = np.array([bootstrap_interval(rng.normal(2.0, 3.0, 30), statistic, resamples=300) for _ in range(300)])
    covered = np.mean((intervals[:, 0] < 2.0) & (intervals[:, 1] > 2.0))
    assert 0.89 < covered < 0.98


def test_tasks_are_resampled_within_themselves():
    # Between tasks the scores differ by 1000, within a task hardly: only a bootstrap that mixed tasks would see 1000
    x = np.array([[0.0, 1000.0], [1.0, 1001.0], [2.0, 1002.0], [3.0, 1003.0]])
    low, high = bootstrap_interval(x)
    assert 500 < low < 501.5 < high < 503
    assert bootstrap_interval(x[:, :1]) == bootstrap_interval(x[:, 0])
    low, high = bootstrap_interval(x, interquartile_mean)
    assert low <= interquartile_mean(x) <= high


def test_fewer_than_four_seeds_have_a_range_and_no_interval():
    assert spread([1.0, 5.0, 2.0]) == (1.0, 5.0)
    assert spread([1.0, 5.0, 2.0, 3.0]) == bootstrap_interval([1.0, 5.0, 2.0, 3.0])
    assert np.isnan(spread([3.0])).all()
    assert np.isnan(spread([3.0, np.nan])).all()
    assert spread_in_words([1.0, 5.0, 2.0], "{:.1f}".format) == " (1.0 to 5.0)"
    assert spread_in_words([4.0] * 4, "{:.0f}".format) == " [4, 4]"
    assert spread_in_words([4.0], "{:.0f}".format) == ""


def test_band_is_the_interval_at_every_point_of_the_members_present():
    values = np.random.default_rng(2).normal(size=(6, 5))
    values[2:, 3] = np.nan
    values[1:, 4] = np.nan
    low, high = spread_band(values, resamples=200)
    for point in range(3):
        assert (low[point], high[point]) == pytest.approx(bootstrap_interval(values[:, point], resamples=200))
    assert (low[3], high[3]) == (values[:2, 3].min(), values[:2, 3].max())
    assert np.isnan(low[4])
    assert np.isnan(high[4])


def test_probability_of_improvement_by_hand_and_by_mann_whitney():
    # Pairs of (1, 3, 5) and (2, 3): 1 loses twice, 3 beats 2 and ties 3, 5 beats both
    assert probability_of_improvement([1, 3, 5], [2, 3]).probability == pytest.approx((0 + 1.5 + 2) / 6)
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.5, 1, 9), rng.normal(0, 1, 7)
    result = probability_of_improvement(a, b)
    assert result.probability == pytest.approx(stats.mannwhitneyu(a, b).statistic / (9 * 7))
    assert 0 <= result.low < result.probability < result.high <= 1
    assert probability_of_improvement(b, a).probability == pytest.approx(1 - result.probability)


def test_probability_of_improvement_averages_over_tasks():
    a, b = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert probability_of_improvement(a, b) == (0.75, 0.75, 0.75)  # always above on one task, always tied on the other
    assert np.isnan(probability_of_improvement([1.0], [0.0])[1:]).all()
    with pytest.raises(ValueError, match="same tasks"):
        probability_of_improvement(a, b[:, :1])
