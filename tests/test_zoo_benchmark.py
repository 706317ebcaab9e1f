"""The benchmark of the zoo: its test is Welch's, and a policy that scores otherwise is named."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from benchmarks import campaign
from benchmarks import zoo as benchmark
from rljax import zoo
from rljax.types import Refused


def of(returns):
    low, high = returns.min(), returns.max()
    return {"mean": returns.mean(), "std": returns.std(ddof=1), "low": low, "high": high}


def test_the_difference_is_that_of_welch_of_both_samples():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.0, 1.0, 50), rng.normal(0.3, 2.0, 80)
    expected = stats.ttest_ind(a, b, equal_var=False).pvalue
    assert benchmark.difference(of(a), 50, of(b), 80) == pytest.approx(expected)
    same, other = of(np.full(9, 500.0)), of(np.full(9, 499.0))
    assert benchmark.difference(same, 9, same, 9) == 1.0
    assert benchmark.difference(same, 9, other, 9) == 0.0


def test_a_policy_that_scores_otherwise_is_named(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    settings = benchmark.Settings(results=tmp_path / "benchmarks" / "results", episodes=4)
    card = zoo.card("cartpole-ppo")
    monkeypatch.setattr(zoo, "names", lambda: ["cartpole-ppo"])
    benchmark.main(settings)
    record = campaign.earlier(settings, "zoo")
    found = dict(zip(record["columns"], record["rows"][0], strict=True))
    assert (found["policy"], found["return"], found["again"]) == ("cartpole-ppo", *["500.0 [500.0, 500.0]"] * 2)
    assert found["agrees"] == "yes"

    boasts = {"deterministic": card["evaluation"]["deterministic"] | {"mean": 501.0}}
    monkeypatch.setattr(zoo, "card", lambda _: card | {"evaluation": card["evaluation"] | boasts})
    with pytest.raises(Refused, match="cartpole-ppo no longer score what their cards say"):
        benchmark.main(settings)
    assert "**no**" in campaign.earlier(settings, "zoo")["rows"][0]
    with pytest.raises(Refused, match="seed = 1 is not allowed; it must be another than that of cartpole-ppo"):
        benchmark.main(dataclasses.replace(settings, seed=1))
