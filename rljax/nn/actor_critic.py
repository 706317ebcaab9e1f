"""Policy and value over torsos with or without memory."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.nn.distributions import (
    Categorical,
    Gaussian,
    MultiCategorical,
    categorical,
    gaussian,
    head_size,
    raw_deviation,
)
from rljax.nn.encoder import encode, layers_after
from rljax.nn.initializers import orthogonal
from rljax.nn.networks import MLP
from rljax.nn.recurrent import stacked, unroll
from rljax.spaces import ArraySpace, Box, Space
from rljax.types import PyTree


class Trunk(nn.Module):
    """Observations [length, batch, …] to features [length, batch, d]: the encoder, layers, memory."""

    config: Any
    space: Space
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: jax.Array, memory: PyTree, reset: jax.Array) -> tuple[jax.Array, PyTree]:
        c = self.config
        features = encode(self.space, obs, c, network=self.encoder)
        features = MLP(layers_after(self.space, c.hidden, self.encoder), c.activation)(features)
        if c.memory:
            cells = stacked(c.memory_cell, c.memory, c.memory_layers)
            memory, features = unroll(cells, memory, features, reset)
        return features, memory


class ActorCritic(nn.Module):
    """Policy and value over one or two trunks. Orthogonal weights, the policy's last layer 100 times smaller.

    The config is that of PPO, or another with its settings of networks.
    """

    config: Any
    action_space: ArraySpace
    spaces: tuple[Space, Space]
    """Spaces of the parts of an observation that policy and value see."""
    encoder: nn.Module | None = None

    @nn.compact
    def __call__(
        self, obs: jax.Array, memory: PyTree, reset: jax.Array
    ) -> tuple[Categorical | MultiCategorical | Gaussian, jax.Array, PyTree]:
        c, space = self.config, self.action_space
        names = ["torso"] if c.shared_torso else ["actor", "critic"]
        memories = memory or [()] * len(names)
        outputs = [
            Trunk(c, seen, self.encoder and self.encoder.clone(), name=name)(obs, own_memory, reset)
            for name, seen, own_memory in zip(names, self.spaces, memories)
        ]
        features, memory = [f for f, _ in outputs], [m for _, m in outputs] if c.memory else ()
        value = nn.Dense(1, kernel_init=orthogonal(1.0), name="value")(features[-1])[..., 0]
        width = head_size(space)
        head = nn.Dense(width, kernel_init=orthogonal(0.01), name="policy")(features[0])
        if not isinstance(space, Box):
            return categorical(space, head), value, memory
        start = nn.initializers.constant(raw_deviation(c.initial_log_std, c.std_type))
        name = "log_std" if c.std_type == "log" else "raw_std"
        if c.state_dependent_std:
            raw = nn.Dense(width, kernel_init=orthogonal(0.01), bias_init=start, name=name)(features[0])
        else:
            raw = self.param(name, start, (width,), jnp.float32)
        return gaussian(head, raw, c.std_type), value, memory


def parts_of(variables: PyTree) -> PyTree:
    """Labels, "policy" or "value", of the variables of an `ActorCritic` without a shared torso."""
    values = ("critic", "value")
    return {"params": {name: "value" if name in values else "policy" for name in variables["params"]}}
