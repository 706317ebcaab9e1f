"""The handshake: who knows the token is let in on both sides, and nobody else."""

import hashlib
import hmac
import socket
import threading

import pytest

from rljax.remote import handshake
from rljax.remote.handshake import Lost
from rljax.types import Refused
from tests.remote.pairs import TOKEN, sockets, soon


def both(learner_token, actor_token):
    """The results of both sides: keys or errors."""
    results = {}

    def run(name, function, *args):
        try:
            results[name] = function(*args, soon())
        except (Refused, Lost) as error:
            results[name] = error

    with sockets() as (one, other):
        thread = threading.Thread(target=run, args=("learner", handshake.admit, one, learner_token))
        thread.start()
        run("actor", handshake.ask, other, actor_token)
        thread.join()
    return results["learner"], results["actor"]


def test_both_sides_get_one_key_that_is_new_each_time():
    first, second = both(TOKEN, TOKEN), both(TOKEN, TOKEN)
    assert first[0] == first[1]
    assert len(first[0]) == 32
    assert first[0] != second[0]


def test_another_token_is_refused_on_both_sides():
    learner, actor = both(TOKEN, b"another token, just as long")
    assert str(learner) == "wrong token"
    assert str(actor) == "the learner refused the token"


def test_the_proof_is_the_hmac_of_rfc_2104():
    ours = handshake._proof(b"token", b"actor", b"1", b"2")
    assert ours == hmac.new(b"token", b"actor\0" + b"12", hashlib.sha256).digest()


def test_a_learner_that_only_pretends_is_found_out():
    with sockets() as (one, other):
        one.sendall(handshake.MAGIC + bytes([handshake.VERSION]) + b"c" * 32 + b"p" * 32)
        with pytest.raises(Refused, match="the learner does not know the token"):
            handshake.ask(other, TOKEN, soon())


def test_an_actor_cannot_send_back_what_the_learner_would_say():
    """The proofs of both sides differ, so that a reflected one is worth nothing."""
    assert handshake._proof(TOKEN, b"actor", b"a", b"b") != handshake._proof(TOKEN, b"learner", b"a", b"b")


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n" + b" " * 40, "no learner of rljax"),
        (handshake.MAGIC + b"\x63" + bytes(32), "version 99 of the protocol, and this actor 1"),
    ],
)
def test_what_is_no_learner_of_this_version_is_told(greeting, reason):
    with sockets() as (one, other):
        one.sendall(greeting)
        with pytest.raises(Refused, match=reason):
            handshake.ask(other, TOKEN, soon())


def test_silence_and_an_early_end_are_told_from_each_other():
    with sockets() as (one, _), pytest.raises(Lost, match="silent for too long, after 0 of 64 bytes"):
        handshake.admit(one, TOKEN, soon(0.05))
    with sockets() as (one, other):
        other.sendall(b"only a little")
        other.shutdown(socket.SHUT_WR)
        with pytest.raises(Lost, match="in the middle of a handshake"):
            handshake.admit(one, TOKEN, soon())


def test_a_token_comes_from_a_private_file_or_a_variable(tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o644)
    with pytest.raises(Refused, match="may be read by others than its owner: chmod 600"):
        handshake.read_token(path)
    path.chmod(0o600)
    assert handshake.read_token(path) == b"0123456789abcdef"
    monkeypatch.setenv(handshake.VARIABLE, "short")
    with pytest.raises(Refused, match="at least 16 characters"):
        handshake.read_token()
    monkeypatch.delenv(handshake.VARIABLE)
    with pytest.raises(Refused, match="set RLJAX_TOKEN, or name a file"):
        handshake.read_token()
    with pytest.raises(Refused, match="cannot be read: No such file"):
        handshake.read_token(tmp_path / "none")
