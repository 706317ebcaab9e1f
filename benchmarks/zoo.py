"""Benchmark of the zoo: each policy is played again, in other episodes than those of its card.

    python -m benchmarks.zoo
    python -m benchmarks.zoo --seed 3

A card's mean return and the new one both are of a sample of episodes, so that they differ even where nothing has
changed. A policy agrees with its card if Welch's t-test does not tell the two samples apart at a level of 5 % for all
cards together: at 0.05 / number of cards for each (Bonferroni). Returns that never vary must be equal.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import campaign
from rljax import zoo
from rljax.training.loading import load_with_env
from rljax.types import Refused
from rljax.zoo.adding import score

LEVEL = 0.05
"""Probability that any card is said to differ although all policies are what their cards say."""


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Plays every policy of the zoo again."""

    seed: int = 2
    """Seed of the episodes; it must be another than the cards'."""
    episodes: int = 0
    """Episodes of each policy; 0 takes the number of its card."""


def main(settings: Settings) -> None:
    cards = {name: zoo.card(name) for name in zoo.names()}
    if same := [name for name, card in cards.items() if card["evaluation"]["seed"] == settings.seed]:
        raise Refused(f"seed = {settings.seed} is not allowed; it must be another than that of {', '.join(same)}")
    rows = []
    for name, card in cards.items():
        policy, env, _ = load_with_env(f"{zoo.PREFIX}{name}")
        again = score(policy, env, settings.episodes or card["evaluation"]["episodes"], settings.seed)
        rows.append(row(name, card, again, LEVEL / len(cards)))
        campaign.show(rows[-1])
    differ = [cells["policy"] for cells in rows if cells["agrees"] == "**no**"]
    notes = (
        "Mean returns of deterministic actions over whole episodes [95 % bootstrap interval over episodes]: of the "
        f"card, and again with other seeds. p: Welch's t-test of the two; a policy agrees at p above {LEVEL} / "
        f"{len(cards)}. Success: share of the episodes of the card that succeed, with deterministic and with sampled "
        "actions, where a task says so. Steps: of the environment; updates, of what learned from data alone."
    )
    campaign.write(settings, "zoo", campaign.table("zoo", "Zoo: every policy, evaluated again", rows, notes))
    if differ:
        raise Refused(f"{', '.join(differ)} no longer score what their cards say")


def row(name: str, card: dict[str, Any], again: dict[str, Any], level: float) -> dict[str, Any]:
    """A row of the table."""
    then, now = card["evaluation"]["deterministic"], again["deterministic"]
    p = difference(then, card["evaluation"]["episodes"], now, again["episodes"])
    success = [card["evaluation"][kind].get("success") for kind in ("deterministic", "stochastic")]
    commits = " ".join(commit[:7] + "-dirty" * commit.endswith("-dirty") for commit in card["commits"])
    return {
        "policy": name,
        "steps": card["steps"],
        "return": in_words(then),
        "of": card["evaluation"]["episodes"],
        "again": in_words(now),
        "p": f"{p:.3f}",
        "agrees": "yes" if p >= level else "**no**",
        "normalised": f"{then['normalized']:.1f}" if "normalized" in then else "–",
        "success": "–" if None in success else ", ".join(f"{100 * share:.0f} %" for share in success),
        "kB": round(card["bytes"] / 1000),
        "commit": commits,
    }


def difference(then: dict[str, float], number: int, now: dict[str, float], number_now: int) -> float:
    """The p-value of Welch's t-test that two samples of returns have one mean, by their means and deviations."""
    if then["std"] == now["std"] == 0:
        return float(then["mean"] == now["mean"])
    arguments = (then["mean"], then["std"], number, now["mean"], now["std"], number_now)
    return float(stats.ttest_ind_from_stats(*arguments, equal_var=False).pvalue)


def in_words(found: dict[str, float]) -> str:
    """A mean and its interval, with decimals by the size of the mean."""
    decimals = int(np.clip(3 - np.floor(np.log10(max(abs(found["mean"]), 1e-3))), 0, 2))
    mean, low, high = (f"{found[part]:,.{decimals}f}" for part in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    campaign.main(main, Settings())
