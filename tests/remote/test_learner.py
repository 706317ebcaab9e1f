"""The learner: SAC and RLPD from what actors send, with all that the runner does."""

import csv
import threading

import jax
import numpy as np
import pytest

import rljax
from rljax import training
from rljax.algorithms import rlpd, sac
from rljax.algorithms.core.fed import fed
from rljax.envs import ActionRepeat
from rljax.envs.adapters.to_gymnasium import GymnasiumEnv
from rljax.remote import Actor, play
from rljax.remote.feed import FromActors
from rljax.remote.learner import Actors
from rljax.remote.schema import Schema
from rljax.training import Diverged
from rljax.types import Refused
from tests import runs
from tests.datasets import drift_data
from tests.remote.pairs import TOKEN, arm, schema, transitions
from tests.remote.test_server import Lines
from tests.toys import Drift, limited

CONFIG = sac.Config(
    num_envs=2, rollout_length=2, num_updates=4, hidden=(8,), batch_size=8, learning_starts=8, replay_size=400
)


@pytest.fixture
def actors(tmp_path):
    with Actors(TOKEN, folder=tmp_path / "run", say=Lines(), timeout=5.0) as made:
        yield made


def acting(actors, name, env):
    """A thread in which an actor plays until the learner has finished."""

    def run():
        host, port = actors.server.address
        actor = Actor(host, port, TOKEN, name, capacity=16, wait_when_full=True, say=Lines(), timeout=5.0)
        play(actor, GymnasiumEnv(env))
        actor.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def trained(actors, make, steps, **how):
    """A run of two actors in `Drift`."""
    env = limited(Drift(), 5)
    threads = [acting(actors, name, env) for name in ("left", "right")]
    try:
        return runs.train(actors.feed(make(env)), steps, callbacks=[actors], **how)
    finally:
        actors.close("finished")
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


def test_a_run_is_as_any_other_and_can_be_resumed(actors, tmp_path):
    folder = tmp_path / "run"
    make = lambda env: sac.make(env, CONFIG)  # noqa: E731
    result = trained(actors, make, 40, folder=folder, log_every=8)
    rows = runs.read(folder)
    assert [int(row["step"]) for row in rows] == [8, 16, 24, 32, 40]
    # An iteration of four transitions has four updates; the first eight transitions are random.
    assert [float(row["updates"]) for row in rows] == [2, 4, 4, 4, 4]
    assert {float(row["episode/length"]) for row in rows if row["episode/length"]} == {5.0}
    assert result.state.experience.replay.count * 2 == 40
    kept = result.state.experience.replay.data
    # Drift: the next position is the one before and the action, in units from -2 to 4.
    moved = (kept.next_obs - kept.obs)[..., :20, 0]
    np.testing.assert_allclose(moved, 1.0 + 3.0 * kept.action[:, :20, 0], atol=1e-3)
    with (folder / "actors.csv").open() as file:
        last = {row["actor"]: row for row in csv.DictReader(file)}
    assert set(last) == {"left", "right"}
    assert sum(int(row["transitions"]) for row in last.values()) >= 40
    log = (folder / "actors.log").read_text()
    assert "listening on 127.0.0.1:" in log
    assert "connected left" in log
    assert rljax.load(folder, env=limited(Drift(), 5)) is not None
    with Actors(TOKEN, folder=folder, say=Lines(), timeout=5.0) as again:
        resumed = trained(again, make, 48, folder=folder, log_every=8, resume=True)
    assert resumed.steps == 48
    assert resumed.state.experience.replay.count * 2 == 48
    np.testing.assert_array_equal(resumed.state.experience.replay.data.obs[:, :20], kept.obs[:, :20])
    with (folder / "actors.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)][-1] == "48"


@pytest.mark.slow
def test_half_of_each_batch_is_from_demonstrations(actors):
    config = rlpd.Config(
        num_envs=4, num_updates=2, policy_delay=2, num_critics=2, hidden=(8,), batch_size=8, learning_starts=8
    )
    result = trained(actors, lambda env: rlpd.make(env, config, drift_data()), 24, evaluate_every=8, final_episodes=2)
    assert result.rows[-1]["updates"] == 2
    assert np.isfinite(result.rows[-1]["evaluation/return"])
    assert result.evaluation["episodes"] == 2


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(actors):
    config = CONFIG.__class__(**vars(CONFIG) | {"critic_learning_rate": 1e38})
    with pytest.raises(Diverged, match="is not finite"):
        trained(actors, lambda env: sac.make(env, config), 400)


class Queue:
    """What the feed knows of a server."""

    connected = 1

    def __init__(self, count, of=None):
        arrays = transitions(count, of, reward=np.arange(count, dtype=np.float32))
        self.arrays, self.waiting = arrays, count

    def wait(self, count, seconds):
        return self.waiting

    def take(self, count):
        taken = {name: x[:count] for name, x in self.arrays.items()}
        self.arrays = {name: x[count:] for name, x in self.arrays.items()}
        self.waiting -= count
        return taken


def test_iterations_get_transitions_in_their_order_and_whole():
    feed = FromActors(Queue(15), schema(), (2, 3), "arm", None)
    assert feed.most == 32
    assert feed.left(7) == 2
    block, *_ = feed.at(7, lambda x: x)
    assert block.first == [7]
    np.testing.assert_array_equal(block.steps.reward[:2], np.arange(12).reshape(2, 2, 3))
    assert not block.steps.reward[2:].any()
    assert feed.left(8) == 1
    assert feed.at(8, lambda x: x)[0] is block
    assert feed.left(9) == 0
    assert feed.unused(8) == 9
    assert feed.unused(9) == 3
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (block,))
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), feed.example)


def test_a_policy_that_was_learned_without_a_simulator_is_loaded(tmp_path):
    # Of the sizes of `Drift`, whose programs are compiled already.
    env = rljax.make("spaces_only", observation_size=2, action_low=[-2.0], action_high=[4.0])
    of = Schema(env.observation_space, env.action_space)
    algorithm = fed(sac.make(env, CONFIG))._replace(data=FromActors(Queue(16, of), of, (2, 2), "arm", None))
    result = runs.train(algorithm, 16, folder=tmp_path / "run")
    assert np.isfinite(result.rows[-1]["loss/critic"])
    obs = np.zeros(2, np.float32)
    action = rljax.load(tmp_path / "run")(jax.random.key(0), obs)
    np.testing.assert_allclose(action, result.policy(jax.random.key(0), obs))


def test_a_folder_of_another_run_is_left_as_it_is(actors, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(Refused, match="holds a run already"):
        training.train(actors.feed(sac.make(arm(), CONFIG)), jax.random.key(0), 8, runs.QUIET, folder=folder)
    actors.close()
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_repeated_action_is_one_transition_of_several_steps(actors):
    algorithm = actors.feed(sac.make(ActionRepeat(limited(Drift(), 6), 2), CONFIG))
    assert algorithm.per_iteration == 8
