"""JAX's switches, with which users look for what is wrong, and every algorithm.

x64, rank promotion and leaked tracers show when a program is traced, and nothing is compiled. NaN shows when it runs: a
few algorithms do, each with an iteration that learns nothing and some that learn.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import algorithms
from rljax.algorithms import diffusion, dsrl, fqe, steering
from rljax.algorithms.base import Policy
from rljax.envs import Environment, initial_state
from rljax.spaces import Box, Discrete
from rljax.training import evaluate
from rljax.training.program import _zero_totals, add
from tests.datasets import clock_data, drift_data
from tests.toys import ContinuousClock, Drift, Pixels, limited

DRIFT, PIXELS, CLOCK = limited(Drift(), 7), limited(Pixels(), 6), limited(ContinuousClock(3, True), 5)
SMALL = {"num_envs": 2, "batch_size": 4, "replay_size": 64, "learning_starts": 4, "hidden": (4,)}
ROLLOUT = {"num_envs": 2, "rollout_length": 4, "num_epochs": 1, "num_minibatches": 2, "hidden": (4,)}
OFFLINE = {"batch_size": 4, "hidden": (4,)}
SAMPLER = diffusion.Config(width=4, blocks=1, history=2, horizon=3, executed=2, sampler_steps=2)
STEERED = SMALL | {"sampler": SAMPLER, "num_updates": 2}
# Of each: the algorithm, its settings, the environment, the dataset, and how else it is made.
CASES: dict[str, tuple[str, dict[str, Any], Any, Any, dict[str, Any]]] = {
    "ppo": ("ppo", ROLLOUT | {
        "memory": 3, "normalize_observation": True, "normalize_reward": True, "target_kl": 0.1, "value_clip_range": 0.2,
        "kl_response": "adapt_learning_rate", "anneal_steps": 100, "num_minibatches": 1,
    }, DRIFT, None, {}),
    "ppo of images": ("ppo", ROLLOUT | {"cnn_channels": (2,), "hidden": (4, 4), "target_kl": 0.1}, PIXELS, None, {}),
    "pqn": ("pqn", ROLLOUT | {"normalize_observation": True, "anneal_steps": 50}, "cartpole", None, {}),
    "dqn": ("dqn", SMALL | {
        "prioritized": True, "double": True, "n_step": 2, "storage": "bfloat16", "anneal_steps": 50,
    }, "cartpole", None, {}),
    "dqn of quantiles": ("dqn", SMALL | {
        "prioritized": True, "head": "quantile", "exploration": "noisy", "dueling": True, "num_atoms": 3,
        "importance_anneal_steps": 9,
    }, "cartpole", None, {}),
    "dqn of categories": ("dqn", SMALL | {"head": "categorical", "num_atoms": 3, "newest_size": 8}, PIXELS, None, {}),
    "sac": ("sac", SMALL | {
        "normalize_observation": True, "layer_norm": True, "dropout": 0.1, "num_critics": 3, "n_step": 2,
    }, DRIFT, None, {}),
    "td3": ("td3", SMALL | {"normalize_observation": True}, DRIFT, None, {}),
    "fast td3": ("td3", SMALL | {
        "num_atoms": 5, "noise_max": 0.4, "policy_value": "min", "target_policy": False, "delay_targets": False,
        "weight_decay": 0.1, "newest_size": 8,
    }, DRIFT, None, {}),
    "crossq": ("crossq", SMALL | {"critic_hidden": (4,)}, DRIFT, None, {}),
    "native": ("sac", SMALL, "inverted_pendulum", None, {}),
    "bc": ("bc", OFFLINE | {"policy": "gaussian", "dropout": 0.1}, DRIFT, drift_data, {}),
    "iql": ("iql", OFFLINE | {"dropout": 0.1, "policy_decay_steps": 9}, DRIFT, drift_data, {}),
    "td3_bc": ("td3_bc", OFFLINE | {"target_penalty": 0.1}, DRIFT, drift_data, {}),
    "td3_bc online": ("td3_bc", SMALL, DRIFT, drift_data, {"online": True}),
    "cql": ("cql", OFFLINE | {"num_actions": 2, "lagrange": True, "max_target": True}, DRIFT, drift_data, {}),
    "cal-ql online": ("cql", SMALL | {
        "num_actions": 2, "calibrated": True, "penalty_draws": 2, "reward_scale": "returns",
    }, DRIFT, drift_data, {"online": True}),
    "rlpd": ("rlpd", SMALL | {"num_updates": 2, "policy_delay": 2}, DRIFT, drift_data, {}),
    "diffusion": ("diffusion", {
        "width": 4, "blocks": 1, "batch_size": 4, "horizon": 3, "executed": 2, "sampler_steps": 2, "labels": 2,
    }, DRIFT, drift_data, {}),
    "flow": ("diffusion", {
        "network": "transformer", "objective": "flow", "width": 4, "blocks": 1, "batch_size": 4, "horizon": 3,
        "executed": 2, "sampler_steps": 2,
    }, DRIFT, drift_data, {}),
    "progress": ("progress", OFFLINE | {"num_atoms": 5}, CLOCK, lambda: clock_data(3, True), {}),
    "recap": ("recap", OFFLINE | {"num_atoms": 5}, CLOCK, lambda: clock_data(3, True), {}),
    "fqe": ("fqe", {"members": 2, "batch_size": 4, "hidden": (4,)}, CLOCK, lambda: clock_data(3, True), {}),
    **{method: ("steering", STEERED | {"method": method}, DRIFT, None, {}) for method in steering.AGENTS},
}  # fmt: skip
RUN = ("ppo", "pqn", "dqn of quantiles", "sac", "fast td3", "crossq")


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


def made(case, env=None):
    name, settings, own, data, options = CASES[case]
    env = env or (rljax.make(own) if isinstance(own, str) else own)
    if name == "fqe":
        idle = Policy({}, (), lambda variables, key, obs, memory, _: (jnp.zeros((*obs.shape[:-1], 1)), memory))
        return fqe.make(env, fqe.Config(**settings), data(), idle)
    module = dsrl if name == "steering" else algorithms.get(name)
    config = module.Config(**settings)
    make = algorithms.get(name).make
    return make(env, config) if data is None else make(env, config, data(), **options)


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


@pytest.mark.parametrize("case", ["pqn", "sac"])
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
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, metrics)))
    assert metrics["episode/return"].value == 3.0


def test_without_compilation():
    with switched(disable_jit=True):
        algorithm = made("pqn")
        _, metrics = algorithm.step(algorithm.init(jax.random.key(0)))
    assert np.isfinite(metrics["loss/value"])
