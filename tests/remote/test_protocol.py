"""Frames: what is sent comes back, and anything else is refused by one line and never by another error."""

import contextlib
import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from rljax.remote.handshake import Lost
from rljax.remote.protocol import HEADER, TAG, TYPES, Kind, Message, decode, encode
from rljax.types import Refused
from tests.remote.pairs import channels

NAMES = st.text(max_size=12)
FIELDS = st.dictionaries(NAMES, st.none() | st.booleans() | st.integers() | st.text(max_size=8), max_size=3)
ARRAYS = st.dictionaries(
    NAMES,
    st.sampled_from([TYPES[name] for name in TYPES if name != "bfloat16"]).flatmap(
        lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    ),
    max_size=3,
)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(Kind), FIELDS, ARRAYS)
def test_a_message_comes_back_as_it_was(kind, fields, arrays):
    found = decode(kind, *encode(Message(kind, fields, arrays)))
    assert (found.kind, found.fields) == (kind, fields)
    assert list(found.arrays) == list(arrays)
    for name, x in arrays.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (x.dtype, x.shape)
        assert found.arrays[name].tobytes() == x.tobytes()


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
JSON = st.recursive(SCALARS, st.lists, max_leaves=6)
HEADS = st.fixed_dictionaries({"fields": JSON | FIELDS, "arrays": JSON | st.lists(st.tuples(NAMES, JSON, JSON))})
TEXTS = st.binary(max_size=60) | HEADS.map(lambda head: json.dumps(head).encode())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 255), TEXTS, st.binary(max_size=9))
def test_rubbish_is_refused_and_nothing_else_happens(kind, text, data):
    with contextlib.suppress(Refused):
        message = decode(kind, text, data)
        assert sum(x.nbytes for x in message.arrays.values()) == len(data)


@pytest.mark.parametrize(
    ("head", "data", "reason"),
    [
        ({"fields": {}, "arrays": [["x", "object", [1]]]}, bytes(8), "an array must be of a type among bool, uint8"),
        ({"fields": {}, "arrays": [["x", "float32", [2]]]}, bytes(4), "fewer bytes than its arrays"),
        ({"fields": {}, "arrays": [["x", "float32", [1]]]}, bytes(8), "more bytes than its arrays"),
        ({"fields": {}, "arrays": [["x", "float32", [-1]]]}, bytes(8), "at most 8 whole numbers"),
        ({"fields": {}, "arrays": [["x", "float32", [True]]]}, bytes(4), "at most 8 whole numbers"),
        ({"fields": {}, "arrays": [["x", "uint8", [1] * 9]]}, bytes(1), "at most 8 whole numbers"),
        ({"fields": {}, "arrays": [["x", "uint8", [2**31, 2**31, 2**31]]]}, bytes(1), "fewer bytes"),
        ({"fields": {}, "arrays": [["x", "bool", [1]]]}, b"\2", "zeros and ones"),
        ({"fields": {}, "arrays": [["x", "uint8", [0]]] * 2}, b"", "that no other array has"),
        ({"fields": [], "arrays": []}, b"", "fields must be an object"),
        ({"fields": {}}, b"", "must have fields and arrays"),
        ("[" * 100_000, b"", "cannot be read"),
        ('{"fields": {"x": NaN}, "arrays": []}', b"", "cannot be read"),
    ],
)
def test_each_fault_of_a_frame_has_its_line(head, data, reason):
    text = head if isinstance(head, str) else json.dumps(head)
    with pytest.raises(Refused, match=reason):
        decode(Kind.STEPS, text.encode(), data)


def test_an_array_of_objects_is_not_sent():
    with pytest.raises(Refused, match="x is of type object"):
        encode(Message(Kind.STEPS, {}, {"x": np.array([None])}))


def test_a_channel_carries_messages_both_ways():
    with channels() as (learner, actor):
        for number in range(3):
            actor.send(Kind.STEPS, {"batch": number}, {"x": np.arange(number)})
            found = learner.receive()
            assert found.fields == {"batch": number}
            np.testing.assert_array_equal(found.arrays["x"], np.arange(number))
            learner.send(Kind.REPLY, {"taken": True})
            assert actor.receive().kind == Kind.REPLY


def sent(channel_of, kind=Kind.PING, times=1, **arrays):
    """The bytes of frames, taken off the wire."""
    learner, actor = channel_of
    frames = []
    for _ in range(times):
        actor.send(kind, {}, arrays)
        frames.append(learner.sock.recv(2**16))
    return frames


def test_what_was_changed_repeated_or_left_out_is_refused():
    with channels() as pair:
        frame = bytearray(sent(pair, x=np.zeros(4))[0])
        frame[-1] ^= 1
        pair[1].sock.sendall(frame)
        with pytest.raises(Refused, match="changed on its way"):
            pair[0].receive()
    with channels() as pair:
        (frame,) = sent(pair)
        pair[1].sock.sendall(frame * 2)
        pair[0].receive()
        with pytest.raises(Refused, match="not the next one"):
            pair[0].receive()
    with channels() as pair:
        pair[1].sock.sendall(sent(pair, times=2)[1])
        with pytest.raises(Refused, match="not the next one"):
            pair[0].receive()
    with channels() as pair:  # sent back to where it came from
        pair[0].sock.sendall(sent(pair)[0])
        with pytest.raises(Refused, match="not the next one"):
            pair[1].receive()


def test_a_frame_that_is_too_large_is_refused_before_it_is_read():
    with channels(largest=100) as (learner, actor):
        actor.sock.sendall(HEADER.pack(b"RLJX", 1, Kind.STEPS, 10, 101))
        with pytest.raises(Refused, match="a frame of 111 bytes; at most 100 are allowed"):
            learner.receive()
    with channels() as (learner, actor):
        actor.sock.sendall(HEADER.pack(b"RLJX", 1, Kind.STEPS, 2**20 + 1, 0))
        with pytest.raises(Refused, match="at most"):
            learner.receive()


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"RLJX\2" + bytes(11)])
def test_what_is_no_frame_is_refused(start):
    with channels() as (learner, actor):
        actor.sock.sendall(start)
        with pytest.raises(Refused, match="no frame of this protocol"):
            learner.receive()


@pytest.mark.parametrize("cut", [0, 5, HEADER.size, HEADER.size + 3, HEADER.size + TAG + 2])
def test_an_end_in_the_middle_of_a_frame_is_a_loss(cut):
    with channels() as pair:
        frame = sent(pair, x=np.zeros(4))[0][:cut]
        pair[1].sock.sendall(frame)
        pair[1].close()
        with pytest.raises(Lost, match="it closed the connection$" if cut in (0, HEADER.size) else "middle of a frame"):
            pair[0].receive()


def test_silence_is_a_loss():
    with channels(timeout=0.05) as (learner, _), pytest.raises(Lost, match="silent for too long"):
        learner.receive()


def test_a_message_larger_than_the_buffers_of_the_socket_arrives():
    with channels(largest=2**25) as (learner, actor):
        x = np.random.default_rng(0).normal(size=2**20)
        thread = threading.Thread(target=actor.send, args=(Kind.STEPS, {}, {"x": x}))
        thread.start()
        np.testing.assert_array_equal(learner.receive().arrays["x"], x)
        thread.join()
