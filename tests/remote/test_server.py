"""The learner's end: it admits, checks, counts and answers; what one actor does wrong reaches no other."""

import contextlib
import socket
import threading
import time

import numpy as np
import pytest

from rljax.remote import handshake
from rljax.remote.handshake import Lost
from rljax.remote.protocol import Channel, Kind, Message
from rljax.remote.server import Offer, Server
from rljax.types import Refused
from tests.remote.pairs import TOKEN, schema, soon, transitions

ZEROS = {"version": 0, "dropped": 0, "overruns": 0}


class Lines(list):
    """A log that can be waited for."""

    def __init__(self):
        super().__init__()
        self.changed = threading.Condition()

    def __call__(self, line):
        with self.changed:
            self.append(line)
            self.changed.notify_all()

    def expect(self, *words):
        def said():
            return any(all(word in line for word in words) for line in self)

        with self.changed:
            assert self.changed.wait_for(said, 10), (words, list(self))


@pytest.fixture
def log():
    return Lines()


@pytest.fixture
def server(log):
    made = Server(TOKEN, timeout=5.0, log=log)
    made.open(schema(), b"program", ())
    made.publish(Offer(0, False, (np.float32([1, 2]),)))
    yield made
    made.close()


def connect(server, token=TOKEN):
    sock = socket.create_connection(server.address, timeout=5.0)
    return Channel(sock, handshake.ask(sock, token, soon()), learner=False, timeout=5.0)


@contextlib.contextmanager
def joined(server, name="arm", session="1"):
    channel = connect(server)
    channel.send(Kind.HELLO, {"name": name, "session": session})
    assert channel.receive().kind == Kind.WELCOME
    with contextlib.closing(channel):
        yield channel


def ask(channel, batch=0, fields=ZEROS, arrays=None):
    channel.send(Kind.STEPS, fields | {"batch": batch}, transitions() if arrays is None else arrays)
    return channel.receive()


def test_transitions_go_through_the_queue_in_their_order(server):
    with joined(server) as channel:
        for batch, size in enumerate((2, 3)):
            arrays = transitions(size, reward=np.float32(10 * batch + np.arange(size)))
            assert ask(channel, batch, arrays=arrays).fields == {
                "taken": True,
                "over": None,
                "version": 0,
                "trained": False,
            }
        assert server.wait(5, 0.0) == 5
        assert server.take(4)["reward"].tolist() == [0, 1, 10, 11]
        assert server.take(1)["reward"].tolist() == [12]
        assert server.waiting == 0


def test_a_batch_that_comes_again_is_taken_once(server):
    with joined(server) as channel:
        ask(channel)
    with joined(server) as channel:  # the answer to it was lost
        assert ask(channel).fields["taken"] is True
        assert server.waiting == 2
    with joined(server, session="2") as channel:  # the actor was started anew, and counts anew
        ask(channel)
        assert server.waiting == 4


def test_a_new_policy_comes_with_the_next_answer_and_only_once(server):
    with joined(server) as channel:
        server.publish(Offer(7, True, (np.float32([3, 4]),)))
        channel.send(Kind.PING, ZEROS)
        reply = channel.receive()
        assert (reply.fields["version"], reply.fields["trained"]) == (7, True)
        assert reply.arrays["leaf/0"].tolist() == [3, 4]
        channel.send(Kind.PING, ZEROS | {"version": 7})
        assert channel.receive().arrays == {}


def test_actors_wait_for_a_policy_while_the_learner_compiles(log):
    server = Server(TOKEN, timeout=0.4, log=log)
    server.open(schema(), b"program", ())
    channel = connect(server)
    channel.send(Kind.HELLO, {"name": "arm", "session": "1"})
    assert channel.receive().kind == Kind.PING
    server.publish(Offer(0, False, ()))
    while (message := channel.receive()).kind == Kind.PING:
        pass
    assert message.arrays["program"].tobytes() == b"program"
    assert message.fields["schema"] == schema().described()
    server.close()


def test_a_full_queue_is_told_and_nothing_is_lost(log, monkeypatch):
    monkeypatch.setattr("rljax.remote.server.FULL_SECONDS", 0.05)
    server = Server(TOKEN, queue_size=1, log=log)
    server.open(schema(), b"program", ())
    server.publish(Offer(0, False, ()))
    with joined(server) as channel:
        count = server.most
        for batch in range(2):
            assert ask(channel, batch, arrays=transitions(count)).fields["taken"] is True
        assert ask(channel, 2, arrays=transitions(count)).fields["taken"] is False
        server.take(count)
        assert ask(channel, 2, arrays=transitions(count)).fields["taken"] is True
        assert server.waiting == server.capacity == 2 * count
    server.close()


@pytest.mark.parametrize(
    ("fields", "arrays", "reason"),
    [
        (ZEROS, transitions(action=np.zeros((2, 5), np.float32)), "action has the shape [2, 5]"),
        (ZEROS, transitions(obs=np.zeros((2, 3))), "obs is of type float64"),
        (ZEROS, transitions(reward=np.float32([0, np.nan])), "reward is not finite"),
        (ZEROS, {}, "transitions lack action"),
        ({"version": 0, "dropped": 0}, transitions(), "overruns must be a whole number"),
        (ZEROS | {"dropped": True}, transitions(), "dropped must be a whole number"),
        (ZEROS | {"version": "new"}, transitions(), "version must be a whole number"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line_and_reaches_nothing(server, log, fields, arrays, reason):
    with joined(server, "good") as good, joined(server, "bad") as bad:
        reply = ask(bad, fields=fields, arrays=arrays)
        assert reply.kind == Kind.REFUSED
        assert reason in reply.fields["why"]
        log.expect("refused bad (127.0.0.1:", reason)
        assert server.waiting == 0
        assert ask(good).fields["taken"] is True
    assert server.refused == 1
    assert server.actors["bad"].transitions == 0


def test_a_wrong_token_is_refused_and_logged(server, log):
    with pytest.raises(Refused, match="the learner refused the token"):
        connect(server, b"another token, just as long")
    log.expect("refused 127.0.0.1:", "wrong token")
    assert server.actors == {}


def test_what_knows_nothing_of_the_protocol_is_refused_and_logged(server, log):
    with socket.create_connection(server.address) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + b" " * 64)
        log.expect("refused 127.0.0.1:", "wrong token")
    with socket.create_connection(server.address) as sock:
        sock.close()
    log.expect("refused 127.0.0.1:", "closed the connection")


@pytest.mark.parametrize(
    "hello", [{}, {"name": "a b", "session": "1"}, {"name": "x" * 65, "session": "1"}, {"name": "arm", "session": 1}]
)
def test_an_actor_begins_with_its_name_and_session(server, log, hello):
    channel = connect(server)
    channel.send(Kind.HELLO, hello)
    assert channel.receive().kind == Kind.REFUSED
    log.expect("refused 127.0.0.1:", "an actor must begin with its")


def test_an_actor_that_dies_in_the_middle_of_a_frame_comes_back_under_its_name(server, log):
    with joined(server) as channel:
        ask(channel)
        channel.sock.sendall(b"RLJX\1\3\0\0\0\0\0\1")
    log.expect("lost arm (127.0.0.1:", "in the middle of a frame")
    with joined(server, session="2") as channel:
        log.expect("connected arm", "for the 2nd time")
        ask(channel)
        assert server.actors["arm"].connections == 2
        assert server.actors["arm"].transitions == 4


def test_a_name_goes_to_the_newest_connection(server):
    """A machine that was switched off leaves a connection that nobody ends."""
    with joined(server) as old, joined(server, session="2") as new:
        with pytest.raises((ConnectionError, OSError)):
            old.receive()
        assert ask(new).fields["taken"] is True
        assert server.connected == 1
        assert server.actors["arm"].connected


def test_a_frame_of_an_older_connection_is_not_taken_for_one_of_the_newer(server):
    """Its number would be that of a batch which the new process has yet to send."""
    with joined(server, session="2"):
        late = Message(Kind.STEPS, ZEROS | {"batch": 500}, transitions())
        with pytest.raises(Lost, match="a newer connection has its name"):
            server._put("arm", server.actors["arm"], object(), late)
        assert server.actors["arm"].batch == -1


def test_silence_ends_a_connection(log):
    server = Server(TOKEN, timeout=0.2, log=log)
    server.open(schema(), b"program", ())
    server.publish(Offer(0, False, ()))
    with joined(server):
        log.expect("lost arm", "silent for too long")
    server.close()


def test_no_more_connections_than_are_allowed(log):
    server = Server(TOKEN, most_actors=1, log=log)
    server.open(schema(), b"program", ())
    server.publish(Offer(0, False, ()))
    with joined(server):
        with socket.create_connection(server.address) as sock:
            assert sock.recv(1) == b""
        log.expect("refused", "1 connections already")
    server.close()


def test_counts_are_by_actor_and_returns_since_the_last_report(server):
    done = {"terminated": np.array([True, False]), "truncated": np.array([False, True])}
    more = {"episode_return": np.float32([5, 7]), "intervened": np.array([True, False])}
    with joined(server) as channel:
        server.publish(Offer(10, True, ()))
        ask(channel, fields=ZEROS | {"dropped": 3}, arrays=transitions(version=np.int32([4, 8]), **done, **more))
    found = server.report()["arm"]
    assert (found.transitions, found.episodes, found.interventions, found.dropped) == (2, 2, 1, 3)
    assert (found.returns, found.lags) == ([5, 7], [4])
    assert (server.report()["arm"].returns, server.report()["arm"].lags) == ([], [])


def test_actors_are_told_when_there_is_nothing_left_to_learn(server):
    with joined(server) as channel:
        closing = threading.Thread(target=server.close, args=("finished",))
        closing.start()
        while (reply := ask_ping(channel)).fields["over"] is None:
            time.sleep(0.01)
        assert reply.fields["over"] == "finished"
        closing.join()
    with pytest.raises(OSError):  # noqa: PT011
        connect(server)


def ask_ping(channel):
    channel.send(Kind.PING, ZEROS)
    return channel.receive()


def test_an_address_that_is_taken_is_refused(server):
    with pytest.raises(Refused, match=r"nothing can listen on 127\.0\.0\.1:"):
        Server(TOKEN, port=server.address[1])
    with pytest.raises(Refused, match="nothing can listen on"):
        Server(TOKEN, port=70_000)


def test_it_listens_to_this_machine_alone_unless_told_otherwise(server):
    assert server.address[0] == "127.0.0.1"
