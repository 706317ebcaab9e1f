"""Actors over a socket: robots, and simulators that are not JAX, act with the policy of a learner elsewhere.

The learner's side is `rljax.remote.learner.Actors`, an actor's is `rljax.remote.Actor`, which needs no algorithm.
"""

from rljax.remote.actor import Actor
from rljax.remote.handshake import read_token
from rljax.remote.play import Clock, play

__all__ = ["Actor", "Clock", "play", "read_token"]
