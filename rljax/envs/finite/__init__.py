"""Finite worlds whose transitions are known: for exact planning, and to sample from."""

from rljax.envs.finite.environment import Finite, world
from rljax.envs.finite.mdp import MDP, dense, from_lists, shaped, sparse, split_states

__all__ = ["MDP", "Finite", "dense", "from_lists", "shaped", "sparse", "split_states", "world"]
