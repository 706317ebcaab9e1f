"""Actors and a learner apart: a run that ends, resumes, stops and fails as any other, and what it says of ages."""

import dataclasses
import json
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import dqn, impala
from rljax.envs import Environment, State
from rljax.envs.host_call import host_call
from rljax.training import Callback, sebulba
from rljax.training.sebulba import with_actors
from rljax.types import Refused
from tests import runs
from tests.toys import Clock, limited

CONFIG = impala.Config(num_envs=2, rollout_length=8, hidden=(4,), normalize_observation=True, normalize_reward=True)
PER_ITERATION = 16


def make():
    return impala.make(rljax.make("gymnasium:CartPole-v1", max_episode_steps=20), CONFIG)


def actors():
    return [thread for thread in threading.enumerate() if thread.name.startswith("actor-")]


def test_a_run_ends_with_a_whole_folder_and_goes_on_from_it(tmp_path):
    folder, plan = tmp_path / "run", {"log_every": 2 * PER_ITERATION, "evaluate_every": 10 * PER_ITERATION}
    plan |= {"evaluation_episodes": 2, "final_episodes": 2}
    algorithm = with_actors(make, actors=2, queue_size=2)
    result = runs.train(algorithm, 10 * PER_ITERATION, folder=folder, **plan)
    assert result.steps == 160
    assert not actors()
    rows = runs.read(folder)
    assert [int(row["step"]) for row in rows] == [32, 64, 96, 128, 160]
    for row in rows[1:]:
        # Two rollouts wait at most, and each actor has one in hand and one that is being made.
        assert 0 <= float(row["actors/lag"]) <= 2 + 2 * 2
        assert 0 <= float(row["actors/queue"]) <= 2
        assert 0 < float(row["importance/weight"]) <= 1
        assert float(row["episode/length"] or 0) <= 20  # empty where none has ended
    assert float(rows[0]["actors/wait"]) >= 0
    assert json.loads((folder / "evaluation.json").read_text())["steps"] == 160
    described = json.loads((folder / "config.json").read_text())
    assert (described["algorithm"], described["data"]) == ("impala", {"actors": 2, "queue_size": 2})
    policy = rljax.load(folder)
    assert policy(jax.random.key(0), jnp.zeros(4)).shape == ()

    again = runs.train(algorithm, 14 * PER_ITERATION, folder=folder, resume=True, log_every=2 * PER_ITERATION)
    assert (again.steps, int(again.state.iteration)) == (224, 14)
    assert [int(row["step"]) for row in runs.read(folder)] == [32, 64, 96, 128, 160, 192, 224]
    with pytest.raises(Refused, match=r"holds another run: data.actors was 2 and is now 1"):
        runs.train(with_actors(make, actors=1), 14 * PER_ITERATION, folder=folder, resume=True, **plan)


class Signalling(Callback):
    def on_log(self, steps, rows):
        os.kill(os.getpid(), signal.SIGTERM)


def clock():
    return impala.make(limited(Clock(3, False), 5), dataclasses.replace(CONFIG, normalize_observation=False))


def test_sigterm_saves_and_stops_the_actors(tmp_path):
    result = runs.train(
        with_actors(clock, actors=1),
        100 * PER_ITERATION,
        folder=tmp_path / "run",
        log_every=16,
        callbacks=[Signalling()],
    )
    assert (result.interrupted, result.steps) == (signal.SIGTERM, PER_ITERATION)
    assert not actors()
    assert (tmp_path / "run" / "checkpoints" / "1" / "MANIFEST.json").exists()


@pytest.mark.slow
def test_with_one_actor_that_waits_it_learns_what_the_ordinary_run_learns():
    """From data of the same policy: the first update of both, though the actors draw other actions."""
    result = runs.train(with_actors(clock, actors=1, queue_size=1), PER_ITERATION)
    alone = runs.train(clock(), PER_ITERATION)
    assert result.rows[0]["actors/lag"] == 0
    np.testing.assert_allclose(result.rows[0]["importance/weight"], 1.0, atol=1e-6)
    assert result.rows[0].keys() - alone.rows[0].keys() == {"actors/lag", "actors/queue", "actors/wait"}
    # The clock pays 1 whatever is done, so that the returns, their deviation and the values' targets are the same.
    np.testing.assert_allclose(result.state.return_statistics.mean, alone.state.return_statistics.mean, rtol=1e-5)
    np.testing.assert_allclose(result.rows[0]["loss/value"], alone.rows[0]["loss/value"], rtol=1e-4)


class Failing(Environment):
    """A simulator on the host that fails at its eleventh step."""

    pure = False
    observation_space, action_space = Clock(3, False).observation_space, Clock.action_space

    def __init__(self):
        self.steps = 0

    def reset(self, key) -> State:
        return Clock(3, False).reset(key)

    def step(self, state, action) -> State:
        after = Clock(3, False).step(state, action)
        (reward,) = host_call(self.count, [action], [jax.ShapeDtypeStruct((), jnp.float32)], effect=True)
        return after.replace(reward=reward)

    def count(self, actions):
        self.steps += 1
        if self.steps > 10:
            raise OSError("the simulator has gone")
        return [np.zeros(len(actions), np.float32)]


def test_what_is_raised_in_an_actor_ends_the_run(tmp_path):
    algorithm = with_actors(lambda: impala.make(limited(Failing(), 5), CONFIG), actors=1)
    with pytest.raises(Exception, match="the simulator has gone") as error:
        runs.train(algorithm, 100 * PER_ITERATION, folder=tmp_path / "run")
    assert any(entry.name == "_act" for entry in error.traceback)
    assert not actors()


def test_a_learner_that_gets_nothing_gives_up(monkeypatch):
    monkeypatch.setattr(sebulba, "PATIENCE", 0.3)
    monkeypatch.setattr(sebulba.Actors, "_act", lambda self, *_: self._stop.wait())
    with pytest.raises(TimeoutError, match="no actor has delivered anything for"):
        runs.train(with_actors(clock), PER_ITERATION)
    assert not actors()


def test_what_cannot_have_actors_is_refused():
    with pytest.raises(Refused, match="actors = 0 is not allowed; it must be at least 1"):
        with_actors(clock, actors=0)
    with pytest.raises(Refused, match="dqn cannot leave acting to actors"):
        with_actors(lambda: dqn.make(rljax.make("cartpole"), dqn.Config(hidden=(4,))))
    with pytest.raises(Refused, match="actors feed one member: no seeds or sweeps in one program"):
        runs.train(with_actors(clock), PER_ITERATION, jax.random.split(jax.random.key(0), 2))
    if jax.device_count() > 1:
        with pytest.raises(Refused, match="actors feed a learner on one device: --devices 1"):
            runs.train(with_actors(clock), PER_ITERATION, devices=2)
