"""The best policy of each member, and algorithms that evaluate themselves."""

import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.training import StopAtReturn, loading
from rljax.training.checkpoint import Checkpointer, _manifest_sum
from rljax.types import Refused
from tests.runs import read, train
from tests.toys import CounterConfig, CounterState, counter

PLAN = {"log_every": 2, "evaluate_every": 2}


def peaked(config=None):
    """A counter that scores best after as many steps as its seed says, and diverges where that is more than 100.

    Its policy's variables are the steps made.
    """

    def init(key):
        return CounterState(jnp.stack([0.0, jax.random.key_data(key)[-1].astype(jnp.float32)]), ())

    def step(state):
        steps, peak = state.params
        loss = jnp.where(peak > 100, jnp.inf, steps)
        return state.replace(params=state.params.at[0].add(1.0)), {"loss": loss}

    def evaluate(state, key):
        steps, peak = state.params
        return {"score": -jnp.abs(steps - peak), "noise": jax.random.uniform(key)}

    env = rljax.make("cartpole", max_episode_steps=None)
    algorithm = counter(config or CounterConfig())
    return algorithm._replace(init=init, step=step, evaluate=evaluate, env=env)


def keys(*seeds):
    return jax.vmap(jax.random.key)(jnp.array(seeds))


@pytest.fixture
def load(monkeypatch):
    """`rljax.load`, which finds the counter."""
    module = types.SimpleNamespace(Config=CounterConfig, make=lambda env, config: peaked(config))
    monkeypatch.setattr(loading.algorithms, "get", lambda name: module)
    return lambda *args, **options: rljax.load(*args, env=peaked().env, **options).variables.tolist()


def without_best(folder):
    """What the folder would be, had it been made before the best was kept."""
    for path in (folder / "checkpoints").glob("*/MANIFEST.json"):
        manifest = json.loads(path.read_text())
        del manifest["progress"]["best"], manifest["manifest_sha256"]
        shutil.rmtree(path.parent / "best")
        kept = {name: value for name, value in manifest["sha256"].items() if not name.startswith("best/")}
        manifest |= {"sha256": kept}
        path.write_text(json.dumps(manifest | {"manifest_sha256": _manifest_sum(manifest)}))


def test_each_member_keeps_its_best_through_resumptions_and_deleted_checkpoints(tmp_path, load):
    for folder, stops in (("whole", [10]), ("parts", [4, 10])):
        for steps in stops:
            train(peaked(), steps, keys(2, 6, 6), folder=tmp_path / folder, resume=True, **PLAN)
        found = [load(tmp_path / folder, which="best", member=member) for member in range(3)]
        assert found == [[2.0], [6.0], [6.0]]
        assert load(tmp_path / folder, member=1) == [10.0]
        assert load(tmp_path / folder, which=8) == [8.0]
        checkpointer = Checkpointer(tmp_path / folder / "checkpoints", read_only=True)
        assert checkpointer.iterations() == [6, 8, 10]  # 6 has the best mean of all
        assert checkpointer.progress(10)["best"] == {"scores": [0.0, 0.0, 0.0], "steps": [2, 6, 6]}
        checkpointer.close()
    rows = read(tmp_path / "whole")
    assert [float(row["evaluation/score"]) for row in rows if row["member"] == "0"] == [0.0, -2.0, -4.0, -6.0, -8.0]


def test_a_run_of_one_member_has_a_best_too(tmp_path, load):
    train(peaked(), 6, jax.random.key(4), folder=tmp_path / "run", **PLAN)
    assert load(tmp_path / "run", which="best") == [4.0]


def test_a_member_that_diverged_never_wins(tmp_path, load):
    train(peaked(), 4, keys(2, 101), folder=tmp_path / "run", **PLAN)
    assert load(tmp_path / "run", which="best", member=0) == [2.0]
    with pytest.raises(Refused, match=r"member 1 of .* diverged before its first evaluation, so it has no best policy"):
        load(tmp_path / "run", which="best", member=1)


def test_what_was_never_evaluated_has_no_best(tmp_path, load):
    train(peaked(), 4, folder=tmp_path / "run", log_every=2)
    with pytest.raises(Refused, match=r"no policy in .* was evaluated on the way, so none is the best"):
        load(tmp_path / "run", which="best")


def test_no_other_word_says_which(tmp_path):
    with pytest.raises(Refused, match="which = 'last' is not allowed; it must be newest, best or an iteration"):
        rljax.load(tmp_path, which="last")


def test_a_folder_from_before_has_the_best_of_one_member_and_goes_on(tmp_path, load):
    one, two = tmp_path / "one", tmp_path / "two"
    train(peaked(), 4, jax.random.key(2), folder=one, **PLAN)
    train(peaked(), 4, keys(2, 2), folder=two, **PLAN)
    without_best(one)
    without_best(two)
    assert load(one, which="best") == [2.0]
    with pytest.raises(Refused, match=r"was made before .*; the checkpoint with the best mean of .* is which=2"):
        load(two, which="best")
    train(peaked(), 6, keys(2, 2), folder=two, resume=True, **PLAN)
    assert load(two, which="best", member=1) == [6.0]  # of what was evaluated since then


def test_the_best_policies_of_ppo_score_what_was_recorded(tiny, tmp_path):
    """Two members whose best evaluations are at different steps."""
    options = {"log_every": 64, "evaluate_every": 64, "evaluation_episodes": 4}
    result = train(tiny, 512, keys(0, 1), folder=tmp_path / "run", **options)
    best = []
    for member in range(2):
        rows = [row for row in result.rows if row["member"] == member]
        best.append(max(rows, key=lambda row: row["evaluation/return"])["step"])
    assert best[0] != best[1]
    checkpointer = Checkpointer(tmp_path / "run" / "checkpoints", read_only=True)
    assert checkpointer.progress(8)["best"]["steps"] == best
    checkpointer.close()
    for member, step in enumerate(best):
        then = train(tiny, step, keys(0, 1), log_every=64).policy
        policy = rljax.load(tmp_path / "run", which="best", member=member)
        jax.tree.map(lambda x, y, m=member: np.testing.assert_array_equal(x, y[m]), policy.variables, then.variables)


def test_an_algorithm_evaluates_itself_without_a_time_limit(tmp_path, capsys):
    result = train(
        peaked(),
        8,
        keys(2, 6),
        folder=tmp_path / "run",
        final_episodes=1,
        progress="lines",
        **PLAN,
        callbacks=[StopAtReturn(-1.5)],
    )
    assert result.stopped is None  # the mean is never above -2
    assert "step            2   evaluation score      -2.00" in capsys.readouterr().err
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [member["scores"]["score"] for member in evaluation["members"]] == [-6.0, -2.0]
    assert evaluation["episodes"] == 0
    first = read(tmp_path / "run")[:2]
    assert 0 <= float(first[0]["evaluation/noise"]) != float(first[1]["evaluation/noise"])  # keys of their own
    with pytest.raises(Refused, match="evaluate_in must be None: counter is not evaluated by episodes"):
        train(peaked(), 8, evaluate_in=peaked().env)


def test_an_algorithm_without_a_score_has_no_best(tmp_path, load, capsys):
    algorithm = peaked()._replace(evaluate=lambda state, key: {"steps": state.params[0]})
    train(algorithm, 4, folder=tmp_path / "run", progress="lines", **PLAN)
    assert "step            4   evaluation steps       4.00" in capsys.readouterr().err
    with pytest.raises(Refused, match="none is the best"):
        load(tmp_path / "run", which="best")
