"""Many devices: the environments of one run, or the members of a sweep, split over one mesh axis."""

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, PartitionSpec

from rljax.algorithms.core.contract import Algorithm
from rljax.devices import AXIS
from rljax.types import PyTree, Refused

_PLATFORMS = os.environ.get("JAX_PLATFORMS")
"""Initial value in `jax.config`; another value there has been set by a program."""


def use_cpu_cores(count: int | None = None, members: int = 1) -> None:
    """Makes devices of this machine's cores (or `count` devices), for members to be split over.

    Where the members do not divide over the cores, it makes as many more devices as they do divide over, at most four
    for each core: five members on two cores are five devices that share them, and none is left to take turns.

    Call it before JAX has run anything; afterwards, or with an accelerator, it changes nothing.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count is None:
        count = next((n for n in range(cores, 4 * cores + 1) if members % n == 0), cores)
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", count)


def expect_accelerator() -> bool:
    """Whether JAX will run on a GPU or TPU, told without starting it (after which CPU devices cannot be set up).

    It asks wherever a user can tell JAX: `JAX_PLATFORMS` and `JAX_PLATFORM_NAME`, as variables or in `jax.config`;
    and `CUDA_VISIBLE_DEVICES` and its like, which hide GPUs.
    """
    set_up = jax.config.jax_platforms  # type: ignore[attr-defined]  # untyped in jax 0.10
    platforms = set_up if (set_up or None) != (_PLATFORMS or None) else os.environ.get("JAX_PLATFORMS")
    # The older name has no attribute in jax.config.
    names = os.environ.get("JAX_PLATFORM_NAME"), jax.config.values.get("jax_platform_name")
    chosen = [text.partition(",")[0].strip().lower() for text in (platforms, *names) if text]
    if chosen:
        return "cpu" not in chosen
    cuda = ("jax_cuda12_plugin", "jax_cuda13_plugin"), ("CUDA_VISIBLE_DEVICES",)
    rocm = (
        ("jax_rocm60_plugin", "jax_rocm7_plugin"),
        ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    )
    for driver, (plugins, hiding) in (("/dev/nvidiactl", cuda), ("/dev/kfd", rocm)):
        found = Path(driver).exists() and any(importlib.util.find_spec(plugin) for plugin in plugins)
        if found and all(_shows_one(os.environ.get(name)) for name in hiding):
            return True
    return importlib.util.find_spec("libtpu") is not None and any(Path("/dev").glob("accel*"))


def _shows_one(devices: str | None) -> bool:
    """Whether a list of visible devices has one. CUDA reads it up to the first invalid entry, such as "" or -1."""
    if devices is None:
        return True
    first = devices.partition(",")[0].strip()
    return first.isdigit() or first.startswith(("GPU-", "MIG-"))


MEMBERS = "members"
"""Name of the mesh axis over which the members of a sweep are split; they exchange nothing."""


def make_mesh(devices: Sequence[jax.Device] | None = None, axis: str = AXIS) -> Mesh:
    """One axis over `devices`; all devices of all processes where None."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (axis,), axis_types=(AxisType.Auto,), devices=devices)


def partition_specs(state: Any) -> Any:
    """How a training state lies on the mesh: fields made by `sharded_field` are split, all others replicated.

    Fields of states within the state count likewise.
    """

    def spec(field: dataclasses.Field) -> Any:
        value = getattr(state, field.name)
        if field.metadata.get("sharded"):
            return PartitionSpec(AXIS)
        return partition_specs(value) if _has_sharded_field(value) else PartitionSpec()

    return type(state)(**{field.name: spec(field) for field in dataclasses.fields(state)})


def _has_sharded_field(value: Any) -> bool:
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    return any(f.metadata.get("sharded") or _has_sharded_field(getattr(value, f.name)) for f in fields)


def shard_environments(algorithm: Algorithm, mesh: Mesh) -> Algorithm:
    """The same algorithm with its environments split over the mesh; it averages by itself (see `rljax.devices`).

    A dataset is split too; without environments, each device draws its share of a batch from its own share of the data.

    Raises:
      ValueError: the environments, or a device's share of a batch, do not divide.
    """
    devices, config = mesh.size, algorithm.config
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    if not _has_sharded_field(state):
        if config.batch_size % devices:
            raise Refused(f"batch_size = {config.batch_size} does not divide over {devices} devices")
    elif config.num_envs % devices:
        raise Refused(f"num_envs = {config.num_envs} does not divide over {devices} devices")
    else:
        try:
            dataclasses.replace(config, num_envs=config.num_envs // devices)
        except Refused as error:
            raise Refused(f"on each of {devices} devices: {error}") from None
    specs = partition_specs(state)
    replicated, data = PartitionSpec(), () if algorithm.data is None else (PartitionSpec(AXIS),)
    # check_vma is off because random keys of a device's own make replication undecidable for it; a test compares
    # the replicas instead.
    init = jax.shard_map(algorithm.init, mesh=mesh, in_specs=replicated, out_specs=specs, check_vma=False)
    step = jax.shard_map(
        algorithm.step, mesh=mesh, in_specs=(specs, *data), out_specs=(specs, replicated), check_vma=False
    )
    return algorithm._replace(init=init, step=step)


def on_host(tree: PyTree) -> PyTree:
    """All of each array as NumPy's, in every process: members may lie on the devices of others."""

    def of(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(of, tree)


def agreed(count: int, received: int, stops: bool) -> tuple[int, int, bool]:
    """The first process's count, the greatest number that any has received, and whether any stops.

    Processes that went different ways would wait for each other for ever.
    """
    if jax.process_count() == 1:
        return count, received, stops
    told = multihost_utils.process_allgather(np.array([count, received, stops], np.int32))
    return int(told[0, 0]), int(told[:, 1].max()), bool(told[:, 2].any())


def decided_by_first(decide: Callable[[], int | None]) -> int | None:
    """What the first process decides, in all of them, once it has; where it refuses, all do.

    It alone touches the run folder. One that went on without it would wait for it for ever.

    Args:
      decide: gives a number of at least 0, or None.
    """
    decided, refused = None, None
    if jax.process_index() == 0:
        try:
            decided = decide()
        except Refused as error:
            refused = error
    if jax.process_count() > 1:
        told = -2 if refused is not None else -1 if decided is None else decided
        told = int(multihost_utils.broadcast_one_to_all(np.int32(told)))
        decided = None if told < 0 else told
        if told == -2 and refused is None:
            refused = Refused("the first process refuses the run, and says why")
    if refused is not None:
        raise refused
    return decided
