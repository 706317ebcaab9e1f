"""Who may speak: a secret that both sides know, proved by challenge and response before anything is parsed.

The learner sends a challenge, the actor a challenge of its own and its proof, the learner its proof. A proof is an HMAC
(RFC 2104) of both challenges, so that the token itself never travels and an overheard proof is worth nothing later. All
three messages have a fixed size.
"""

import hashlib
import hmac
import os
import secrets
import socket
import stat
import time
from pathlib import Path

from rljax.types import Refused

MAGIC = b"RLJX"
VERSION = 1
"""Version of the protocol, the handshake included."""
VARIABLE = "RLJAX_TOKEN"
SHORTEST = 16
"""Least number of characters of a token."""
_SIZE = 32
_NO = bytes(_SIZE)


class Lost(ConnectionError):
    """The other side has gone, or is silent for too long."""


def read_token(path: Path | None = None) -> bytes:
    """The token, from a file that only its owner may read, or from the variable RLJAX_TOKEN where no file is given.

    Raises:
      Refused: there is none, it is too short, or the file may be read by others.
    """
    if path is None:
        text = os.environ.get(VARIABLE)
        if text is None:
            raise Refused(f"a token is missing: set {VARIABLE}, or name a file that holds it (--token-file)")
    else:
        try:
            mode = path.stat().st_mode
            text = path.read_text()
        except (OSError, ValueError) as error:
            raise Refused(f"{path}: the token cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
            raise Refused(f"{path} may be read by others than its owner: chmod 600 {path}")
    token = text.strip().encode()
    if len(token) < SHORTEST:
        raise Refused(f"a token must have at least {SHORTEST} characters, such as those of: openssl rand -hex 32")
    return token


def receive_exactly(sock: socket.socket, size: int, deadline: float, what: str = "message") -> bytearray:
    """`size` bytes, received before the time `deadline` of `time.monotonic`.

    Raises:
      Lost: the other side has closed the connection, or the time is over.
    """
    found = bytearray(size)
    view, have = memoryview(found), 0
    while have < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Lost(f"it was silent for too long, after {have} of {size} bytes of a {what}")
        sock.settimeout(left)
        try:
            count = sock.recv_into(view[have:])
        except TimeoutError:
            continue
        except ConnectionError:  # it was killed, or did not read what it was sent
            count = 0
        if not count:
            raise Lost(f"it closed the connection in the middle of a {what}" if have else "it closed the connection")
        have += count
    return found


def admit(sock: socket.socket, token: bytes, deadline: float) -> bytes:
    """The learner's side: returns the key of the session.

    Raises:
      Refused: the other side does not know the token.
    """
    ours = secrets.token_bytes(_SIZE)
    sock.sendall(MAGIC + bytes([VERSION]) + ours)
    answer = bytes(receive_exactly(sock, 2 * _SIZE, deadline, "handshake"))
    theirs, proof = answer[:_SIZE], answer[_SIZE:]
    known = hmac.compare_digest(proof, _proof(token, b"actor", ours, theirs))
    sock.sendall(_proof(token, b"learner", ours, theirs) if known else _NO)
    if not known:
        raise Refused("wrong token")
    return _proof(token, b"session", ours, theirs)


def ask(sock: socket.socket, token: bytes, deadline: float) -> bytes:
    """The actor's side: returns the key of the session.

    Raises:
      Refused: the other side does not know the token, or is no learner of this version.
    """
    greeting = bytes(receive_exactly(sock, len(MAGIC) + 1 + _SIZE, deadline, "handshake"))
    if not greeting.startswith(MAGIC):
        raise Refused("what answers there is no learner of rljax")
    if greeting[len(MAGIC)] != VERSION:
        raise Refused(f"the learner speaks version {greeting[len(MAGIC)]} of the protocol, and this actor {VERSION}")
    theirs, ours = greeting[len(MAGIC) + 1 :], secrets.token_bytes(_SIZE)
    sock.sendall(ours + _proof(token, b"actor", theirs, ours))
    answer = bytes(receive_exactly(sock, _SIZE, deadline, "handshake"))
    if hmac.compare_digest(answer, _NO):
        raise Refused("the learner refused the token")
    if not hmac.compare_digest(answer, _proof(token, b"learner", theirs, ours)):
        raise Refused("the learner does not know the token")
    return _proof(token, b"session", theirs, ours)


def _proof(token: bytes, role: bytes, first: bytes, second: bytes) -> bytes:
    return hmac.digest(token, role + b"\0" + first + second, hashlib.sha256)
