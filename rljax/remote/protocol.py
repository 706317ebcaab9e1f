"""Frames: a fixed header, a tag, JSON that names arrays, and their bytes.

    magic 4 | version 1 | kind 1 | 0 0 | length of the JSON 4 | length of the arrays 4 | tag 16 | JSON | arrays

Numbers are big-endian, arrays little-endian. The tag is an HMAC-SHA256, cut to 16 bytes, of the direction, the number
of the frame in that direction, the header, the JSON and the arrays, under the key of the session: a frame that was
changed, repeated, left out or sent by another is refused before it is parsed. Nothing is encrypted.

The JSON is `{"fields": {…}, "arrays": [[name, type, shape], …]}`. Types are those of `TYPES`, nothing is unpickled.
"""

import contextlib
import enum
import hashlib
import hmac
import json
import math
import socket
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rljax.remote.handshake import MAGIC, VERSION, Lost, receive_exactly
from rljax.types import Refused

TYPES = {
    name: jnp.dtype(name)
    for name in ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
    + ("float16", "bfloat16", "float32", "float64")
}
"""Types of arrays that may be sent, by name."""
HEADER = struct.Struct("!4sBBxxII")
TAG = 16
LARGEST_JSON = 2**20
LARGEST_ARRAYS = 2**30
_MOST_AXES = 8


class Kind(enum.IntEnum):
    """What a frame is; an actor asks (HELLO, STEPS, PING, BYE) and the learner answers."""

    HELLO = 1
    WELCOME = 2
    STEPS = 3
    PING = 4
    REPLY = 5
    REFUSED = 6
    BYE = 7


class Message(NamedTuple):
    """A frame's contents: small values by name, and arrays by name."""

    kind: Kind
    fields: dict[str, Any]
    arrays: dict[str, np.ndarray]


def encode(message: Message) -> tuple[bytes, bytes]:
    """The JSON and the bytes of the arrays."""
    arrays = {name: np.ascontiguousarray(x) for name, x in message.arrays.items()}
    listed = [[name, x.dtype.name, list(np.shape(message.arrays[name]))] for name, x in arrays.items()]
    for name, kind, _ in listed:
        if kind not in TYPES:
            raise Refused(f"{name} is of type {kind}; arrays that are sent must be of {', '.join(TYPES)}")
    text = json.dumps({"fields": message.fields, "arrays": listed}, allow_nan=False).encode()
    if sys.byteorder == "big":
        arrays = {name: x.byteswap() for name, x in arrays.items()}
    return text, b"".join(x.tobytes() for x in arrays.values())


def decode(kind: int, text: bytes, data: bytes | bytearray | memoryview) -> Message:
    """The message of a frame's JSON and bytes; arrays are views of `data`.

    Raises:
      Refused: anything at all is not as it should be.
    """
    if kind not in Kind.__members__.values():
        raise Refused(f"a frame of unknown kind {kind}")
    try:
        head = json.loads(bytes(text).decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused("a frame's JSON cannot be read") from None
    if not isinstance(head, dict) or head.keys() != {"fields", "arrays"}:
        raise Refused("a frame's JSON must have fields and arrays, and nothing else")
    fields, listed = head["fields"], head["arrays"]
    if not isinstance(fields, dict) or not isinstance(listed, list):
        raise Refused("a frame's fields must be an object, and its arrays a list")
    arrays: dict[str, np.ndarray] = {}
    view, offset = memoryview(data), 0
    for entry in listed:
        if not isinstance(entry, list) or len(entry) != 3:
            raise Refused("an array must be described by its name, type and shape")
        name, type_name, shape = entry
        if not isinstance(name, str) or name in arrays:
            raise Refused("an array's name must be a text that no other array has")
        if not isinstance(type_name, str) or type_name not in TYPES:
            raise Refused(f"an array must be of a type among {', '.join(TYPES)}")
        whole = isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**32 for n in shape)
        if not whole or len(shape) > _MOST_AXES:
            raise Refused(f"an array's shape must be at most {_MOST_AXES} whole numbers")
        size = math.prod(shape) * TYPES[type_name].itemsize
        if size > len(view) - offset:
            raise Refused("a frame has fewer bytes than its arrays")
        flat = np.frombuffer(view[offset : offset + size], np.uint8)
        if type_name == "bool" and flat.size and flat.max() > 1:
            raise Refused("an array of bool must be of zeros and ones")
        array = flat.view(TYPES[type_name])
        if sys.byteorder == "big":
            array = array.byteswap()
        arrays[name] = array.reshape(shape)
        offset += size
    if offset != len(view):
        raise Refused("a frame has more bytes than its arrays")
    return Message(Kind(kind), fields, arrays)


def _no_constant(text: str) -> Any:
    raise ValueError(text)


class Channel:
    """Messages over a connection whose other side has proved that it knows the token.

    Args:
      sock: the connection.
      key: the key of the session, as the handshake gives it.
      learner: whether this side is the learner.
      timeout: seconds for which the other side may be silent.
      largest: most bytes of arrays in a frame that comes in.
    """

    def __init__(self, sock: socket.socket, key: bytes, learner: bool, timeout: float, largest: int = LARGEST_ARRAYS):
        self.sock, self._key, self.timeout, self.largest = sock, key, timeout, largest
        self._sending, self._receiving = (b"L", b"A") if learner else (b"A", b"L")
        self._sent = self._received = 0

    def send(
        self, kind: Kind, fields: Mapping[str, Any] | None = None, arrays: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Sends one frame.

        Raises:
          Lost: the other side does not take it.
        """
        text, data = encode(Message(kind, dict(fields or {}), dict(arrays or {})))
        if len(text) > LARGEST_JSON or len(data) > LARGEST_ARRAYS:
            raise Refused(f"a message of {len(text) + len(data):,} bytes is too large to be sent")
        header = HEADER.pack(MAGIC, VERSION, kind, len(text), len(data))
        tag = self._tag(self._sending, self._sent, header, text, data)
        self._sent += 1
        self.sock.settimeout(self.timeout)
        try:
            self.sock.sendall(b"".join((header, tag, text, data)))
        except OSError as error:
            raise Lost(f"it does not take what is sent: {error}") from None

    def receive(self) -> Message:
        """The next frame.

        Raises:
          Lost: the other side has gone, or is silent.
          Refused: it sent something that is no frame, is too large, or was changed.
        """
        try:
            deadline = time.monotonic() + self.timeout
            header = bytes(receive_exactly(self.sock, HEADER.size, deadline, "frame"))
            magic, version, kind, text_size, data_size = HEADER.unpack(header)
            if magic != MAGIC or version != VERSION:
                raise Refused("what was sent is no frame of this protocol")
            if text_size > LARGEST_JSON or data_size > self.largest:
                raise Refused(f"a frame of {text_size + data_size:,} bytes; at most {self.largest:,} are allowed")
            rest = receive_exactly(self.sock, TAG + text_size + data_size, deadline, "frame")
        except OSError as error:
            raise error if isinstance(error, Lost) else Lost(str(error)) from None
        view = memoryview(rest)
        tag, text, data = view[:TAG], view[TAG : TAG + text_size], view[TAG + text_size :]
        if not hmac.compare_digest(tag, self._tag(self._receiving, self._received, header, text, data)):
            raise Refused("a frame was changed on its way, or is not the next one")
        self._received += 1
        return decode(kind, bytes(text), data)

    def close(self) -> None:
        """Ends the connection, also for a thread that is waiting on it."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def _tag(self, direction: bytes, number: int, *parts: Any) -> bytes:
        mac = hmac.new(self._key, direction + number.to_bytes(8), hashlib.sha256)
        for part in parts:
            mac.update(part)
        return mac.digest()[:TAG]
