"""Populations: members of one program, of which bad ones go on as copies of good ones, between two evaluations.

Jaderberg et al. 2017, "Population based training of neural networks" (arXiv 1711.09846): exploit and explore.
Jamieson and Talwalkar 2016, "Non-stochastic best arm identification" (arXiv 1502.07943): successive halving.

An exchange is one pure function of the members' state, their scores and a key, compiled once; it gathers over devices,
too. It is made when training goes on after an evaluation, and not before: so a checkpoint holds the members as they
were evaluated, and their scores; a resumed run makes the same exchange from these as the uninterrupted one made.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms.core.contract import Algorithm
from rljax.config import Config, Count, Fraction, Must, plain, require
from rljax.envs.adapters.common import rekey
from rljax.ops.trees import chosen
from rljax.training.devices import on_host
from rljax.training.logs import CsvLog, Row
from rljax.training.members import check_members
from rljax.training.options import Options
from rljax.training.plan import Plan
from rljax.types import Key, PyTree, Refused

POPULATION_STREAM = 0x9B7
"""Keys of exchanges are `fold_in(fold_in(first member's key, this), iteration)`, which nothing else uses."""


@dataclasses.dataclass(frozen=True)
class PopulationBased(Config):
    """Population-based training: the worst members go on as copies of the best, with changed hyperparameters.

    A copy has all that its source has: parameters, target networks and optimizer states, statistics of normalisation,
    the contents of the replay, and the environments in the middle of their episodes. Every random key in it is drawn
    anew, so that it does not repeat its source's noise.

    A member is replaced if its score is among the worst, or is not finite (it diverged), and below that of the source
    drawn for it. So of members with equal scores none replaces another.
    """

    ranges: dict[str, tuple[float, float]]
    """Range (lowest, highest) of each hyperparameter that exchanges change; one of `Hyper` that is read. Values are
    drawn log-uniformly from a range that spans a factor of 10 or more above 0, uniformly from any other."""
    every: Count | None = None
    """Steps between exchanges, a multiple of the evaluation interval; each evaluation where not given."""
    fraction: Annotated[float, Must("in (0, 0.5]", lambda x: 0 < x <= 0.5)] = 0.25
    """Share of the members, at least one, that is the worst, and is the best (the paper's truncation selection)."""
    factors: tuple[float, ...] = (0.8, 1.25)
    """Factors by one of which a copy's hyperparameter is multiplied, within its range; none keeps it."""
    resample: Fraction = 0.25
    """Chance that a copy's hyperparameter is drawn anew from its range, instead of multiplied."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "ranges", isinstance(self.ranges, dict) and bool(self.ranges), "a dict of at least one range")
        for name, ends in self.ranges.items():
            if not (len(ends) == 2 and all(map(math.isfinite, ends)) and ends[0] < ends[1]):
                raise Refused(f"ranges: {name} = {ends} is not allowed; it must be (lowest, highest)")
        require(self, "factors", all(factor > 0 for factor in self.factors), "positive")

    def interval(self, plan: Plan, per_iteration: int) -> int:
        """Iterations between exchanges.

        Raises:
          Refused: there are no evaluations, or exchanges would not fall on them.
        """
        if not plan.evaluate:
            raise Refused("a population needs evaluations: evaluate_every must not be 0")
        steps = plan.evaluate * per_iteration
        if self.every is not None and self.every % steps:
            raise Refused(
                f"every = {self.every:,} of the population is not allowed; it must be a multiple of the evaluation "
                f"interval, {steps:,} steps (in whole logs; see evaluate_every)"
            )
        return plan.evaluate if self.every is None else self.every // per_iteration

    def draw(self, key: Key, count: int) -> dict[str, jax.Array]:
        """Values f32 [count] for each hyperparameter, from its range."""
        keys = jax.random.split(key, len(self.ranges))
        drawn = {}
        for name, own in zip(sorted(self.ranges), keys, strict=True):
            low, high = self.ranges[name]
            if low > 0 and high >= 10 * low:
                logarithm = jax.random.uniform(own, (count,), jnp.float32, math.log(low), math.log(high))
                drawn[name] = self._within(name, jnp.exp(logarithm))
            else:
                drawn[name] = self._within(name, jax.random.uniform(own, (count,), jnp.float32, low, high))
        return drawn

    def sources(self, scores: jax.Array, key: Key) -> jax.Array:
        """The member, int32 [members], as whose copy each goes on: itself unless it is replaced.

        Args:
          scores: f32 [members]; what is not finite is below everything.
        """
        members = scores.shape[0]
        finite = jnp.isfinite(scores)
        value = jnp.where(finite, scores, -jnp.inf)
        order = jnp.argsort(value, stable=True)
        rank = jnp.argsort(order)
        few = max(1, int(self.fraction * members))
        best = jnp.clip(finite.sum(), 1, few)
        source = order[members - 1 - jax.random.randint(key, (members,), 0, best)]
        replaced = ((rank < few) | ~finite) & (value[source] > value)
        return jnp.where(replaced, source, jnp.arange(members)).astype(jnp.int32)

    def explored(self, hyper: Any, key: Key) -> Any:
        """Hyperparameters, each f32 [members], changed as those of copies are."""
        draw_key, *keys = jax.random.split(key, 1 + len(self.ranges))
        changed = {}
        for (name, drawn), own in zip(self.draw(draw_key, hyper_size(hyper)).items(), keys, strict=True):
            which_key, anew_key = jax.random.split(own)
            value = getattr(hyper, name)
            if self.factors:
                value *= jax.random.choice(which_key, jnp.array(self.factors, jnp.float32), value.shape)
            anew = jax.random.uniform(anew_key, value.shape) < self.resample
            changed[name] = jnp.where(anew, drawn, self._within(name, value))
        return hyper.replace(**changed)

    def exchange(self, state: Any, scores: jax.Array, key: Key) -> tuple[Any, jax.Array, Any]:
        """The members after an exchange; pure.

        Args:
          state: a training state with `hyper`, leaves [members, …].
          scores: f32 [members].

        Returns:
          The state, `sources`, and the hyperparameters now in force, as `state.hyper`.
        """
        source_key, hyper_key, copy_key = jax.random.split(key, 3)
        source = self.sources(scores, source_key)
        copied = source != jnp.arange(source.shape[0])
        state = jax.tree.map(lambda x: x[source], state)
        state = chosen(copied, rekey(state, copy_key), state)
        hyper = chosen(copied, self.explored(state.hyper, hyper_key), state.hyper)
        return state.replace(hyper=hyper), source, hyper

    def _within(self, name: str, value: jax.Array) -> jax.Array:
        low, high = np.asarray(self.ranges[name], np.float32)
        return jnp.clip(value, low, high)


@dataclasses.dataclass(frozen=True)
class SuccessiveHalving(PopulationBased):
    """Successive halving: the worst half goes on as copies of the best half, with hyperparameters drawn anew.

    Where the method stops the worst half, a program of a fixed number of members has places to fill: here they try
    other hyperparameters from where the best half stands. With `resample=0` the copies keep their source's: then what
    is left are ever fewer settings, on ever more members. See `PopulationBased` for what is copied.
    """

    fraction: Annotated[float, Must("in (0, 0.5]", lambda x: 0 < x <= 0.5)] = 0.5
    """Share of the members that is replaced."""
    factors: tuple[float, ...] = ()
    """Factors by one of which a copy's hyperparameter is multiplied, within its range; none keeps it."""
    resample: Fraction = 1.0
    """Chance that a copy's hyperparameter is drawn anew from its range, instead of kept."""


def hyper_size(hyper: Any) -> int:
    """The number of members that hyperparameters are of."""
    return int(jax.tree.leaves(hyper)[0].shape[0])


def key_of(keys: Key, iteration: int) -> Key:
    """The key of the exchange after an iteration; of the first hyperparameters, at 0."""
    return jax.random.fold_in(jax.random.fold_in(keys[0], POPULATION_STREAM), iteration)


def begun(
    population: PopulationBased | None,
    algorithm: Algorithm,
    plan: Plan,
    options: Options,
    keys: Key,
    swept: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], "Exchanges | None"]:
    """The first hyperparameters [members] and the exchanges of a run; those given and None without a population.

    Hyperparameters with a range that are not given are drawn from it.

    Raises:
      Refused: it is one member, a name or an end of a range cannot be swept, a value given is outside of its range, or
        exchanges would not fall on evaluations.
    """
    if population is None:
        return swept, None
    if not isinstance(population, PopulationBased):
        raise Refused("population must be a rljax.training.PopulationBased, or a SuccessiveHalving")
    if not keys.ndim or keys.shape[0] < 2:
        raise Refused("a population needs at least 2 members: keys [members], or --seeds")
    check_members(algorithm, keys[:2], {name: np.array(ends) for name, ends in population.ranges.items()})
    for name in sorted(set(swept) & set(population.ranges)):
        low, high = population.ranges[name]
        if not ((low <= swept[name]) & (swept[name] <= high)).all():
            raise Refused(f"hyper: {name} = {swept[name].tolist()} is not allowed; it must be in its range {low, high}")
    drawn = population.draw(key_of(keys, 0), keys.shape[0])
    swept = swept | {name: np.asarray(x, np.float64) for name, x in drawn.items() if name not in swept}
    return swept, Exchanges(population, plan, options, algorithm.per_iteration, keys, list(swept))


class Exchanges:
    """The exchanges of one run: when they are due, and the record of them, population.csv.

    Fields:
      description: what a resumed run must match, for config.json.
      due: the scores f32 [members] for an exchange that is to be made before training goes on.
    """

    def __init__(
        self,
        population: PopulationBased,
        plan: Plan,
        options: Options,
        per_iteration: int,
        keys: Key,
        names: Sequence[str],
    ):
        self.interval = population.interval(plan, per_iteration)
        # Scores depend on how many episodes they are of; how often policies are evaluated besides changes nothing.
        held = {"every": self.interval * per_iteration, "evaluation_episodes": options.evaluation_episodes}
        described = {"method": type(population).__name__, **plain(population, "population"), **held}
        self.description = {"population": described}
        self.keys, self.names = keys, tuple(names)
        self.due: np.ndarray | None = None
        self.csv: CsvLog | None = None

    def open(self, folder: Path, resumed: int | None) -> CsvLog:
        """Opens population.csv without the exchanges that are made again."""
        columns = ["step", "member", "source", "score", *(f"hyper/{name}" for name in self.names)]
        self.csv = CsvLog(folder / "population.csv", columns, None if resumed is None else resumed - 1)
        return self.csv

    def evaluated(self, iteration: int, scores: np.ndarray) -> None:
        """Notes the scores [members] of an evaluation, where an exchange follows it."""
        if iteration % self.interval == 0:
            self.due = np.asarray(scores, np.float32)

    def notes(self) -> dict[str, Any]:
        """The scores for an exchange that is due, for a checkpoint's notes."""
        if self.due is None:
            return {}
        return {"population": [float(x) if np.isfinite(x) else None for x in self.due]}

    def restore(self, notes: dict[str, Any]) -> None:
        """Takes over what `notes` has told."""
        scores = notes.get("population")
        self.due = None if scores is None else np.array([np.nan if x is None else x for x in scores], np.float32)

    def in_force(self, hyper: Any) -> dict[str, np.ndarray]:
        """The hyperparameters [members] of a state, by name, as the shortest decimals that tell float32 numbers."""
        values = on_host({name: getattr(hyper, name) for name in self.names})
        return {
            name: np.array([float(str(x)) for x in np.asarray(value, np.float32)]) for name, value in values.items()
        }

    def make(
        self, exchange: Any, state: Any, totals: PyTree, iteration: int, steps: int
    ) -> tuple[Any, PyTree, dict[str, np.ndarray], np.ndarray]:
        """Makes the exchange that is due, by the program's `exchange`, and records it.

        Returns:
          The state, the totals, the hyperparameters now in force, and the members' sources [members].
        """
        assert self.due is not None
        scores, self.due = self.due, None
        key = np.asarray(jax.random.key_data(key_of(self.keys, iteration)))
        state, totals, sources, hyper = exchange(state, totals, scores, key)
        source, now = np.asarray(on_host(sources)), self.in_force(hyper)
        if self.csv is not None:
            self.csv.write(self._rows(steps, scores, source, now))
        return state, totals, now, source

    def _rows(self, steps: int, scores: np.ndarray, source: np.ndarray, hyper: dict[str, np.ndarray]) -> list[Row]:
        return [
            {
                "step": steps,
                "member": member,
                "source": int(source[member]),
                "score": float(scores[member]),
                **{f"hyper/{name}": float(values[member]) for name, values in hyper.items()},
            }
            for member in range(len(source))
        ]


def in_words(source: np.ndarray) -> str:
    """The copies of an exchange: "3 of 1, 5 of 0"; or that there is none."""
    copies = [f"{member} of {origin}" for member, origin in enumerate(source.tolist()) if member != origin]
    return f"copies {', '.join(copies)}" if copies else "no copies"


def best_member(members: Sequence[dict[str, Any]]) -> int | None:
    """The member with the highest score in the entries of evaluation.json; None where there is none."""
    scores = [
        entry["deterministic"]["mean"] if "deterministic" in entry else entry["scores"].get("score", math.nan)
        for entry in members
    ]
    finite = [member for member, score in enumerate(scores) if math.isfinite(score)]
    return max(finite, key=lambda member: scores[member], default=None)
