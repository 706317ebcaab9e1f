"""Sampling in proportion to weights that change: a tree of sums, as arrays, for many draws and updates at once.

Schaul et al. (2016, arXiv:1511.05952), appendix B.2.1, use a binary tree. Here a node has 64 children: the tree of a
million leaves is four levels deep, and each level is one gather, whatever the batch. Sums are computed anew from the
children, never adjusted by differences, so rounding errors do not pile up.
"""

import jax
import jax.numpy as jnp

FAN_OUT = 64

SumTree = list[jax.Array]
"""Levels, leaves first: f32 [nodes, 64], where entry [i, j] is the sum over row 64 i + j of the level before."""


def init(capacity: int) -> SumTree:
    """A tree of `capacity` leaves of weight 0."""
    levels, nodes = [], capacity
    while True:
        nodes = -(-nodes // FAN_OUT)
        levels.append(jnp.zeros((nodes, FAN_OUT), jnp.float32))
        if nodes == 1:
            return levels


def total(tree: SumTree) -> jax.Array:
    """The sum of all weights, f32 []."""
    return tree[-1].sum()


def get(tree: SumTree, index: jax.Array) -> jax.Array:
    """Weights of the leaves `index`, any shape."""
    return tree[0][index // FAN_OUT, index % FAN_OUT]


def update(tree: SumTree, index: jax.Array, weight: jax.Array) -> SumTree:
    """Sets leaves `index` [n] to weights [n], none of them negative; of equal indices one is taken."""
    levels = []
    for level in tree:
        row = index // FAN_OUT
        level = level.at[row, index % FAN_OUT].set(weight)
        index, weight = row, level[row].sum(-1)
        levels.append(level)
    return levels


def find(tree: SumTree, position: jax.Array) -> jax.Array:
    """The leaves, int32 [n], at positions [n] in [0, 1) of the cumulative weights; never one of weight 0.

    Where all weights are 0 it is the first leaf.
    """
    row = jnp.zeros(position.shape, jnp.int32)
    mass = position * total(tree)
    for level in reversed(tree):
        sums = jnp.cumsum(level[row], axis=-1)
        # Rounding must not lead past the last child that has any weight.
        mass = jnp.minimum(mass, sums[..., -1] * (1 - 1e-6))
        child = jnp.argmax(sums > mass[..., None], axis=-1)
        before = jnp.take_along_axis(sums, jnp.maximum(child - 1, 0)[..., None], axis=-1)[..., 0]
        mass = mass - jnp.where(child > 0, before, 0.0)
        row = row * FAN_OUT + child
    return row
