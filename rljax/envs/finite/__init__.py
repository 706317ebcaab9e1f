"""Finite worlds whose transitions are known: for exact planning, and to sample from."""

from rljax.envs.finite.mdp import MDP, dense, from_lists, sparse

__all__ = ["MDP", "dense", "from_lists", "sparse"]
