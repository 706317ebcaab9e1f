"""StableHLO: the form that JAX itself keeps programs in, for any batch, on CPU, CUDA and TPU."""

from typing import Any

import jax
import numpy as np

from rljax.deploy.source import Arrays, Port, Source, convolutions

PLATFORMS = ("cpu", "cuda", "tpu")


def write(source: Source) -> bytes:
    """The file's content; `jax.export.deserialize` reads it, parameters included."""
    [batch] = jax.export.symbolic_shape("batch")
    with convolutions():
        exported = jax.export.export(jax.jit(source.function(batch)), platforms=PLATFORMS)(*source.arguments(batch))
    return bytes(exported.serialize())


def reader(content: bytes, source: Source) -> Any:
    """A function of the named inputs to the named outputs, by the content of a file."""
    call = jax.jit(jax.export.deserialize(bytearray(content)).call)
    groups = [group for name in ("obs", "memory", "noise") if (group := source.group(name))]

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        found = call(*(gathered(group, inputs) for group in groups))
        action, after = found if source.group("memory") else (found, {})
        return {
            port.name: np.asarray(action if port.group == "action" else after[port.key] if port.key else after)
            for port in source.outputs
        }

    return run


def gathered(ports: list[Port], inputs: Arrays) -> Any:
    """A group's argument, from arrays by their names."""
    arrays = {port.key: inputs[port.name] for port in ports}
    return arrays[""] if set(arrays) == {""} else arrays
