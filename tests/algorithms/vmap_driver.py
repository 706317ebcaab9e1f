"""The full program, orthogonal initialisation included, over 8 seeds in one `jit(vmap(…))`."""

import jax
import jax.numpy as jnp

import rljax
from rljax.algorithms import ppo

algorithm = ppo.make(rljax.make("cartpole"), ppo.Config(num_envs=8, rollout_length=16))


def train(key):
    return jax.lax.scan(lambda state, _: algorithm.step(state), algorithm.init(key), None, 3)[0].params


params = jax.jit(jax.vmap(train))(jax.vmap(jax.random.key)(jnp.arange(8)))
print("finished", all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)))
