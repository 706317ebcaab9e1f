"""The runner: what it counts, writes, refuses and stops at."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import training
from rljax.algorithms import ppo
from rljax.envs import Environment, TimeLimit, initial_state
from rljax.spaces import Box, Discrete
from rljax.training import checkpoint, runner
from rljax.training.lock import locked
from rljax.training.start import of_its_own
from rljax.types import Refused
from tests.runs import read, train
from tests.toys import CounterConfig, counter


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A run of 10 iterations with everything on."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = train(
        tiny,
        640,
        folder=folder,
        log_every=128,
        evaluate_every=256,
        evaluation_episodes=6,
        final_episodes=6,
        tensorboard=True,
    )
    return result


def test_a_run_folder_holds_what_is_needed_to_repeat_the_run(whole):
    names = {path.name for path in whole.folder.iterdir()}
    assert {"config.json", "versions.json", "metrics.csv", "checkpoints", "evaluation.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    config = json.loads((whole.folder / "config.json").read_text())
    assert config["algorithm"] == "ppo"
    assert config["env"] == {"name": "cartpole", "max_episode_steps": 20}
    assert config["config"]["hidden"] == [8]
    assert json.loads((whole.folder / "versions.json").read_text())["versions"]["jax"] == jax.__version__


def test_metrics_are_written_once_a_log_and_evaluations_where_they_are_due(whole):
    rows = read(whole.folder)
    assert [int(row["step"]) for row in rows] == [128, 256, 384, 512, 640]
    assert [bool(row["evaluation/return"]) for row in rows] == [False, True, False, True, True]
    assert all(0 < float(row["episode/return"]) <= 20 for row in rows)
    assert whole.rows[-1]["loss/value"] == pytest.approx(float(rows[-1]["loss/value"]))


def test_a_budget_that_does_not_divide_is_rounded_up_and_what_was_made_is_reported(tiny):
    assert train(tiny, 100).steps == 128


def test_steps_are_counted_past_the_largest_int32(tiny):
    many = tiny._replace(per_iteration=2**31)
    result = train(many, 3 * 2**31, log_every=2**31)
    assert result.steps == 3 * 2**31
    assert [row["step"] for row in result.rows] == [2**31, 2**32, 3 * 2**31]


def test_slicing_does_not_change_the_result(tiny, monkeypatch):
    expected = train(tiny, 640).state
    monkeypatch.setattr(runner, "SLICE_SECONDS", 0.0)
    chex.assert_trees_all_equal(expected.params, train(tiny, 640).state.params)


def test_logged_metrics_are_means_over_the_steps_since_the_last_log(tiny):
    fine = [row["loss/value"] for row in train(tiny, 640, log_every=64).rows]
    coarse = [row["loss/value"] for row in train(tiny, 640, log_every=320).rows]
    np.testing.assert_allclose(coarse, [np.mean(fine[:5]), np.mean(fine[5:])], rtol=1e-5)


def test_the_best_checkpoint_scores_what_was_recorded(whole, tiny):
    """The saved policy is the one that was evaluated, not the one from before or after."""
    best = max((row for row in whole.rows if "evaluation/return" in row), key=lambda row: row["evaluation/return"])
    policy = rljax.load(whole.folder, which="best")
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), runner.EVALUATION_STREAM), best["step"] // 64)
    episodes = training.evaluate(tiny.env, policy, jax.random.split(key)[0], 6)
    assert np.asarray(episodes.returns).mean() == best["evaluation/return"]


def test_evaluation_is_deterministic_where_it_says_so_and_uses_keys_that_training_never_sees(whole, tiny):
    key = jax.random.key(0)
    first, second = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, runner.EVALUATION_STREAM), 10))
    member = whole.evaluation["members"][0]
    for name, key, deterministic in (("deterministic", first, True), ("stochastic", second, False)):
        episodes = training.evaluate(tiny.env, whole.policy, key, 6, deterministic, tiny.config.discount)
        assert member[name]["mean_discounted"] == np.asarray(episodes.discounted).mean() < member[name]["mean"]
        assert member[name]["mean"] == np.asarray(episodes.returns).mean()
        assert member[name]["mean_length"] == np.asarray(episodes.lengths).mean()
    # fold_in(key, i) is split(key, n)[i]: a small number would have given evaluation the keys of training.
    trained = jax.random.key_data(jax.random.split(jax.random.key(0), 1000))
    evaluated = jax.random.key_data(jax.random.fold_in(jax.random.key(0), runner.EVALUATION_STREAM))
    assert not (trained == evaluated).all(-1).any()


def test_load_gives_the_trained_policy_with_its_statistics(whole):
    loaded, trained = rljax.load(whole.folder), whole.policy
    chex.assert_trees_all_equal(loaded.variables, trained.variables)
    assert loaded.variables["obs_statistics"].count > 0
    obs = jnp.ones(4)
    assert loaded(jax.random.key(0), obs) == trained(jax.random.key(0), obs)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"member": 1}, "member = 1 is not in"), ({"which": 7}, r"no checkpoint 7 in .*; there are \[")],
)
def test_load_says_what_is_not_there(whole, options, message):
    with pytest.raises(ValueError, match=message):
        rljax.load(whole.folder, **options)


def test_load_says_when_a_folder_is_not_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"is not a run folder: it has no config\.json"):
        rljax.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="it is not JSON"):
        rljax.load(tmp_path)


def test_a_folder_that_holds_a_run_is_not_written_over(whole, tiny):
    with pytest.raises(ValueError, match="holds a run already"):
        train(tiny, 640, folder=whole.folder)


def test_resuming_another_config_is_refused_and_names_what_differs(whole, tiny):
    other = ppo.make(tiny.env, dataclasses.replace(tiny.config, discount=0.5))
    with pytest.raises(ValueError, match=r"holds another run: config\.discount was 0\.99 and is now 0\.5"):
        train(other, 640, folder=whole.folder, resume=True)


def test_a_task_wrapped_otherwise_is_another_run_and_is_not_made_again_by_name(whole, tiny, tmp_path):
    env = TimeLimit(tiny.env, 10)
    with pytest.raises(ValueError, match=r"holds another run: env\.\w+ was .* and is now"):
        train(ppo.make(env, tiny.config), 640, folder=whole.folder, resume=True)
    config = json.loads((whole.folder / "config.json").read_text()) | {"env": env.spec}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trained on an environment that is not in the registry, or on a wrapped one"):
        rljax.load(tmp_path)


def test_a_run_of_an_algorithm_of_ones_own_is_loaded_with_its_module(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "own")
    config = json.loads((whole.folder / "config.json").read_text()) | {"algorithm": "reinforce"}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    with pytest.raises(Refused, match="was trained by 'reinforce', which is not rljax's: pass algorithm=, its module"):
        rljax.load(tmp_path / "own")
    obs, key = jnp.zeros(4), jax.random.key(0)
    loaded = rljax.load(tmp_path / "own", algorithm=ppo)
    np.testing.assert_array_equal(loaded(key, obs), rljax.load(whole.folder)(key, obs))


def test_a_resumed_run_may_go_on_for_longer(tiny, tmp_path):
    train(tiny, 320, folder=tmp_path / "run", log_every=64)
    longer = train(tiny, 640, folder=tmp_path / "run", log_every=64, resume=True)
    chex.assert_trees_all_equal(longer.state.params, train(tiny, 640).state.params)
    assert [int(row["step"]) for row in read(tmp_path / "run")] == list(range(64, 641, 64))


class Poison(Environment):
    """Rewards are finite, but after a while their squares are not: what is not finite itself never gets this far."""

    observation_space = Box(0.0, 1.0, (1,))
    action_space = Discrete(2)

    def reset(self, key):
        return initial_state(jnp.int32(0), jnp.zeros(1))

    def step(self, state, action):
        count = state.physics + 1
        return state.replace(physics=count, reward=jnp.where(count > 20, 1e30, 1.0).astype(jnp.float32))


def test_nan_stops_the_run_with_step_metric_and_last_good_checkpoint(tiny, tmp_path):
    algorithm = ppo.make(TimeLimit(Poison(), 100), dataclasses.replace(tiny.config, normalize_reward=False))
    with pytest.raises(training.Diverged, match=r"is not finite at step 192; last good checkpoint: .*checkpoints/2"):
        train(algorithm, 640, folder=tmp_path / "run", log_every=64, checkpoint_every=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_every": 0}, "log_every = 0 is not allowed"),
        ({"evaluate_every": -1}, r"evaluate_every = -1 is not allowed"),
        ({"devices": 99}, "devices = 99 is not allowed; there are 4"),
        ({"keep_checkpoints": 1, "folder": "x"}, "keep_checkpoints = 1"),
    ],
)
def test_bad_arguments_are_refused(tiny, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        train(tiny, 64, **options)


def test_zero_steps_are_refused(tiny):
    with pytest.raises(ValueError, match="total_steps = 0 is not allowed"):
        train(tiny, 0)


def test_an_environment_without_time_limit_can_train_but_not_be_evaluated():
    algorithm = ppo.make(rljax.make("cartpole", max_episode_steps=None))
    with pytest.raises(ValueError, match="has no time limit"):
        train(algorithm, 64, final_episodes=10)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_is_being_written_is_refused(tmp_path):
    with locked(tmp_path / "run"), pytest.raises(Refused, match="is being written by process"):
        train(counter(), 2, folder=tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    train(counter(), 2, folder=tmp_path / "run", resume=True)
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_folder_is_held_while_training_lasts(tmp_path, monkeypatch):
    log = runner._Runner.log

    def probe(self, *arguments):
        with pytest.raises(Refused, match=f"process {os.getpid()} on"), locked(tmp_path / "run"):
            pass
        return log(self, *arguments)

    monkeypatch.setattr(runner._Runner, "log", probe)
    assert train(counter(), 2, folder=tmp_path / "run").steps == 2


def test_other_settings_are_refused_before_anything_is_written(tmp_path):
    """Two policies to be steered, say, which nothing else in config.json tells apart."""
    train(counter(), 2, folder=tmp_path / "run", settings={"base": "a"})
    before = contents(tmp_path)
    with pytest.raises(Refused, match=r"holds another run: settings\.base was 'a' and is now 'b'"):
        train(counter(), 4, folder=tmp_path / "run", settings={"base": "b"}, resume=True)
    assert contents(tmp_path) == before


def test_what_an_algorithm_was_given_is_compared(tmp_path):
    """The policy that is steered or evaluated, through the Python API too."""
    one, other = (counter()._replace(identity=functools.partial(dict, base_sha256=sha)) for sha in ("ab", "cd"))
    train(one, 2, folder=tmp_path / "run", settings={"base": "a"})
    with pytest.raises(Refused, match=r"holds another run: settings\.base_sha256 was 'ab' and is now 'cd'"):
        train(other, 4, folder=tmp_path / "run", settings={"base": "a"}, resume=True)


class Breaks(Environment):
    """Every simulation breaks at its second step."""

    name = "breaks"
    observation_space, action_space = Box(-1.0, 1.0, (1,)), Discrete(2)

    def reset(self, key):
        return initial_state(jnp.int32(0), jnp.zeros(1))

    def step(self, state, action):
        time = state.physics + 1
        return state.replace(physics=time, obs=jnp.where(time > 1, jnp.nan, 0.0)[None], reward=jnp.float32(1.0))


def test_lines_say_that_nothing_was_found_and_that_simulations_broke(tmp_path, capsys, monkeypatch):
    """Without a bar, too, on what looks like a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    folder, fragile = tmp_path / "run", counter()._replace(env=TimeLimit(Breaks(), 3))
    how = {"folder": folder, "resume": True, "final_episodes": 2}
    evaluation = train(fragile, 2, progress="lines", **how).evaluation
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"nothing to resume was found in {folder}: training starts from the beginning"
    assert "ready after" in lines[1]
    broke = "simulations broke in 100.0% of the {} episodes (of each member), which ended there"
    assert lines[-2:] == [broke.format("deterministic"), broke.format("stochastic")]
    assert json.loads((folder / "evaluation.json").read_text()) == evaluation
    assert evaluation["members"][0]["deterministic"]["unstable"] == 1.0
    assert train(counter(), 2, final_episodes=2).evaluation["members"][0]["stochastic"]["unstable"] == 0.0
    assert capsys.readouterr().err == ""  # nothing is shown where nothing is asked for
    train(fragile, 2, progress="lines", **how)
    assert "nothing to resume" not in capsys.readouterr().err


def test_other_columns_are_refused_before_anything_is_written(tmp_path):
    train(counter(), 2, folder=tmp_path / "run")
    path = tmp_path / "run" / "metrics.csv"
    path.write_text(path.read_text().replace("loss", "loss/old"))
    before = contents(tmp_path)
    with pytest.raises(Refused, match="has other columns than this run: loss/old"):
        train(counter(), 4, folder=tmp_path / "run", resume=True)
    assert contents(tmp_path) == before


def test_wandb_that_is_not_installed_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(Refused, match="wandb is not installed"):
        train(counter(), 4, folder=tmp_path / "run", wandb=True)
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_leaves_no_evaluation_of_its_first_leg(tmp_path):
    """It may begin without evaluations, too, and be resumed with them."""
    run = tmp_path / "run"
    train(counter(), 2, folder=run, log_every=1, final_episodes=1)
    assert json.loads((run / "evaluation.json").read_text())["steps"] == 2
    (run / "learning_curve.png").touch()
    train(counter(), 2, folder=run, log_every=1, resume=True)  # it is at its end already
    assert (run / "evaluation.json").exists()
    train(counter(), 4, folder=run, log_every=1, resume=True, evaluate_every=1, evaluation_episodes=1)
    assert not (run / "evaluation.json").exists()
    assert not (run / "learning_curve.png").exists()
    rows = read(run)
    assert [(row["step"], row["evaluation/return"]) for row in rows] == [
        ("1", ""),
        ("2", ""),
        ("3", "3.0"),
        ("4", "3.0"),
    ]


def test_a_resumed_run_holds_one_state_and_not_two(tmp_path, monkeypatch):
    """A replay buffer of more than half the memory can be trained, and must not be lost to a resumption."""
    algorithm = counter(CounterConfig(size=1_000_000))
    train(algorithm, 2, folder=tmp_path / "run")
    most, before = [], sum(x.nbytes for x in jax.live_arrays())
    read, run_slice = checkpoint.Checkpointer.read, runner._Runner.run_slice

    def watched(function):
        def call(*arguments):
            result = function(*arguments)
            most.append(sum(x.nbytes for x in jax.live_arrays() if not x.is_deleted()) - before)
            return result

        return call

    monkeypatch.setattr(checkpoint.Checkpointer, "read", watched(read))
    monkeypatch.setattr(runner._Runner, "run_slice", watched(run_slice))
    result = train(algorithm, 4, folder=tmp_path / "run", resume=True, checkpoint_every=0)  # a save holds a copy
    np.testing.assert_array_equal(result.state.params, 4.0)
    assert len(most) >= 3
    assert 4_000_000 <= max(most) < 1.1 * 4_000_000


def test_initialize_copies_what_it_shares_with_others_and_nothing_else():
    mine, other = jnp.zeros(3), jnp.ones(3)
    state = of_its_own({"a": mine, "b": mine, "c": other}, {"x": mine})
    assert state["a"] is mine
    assert state["b"] is not mine
    assert state["c"] is not other
    chex.assert_trees_all_equal(state, {"a": mine, "b": mine, "c": other})


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="only where terminals hang up")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_goes_stops_the_run_with_all_saved_unless_that_is_ignored(tmp_path, monkeypatch, ignored):
    log = runner._Runner.log

    def hang_up(self, *arguments):
        os.kill(os.getpid(), signal.SIGHUP)
        return log(self, *arguments)

    monkeypatch.setattr(runner._Runner, "log", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        result = train(counter(), 100, folder=tmp_path / "run", log_every=10)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.interrupted == (None if ignored else signal.SIGHUP)
    assert result.steps == (100 if ignored else 10)
    assert (tmp_path / "run" / "checkpoints" / str(result.steps) / "MANIFEST.json").exists()


def test_output_that_nobody_reads_any_more_does_not_end_training(tmp_path, monkeypatch):
    """As in `ppo.py 2>&1 | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        result = train(counter(), 4, folder=tmp_path / "run", progress=True)
        assert sys.stderr is stream
        stream.flush()  # as Python does when it ends: it leads nowhere now
        monkeypatch.undo()
    assert result.steps == 4
    with os.fdopen(os.dup(1), "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        stream.close()
        assert train(counter(), 4, progress=True).steps == 4
        monkeypatch.undo()


def test_a_config_may_hold_numbers_of_numpy_and_jax_and_infinity(tmp_path):
    config = CounterConfig(size=np.int64(2), anneal_steps=jnp.int32(3), limit=np.inf)
    train(counter(config), 2, folder=tmp_path / "run")
    text = (tmp_path / "run" / "config.json").read_text()
    held = json.loads(text, parse_constant=pytest.fail)["config"]
    assert held == {"size": 2, "anneal_steps": 3, "limit": "inf"}
    train(counter(CounterConfig(2, 3)), 2, folder=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CounterConfig(size=2.0), r"toys\.CounterConfig: size = 2\.0 is not allowed; it must be whole"),
        (
            CounterConfig(limit=np.zeros(2)),
            r"toys\.CounterConfig: limit = array.* must be a number",
        ),
        (CounterConfig(limit={1}), r"toys\.CounterConfig: limit = \{1\} is not allowed; it must be a number"),
    ],
)
def test_a_config_that_cannot_be_written_down_is_refused_by_its_field(config, message, tmp_path):
    with pytest.raises(Refused, match=message):
        train(counter(CounterConfig())._replace(config=config), 2, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fraction_is_refused_where_a_config_is_made():
    for field in ("num_envs", "rollout_length"):
        with pytest.raises(Refused, match=rf"ppo\.Config: {field} = 8\.0 is not allowed; it must be whole"):
            ppo.Config(**{field: 8.0})
    assert ppo.Config(num_envs=np.int64(8), num_minibatches=1).num_envs == 8
