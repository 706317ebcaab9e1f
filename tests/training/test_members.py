"""Members of one program: their seeds, their sweeps, and those that diverge."""

import json
import types
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import training
from rljax.algorithms import dqn, ppo, sac, td3
from rljax.training import runner
from rljax.training.members import read_hyperparameters
from tests.runs import read, train


def test_members_are_the_runs_of_their_seeds_alone_and_load_one_by_one(tiny, tmp_path):
    """To 1e-4 after ten iterations: in one program, sums associate differently."""
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    together = train(tiny, 640, keys, folder=tmp_path / "run", log_every=320)
    for member in range(2):
        alone = train(tiny, 640, jax.random.key(member), log_every=320)
        chex.assert_trees_all_close(
            alone.state.params, jax.tree.map(lambda x, m=member: x[m], together.state.params), atol=1e-4
        )
        policy = rljax.load(tmp_path / "run", member=member)
        chex.assert_trees_all_close(policy.variables, alone.policy.variables, rtol=1e-3, atol=1e-4)
    assert [(row["member"], row["seed"]) for row in read(tmp_path / "run")] == [("0", "0"), ("1", "1")] * 2


def test_a_sweep_sets_each_member_and_labels_its_rows(tiny):
    result = train(tiny, 64, hyper={"learning_rate": [1e-2, 1e-4], "discount": [0.9, 0.99]})
    np.testing.assert_allclose(result.state.hyper.learning_rate, [1e-2, 1e-4])
    assert [row["hyper/discount"] for row in result.rows] == [0.9, 0.99]


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"speed": [1.0, 2.0]}, "ppo cannot sweep 'speed'; it can sweep learning_rate"),
        ({"discount": [0.9, 1.5]}, r"discount = 1\.5 is not allowed"),
        ({"discount": [0.9], "learning_rate": [1e-3, 1e-4]}, "of one length"),
    ],
)
def test_a_bad_sweep_is_refused_before_anything_compiles(tiny, hyper, message):
    with pytest.raises(ValueError, match=message):
        train(tiny, 64, hyper=hyper)


def test_one_diverging_member_does_not_stop_the_others(tiny, capsys):
    result = train(tiny, 128, hyper={"learning_rate": [1e-2, 1e30]}, progress=True, log_every=64)
    assert "member 1 diverged" in capsys.readouterr().err
    assert np.isfinite(result.rows[-2]["loss/value"])


def test_a_member_that_diverged_has_no_score_and_wins_no_comparison(tmp_path):
    """Its actions break the simulation at once, and nothing is paid: the best return that a pendulum has."""
    config = ppo.Config(num_envs=2, rollout_length=8, num_minibatches=1, num_epochs=1, hidden=(4,))
    algorithm = ppo.make(rljax.make("pendulum"), config)
    hyper = {"learning_rate": [1e-3, 1e30]}
    result = train(algorithm, 800, hyper=hyper, folder=tmp_path / "run", evaluate_every=800, final_episodes=2)
    living, lost = (member["deterministic"]["mean"] for member in result.evaluation["members"])
    assert living < 0
    assert np.isnan(lost)
    assert np.isnan([result.rows[-1][name] for name in ("evaluation/return", "episode/return")]).all()
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["members"][1]["deterministic"]["mean"] is None
    policy = rljax.load(tmp_path / "run", member=1)
    assert np.isnan(training.evaluate(algorithm.env, policy, jax.random.key(0), 2).returns).all()


def test_the_score_is_of_members_that_live():
    lost = types.SimpleNamespace(lost={1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runner._Runner.score(lost, np.array([1.0, 5.0, 3.0, np.nan])) == 2.0
        assert runner._Runner.score(lost, np.array([np.nan, 5.0])) is None


UNREAD = {
    "td3, all alike": (td3, {}, "pendulum", {"noise_min", "noise_max"}),
    "td3, each its own": (td3, {"noise_max": 0.4}, "pendulum", {"exploration_noise"}),
    "dqn": (dqn, {}, "cartpole", {"priority_exponent", "importance_exponent"}),
    "noisy": (
        dqn,
        {"exploration": "noisy", "prioritized": True},
        "cartpole",
        {"exploration_start", "exploration_end", "exploration_steps"},
    ),
    "sac": (sac, {"learn_temperature": False}, "pendulum", {"target_entropy_per_dim", "temperature_learning_rate"}),
    "sac, all read": (sac, {}, "pendulum", set()),
}


@pytest.mark.parametrize("case", UNREAD)
def test_what_nothing_reads_cannot_be_swept(case):
    """Members would be equal bit for bit, and a sweep's curves would show noise, or nothing."""
    module, settings, env, unread = UNREAD[case]
    config = module.Config(num_envs=2, batch_size=4, replay_size=64, learning_starts=4, hidden=(4,), **settings)
    algorithm = module.make(rljax.make(env), config)
    known = set(jax.eval_shape(algorithm.init, jax.random.key(0)).hyper.__dataclass_fields__)
    assert known - read_hyperparameters(algorithm) == unread
    if unread:
        name = min(unread)
        with pytest.raises(rljax.types.Refused, match=f"{algorithm.name} cannot sweep {name}: nothing reads it under"):
            train(algorithm, 64, hyper={name: [0.1, 0.2]})
