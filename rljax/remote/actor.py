"""An actor: acts with the learner's policy, and hands over what it experiences. It needs no algorithm.

    actor = Actor("127.0.0.1", 7777, read_token(), "arm")
    play(actor, robot, rate=10.0)

A thread of its own speaks with the learner; acting never waits for it. While the learner cannot be reached the actor
goes on with the policy that it has, keeps what it experiences up to a bound, and tries again ever less often.
"""

import math
import random
import secrets
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import export

from rljax.remote import handshake
from rljax.remote.handshake import Lost
from rljax.remote.protocol import Channel, Kind, Message
from rljax.remote.schema import Field
from rljax.types import PyTree, Refused

SEND_SECONDS = 0.05
"""Seconds for which transitions are gathered before they are sent."""
_LOOK_SECONDS = 0.5
"""Seconds between two looks at whether to stop waiting."""
HEARTBEAT_SECONDS = 1.0
"""Seconds after which an actor that has nothing to send says that it is there, and asks for a new policy."""
MOST_WAIT_SECONDS = 10.0
"""Longest time between two attempts to reach the learner; the first comes after half a second."""


class Actor:
    """A policy to act with, and a buffer of transitions on their way to the learner.

    Args:
      host, port: address of the learner.
      token: the secret that the learner knows as well (see `read_token`).
      name: what the learner calls this actor, also after it was started anew.
      capacity: transitions that are kept while the learner does not take them.
      wait_when_full: whether `record` then waits, as a simulator may; else the oldest are dropped and counted.
      seed: of the exploration; another one at each start where None.
      give_up_after: seconds without a learner after which the actor ends; None for never.
      timeout: seconds for which the learner may be silent.
      stop: asked while it waits for the learner, and by `play` before each step; where it is true, both end.
      say: takes one line about whatever happens.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: bytes,
        name: str,
        capacity: int = 100_000,
        wait_when_full: bool = False,
        seed: int | None = None,
        give_up_after: float | None = None,
        timeout: float = 20.0,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ):
        if capacity < 1:
            raise Refused(f"capacity = {capacity} is not allowed; it must be at least 1")
        self.host, self.port, self.token, self.name = host, port, token, name
        self.capacity, self.wait_when_full, self.timeout, self.say = capacity, wait_when_full, timeout, say
        self.stop = stop
        self.give_up_after = math.inf if give_up_after is None else give_up_after
        seed = secrets.randbits(32) if seed is None else seed
        self._key = np.asarray(jax.random.key_data(jax.random.key(seed, impl="threefry2x32")))
        self.version = -1
        """The iteration of the learner whose policy acts; -1 before there is one."""
        self.over: str | None = None
        """Why there is nothing left to do; None while there is."""
        self.sent = 0
        self.dropped = 0
        self.overruns = 0
        self._failure: Exception | None = None
        self._trained = np.bool_(False)
        self._program: Any = None
        self._serialized = b""
        self._leaves: list[jax.Array] = []
        self._first_memory: list[np.ndarray] = []
        self._memory: list[Any] = []
        self._schema: dict[str, Any] | None = None
        self._fields: dict[str, Field] = {}
        self._return, self._length = 0.0, 0
        self._session, self._batch = secrets.token_hex(8), 0
        self._outstanding: list[dict[str, np.ndarray]] = []
        self._buffer: deque[dict[str, np.ndarray]] = deque()
        self._most = 1
        self._changed = threading.Condition()
        self._closing = False
        self._channel: Channel | None = None
        self._thread = threading.Thread(target=self._talk, name="remote-actor", daemon=True)
        self._thread.start()

    def wait_for_policy(self) -> None:
        """Waits until the learner has given a policy, or there is nothing left to do."""
        with self._changed:
            self._wait(lambda: self.version >= 0)
        self._raise()

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Waits, where `_changed` is held, until it is ready, or nothing will change any more."""

        def done() -> bool:
            return ready() or self.over is not None or self._failure is not None

        while not (self._changed.wait_for(done, _LOOK_SECONDS) or self.stop()):
            pass

    def begin(self) -> None:
        """Begins an episode."""
        self._memory = list(self._first_memory)
        self._return, self._length = 0.0, 0

    def act(self, obs: PyTree) -> np.ndarray:
        """The action for an observation, in the robot's own units; it explores.

        Raises:
          Refused: the observation is not as the learner's task has it, or the learner refused this actor.
        """
        if self.version < 0:
            self.wait_for_policy()
        self._raise()
        if self.version < 0:
            raise Refused("there is no policy to act with: the actor was stopped before the learner gave one")
        given = self._tree(self._checked("obs", obs))
        with self._changed:
            program, policy = self._program, (self._leaves, self._key, self._memory, given, self._trained)
        action, key, memory = program(*policy)
        self._key, self._memory = np.asarray(key), memory
        return np.asarray(action)

    def record(
        self,
        obs: PyTree,
        action: Any,
        reward: float,
        terminated: bool,
        truncated: bool,
        next_obs: PyTree,
        intervened: bool = False,
    ) -> None:
        """Takes in a transition that was experienced; it is sent later.

        Args:
          action: the one that was executed, in the robot's own units.
          next_obs: the observation after it, from before any reset.
          intervened: whether someone else has chosen the action.

        Raises:
          Refused: a value is not as the learner's task has it: of another shape, not finite, an action out of bounds.
        """
        self._raise()
        self._return, self._length = self._return + float(reward), self._length + 1
        rest = {
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "intervened": intervened,
            "version": self.version,
            "episode_return": self._return,
            "episode_length": self._length,
        }
        row = self._checked("obs", obs) | self._checked("next_obs", next_obs)
        row |= {name: self._array(name, value) for name, value in rest.items()}
        with self._changed:
            if self.wait_when_full:
                self._wait(lambda: len(self._buffer) < self.capacity)
            elif len(self._buffer) >= self.capacity:
                self._buffer.popleft()
                self.dropped += 1
            self._buffer.append(row)
            self._changed.notify_all()

    @property
    def kept(self) -> int:
        """Number of transitions that the learner has not taken yet."""
        return len(self._buffer) + len(self._outstanding)

    def flush(self, seconds: float) -> bool:
        """Waits until the learner has taken all; whether it did within the time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self.kept or self._failure is not None or self.over is not None, seconds
            )

    def close(self) -> None:
        """Takes leave of the learner."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(self.timeout)
        if self.kept and self.over is None:
            self.say(f"{self.kept:,} transitions were not sent")

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _checked(self, name: str, value: PyTree) -> dict[str, np.ndarray]:
        """The arrays of an observation, by name, as the learner's task has them."""
        given = {}

        def walk(place: str, value: Any) -> None:
            if isinstance(value, Mapping):
                for key, inner in value.items():
                    walk(f"{place}/{key}", inner)
            else:
                given[place] = value

        walk(name, value)
        wanted = [key for key in self._fields if key == name or key.startswith(f"{name}/")]
        if missing := [key for key in wanted if key not in given]:
            raise Refused(f"{missing[0]} is missing in an observation; the learner's task has {', '.join(wanted)}")
        return {key: self._array(key, given[key]) for key in wanted}

    def _array(self, name: str, value: Any) -> np.ndarray:
        field = self._fields[name]
        array = np.asarray(value)
        if array.dtype.name != field.dtype:
            if not np.can_cast(array.dtype, field.dtype, "same_kind") and field.dtype != "float32":
                raise Refused(f"{name} is of type {array.dtype.name}, and must be {field.dtype}")
            with np.errstate(over="ignore"):
                array = array.astype(field.dtype)
        field.check(name, array)
        return array

    def _tree(self, arrays: Mapping[str, np.ndarray]) -> PyTree:
        """Nested dicts of arrays named "obs/part"; the array itself where it is all."""
        tree: dict[str, Any] = {}
        for name, array in arrays.items():
            *outer, last = name.split("/")
            inner = tree
            for key in outer:
                inner = inner.setdefault(key, {})
            inner[last] = array
        return tree["obs"]

    def _talk(self) -> None:
        """What the thread does: reaches the learner, speaks with it, and reaches it again."""
        wait, since = 0.5, time.monotonic()
        while not self._closing and self.over is None and self._failure is None:
            before = self._session, self.version, self.sent
            try:
                self._speak()
                return
            except Refused as error:
                self._fail(error)
            except (Lost, OSError) as error:
                known = self._channel is not None
                self._channel = None
                if known:
                    wait, since = 0.5, time.monotonic()
                    self.say(
                        f"lost the learner: {error}; acting goes on with the policy of iteration {self.version:,}, "
                        f"{self.kept:,} transitions are kept, {self.dropped:,} were dropped"
                    )
                elif before[1] < 0 and wait == 0.5:
                    self.say(f"no learner at {self.host}:{self.port} yet ({error}); trying again")
                if time.monotonic() - since > self.give_up_after:
                    self._fail(Refused(f"no learner at {self.host}:{self.port} for {self.give_up_after:g} s: {error}"))
                with self._changed:
                    # Not all at once, when many lost the same learner.
                    self._changed.wait_for(lambda: self._closing, wait * random.uniform(0.75, 1.25))
                wait = min(2 * wait, MOST_WAIT_SECONDS)
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _speak(self) -> None:
        """One connection, from its beginning to its end; returns where there is nothing left to say."""
        with socket.create_connection((self.host, self.port), timeout=self.timeout) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            key = handshake.ask(sock, self.token, time.monotonic() + self.timeout)
            channel = Channel(sock, key, learner=False, timeout=self.timeout)
            channel.send(Kind.HELLO, {"name": self.name, "session": self._session, "jax": jax.__version__})
            self._welcome(_answer(channel, Kind.WELCOME))
            self._channel = channel
            self.say(
                f"connected to {self.host}:{self.port} as {self.name}: policy of iteration {self.version:,}, "
                f"{self.kept:,} transitions to send, {self.dropped:,} dropped"
            )
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._buffer or self._outstanding or self._closing, HEARTBEAT_SECONDS
                    )
                    self._changed.wait_for(lambda: len(self._buffer) >= self._most or self._closing, SEND_SECONDS)
                    if not self._outstanding and self._buffer:
                        count = min(self._most, len(self._buffer))
                        self._outstanding = [self._buffer.popleft() for _ in range(count)]
                        self._changed.notify_all()
                    closing = self._closing
                rows = self._outstanding
                told = {"version": self.version, "dropped": self.dropped, "overruns": self.overruns}
                if closing and not rows:
                    channel.send(Kind.BYE, told)
                    return
                if rows:
                    arrays = {name: np.stack([row[name] for row in rows]) for name in self._fields}
                    channel.send(Kind.STEPS, told | {"batch": self._batch}, arrays)
                else:
                    channel.send(Kind.PING, told)
                reply = _answer(channel, Kind.REPLY)
                self._renew(reply)
                if reply.fields.get("taken"):
                    with self._changed:
                        self.sent += len(rows)
                        self._outstanding, self._batch = [], self._batch + 1
                        self._changed.notify_all()
                if reply.fields.get("over") is not None:
                    with self._changed:
                        self.over = str(reply.fields["over"])
                        self._changed.notify_all()
                    return

    def _welcome(self, message: Message) -> None:
        """Takes the learner's program and schema, at the first connection and after a learner was started anew."""
        schema = message.fields["schema"]
        if self._schema not in (None, schema):
            raise Refused("the learner has another task than before: start the actor anew")
        serialized, program = message.arrays["program"].tobytes(), self._program
        if serialized != self._serialized:
            try:
                program = jax.jit(export.deserialize(bytearray(serialized)).call)
            except (ValueError, RuntimeError) as error:
                raise Refused(f"jax {jax.__version__} cannot read the learner's policy: {error}") from None
        with self._changed:
            self._schema, self._most = schema, int(message.fields["most"])
            self._fields = {name: Field.of(described) for name, described in schema.items()}
            if serialized != self._serialized:
                self._program, self._serialized = program, serialized
                self._first_memory = _numbered(message.arrays, "memory")
                self._memory = list(self._first_memory)
            self._renew(message)

    def _renew(self, message: Message) -> None:
        """Takes the policy of a message, where it has one."""
        leaves = [jax.device_put(np.array(x)) for x in _numbered(message.arrays, "leaf")]
        if leaves:
            with self._changed:
                self._leaves, self._trained = leaves, np.bool_(message.fields["trained"])
                self.version = int(message.fields["version"])
                self._changed.notify_all()


def _answer(channel: Channel, kind: Kind) -> Message:
    message = channel.receive()
    while message.kind == Kind.PING:  # the learner is there, and not ready yet
        message = channel.receive()
    if message.kind == Kind.REFUSED:
        raise Refused(f"the learner refused this actor: {message.fields.get('why')}")
    if message.kind != kind:
        raise Refused(f"the learner answered {message.kind.name} in place of {kind.name}")
    return message


def _numbered(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    count = sum(key.startswith(f"{name}/") for key in arrays)
    return [arrays[f"{name}/{i}"] for i in range(count)]
