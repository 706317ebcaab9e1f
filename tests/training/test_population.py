"""Populations: who goes on as whose copy, with what, and that an interruption changes none of it."""

import csv
import dataclasses
import functools
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hypothesis import given, settings
from hypothesis import strategies as st

import rljax
from rljax import experiment, training
from rljax.algorithms import ppo
from rljax.algorithms.core.contract import Algorithm
from rljax.experiment.members import members_of, population_of
from rljax.policy import Policy
from rljax.training import Callback, PopulationBased, SuccessiveHalving
from rljax.training.population import POPULATION_STREAM, key_of
from rljax.training.runner import EVALUATION_STREAM
from rljax.types import Refused
from tests.runs import read, train

RANGES = {"learning_rate": (1e-3, 1.0)}
NAN = np.nan


@dataclasses.dataclass(frozen=True)
class HillConfig:
    """Settings of `hill`."""

    learning_rate: float = 0.1
    unread: float = 0.0


class HillHyper(struct.PyTreeNode):
    learning_rate: jax.Array
    unread: jax.Array


class HillState(struct.PyTreeNode):
    key: jax.Array
    hyper: HillHyper
    params: jax.Array


def hill(config=None):
    """An algorithm that climbs to 1, in steps of the learning rate and with noise, and compiles at once."""
    config = config or HillConfig()

    def init(key):
        return HillState(key, HillHyper(*map(jnp.float32, dataclasses.astuple(config))), jnp.zeros(2))

    def step(state):
        key, own = jax.random.split(state.key)
        noise = 0.01 * jax.random.normal(own, (2,), jnp.float32)
        params = state.params + state.hyper.learning_rate * (1.0 - state.params + noise)
        return state.replace(key=key, params=params), {"loss": jnp.abs(1.0 - params).sum()}

    def act(variables, key, obs, memory, deterministic):
        return jnp.zeros(obs.shape[:-1], jnp.int32), memory, ()

    return Algorithm(
        init=init,
        step=step,
        policy=lambda state: Policy(state.params, (), act),
        agent=None,
        name="hill",
        env=rljax.make("cartpole", max_episode_steps=3),
        config=config,
        per_iteration=1,
        unit="steps",
        remake=hill,
        evaluate=lambda state, key: {"score": -jnp.abs(1.0 - state.params).sum()},
    )


def keys(members):
    return jax.vmap(jax.random.key)(jnp.arange(members))


def climb(steps=40, members=4, population=None, key=None, **how):
    """Rounds of 8 iterations, with checkpoints in their middle."""
    population = population or PopulationBased(RANGES)
    how = {"log_every": 2, "evaluate_every": 8, "checkpoint_every": 4, "final_episodes": 1} | how
    return train(hill(), steps, keys(members) if key is None else key, population=population, **how)


@functools.cache
def choosing(fraction):
    return jax.jit(
        lambda scores, seed: PopulationBased(RANGES, fraction=fraction).sources(scores, jax.random.key(seed))
    )


def sources(scores, fraction=0.25, seed=0):
    return choosing(fraction)(np.array(scores, np.float32), seed).tolist()


def data_of(tree):
    """All arrays of a tree, keys as plain integers."""

    def plain(x):
        return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    return jax.tree.map(plain, tree)


def without_seconds(folder):
    return [{name: x for name, x in row.items() if name != "seconds"} for row in read(folder)]


# Who


def test_the_worst_quarter_goes_on_as_copies_of_members_of_the_best_quarter():
    scores = [5, 1, 9, 4, 3, 7, 2, 8]
    found = [sources(scores, seed=seed) for seed in range(20)]
    assert {tuple(np.flatnonzero(np.array(f) != np.arange(8))) for f in found} == {(1, 6)}
    assert {f[1] for f in found} == {f[6] for f in found} == {2, 7}


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([5, 5, 5, 5], [0, 1, 2, 3]),  # equal ones have nothing to learn from each other
        ([5, 4, 5, 5], [0, 3, 2, 3]),  # of equal ones the last is the best
        ([NAN, 3, NAN, NAN], [1, 1, 1, 1]),  # all that diverged live again, however many they are
        ([NAN, 3, np.inf, 2], [1, 1, 1, 3]),
        ([NAN, NAN, NAN, NAN], [0, 1, 2, 3]),
        ([-5, -1], [1, 1]),
    ],
)
def test_ties_and_members_that_diverged(scores, expected):
    assert sources(scores) == expected


def test_halving_replaces_half_and_a_source_is_drawn_from_the_other_half():
    found = sources([1, 8, 2, 7, 3, 6, 4, 5], SuccessiveHalving(RANGES).fraction)
    assert {m for m in range(8) if found[m] != m} == {0, 2, 4, 6}
    assert set(found) <= {1, 3, 5, 7}


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.floats(width=32, allow_nan=True), min_size=8, max_size=8),
    seed=st.integers(0, 2**31),
    fraction=st.sampled_from([0.25, 0.5]),
)
def test_no_source_scores_less_than_what_it_replaces_and_none_is_replaced(scores, seed, fraction):
    source = np.array(sources(scores, fraction, seed))
    value = np.where(np.isfinite(scores), scores, -np.inf).astype(np.float32)
    replaced = source != np.arange(8)
    assert (value[source] >= value).all()
    assert (value[source[replaced]] > value[replaced]).all()
    assert np.isfinite(value[source[replaced]]).all()
    assert (source[source] == source).all()
    assert replaced.sum() <= max(1, int(fraction * 8)) + np.isinf(value).sum()


# With what


def test_a_copy_has_all_of_its_source_but_its_random_keys():
    """Wherever keys are in the state: in pools of environments, too."""
    one = HillState(jax.random.key(0), HillHyper(jnp.float32(1e-2), jnp.float32(0)), jnp.zeros(2))
    pools = jax.vmap(lambda key: jax.random.split(key, 3))(keys(4))
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (4, *x.shape)), one)
    held = {"replay": jnp.arange(20.0).reshape(4, 5), "used": jnp.arange(4) > 1, "pool": pools}
    state = state.replace(key=jax.random.split(jax.random.key(3), 4), params=held)
    exchange = jax.jit(PopulationBased(RANGES, resample=0.0, factors=(0.5,)).exchange)
    after, source, hyper = exchange(state, jnp.array([1.0, 4.0, 2.0, 3.0]), jax.random.key(7))
    assert source.tolist() == [1, 1, 2, 3]
    np.testing.assert_array_equal(hyper.learning_rate, np.float32([5e-3, 1e-2, 1e-2, 1e-2]))
    chex.assert_trees_all_equal(hyper, after.hyper)
    for name in ("replay", "used"):
        np.testing.assert_array_equal(after.params[name], np.asarray(held[name])[source])
    for old, new in zip(data_of((state.key, pools)), data_of((after.key, after.params["pool"])), strict=True):
        np.testing.assert_array_equal(new[1:], old[1:])
        # Neither its own nor its source's, nor one of theirs to come.
        before = np.concatenate([old.reshape(-1, 2), *(derived(x) for x in old[:2].reshape(-1, 2))])
        assert not (new[0].reshape(-1, 1, 2) == before[None]).all(-1).any()


def derived(data):
    return np.asarray(jax.random.key_data(jax.random.split(jax.random.wrap_key_data(data), 8)))


def test_keys_of_exchanges_are_of_a_stream_of_their_own():
    assert POPULATION_STREAM != EVALUATION_STREAM
    one = keys(2)
    exchanges = data_of(jnp.stack([key_of(one, i) for i in range(50)]))
    trained = [derived(x) for x in data_of(one)]
    evaluated = [
        data_of(jax.random.fold_in(jax.random.fold_in(k, EVALUATION_STREAM), i)) for k in one for i in range(9)
    ]
    others = np.concatenate([*trained, np.stack(evaluated)])
    assert len(np.unique(exchanges, axis=0)) == 50
    assert not (exchanges[:, None] == others[None]).all(-1).any()


def test_changed_hyperparameters_keep_within_their_range():
    hyper = HillHyper(jnp.array([0.9, 0.01, 0.002, 0.001], jnp.float32), jnp.zeros(4))

    def explored(**how):
        return np.asarray(PopulationBased(RANGES, **how).explored(hyper, jax.random.key(0)).learning_rate)

    np.testing.assert_allclose(explored(resample=0.0, factors=(2.0,)), [1.0, 0.02, 0.004, 0.002], rtol=1e-6)
    np.testing.assert_allclose(explored(resample=0.0, factors=(0.5,)), [0.45, 0.005, 0.001, 0.001], rtol=1e-6)
    np.testing.assert_array_equal(explored(resample=0.0, factors=()), hyper.learning_rate)
    anew = explored(resample=1.0)
    assert len(set(anew.tolist())) == 4
    assert ((anew >= 1e-3) & (anew <= 1.0)).all()


def test_values_are_drawn_over_decades_log_uniformly_and_else_uniformly():
    population = PopulationBased({"wide": (1e-6, 1e-2), "narrow": (0.9, 0.99), "signed": (-2.0, 2.0)})
    drawn = {name: np.asarray(x) for name, x in population.draw(jax.random.key(0), 4000).items()}
    quartiles = {name: np.quantile(x, [0.25, 0.5, 0.75]) for name, x in drawn.items()}
    np.testing.assert_allclose(np.log10(quartiles["wide"]), [-5, -4, -3], atol=0.1)
    np.testing.assert_allclose(quartiles["narrow"], [0.9225, 0.945, 0.9675], atol=0.003)
    np.testing.assert_allclose(quartiles["signed"], [-1, 0, 1], atol=0.1)
    again = PopulationBased(dict(reversed(population.ranges.items()))).draw(jax.random.key(0), 4000)
    chex.assert_trees_all_equal(again, drawn)  # in whatever order they are named


# In a run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return climb(folder=tmp_path_factory.mktemp("population") / "whole")


def test_rows_and_the_evaluation_tell_the_values_in_force_and_where_they_come_from(whole):
    rows, exchanges = whole.rows, list(_csv(whole.folder / "population.csv"))
    assert [int(row["step"]) for row in exchanges[::4]] == [8, 16, 24, 32]  # none at the end, which nothing follows
    assert any(row["source"] != row["member"] for row in exchanges)
    for exchange in exchanges:
        step, member = int(exchange["step"]), int(exchange["member"])
        before, after = (
            next(row for row in rows if (row["step"], row["member"]) == (step + late, member)) for late in (0, 2)
        )
        assert np.float32(exchange["score"]) == np.float32(before["evaluation/score"])
        assert float(exchange["hyper/learning_rate"]) == after["hyper/learning_rate"]
        if exchange["source"] == exchange["member"]:
            assert before["hyper/learning_rate"] == after["hyper/learning_rate"]
    told = [member["hyper"]["learning_rate"] for member in whole.evaluation["members"]]
    np.testing.assert_array_equal(np.float32(told), whole.state.hyper.learning_rate)
    scores = [member["scores"]["score"] for member in whole.evaluation["members"]]
    assert whole.evaluation["best_member"] == int(np.argmax(scores))


def _csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


class StopAt(Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_log(self, steps, rows):
        return "far enough" if steps == self.steps else None


@pytest.mark.parametrize("case", ["in mid-round", "before an exchange", "killed after one"])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(whole, case, tmp_path):
    """Bit for bit, files too; a run that was killed had already recorded an exchange that is made again."""
    folder, at = tmp_path / "run", {"in mid-round": 20, "before an exchange": 16, "killed after one": 18}[case]
    first = climb(folder=folder, callbacks=[StopAt(at)])
    assert (first.steps, first.stopped) == (at, "far enough")
    if case == "killed after one":
        shutil.rmtree(folder / "checkpoints" / "18")
        assert {row["step"] for row in _csv(folder / "population.csv")} == {"8", "16"}
    second = climb(folder=folder, resume=True)
    chex.assert_trees_all_equal(data_of(second.state), data_of(whole.state))
    assert second.evaluation == whole.evaluation
    assert without_seconds(folder) == without_seconds(whole.folder)
    assert (folder / "population.csv").read_text() == (whole.folder / "population.csv").read_text()


def test_a_longer_run_makes_the_exchange_that_the_shorter_one_ended_before(whole, tmp_path):
    climb(32, folder=tmp_path / "run")
    longer = climb(40, folder=tmp_path / "run", resume=True)
    chex.assert_trees_all_equal(data_of(longer.state), data_of(whole.state))


def test_over_two_devices_it_is_the_same_bit_for_bit(whole):
    split = climb(devices=2)
    assert split.placement == "members over 2 devices"
    chex.assert_trees_all_equal(data_of(split.state), data_of(whole.state))
    assert split.evaluation == whole.evaluation


def test_without_an_exchange_it_is_the_plain_run():
    plain = train(hill(), 40, keys(4), hyper={"learning_rate": [0.1, 0.2, 0.3, 0.4]}, log_every=2, evaluate_every=8)
    hyper = {"learning_rate": [0.1, 0.2, 0.3, 0.4]}
    alone = climb(population=PopulationBased(RANGES, every=80), hyper=hyper)
    chex.assert_trees_all_equal(data_of(alone.state), data_of(plain.state))
    values = [[row | {"seconds": 0, "hyper/learning_rate": 0} for row in run.rows] for run in (alone, plain)]
    assert values[0] == values[1]


def test_a_member_that_diverged_lives_again(capsys):
    ranges, hyper = {"learning_rate": (0.01, 1e30)}, {"learning_rate": [0.1, 1e30, 0.2, 0.3]}
    population = PopulationBased(ranges, factors=(), resample=0.0)
    result = climb(16, population=population, hyper=hyper, progress="lines")
    told = capsys.readouterr().err
    assert "member 1 diverged" in told
    assert "population copies 1 of 3" in told
    scores = {row["step"]: row.get("evaluation/score") for row in result.rows if row["member"] == 1}
    assert np.isnan(scores[8])
    assert np.isfinite(scores[16])
    assert np.isfinite(result.rows[-3]["loss"])
    assert [member["hyper"]["learning_rate"] for member in result.evaluation["members"]] == pytest.approx(
        [0.1, 0.3, 0.2, 0.3]
    )


def test_schedules_begin_at_the_changed_values(tiny):
    agent = ppo.make(tiny.env, dataclasses.replace(tiny.config, anneal_steps=100)).agent
    changed = agent.hyper().replace(learning_rate=jnp.array([0.5, 0.2], jnp.float32))
    np.testing.assert_allclose(agent.now(changed, jnp.float32(75.0)).learning_rate, [0.125, 0.05], rtol=1e-6)


# What is refused


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"members": 1}, "a population needs at least 2 members"),
        ({"key": jax.random.key(0)}, "a population needs at least 2 members"),
        ({"population": PopulationBased({"speed": (1, 2)})}, "hill cannot sweep 'speed'; it can sweep learning_rate"),
        ({"population": PopulationBased({"unread": (1, 2)})}, "hill cannot sweep unread: nothing reads it under"),
        ({"population": PopulationBased(RANGES, every=12)}, "every = 12 of the population .* interval, 8 steps"),
        ({"evaluate_every": 0}, "a population needs evaluations: evaluate_every must not be 0"),
        ({"hyper": {"learning_rate": [0.1, 2.0, 0.1, 0.1]}}, "it must be in its range"),
        ({"population": "pbt"}, "population must be a rljax.training.PopulationBased"),
    ],
)
def test_what_cannot_be_a_population_is_refused(how, message):
    with pytest.raises(Refused, match=message):
        climb(**how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"ranges": {}}, "a dict of at least one range"),
        ({"ranges": {"discount": (1.0, 0.9)}}, r"discount = \(1.0, 0.9\) is not allowed"),
        ({"ranges": {"discount": (0.9, 0.95, 1.0)}}, "it must be .lowest, highest"),
        ({"ranges": RANGES, "fraction": 0.6}, "fraction = 0.6 is not allowed"),
        ({"ranges": RANGES, "factors": (0.0,)}, "factors = .* it must be positive"),
        ({"ranges": RANGES, "every": 0}, "every = 0 is not allowed"),
    ],
)
def test_a_bad_setting_is_refused(how, message):
    with pytest.raises(Refused, match=message):
        PopulationBased(**how)


def test_another_population_cannot_resume_a_run(whole):
    for population, message in (
        (PopulationBased(RANGES, fraction=0.5), "settings.population.fraction was 0.25 and is now 0.5"),
        (PopulationBased(RANGES, every=16), "settings.population.every was 8 and is now 16"),
        (SuccessiveHalving(RANGES), "settings.population.method was 'PopulationBased'"),
    ):
        with pytest.raises(Refused, match=message):
            climb(folder=whole.folder, resume=True, population=population)
    with pytest.raises(Refused, match=r"settings\.population\.evaluation_episodes was 20 and is now 3"):
        climb(folder=whole.folder, resume=True, evaluation_episodes=3)
    with pytest.raises(Refused, match="holds another run"):
        train(hill(), 40, keys(4), folder=whole.folder, resume=True, hyper={"learning_rate": [0.1] * 4})


def test_flags_name_the_method_and_the_ranges():
    run = experiment.Run(seeds=8, population="pbt", sweep=("learning-rate=1e-6..1e-2", "discount=0.9,0.99"))
    assert population_of(run) == PopulationBased({"learning_rate": (1e-6, 1e-2)})
    seeds, hyper = members_of(run)
    assert (len(seeds), set(hyper)) == (16, {"discount"})
    halving = dataclasses.replace(run, population="halving", population_every=500)
    assert population_of(halving) == SuccessiveHalving({"learning_rate": (1e-6, 1e-2)}, every=500)
    assert population_of(experiment.Run()) is None
    with pytest.raises(Refused, match="population_every = 5 is not allowed"):
        experiment.Run(population_every=5)
    for bad, message in (
        (dataclasses.replace(run, population=None), "is not allowed without --population"),
        (dataclasses.replace(run, sweep=("learning_rate=..1",)), "it must look like"),
    ):
        with pytest.raises(Refused, match=message):
            (members_of(bad), population_of(bad))
    with pytest.raises(Refused, match="needs a range in --sweep"):
        population_of(dataclasses.replace(run, sweep=()))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_population_of_ppo_resumes_bit_for_bit(tiny, devices, tmp_path):
    """With environments, statistics and pools of reset states."""
    how = {"log_every": 64, "evaluate_every": 128, "checkpoint_every": 64, "evaluation_episodes": 2, "devices": devices}
    how |= {"population": PopulationBased(RANGES), "final_episodes": 4}
    whole = train(tiny, 640, keys(4), folder=tmp_path / "whole", **how)
    train(tiny, 640, keys(4), folder=tmp_path / "run", callbacks=[StopAt(320)], **how)
    second = train(tiny, 640, keys(4), folder=tmp_path / "run", resume=True, **how)
    chex.assert_trees_all_equal(data_of(second.state), data_of(whole.state))
    assert second.evaluation == whole.evaluation
    assert without_seconds(tmp_path / "run") == without_seconds(tmp_path / "whole")
    texts = [(tmp_path / name / "population.csv").read_text() for name in ("run", "whole")]
    assert texts[0] == texts[1]
    assert training.load(tmp_path / "run", member=3)(jax.random.key(0), jnp.zeros(4)) in (0, 1)


@pytest.mark.slow
def test_annealed_values_fall_from_the_new_ones_and_each_member_has_its_best_policy(tiny, tmp_path):
    config = dataclasses.replace(tiny.config, anneal_steps=320, normalize_observation=False, normalize_reward=False)
    population = PopulationBased({"learning_rate": (1e-4, 1e-1)}, factors=(0.5,), resample=0.0)
    how = {"log_every": 64, "evaluate_every": 64, "evaluation_episodes": 2, "folder": tmp_path / "run"}
    result = train(ppo.make(tiny.env, config), 256, keys(2), population=population, **how)
    values = {(row["step"], row["member"]): row for row in result.rows}
    assert len({row["hyper/learning_rate"] for row in result.rows if row["member"] == 0}) > 1
    for (step, _), row in values.items():
        left = 1 - (step - 64) / 320
        assert row["learning_rate"] == pytest.approx(left * row["hyper/learning_rate"], rel=1e-5)
    policy = rljax.load(tmp_path / "run", which="best", member=1)
    assert policy(jax.random.key(0), jnp.ones(4)) in (0, 1)
