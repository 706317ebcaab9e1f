"""A policy: acts, whatever trained it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import struct

from rljax.types import Key, PyTree, Refused


class Policy(struct.PyTreeNode):
    """A policy that is ready to act: raw observations in, actions in the environment's own units out.

    It is a pytree, so it passes through `jit` and `vmap` as an argument.

    Fields:
      variables: parameters and observation statistics.
      initial_memory: the memory before the first step of ONE episode; `()` without memory.
      function: `(variables, key, obs, memory, deterministic) -> (action, memory, extras)`. Extras are further results,
        such as a log-probability or the visits of a search; `()` for none.
    """

    variables: PyTree
    initial_memory: PyTree
    function: Callable[..., tuple[jax.Array, PyTree, PyTree]] = struct.field(pytree_node=False)

    def apply(
        self, key: Key, obs: PyTree, memory: PyTree, deterministic: bool = True
    ) -> tuple[jax.Array, PyTree, PyTree]:
        """Acts and remembers: observations [..., obs] and memory [..., memory] to actions, memory and extras."""
        return self.function(self.variables, key, obs, memory, deterministic)

    def __call__(self, key: Key, obs: PyTree, deterministic: bool = True) -> jax.Array:
        """Acts: observations [..., obs] to actions [..., action]. For policies without memory.

        Compiled at the first call for each shape; `apply` is not, which is for programs that are compiled as a whole.
        """
        if jax.tree.leaves(self.initial_memory):
            raise Refused("a policy with memory is called by policy.apply(key, obs, memory), from initial_memory")
        return _compiled(self.function)(self.variables, key, obs, self.initial_memory, deterministic)[0]


@functools.lru_cache(maxsize=64)
def _compiled(function: Callable[..., Any]) -> Any:
    return jax.jit(function, static_argnums=4)
