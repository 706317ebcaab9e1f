"""An actor: it acts on without a learner, keeps and drops what it must, and says what it refuses."""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from rljax.remote import Actor, Clock, play
from rljax.remote.schema import Schema
from rljax.remote.server import Offer, Server
from rljax.spaces import vector
from rljax.types import Refused
from tests.remote.pairs import TOKEN, arm, schema
from tests.remote.test_server import Lines


@pytest.fixture(scope="module")
def program():
    """Acts by its one array, unless it is not trained; its memory counts the steps of an episode."""

    def act(leaves, key_data, memory, obs, trained):
        return jnp.where(trained, leaves[0], 0.0) + 0.0 * obs[:2], key_data, [memory[0] + 1]

    shapes = ([jnp.zeros(2)], jax.random.key_data(jax.random.key(0)), [jnp.int32(0)], jnp.zeros(3), jnp.bool_(False))
    return export.export(jax.jit(act))(*shapes).serialize()


@pytest.fixture
def learner(program):
    """Makes learners that hand out this program."""
    made = []

    def make(port=0, of=None, **how):
        server = Server(TOKEN, port=port, log=Lines(), **how)
        server.open(schema() if of is None else of, bytes(program), (np.int32(0),))
        server.publish(Offer(0, False, (np.float32([1, 2]),)))
        made.append(server)
        return server

    yield make
    for server in made:
        server.close()


@pytest.fixture
def actor():
    made = []

    def make(server, **how):
        host, port = server.address
        made.append(Actor(host, port, TOKEN, "arm", **{"say": Lines(), "timeout": 5.0} | how))
        return made[-1]

    yield make
    for one in made:
        one._closing = True


class Line:
    """Three steps an episode, which begins at 0 and is paid its number."""

    def __init__(self, human=None):
        self.human, self.resets = human, 0

    def reset(self):
        self.time, self.resets = 0, self.resets + 1
        return np.zeros(3), {}

    def step(self, action):
        self.time += 1
        info = {} if self.human is None else {"intervene_action": self.human}
        return np.full(3, self.time), float(self.time), self.time == 3, False, info


def test_what_is_played_arrives_as_it_was(learner, actor):
    server = learner()
    one = actor(server)
    played = play(one, Line(), steps=6)
    assert (played.steps, played.episodes, played.mean_return) == (6, 2, 6.0)
    assert one.flush(5)
    found = server.take(6)
    np.testing.assert_array_equal(found["obs"][:, 0], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(found["next_obs"][:, 0], [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(found["reward"], [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(found["terminated"], [False, False, True] * 2)
    np.testing.assert_array_equal(found["episode_return"], [1, 3, 6, 1, 3, 6])
    np.testing.assert_array_equal(found["episode_length"], [1, 2, 3, 1, 2, 3])
    assert not found["intervened"].any()
    assert one._memory[0] == 3  # of the last episode
    one.close()
    server.log.expect("left arm")


def test_a_new_policy_acts_without_a_new_program(learner, actor):
    server = learner()
    one = actor(server)
    assert one.act(np.zeros(3)).tolist() == [0, 0]  # not trained yet
    program = one._program
    server.publish(Offer(5, True, (np.float32([0.5, 1.5]),)))
    for _ in range(100):
        if one.version == 5:
            break
        time.sleep(0.05)
    assert one.act(np.zeros(3)).tolist() == [0.5, 1.5]
    assert one._program is program


def test_a_humans_action_is_what_is_recorded(learner, actor):
    server = learner()
    one = actor(server)
    play(one, Line(human=[1.5, -0.5]), steps=1)
    assert one.flush(5)
    found = server.take(1)
    assert found["action"].tolist() == [[1.5, -0.5]]
    assert found["intervened"].tolist() == [True]


def test_an_actor_goes_on_without_its_learner_and_comes_back(learner, actor):
    server = learner()
    one = actor(server, capacity=4)
    play(one, Line(), steps=2)
    assert one.flush(5)
    server.close()
    one.say.expect("lost the learner", "acting goes on with the policy of iteration 0")
    assert play(one, Line(), steps=6).steps == 6
    assert (one.kept, one.dropped) == (4, 2)
    again = learner(server.address[1])
    one.say.expect("connected to", "as arm", "4 transitions to send, 2 dropped")
    assert one.flush(5)
    np.testing.assert_array_equal(again.take(4)["reward"], [3, 1, 2, 3])
    assert again.actors["arm"].dropped == 2


def test_a_simulator_waits_where_a_robot_drops(learner, actor, monkeypatch):
    monkeypatch.setattr("rljax.remote.server.FULL_SECONDS", 0.05)
    server = learner(queue_size=1)
    server.capacity = 3
    one = actor(server, capacity=2, wait_when_full=True)
    taken = []

    def stop():
        if server.waiting:
            taken.extend(server.take(server.waiting)["reward"])
        return False

    one.stop = stop
    play(one, Line(), steps=12)
    while not one.flush(0.1):
        stop()
    stop()
    assert taken == [1, 2, 3] * 4
    assert one.dropped == 0


def test_a_wrong_token_ends_an_actor_with_one_line(learner):
    server = learner()
    host, port = server.address
    one = Actor(host, port, b"another token, just as long", "arm", say=Lines())
    with pytest.raises(Refused, match="the learner refused the token"):
        one.wait_for_policy()


def test_it_gives_up_where_it_is_told_to():
    one = Actor("127.0.0.1", 1, TOKEN, "arm", give_up_after=0.0, say=Lines())
    with pytest.raises(Refused, match=r"no learner at 127\.0\.0\.1:1 for 0 s"):
        one.wait_for_policy()


def test_it_stops_where_it_is_told_to_before_there_is_a_learner():
    one = Actor("127.0.0.1", 1, TOKEN, "arm", stop=lambda: True, say=Lines())
    assert play(one, None).steps == 0
    one.close()


def test_a_learner_with_another_task_is_refused(learner, actor):
    server = learner()
    one = actor(server)
    one.wait_for_policy()
    server.close()
    learner(server.address[1], of=Schema(vector(4), arm().action_space))
    one.say.expect("lost the learner")
    for _ in range(100):
        if one._failure is not None:
            break
        time.sleep(0.05)
    with pytest.raises(Refused, match="another task than before"):
        one.act(np.zeros(3))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"obs": np.zeros(4)}, r"obs has the shape \[4\], and must have \[3\]"),
        ({"next_obs": np.full(3, np.nan)}, "next_obs is not finite"),
        ({"obs": {"camera": np.zeros(3)}}, "obs is missing in an observation"),
        ({"action": [9.0, 0.0]}, "action goes from 0 to 9, which is out of bounds"),
        ({"reward": math.inf}, "reward is not finite"),
        ({"terminated": 0.5}, "terminated is of type float64, and must be bool"),
    ],
)
def test_what_does_not_fit_is_told_on_the_spot(learner, actor, changed, reason):
    one = actor(learner())
    one.wait_for_policy()
    good = {
        "obs": np.zeros(3),
        "action": [0.0, 0.0],
        "reward": 0.0,
        "terminated": False,
        "truncated": False,
        "next_obs": np.zeros(3),
    }
    with pytest.raises(Refused, match=reason):
        one.record(**good | changed)
    assert one.kept == 0


def test_a_tick_that_comes_late_is_counted_and_not_made_up_for(monkeypatch):
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    class Counter:
        overruns = 0

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.sleep", sleep)
    clock = Clock(10.0, counter := Counter())
    clock.begin()
    for work in (0.02, 0.25, 0.03, 0.1):
        now[0] += work
        clock.wait()
    assert slept == pytest.approx([0.08, 0.07])
    assert counter.overruns == 2
    assert now[0] == pytest.approx(0.1 + 0.25 + 0.1 + 0.1)
