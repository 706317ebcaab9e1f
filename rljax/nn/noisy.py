"""Layers whose weights are noisy, which explores in place of random actions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.nn.networks import MLP, activation


class NoisyDense(nn.Module):
    """A dense layer with factorised noise in its weights, [..., d] to [..., units] (Fortunato et al. 2018, eq. 9-11).

    The noise is drawn from the stream "noise", once for all rows of the input; without that stream there is none.
    """

    units: int
    initial_std: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[-1]
        bound = inputs**-0.5
        mean = nn.initializers.uniform(2 * bound)
        std = nn.initializers.constant(self.initial_std * bound)
        kernel = self.param("kernel", lambda *args: mean(*args) - bound, (inputs, self.units), jnp.float32)
        bias = self.param("bias", lambda *args: mean(*args) - bound, (self.units,), jnp.float32)
        kernel_std = self.param("kernel_std", std, (inputs, self.units), jnp.float32)
        bias_std = self.param("bias_std", std, (self.units,), jnp.float32)
        output = x @ kernel + jnp.broadcast_to(bias, (*x.shape[:-1], self.units))
        if not self.has_rng("noise"):
            return output

        def noise(width: int) -> jax.Array:
            normal = jax.random.normal(self.make_rng("noise"), (width,), jnp.float32)
            return jnp.sign(normal) * jnp.sqrt(jnp.abs(normal))

        # The noise of weight ij is input i's times output j's: no noise matrix is needed.
        of_inputs, of_outputs = (jnp.broadcast_to(noise(y.shape[-1]), y.shape) for y in (x, output))
        return output + ((x * of_inputs) @ kernel_std + jnp.broadcast_to(bias_std, output.shape)) * of_outputs


class Layers(nn.Module):
    """Hidden layers and, where `output` is given, a linear one; noisy where a deviation of the noise is given."""

    activation: str
    initial_std: float | None
    hidden: tuple[int, ...]
    output: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.initial_std is None:
            return MLP(self.hidden, self.activation, self.output)(x)
        for units in self.hidden:
            x = activation(self.activation)(NoisyDense(units, self.initial_std)(x))
        return x if self.output is None else NoisyDense(self.output, self.initial_std, name="output")(x)
