"""The learner's end of the sockets: it admits actors, checks what they send, and hands out policies.

A thread accepts connections, and each connection has a thread of its own: the actor asks, the learner answers. What was
checked waits in a queue of bounded size for the learner, which takes it in its own thread. While the queue is full an
actor is told so, and keeps what it has.
"""

import contextlib
import dataclasses
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from rljax.remote import handshake
from rljax.remote.handshake import Lost
from rljax.remote.protocol import Channel, Kind, Message
from rljax.remote.schema import Schema
from rljax.types import Refused

MOST_BYTES_OF_FRAME = 16 * 2**20
"""Transitions of a frame are as many as fit into this, and at most `MOST_OF_FRAME`."""
MOST_OF_FRAME = 128
FULL_SECONDS = 1.0
"""Seconds for which an answer waits for room in the queue."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Transitions = dict[str, np.ndarray]
"""Arrays [n, …] by name, as the schema has them."""


@dataclasses.dataclass
class Counts:
    """Counts of one actor since the learner's process began; `returns` and `lags` since they were last read.

    Fields:
      session: number of the actor's process, so that a new one under the same name is told from the old one.
      batch: number of the last batch of that process that was taken.
      dropped, overruns: as that process counts them.
    """

    session: str = ""
    batch: int = -1
    connections: int = 0
    connected: bool = False
    peer: str = ""
    transitions: int = 0
    episodes: int = 0
    interventions: int = 0
    dropped: int = 0
    overruns: int = 0
    returns: list[float] = dataclasses.field(default_factory=list)
    lags: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Offer:
    """The policy that actors are given: a program that is sent once, and the arrays that change.

    Fields:
      version: number of the learner's iterations; -1 before there is a policy.
      trained: whether the policy explores; before, actions are random.
      leaves: the arrays.
    """

    version: int = -1
    trained: bool = False
    leaves: tuple[np.ndarray, ...] = ()


class Server:
    """Listens as soon as it is made; serves once it is told what by `open`.

    Args:
      token: the secret that actors must know (see `read_token`).
      host, port: the address to listen on; port 0 takes one that is free. Nothing is encrypted: other machines should
        come through an SSH tunnel, and not by an address that is open to all.
      queue_size: transitions that may wait for the learner, at least those of two frames and of two iterations. A long
        queue is old experience, for its policies are of long ago.
      timeout: seconds for which an actor may be silent.
      most_actors: largest number of connections at a time.
      log: takes one line about whatever happens.

    Raises:
      Refused: nothing can be bound to the address.
    """

    def __init__(
        self,
        token: bytes,
        host: str = "127.0.0.1",
        port: int = 0,
        queue_size: int = 256,
        timeout: float = 20.0,
        most_actors: int = 64,
        log: Callable[[str], None] = lambda line: None,
    ):
        self.token, self.timeout, self.most_actors, self.log = token, timeout, most_actors, log
        self.queue_size = queue_size
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            raise Refused(f"nothing can listen on {host}:{port}: {error}") from None
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self.actors: dict[str, Counts] = {}
        self.refused = 0
        """Number of connections that were refused."""
        self._changed = threading.Condition()
        self._offer = Offer()
        self._over: str | None = None
        self._closing = False
        self._channels: dict[str, Channel] = {}
        self._sockets: set[socket.socket] = set()
        self._queue: deque[Transitions] = deque()
        self._waiting = 0

    def open(self, schema: Schema, program: bytes, memory: tuple[np.ndarray, ...], least: int = 1) -> None:
        """Begins to serve.

        Args:
          program: the policy, serialized by `jax.export`.
          memory: the arrays of its memory before an episode.
          least: number of transitions that the queue must hold at least.
        """
        self.schema, self.program, self.memory = schema, program, memory
        self.most = max(1, min(MOST_OF_FRAME, MOST_BYTES_OF_FRAME // schema.num_bytes))
        self.capacity = max(self.queue_size, 2 * self.most, 2 * least)
        threading.Thread(target=self._accept, name="remote-accept", daemon=True).start()

    def publish(self, offer: Offer) -> None:
        """Offers a new policy; each actor gets it with its next answer."""
        with self._changed:
            self._offer = offer
            self._changed.notify_all()

    @property
    def connected(self) -> int:
        """Number of actors that are connected."""
        return len(self._channels)

    @property
    def waiting(self) -> int:
        """Number of transitions in the queue."""
        return self._waiting

    def report(self) -> dict[str, Counts]:
        """Copies of the counts by name, sorted; returns and lags begin anew."""
        with self._changed:
            found = {name: dataclasses.replace(counts) for name, counts in sorted(self.actors.items())}
            for counts in self.actors.values():
                counts.returns, counts.lags = [], []
        return found

    def wait(self, count: int, seconds: float) -> int:
        """Waits until there are `count` transitions in the queue, or the time is over; returns how many there are."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting >= count, seconds)
            return self._waiting

    def take(self, count: int) -> Transitions:
        """The `count` oldest transitions of the queue, which must hold as many."""
        taken, found = [], 0
        with self._changed:
            while found < count:
                batch = self._queue.popleft()
                size = len(batch["reward"])
                if (over := found + size - count) > 0:
                    self._queue.appendleft({name: x[size - over :] for name, x in batch.items()})
                    batch = {name: x[: size - over] for name, x in batch.items()}
                taken.append(batch)
                found += len(batch["reward"])
            self._waiting -= count
            self._changed.notify_all()
        return {name: np.concatenate([batch[name] for batch in taken]) for name in self.schema.fields}

    def close(self, over: str | None = None) -> None:
        """Ends all connections.

        Args:
          over: why there is nothing left to learn, which actors are told; without it they wait for the learner's
            return.
        """
        with self._changed:
            self._over, self._closing = over, True
            self._changed.notify_all()
            if over is not None:  # each asks within the time of its heartbeat
                self._changed.wait_for(lambda: not self._channels, self.timeout / 2)
            sockets = tuple(self._sockets)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, (host, port, *_) = self._socket.accept()
            except OSError:
                if self._closing:
                    return
                time.sleep(0.1)  # such as too many open files
                continue
            peer = f"{host}:{port}"
            with self._changed:
                full = len(self._sockets) >= self.most_actors
                if not full:
                    self._sockets.add(sock)
            if full:
                self._refuse(peer, f"there are {self.most_actors} connections already")
                sock.close()
                continue
            threading.Thread(target=self._serve, args=(sock, peer), name=f"remote-{peer}", daemon=True).start()

    def _refuse(self, who: str, why: str) -> None:
        self.refused += 1
        self.log(f"refused {who}: {why}")

    def _serve(self, sock: socket.socket, peer: str) -> None:
        """A connection, from its first byte to its last; nothing that happens here reaches another one."""
        name, channel = "", None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            key = handshake.admit(sock, self.token, time.monotonic() + min(5.0, self.timeout))
            channel = Channel(sock, key, learner=True, timeout=self.timeout, largest=2 * MOST_BYTES_OF_FRAME)
            hello = channel.receive()
            name, counts = self._join(hello, channel, peer)
            self._welcome(channel)
            while self._answer(name, counts, channel, channel.receive()):
                pass
        except Refused as error:
            self._refuse(f"{name} ({peer})" if name else peer, str(error))
            if channel is not None:
                with contextlib.suppress(Lost):
                    channel.send(Kind.REFUSED, {"why": str(error)})
        except (Lost, OSError) as error:
            if not self._closing:
                self.log(f"lost {name} ({peer}): {error}" if name else f"refused {peer}: {error}")
        except Exception as error:  # a defect, which must not end the training of the others
            self.log(f"lost {name or 'an actor'} ({peer}) by a defect: {type(error).__name__}: {error}")
        finally:
            with self._changed:
                self._sockets.discard(sock)
                if name and self._channels.get(name) is channel:
                    del self._channels[name]
                    self.actors[name].connected = False
                self._changed.notify_all()
            sock.close()

    def _join(self, hello: Message, channel: Channel, peer: str) -> tuple[str, Counts]:
        """Takes an actor in under its name; an older connection of that name ends."""
        name, session = hello.fields.get("name"), hello.fields.get("session")
        if hello.kind != Kind.HELLO or not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Refused("an actor must begin with its name, of 1 to 64 letters, digits and the characters _ . -")
        if not isinstance(session, str) or not _NAME.fullmatch(session):
            raise Refused("an actor must begin with its session")
        with self._changed:
            before = self._channels.get(name)
            counts = self.actors.setdefault(name, Counts())
            if counts.session != session:
                counts.session, counts.batch = session, -1
            counts.connections += 1
            counts.connected, counts.peer = True, peer
            self._channels[name] = channel
        again = f", for the {_ordinal(counts.connections)} time" if counts.connections > 1 else ""
        self.log(f"connected {name} ({peer}){again}")
        if before is not None:
            before.close()
        return name, counts

    def _welcome(self, channel: Channel) -> None:
        while (offer := self._offer).version < 0:
            with self._changed:
                self._changed.wait_for(lambda: self._offer.version >= 0 or self._closing, self.timeout / 4)
            if self._closing:
                raise Lost("the learner has ended")
            channel.send(Kind.PING)  # while it compiles
        fields = {"schema": self.schema.described(), "most": self.most, **_told(offer)}
        arrays = {f"memory/{i}": x for i, x in enumerate(self.memory)} | _leaves(offer)
        channel.send(Kind.WELCOME, fields, arrays | {"program": np.frombuffer(self.program, np.uint8)})

    def _answer(self, name: str, counts: Counts, channel: Channel, message: Message) -> bool:
        """Answers one message; whether there may be another."""
        if message.kind == Kind.BYE:
            self.log(f"left {name}")
            return False
        if message.kind not in (Kind.STEPS, Kind.PING):
            raise Refused(f"a frame of the kind {message.kind.name}, which only a learner sends")
        version, counts.dropped, counts.overruns = (
            _whole(message, name) for name in ("version", "dropped", "overruns")
        )
        taken = message.kind == Kind.STEPS and self._put(name, counts, channel, message)
        with self._changed:
            offer, over = self._offer, self._over
        news = {} if version == offer.version else _leaves(offer)
        channel.send(Kind.REPLY, {"taken": taken, "over": over, **_told(offer)}, news)
        return over is None

    def _put(self, name: str, counts: Counts, channel: Channel, message: Message) -> bool:
        """Puts transitions into the queue once they are found to be good; whether there was room."""
        number = _whole(message, "batch")
        size = self.schema.check(message.arrays, self.most)
        with self._changed:
            if self._channels.get(name) is not channel:  # or its numbers would pass for those of the new one
                raise Lost("a newer connection has its name")
            if number <= counts.batch:  # the answer to it was lost
                return True
            room = self._changed.wait_for(lambda: self._waiting + size <= self.capacity or self._closing, FULL_SECONDS)
            if not room or self._closing or self._channels.get(name) is not channel:
                return False
            counts.batch = number
            self._queue.append(message.arrays)
            self._waiting += size
            arrays = message.arrays
            done = arrays["terminated"] | arrays["truncated"]
            counts.transitions += size
            counts.episodes += int(done.sum())
            counts.interventions += int(arrays["intervened"].sum())
            counts.returns += arrays["episode_return"][done].tolist()
            counts.lags.append(float(np.maximum(self._offer.version - arrays["version"], 0).mean()))
            self._changed.notify_all()
        return True


def _whole(message: Message, name: str) -> int:
    number = message.fields.get(name)
    if type(number) is not int or not -1 <= number < 2**63:
        raise Refused(f"{name} must be a whole number")
    return number


def _told(offer: Offer) -> dict[str, Any]:
    return {"version": offer.version, "trained": offer.trained}


def _leaves(offer: Offer) -> dict[str, np.ndarray]:
    return {f"leaf/{i}": x for i, x in enumerate(offer.leaves)}


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
