"""Pairs of connected sockets, and channels over them."""

import contextlib
import socket
import time

import numpy as np

from rljax.envs.spaces_only import SpacesOnly
from rljax.remote.protocol import Channel
from rljax.remote.schema import Schema

TOKEN = b"a token of some length"
KEY = b"k" * 32


@contextlib.contextmanager
def sockets():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@contextlib.contextmanager
def channels(timeout=5.0, largest=2**20):
    """The learner's end and an actor's."""
    with sockets() as (one, other):
        yield Channel(one, KEY, True, timeout, largest), Channel(other, KEY, False, timeout, largest)


def soon(seconds=5.0):
    return time.monotonic() + seconds


def arm():
    """Observations [3], actions [2] between -1 and 2."""
    return SpacesOnly(3, [-1.0, -1.0], [2.0, 2.0])


def schema():
    env = arm()
    return Schema(env.observation_space, env.action_space)


def transitions(count=2, of=None, **changed):
    """Arrays as they should be, but for those that are given."""
    fields = (of or schema()).fields
    arrays = {name: np.zeros((count, *field.shape), field.dtype) for name, field in fields.items()}
    return arrays | {"episode_length": np.ones(count, np.int32)} | changed
