"""JAX's switches, with which users look for what is wrong, and every algorithm.

x64, rank promotion and leaked tracers show when a program is traced, and nothing is compiled. NaN shows when it runs: a
few algorithms do, each with an iteration that learns nothing and some that learn.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs import Environment, initial_state
from rljax.spaces import Box, Discrete
from rljax.training import evaluate
from rljax.training.program import _zero_totals, add
from tests.algorithms.cases import CASES, made
from tests.toys import limited

RUN = ("ppo", "pqn", "dqn of quantiles", "sac", "fast td3", "crossq", "reppo")


class Breaks(Environment):
    """Terminates at its third step, in an observation that is not finite: a simulator that broke."""

    name = "breaks"
    observation_space = Box(-np.inf, np.inf, (2,))

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, key):
        return initial_state(jnp.int32(0), jax.random.normal(key, (2,), jnp.float32))

    def step(self, state, action):
        over = state.physics >= 2
        obs = jnp.where(over, jnp.inf, 0.9 * state.obs)
        return state.replace(physics=state.physics + 1, obs=obs, reward=jnp.float32(1.0), terminated=over)


@contextlib.contextmanager
def switched(**switches):
    """With `jax_<name>` set so, as users set them: by `jax.config`."""
    before = {name: getattr(jax.config, name) for name in (f"jax_{switch}" for switch in switches)}
    try:
        for switch, value in switches.items():
            jax.config.update(f"jax_{switch}", value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def trained(algorithm, key, *data):
    """The state after two iterations, with the metrics added up, and the policy's episodes."""
    state = algorithm.init(key)
    totals = _zero_totals(jax.eval_shape(algorithm.step, state, *data)[1])

    def body(index, carry):
        state, totals = carry
        state, metrics = algorithm.step(state, *data)
        return state, add(totals, metrics, index)

    state, totals = jax.lax.fori_loop(0, 2, body, (state, totals))
    return state, totals, evaluate(algorithm.env, algorithm.policy(state), key, 2, deterministic=False)


def traced(case):
    algorithm = made(case)
    data = () if algorithm.data is None else (jax.eval_shape(lambda x: x, algorithm.data),)
    return jax.eval_shape(lambda key, *data: trained(algorithm, key, *data), jax.random.key(0), *data)


@pytest.mark.parametrize("case", CASES)
def test_nothing_becomes_double_precision_and_no_ranks_are_matched_by_chance(case):
    with switched(enable_x64=True, numpy_rank_promotion="raise"):
        state = traced(case)[0]
    wide = [path for path, x in jax.tree_util.tree_leaves_with_path(state) if x.dtype == np.float64]
    assert not wide, [jax.tree_util.keystr(path) for path in wide]


@pytest.mark.parametrize("case", ["bc", *(pytest.param(case, marks=pytest.mark.slow) for case in ("pqn", "sac"))])
def test_no_tracer_leaks(case):
    """Without caches, which makes it slow: one algorithm of each kind."""
    with switched(check_tracer_leaks=True):
        traced(case)


@pytest.mark.parametrize("case", RUN)
def test_nothing_is_nan_though_every_episode_ends_in_an_observation_that_is_not_finite(case):
    space = Discrete(2) if CASES[case][2] == "cartpole" else Box(-1.0, 1.0, (1,))
    with switched(debug_nans=True):
        algorithm = made(case, limited(Breaks(space), 5))
        state, step = jax.jit(algorithm.init)(jax.random.key(0)), jax.jit(algorithm.step)
        for _ in range(6):
            state, metrics = step(state)
    # Of what replay keeps, too: no batch may see it.
    kept = state.experience.replay.data if hasattr(state, "experience") else ()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, metrics, kept)))
    assert metrics["episode/return"].value == 3.0


def test_without_compilation():
    with switched(disable_jit=True):
        algorithm = made("pqn")
        _, metrics = algorithm.step(algorithm.init(jax.random.key(0)))
    assert np.isfinite(metrics["loss/value"])
