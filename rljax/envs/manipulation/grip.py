"""How a hand holds a thing, in the tasks where one does."""

import jax
import jax.numpy as jnp

REACH = 0.012
"""Largest distance of a held thing from the middle of the jaws, in metres."""


def grip(distance: jax.Array, opening: jax.Array, command: jax.Array, size: float) -> tuple[jax.Array, jax.Array]:
    """Whether jaws hold a thing of `size` between them, and the opening that they go to when told to go to `command`.

    A hand holds by a constraint that the task turns on and off (`eq_active`, which is part of the state on all
    engines): friction between fingers needs small physics steps, and gives way where the solver is cut short. A hold
    shows from the outside: jaws that close around a thing stop at its size; jaws that were closed before they came to
    it do not hold it, nor do jaws that it was pulled out of. Arrays of any one shape.
    """
    around = (distance < REACH) & (opening > 0.75 * size)
    closed = (opening < 1.25 * size) & (command < 1.25 * size)
    return around & closed, jnp.where(around, jnp.maximum(command, size), command)
