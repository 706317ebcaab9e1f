"""Policies of every kind with random parameters, none of them 0, without any training or compilation."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.deploy.source import Source
from rljax.envs.spaces_only import SpacesOnly
from rljax.policy import Policy
from rljax.spaces import Box, parts
from tests.algorithms.cases import made


def of_case(case):
    """The policy of a case with random parameters, and its environment."""
    algorithm = made(case)
    like = jax.eval_shape(lambda key: algorithm.policy(algorithm.init(key)), jax.random.key(0))
    random = np.random.default_rng(1)

    def filled(path, x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return np.zeros(x.shape, x.dtype)
        name = jax.tree_util.keystr(path)
        numbers = random.normal(size=x.shape) / np.sqrt(max(x.shape[-2:-1], default=1))
        if any(word in name for word in ("count", "m2", "var")):
            numbers = 1 + np.abs(numbers)
        if "bias" in name:  # or a layer of few units may give 0 for all that it sees
            numbers = 0.05 * np.abs(numbers)
        if "action_range" in name:
            numbers = np.abs(numbers) + 0.5 if name.endswith("[1]") else -np.abs(numbers) - 0.5
        return jnp.asarray(numbers, x.dtype)

    # Whole numbers in a memory are the step of a chunk, which is -1 before the first observation.
    begin = lambda x: jnp.full(x.shape, -1 if x.dtype == jnp.int32 else 0, x.dtype)  # noqa: E731
    variables = jax.tree_util.tree_map_with_path(filled, like.variables)
    return like.replace(variables=variables, initial_memory=jax.tree.map(begin, like.initial_memory)), algorithm.env


def of_function(function, size, action_size):
    """A policy that is a function of a vector [batch, size], and its environment."""
    policy = Policy({}, (), lambda variables, key, obs, memory, _: (function(obs), memory, ()))
    return policy, SpacesOnly(size, [-1.0] * action_size, [1.0] * action_size)


def observations(env, count, seed=0):
    """Observations [count, 1, …], none of which is like another."""
    random = np.random.default_rng(seed)

    def drawn(space):
        shape = (count, 1, *space.shape)
        if not isinstance(space, Box):
            return random.integers(0, np.asarray(space.n), shape).astype(space.dtype)
        if np.issubdtype(space.dtype, np.integer):
            return random.integers(space.low, space.high, shape, endpoint=True).astype(space.dtype)
        return random.normal(size=shape).astype(np.float32)

    named = {name: drawn(space) for name, space in parts(env.observation_space).items()}
    return named[""] if set(named) == {""} else named


def played(source: Source, run, obs):
    """The actions [count, …] of an exported policy on observations, with its own memory."""
    memory = {p.name: np.asarray(p.initial, p.dtype).reshape(p.shape) for p in source.group("memory")}
    actions, leaves = [], jax.tree.leaves(obs)
    for i in range(len(leaves[0])):
        found = run({p.name: leaves[p.place][i] for p in source.group("obs")} | memory)
        memory = {p.name: found[f"next_{p.name}"] for p in source.group("memory")}
        actions.append(np.array(found["action"]))
    return np.stack(actions)


def expected(policy, obs):
    """The policy's own actions on observations one after the other, [count, …]."""
    begin = jax.tree.map(lambda x: jnp.asarray(x)[None], policy.initial_memory)

    def step(memory, obs):
        action, memory, _ = policy.apply(jax.random.key(7), obs, memory)
        return memory, action

    return np.asarray(jax.jit(lambda begin, obs: jax.lax.scan(step, begin, obs)[1])(begin, obs))
