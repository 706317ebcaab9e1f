"""Networks: perceptrons, and convolutions over images."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from math import sqrt
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.config import one_of
from rljax.nn.initializers import orthogonal, uniform
from rljax.types import Refused

Initialization = Literal["orthogonal", "uniform"]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "elu": nn.elu,
    "gelu": nn.gelu,
    "identity": lambda x: x,
    "leaky_relu": nn.leaky_relu,
    "relu": nn.relu,
    "silu": nn.silu,
    "softplus": nn.softplus,
    "tanh": nn.tanh,
}
Activation = Annotated[str, one_of(ACTIVATIONS)]


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Looks an activation function up by its name; the names are the keys of `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise Refused(f"activation must be one of {', '.join(sorted(ACTIVATIONS))}; got {name!r}")
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """Maps [..., d] to [..., output], or to [..., hidden[-1]] where `output` is None (and to itself without layers).

    Kernels are orthogonal and biases zero. A small `output_scale` (0.01) makes an untrained policy nearly uniform,
    which matters more than most choices in on-policy learning (Andrychowicz et al. 2021, arXiv:2006.05990).
    With `initialization="uniform"` kernels and biases start as PyTorch's do, whatever the scales.
    """

    hidden: Sequence[int]
    activation: str = "tanh"
    output: int | None = None
    output_scale: float = 1.0
    hidden_scale: float = sqrt(2)
    layer_norm: bool = False  # before each activation
    dropout: float = 0.0  # after each hidden product; with it, apply needs rngs={"dropout": key}
    dot_general: Callable[..., jax.Array] | None = None  # of the hidden layers; see nn/precision.py
    initialization: Initialization = "orthogonal"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def dense(x: jax.Array, units: int, scale: float, **options: Any) -> jax.Array:
            drawn = uniform(x.shape[-1]) if self.initialization == "uniform" else None
            kernel, bias = drawn or orthogonal(scale), drawn or nn.initializers.zeros
            return nn.Dense(units, kernel_init=kernel, bias_init=bias, **options)(x)

        activate = activation(self.activation)
        for units in self.hidden:
            x = dense(x, units, self.hidden_scale, dot_general=self.dot_general)
            if self.dropout:
                x = nn.Dropout(self.dropout, deterministic=False)(x)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = activate(x)
        if self.output is not None:
            x = dense(x, self.output, self.output_scale, name="output")
        return x


def apply(network: nn.Module, variables: Any, *inputs: Any, **options: Any) -> Any:
    """`network.apply`, which is declared to give its output or a pair, whichever was asked for."""
    return network.apply(variables, *inputs, **options)


as_convolutions: ContextVar[bool] = ContextVar("as_convolutions", default=False)
"""Whether `CNN` leaves its convolutions as they are on a CPU too: the better form where nobody asks for gradients."""


def product_of_patches(images: jax.Array, kernel: jax.Array, strides: Sequence[int], *_: Any, **__: Any) -> jax.Array:
    """A convolution without padding, images [n, height, width, c] by a kernel [h, w, c, o], as one product of matrices.

    XLA's CPU backend has no fast gradient of a convolution inside a loop: this takes a fifth of the time there.
    """
    height, width = kernel.shape[:2]
    down, right = strides
    rows, columns = ((size - k) // s + 1 for size, k, s in zip(images.shape[1:3], kernel.shape, strides, strict=False))
    patches = [
        images[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
        for i in range(height)
        for j in range(width)
    ]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


class CNN(nn.Module):
    """Maps images [..., height, width, channels] to features [..., dense]; any leading axes, or none.

    The defaults are the convolutions of Mnih et al. (2015), made for 84 x 84 images; for 10 x 10 images (MinAtar) use
    channels=(16,), kernels=(3,), strides=(1,), dense=128. uint8 is scaled to [0, 1]; any other type is taken as is.
    """

    channels: Sequence[int] = (32, 64, 64)
    kernels: Sequence[int] = (8, 4, 3)
    strides: Sequence[int] = (4, 2, 1)
    dense: int = 512
    activation: str = "relu"
    layer_norm: bool = False  # before each activation, over the channels

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        if not len(self.channels) == len(self.kernels) == len(self.strides):
            raise Refused(
                "CNN: channels, kernels and strides must be of one length, got "
                f"{tuple(self.channels)}, {tuple(self.kernels)}, {tuple(self.strides)}"
            )
        if image.ndim < 3:
            raise Refused(f"CNN: an image has the axes [..., height, width, channels], got the shape {image.shape}")
        activate = activation(self.activation)
        x = image.astype(jnp.float32)
        if image.dtype == jnp.uint8:
            x = x / 255.0
        for channels, kernel, stride in zip(self.channels, self.kernels, self.strides, strict=True):
            if min(x.shape[-3:-1]) < kernel:
                raise Refused(
                    f"CNN: an image of {image.shape[-3]} x {image.shape[-2]} is too small for kernels="
                    f"{tuple(self.kernels)} with strides={tuple(self.strides)}: a {kernel} x {kernel} kernel meets "
                    f"{x.shape[-3]} x {x.shape[-2]}. Use fewer or smaller kernels, such as kernels=(3,), strides=(1,)"
                )
            window, step = (kernel, kernel), (stride, stride)
            by_patches = (
                (lambda: product_of_patches) if jax.default_backend() == "cpu" and not as_convolutions.get() else None
            )
            x = nn.Conv(
                channels, window, step, "VALID", kernel_init=orthogonal(sqrt(2)), conv_general_dilated_cls=by_patches
            )(x)
            x = activate(nn.LayerNorm()(x) if self.layer_norm else x)
        x = x.reshape(*x.shape[:-3], -1)
        x = nn.Dense(self.dense, kernel_init=orthogonal(sqrt(2)))(x)
        return activate(nn.LayerNorm()(x) if self.layer_norm else x)
