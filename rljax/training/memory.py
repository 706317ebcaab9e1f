"""Whether a training state fits into memory, told before anything is allocated."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rljax.types import Refused

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def check_memory(state: Any, members: int, devices: int, saved: Any = (), data: Any = ()) -> None:
    """Refuses a state that does not fit into memory together with its data.

    Args:
      state: the state of one member (shapes suffice).
      members: number of members trained together.
      devices: number of devices over which the members, or a single one's environments and replay, are split.
      saved: what checkpoints save of that state, of which a CPU makes a copy (shapes suffice).
      data: all blocks of the dataset that are on a device at once (shapes suffice).

    Raises:
      ValueError: with the memory needed, what takes most of it, and the memory that is free.
    """
    sizes = {jax.tree_util.keystr(path): _bytes(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}
    on_cpu = jax.default_backend() == "cpu"  # whose devices share one memory
    copied = sum(map(_bytes, jax.tree.leaves(saved))) if on_cpu else 0
    needed = (sum(sizes.values()) + copied) * (members if on_cpu else math.ceil(members / devices))
    if not on_cpu and members == 1:
        needed = math.ceil(needed / devices)
    data_bytes = sum(map(_bytes, jax.tree.leaves(data)))
    if on_cpu and members > 1:
        data_bytes *= devices  # each has it all
    needed += data_bytes
    free = free_bytes()
    if free is not None and needed > free:
        if data_bytes > needed / 2:
            raise Refused(
                f"training needs {_gigabytes(needed)} of memory, {_gigabytes(data_bytes)} of it for the dataset, and "
                f"{_gigabytes(free)} are free; stream it in blocks (rljax.data.Stream)"
                f"{', or use one device, for each of the CPU has a copy' if on_cpu and members > 1 < devices else ''}"
            )
        largest = max(sizes, key=lambda name: sizes[name])
        raise Refused(
            f"training needs {_gigabytes(needed)} of memory{' with its checkpoints' if copied else ''}, most "
            f"of it for state{largest} ({_gigabytes(sizes[largest])} for each of {members}), and "
            f"{_gigabytes(free)} are free; lower replay_size, num_envs or the number of members"
        )


def free_bytes() -> int | None:
    """Memory that could be allocated now, on the first device; None where that cannot be told."""
    if jax.default_backend() != "cpu":
        statistics = jax.local_devices()[0].memory_stats() or {}
        if "bytes_limit" not in statistics:
            return None
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    limits = []
    if _MEMINFO.exists():
        available = [line.split()[1] for line in _MEMINFO.read_text().splitlines() if line.startswith("MemAvailable")]
        limits += [int(kilobytes) * 1024 for kilobytes in available]
    try:  # in a container
        most, used = ((_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        limits += [] if most == "max" else [int(most) - int(used)]
    except (OSError, ValueError):
        pass
    return min(limits, default=None)


def _bytes(x: Any) -> int:
    itemsize = 8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
    return math.prod(x.shape) * itemsize


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
