"""Observations of any kind to features: the first step of every network."""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rljax.nn.networks import ACTIVATIONS, CNN
from rljax.spaces import PRIVILEGED, Box, Dict, Discrete, MultiDiscrete, Space, example
from rljax.types import PyTree, Refused

Fusion = Literal["concatenate", "late"]


def seen(space: Space, names: Sequence[str]) -> Space:
    """The part of a space that a network sees: the named parts, or where none is named, all but the privileged one.

    Raises:
      Refused: there is no such part, or there are no parts.
    """
    if not names:
        if not isinstance(space, Dict) or PRIVILEGED not in space.spaces:
            return space
        names = [name for name in space.spaces if name != PRIVILEGED]
        if not names:
            raise Refused(f"all of the observation is privileged: name {PRIVILEGED} to see it (policy_obs)")
    known = tuple(space.spaces) if isinstance(space, Dict) else ()
    if unknown := [name for name in names if name not in known]:
        has = f"has the parts {', '.join(known)}" if known else "has no parts"
        raise Refused(f"there is no part {', '.join(unknown)} to see: the observation {has}")
    assert isinstance(space, Dict)
    return Dict({name: space[name] for name in names})


def is_image(space: Space) -> bool:
    """Whether an observation is one image [height, width, channels], and nothing else."""
    return isinstance(space, Box) and len(space.shape) == 3


def encode(
    space: Space,
    obs: PyTree,
    config: Any,
    activation: str = "relu",
    layer_norm: bool = False,
    network: nn.Module | None = None,
) -> jax.Array:
    """Features [..., d] of observations [..., shape of the space]; called in a module, whose parameters they need.

    Numbers and vectors are as they are, matrices flat; categories are one-hot or embedded (side by side where there are
    several, which share a table where all have as many values, as words do); images pass through convolutions of their
    own. Parts are concatenated in the order of their names, as they are or each after a layer of its own. A custom
    network takes the place of all this.

    Args:
      space: space of one observation, or of its parts that are seen.
      config: settings of the encoder (`Encoding`); an image has as many features as the first hidden layer is wide.
      activation, layer_norm: of the convolutions, and of the layer after them.
      network: maps the observation, or a dict of the parts that are seen, to features [..., d].
    """
    activate = ACTIVATIONS[activation]
    if network is not None:
        return network({name: obs[name] for name in space.spaces} if isinstance(space, Dict) else obs)
    if isinstance(space, Dict):
        below = [encode(inner, obs[name], config, activation, layer_norm) for name, inner in space.spaces.items()]
        if config.fusion == "late":
            below = [activate(nn.LayerNorm()(nn.Dense(_width(config))(x))) for x in below]
        return jnp.concatenate(below, axis=-1)
    if isinstance(space, Discrete | MultiDiscrete) and config.embedding_size:
        return _embedded(space, obs, config.embedding_size)
    if isinstance(space, Discrete):
        return jax.nn.one_hot(obs, space.n, dtype=jnp.float32)
    if isinstance(space, MultiDiscrete):
        return jax.nn.one_hot(obs, max(space.n), dtype=jnp.float32)[..., space.exists]
    if len(space.shape) == 3:
        layers = (config.cnn_channels, config.cnn_kernels, config.cnn_strides)
        return CNN(*layers, _width(config), activation, layer_norm)(obs)
    if len(space.shape) == 1:
        return obs
    return jnp.asarray(obs, jnp.float32).reshape(*obs.shape[: obs.ndim - len(space.shape)], -1)


def _width(config: Any) -> int:
    return config.hidden[0] if config.hidden else 256


def _embedded(space: Discrete | MultiDiscrete, obs: jax.Array, size: int) -> jax.Array:
    """Learned vectors [..., size] of choices [...], or [..., k * size] of several [..., k]."""
    if isinstance(space, Discrete):
        return nn.Embed(space.n, size)(obs)
    alike = len(set(space.n)) == 1
    first = np.zeros(len(space.n), int) if alike else np.cumsum((0, *space.n[:-1]))
    table = nn.Embed(space.n[0] if alike else sum(space.n), size)
    vectors = table(obs + jnp.broadcast_to(jnp.asarray(first, obs.dtype), obs.shape))
    return vectors.reshape(*obs.shape[:-1], -1)


class Encoder(nn.Module):
    """`encode` as a network of its own, for features that several evaluations of another network share."""

    space: Space
    config: Any
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: PyTree) -> jax.Array:
        return encode(self.space, obs, self.config, network=self.encoder)


def with_action(features: jax.Array, action: jax.Array) -> jax.Array:
    """Features [batch, n] beside actions [..., batch, d]: [..., batch, n + d], the same ones for several actions."""
    return jnp.concatenate([jnp.broadcast_to(features, (*action.shape[:-1], features.shape[-1])), action], axis=-1)


def layers_after(space: Space, hidden: tuple[int, ...], network: nn.Module | None = None) -> tuple[int, ...]:
    """Widths of the hidden layers after `encode`: of a single image, the first of them follows its convolutions."""
    return hidden[1:] if is_image(space) and network is None else hidden


def check_network(network: Any, space: Space) -> None:
    """Refuses what cannot take the place of convolutions, before anything is trained with it.

    Args:
      network: a flax module, or None.
      space: what it is given.

    Raises:
      Refused: it is no module, or does not map [time, batch, shape of the space] to features [time, batch, d].
    """
    if network is None:
        return
    if not isinstance(network, nn.Module):
        made = f"{network.__name__}() and not {network.__name__}" if isinstance(network, type) else "such as MyCNN()"
        raise Refused(f"network must be a flax module, {made}; got {network!r}")
    found, variables = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), example(space, 2, 3)))
    if others := sorted(set(variables) - {"params"}):
        raise Refused(
            f"network must have parameters alone, and {type(network).__name__} has {', '.join(others)} as well"
        )
    if getattr(found, "shape", ())[:-1] != (2, 3):
        got = getattr(found, "shape", type(found).__name__)
        raise Refused(
            f"network must map observations [2, 3, …] to features [2, 3, d], for any leading axes; it gives {got}"
        )
