"""Averages over the devices that one run is split over.

A function that is traced inside a mesh with the axis `AXIS` (under `shard_map`, or `vmap` with that name) has a share
of the environments, the replay and the batches. These functions detect it by themselves; elsewhere there is one device,
and they change nothing.
"""

import jax

from rljax.types import Key, PyTree, Refused

AXIS = "devices"
"""Name of the mesh axis over which one run is split."""


def split() -> bool:
    """Whether the function being traced runs inside such a mesh, be it of one device."""
    try:
        jax.lax.axis_size(AXIS)
    except NameError:  # JAX's answer where the axis is not bound
        return False
    return True


def count() -> int:
    """Number of devices that share the work of the function being traced."""
    return jax.lax.axis_size(AXIS) if split() else 1


def mean(tree: PyTree) -> PyTree:
    """Means over devices of arrays that each has."""
    return jax.lax.pmean(tree, AXIS) if split() else tree


def total(tree: PyTree) -> PyTree:
    """Sums over devices of arrays that each has."""
    return jax.lax.psum(tree, AXIS) if split() else tree


def largest(x: jax.Array) -> jax.Array:
    """Maximum over devices, element by element."""
    return jax.lax.pmax(x, AXIS) if split() else x


def smallest(x: jax.Array) -> jax.Array:
    """Minimum over devices, element by element."""
    return jax.lax.pmin(x, AXIS) if split() else x


def local(key: Key) -> Key:
    """A key of this device's own, for draws that must differ between devices."""
    return jax.random.fold_in(key, jax.lax.axis_index(AXIS)) if split() else key


def share(name: str, number: int) -> int:
    """This device's part of a number, such as a batch's size.

    Raises:
      Refused: it does not divide over the devices; `name` says what it is.
    """
    devices = count()
    if number % devices:
        raise Refused(f"{name} = {number} does not divide over {devices} devices")
    return number // devices
