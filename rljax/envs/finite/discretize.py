"""A continuous task on a grid of its states, as an MDP that can be solved exactly.

Gordon 1995, "Stable function approximation in dynamic programming"; Davies 1997, "Multidimensional triangulation and
interpolation for reinforcement learning": where a step leads between the points of the grid, the corners around it are
its successors, with the weights of linear interpolation as their probabilities.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import Environment, initial_state
from rljax.envs.finite.mdp import MDP, sparse


def discretize(
    env: Environment,
    axes: Sequence[np.ndarray],
    actions: np.ndarray,
    discount: float,
    periodic: Sequence[bool] | None = None,
    dtype: Any = np.float32,
) -> MDP:
    """The MDP of an environment whose physics is one array [d], such as Pendulum's or MountainCar's.

    Args:
      axes: the points of each dimension, evenly spaced. States are their products, the last dimension fastest; one more
        state, the last, is where episodes end.
      actions: the actions given to the environment's step, [A, …].
      periodic: dimensions that run in a circle, whose axis leaves its end out; none by default.

    Outside of the grid the nearest point of its edge counts.
    """
    periodic = [False] * len(axes) if periodic is None else periodic
    sizes = [len(axis) for axis in axes]
    mesh = np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], -1).astype(np.float32)
    states = len(mesh)

    def step(physics: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        after = env.step(initial_state(physics, env.observe(physics)), action)  # type: ignore[attr-defined]
        return after.physics, after.reward, after.terminated

    over_states = jax.vmap(step, (0, None))
    led_to, rewards, terminated = map(np.asarray, jax.jit(jax.vmap(over_states, (None, 0)))(mesh, jnp.asarray(actions)))

    lower, upper, share = [], [], []
    for dimension, axis in enumerate(axes):
        position = (led_to[..., dimension] - axis[0]) / (axis[1] - axis[0])
        if periodic[dimension]:
            position = position % sizes[dimension]
            below = np.floor(position).astype(np.int32) % sizes[dimension]
            above = (below + 1) % sizes[dimension]
        else:
            position = np.clip(position, 0, sizes[dimension] - 1)
            below = np.minimum(np.floor(position).astype(np.int32), sizes[dimension] - 2)
            above = below + 1
        lower.append(below)
        upper.append(above)
        share.append(np.clip(position - np.floor(position) if periodic[dimension] else position - below, 0.0, 1.0))

    successors, probabilities = [], []
    for corner in itertools.product((False, True), repeat=len(axes)):
        index = [(upper if high else lower)[d] for d, high in enumerate(corner)]
        weight = np.prod([share[d] if high else 1 - share[d] for d, high in enumerate(corner)], axis=0)
        successors.append(np.where(terminated, states, np.ravel_multi_index(index, sizes)))
        probabilities.append(weight)
    padding = ((0, 0), (0, 0), (0, 1))
    return sparse(
        np.pad(np.stack(successors, 1), padding),
        np.pad(np.stack(probabilities, 1), padding),
        np.pad(rewards, ((0, 0), (0, 1))),
        discount,
        terminal=np.arange(states + 1) == states,
        dtype=dtype,
    )


def mountain_car(positions: int = 101, velocities: int = 101, discount: float = 0.999, dtype: Any = np.float32) -> MDP:
    """MountainCar-v0 on a grid of its positions and velocities."""
    from rljax.envs.classic.mountain_car import MountainCar

    env = MountainCar()
    axes = (
        np.linspace(env.min_position, env.max_position, positions),
        np.linspace(-env.max_speed, env.max_speed, velocities),
    )
    return discretize(env, axes, np.arange(3), discount, dtype=dtype)


def pendulum(
    angles: int = 101, velocities: int = 101, torques: int = 9, discount: float = 0.99, dtype: Any = np.float32
) -> MDP:
    """Pendulum-v1 on a grid of its angles (in a circle) and velocities, with a few torques from -2 to 2 N·m."""
    from rljax.envs.classic.pendulum import Pendulum

    env = Pendulum()
    axes = (
        np.linspace(-np.pi, np.pi, angles, endpoint=False),
        np.linspace(-env.max_speed, env.max_speed, velocities),
    )
    actions = np.linspace(-env.max_torque, env.max_torque, torques)[:, None]
    return discretize(env, axes, actions, discount, periodic=(True, False), dtype=dtype)
