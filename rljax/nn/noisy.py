"""A layer whose weights are noisy, which explores in place of random actions."""

import flax.linen as nn
import jax
import jax.numpy as jnp


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
