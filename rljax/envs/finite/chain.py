"""A finite MDP under one policy, which is a process with one action: its values, and where it ends."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from rljax.envs.finite.mdp import MDP

Method = Literal["direct", "bicgstab"]


def evaluated(under: MDP, method: Method, tolerance: float = 1e-6) -> jax.Array:
    """V of a process with one action, [S]; where nothing ends, up to a constant, which one more backup finds.

    The part of the solution that all states share is large, r/(1-γ), and its rounding would drown differences between
    states; so it is taken out, and the equation of the remainder is solved once more.
    """

    def left(values: jax.Array) -> jax.Array:
        return values - under.discount * under.expected(values)[0]

    def without_matrix(rewards: jax.Array) -> jax.Array:
        return jax.scipy.sparse.linalg.bicgstab(left, rewards, tol=tolerance)[0]

    solve: Callable[[jax.Array], jax.Array] = without_matrix
    if method == "direct":
        equations = jnp.eye(under.num_states, dtype=under.rewards.dtype) - under.discount * matrix(under)
        solve = functools.partial(jax.scipy.linalg.lu_solve, jax.scipy.linalg.lu_factor(equations))

    ends = under.terminal.any()

    def centred(x: jax.Array) -> jax.Array:
        return jnp.where(ends, x, x - (x.min() + x.max()) / 2)

    values = centred(solve(under.rewards[0]))
    return values + solve(centred(under.backup(values) - values))


def ending(under: MDP) -> tuple[MDP, jax.Array]:
    """A process with one action, made to end where it has no value or pays no more; and the former states, bool [S].

    A state has no value if it may come to a missing action, and for γ = 1 if payment may never end.
    """
    undiscounted, rewards = under.one_minus_discount <= 0, under.rewards[0]
    settled = undiscounted & ~reaching(under, undiscounted & (rewards != 0))
    lost = reaching(under, jnp.isneginf(rewards) | (undiscounted & ~reaching(under, settled)))
    over = settled | lost
    ended = under.replace(
        rewards=jnp.where(over, 0.0, under.rewards),
        probabilities=jnp.where(over, 0.0, under.probabilities),
        terminal=under.terminal | over,
    )
    return ended, lost


def reaching(under: MDP, goal: jax.Array) -> jax.Array:
    """The states from which a process with one action may come to a goal, bool [S]."""

    def grow(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        found, _ = carry
        more = found | (under.expected(found.astype(under.rewards.dtype))[0] > 0)
        return more, (more != found).any()

    return jax.lax.while_loop(lambda carry: carry[1], grow, (goal, goal.any()))[0]


def matrix(mdp: MDP) -> jax.Array:
    """P [S, S] of a process with one action."""
    if mdp.successors is None:
        return mdp.probabilities[0].T
    states = jnp.arange(mdp.num_states)
    matrix = jnp.zeros((mdp.num_states, mdp.num_states), mdp.rewards.dtype)
    return matrix.at[states, mdp.successors[0]].add(mdp.probabilities[0])
