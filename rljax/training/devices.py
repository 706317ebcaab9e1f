"""Many devices: the environments of one run, or the members of a sweep, split over one mesh axis."""

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

from rljax.algorithms.base import Algorithm
from rljax.types import Refused

AXIS = "devices"


def use_cpu_cores(count: int | None = None, members: int = 1) -> None:
    """Makes devices of this machine's cores (or `count` devices), for members to be split over.

    Where the members do not divide over the cores, it makes as many more devices as they do divide over, at most four
    for each core: five members on two cores are five devices that share them, and none is left to take turns.

    Comes before anything of JAX has run; afterwards, or where there is an accelerator, it changes nothing.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count is None:
        count = next((n for n in range(cores, 4 * cores + 1) if members % n == 0), cores)
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", count)


def expect_accelerator() -> bool:
    """Whether JAX will run on a GPU or TPU, told without starting it (after which CPU devices cannot be set up)."""
    chosen = os.environ.get("JAX_PLATFORMS", "")
    if chosen:
        return not chosen.startswith("cpu")
    has_gpu = Path("/dev/nvidiactl").exists() and any(
        importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)
    )
    has_tpu = importlib.util.find_spec("libtpu") is not None and any(Path("/dev").glob("accel*"))
    return has_gpu or has_tpu


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """One axis over `devices`; all devices of all processes where None."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


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
    """The same algorithm with its environments split over the mesh and gradients and statistics averaged across it.

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
        except ValueError as error:
            raise Refused(f"on each of {devices} devices: {error}") from None
    local = algorithm.make(algorithm.env, config, axis_name=AXIS)
    specs = partition_specs(state)
    replicated, data = PartitionSpec(), () if algorithm.data is None else (PartitionSpec(AXIS),)
    # check_vma is off because random keys of a device's own make replication undecidable for it; a test compares
    # the replicas instead.
    init = jax.shard_map(local.init, mesh=mesh, in_specs=replicated, out_specs=specs, check_vma=False)
    step = jax.shard_map(local.step, mesh=mesh, in_specs=(specs, *data), out_specs=(specs, replicated), check_vma=False)
    return algorithm._replace(init=init, step=step)
