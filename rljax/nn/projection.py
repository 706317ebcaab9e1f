"""Parameters on spheres, where steps change directions alone: the learning rate then means the same in every layer."""

from collections.abc import Mapping

import jax.numpy as jnp

from rljax.types import PyTree


def unit_norms(params: PyTree, skip: tuple[str, ...] = ()) -> PyTree:
    """The parameters of layers, each scaled to a fixed norm (as FlashSAC and XQC do after each step).

    The weights [..., inputs, outputs] of an output have norm 1, and the scales and biases [..., d] of a normalisation
    together √d. Biases of other layers, and what has other names, are as they were. Leading axes are ensembles'.

    Args:
      skip: names of modules that are left as they are.
    """
    if not isinstance(params, Mapping):
        return params
    own = {name: value if name in skip else unit_norms(value, skip) for name, value in params.items()}
    if "kernel" in own:
        kernel = own["kernel"]
        own["kernel"] = kernel / jnp.maximum(jnp.sqrt(jnp.square(kernel).sum(-2, keepdims=True)), 1e-8)
    if "scale" in own:
        parts = [name for name in ("scale", "bias") if name in own]
        squares = sum(jnp.square(own[name]).sum(-1, keepdims=True) for name in parts)
        factor = own["scale"].shape[-1] ** 0.5 / jnp.sqrt(squares + 1e-8)
        own |= {name: own[name] * factor for name in parts}
    return own
