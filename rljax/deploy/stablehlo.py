"""StableHLO: the form that JAX itself keeps programs in, for any batch, on CPU, CUDA and TPU."""

import jax
import numpy as np

from rljax.deploy.source import Run, Source, convolutions

PLATFORMS = ("cpu", "cuda", "tpu")


def write(source: Source) -> bytes:
    """The file's content; `jax.export.deserialize` reads it, parameters included."""
    [batch] = jax.export.symbolic_shape("batch")
    with convolutions():
        exported = jax.export.export(jax.jit(source.function(batch)), platforms=PLATFORMS)(*source.arguments(batch))
    return bytes(exported.serialize())


def reader(content: bytes, source: Source) -> Run:
    """A function of the named inputs to the named outputs, by the content of a file."""
    call = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda inputs: jax.tree.map(np.asarray, source.outputs_of(call(*source.arguments_of(inputs))))
