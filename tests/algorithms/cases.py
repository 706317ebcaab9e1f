"""Every algorithm, tiny, with options that lead through its code, for test_contract.py and test_switches.py."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from rljax import algorithms
from rljax.algorithms import diffusion, dsrl, fqe, steering
from rljax.algorithms.core.contract import Algorithm
from rljax.envs import Environment, State
from rljax.policy import Policy
from rljax.types import Key
from tests.datasets import clock_data, drift_data, looking_data
from tests.toys import ContinuousClock, Drift, Looking, Pixels, Repeat, limited


class Reached(Drift):
    """Succeeds while the point is near its place."""

    def reset(self, key: Key) -> State:
        return super().reset(key).replace(metrics={"success": jnp.zeros((), jnp.float32)})

    def step(self, state: State, action: jax.Array) -> State:
        after = super().step(state, action)
        return after.replace(metrics={"success": (after.reward > -1.0).astype(jnp.float32)})


REACHED, LOOKING = limited(Reached(), 7), limited(Looking(), 7)
DRIFT, PIXELS, CLOCK = limited(Drift(), 7), limited(Pixels(), 6), limited(ContinuousClock(3, True), 5)
SMALL = {"num_envs": 2, "batch_size": 4, "replay_size": 64, "learning_starts": 4, "hidden": (4,)}
ROLLOUT = {"num_envs": 2, "rollout_length": 4, "num_epochs": 1, "num_minibatches": 2, "hidden": (4,)}
FLASH = {name: value for name, value in SMALL.items() if name != "hidden"} | {
    "batch_size": 16,
    "width": 3,
    "critic_width": 4,
    "expansion": 2,
    "num_atoms": 5,
}
TRUSTED = {"num_envs": 2, "rollout_length": 4, "cg_iterations": 3, "value_epochs": 2, "hidden": (4,)}
PARTS = {"value_obs": ("camera", "privileged_state"), "cnn_channels": (2,)}
ATOMS = {"critic_hidden": (4,), "num_atoms": 5, "value_min": -20.0, "value_max": 20.0}
OFFLINE = {"batch_size": 4, "hidden": (4,)}
SAMPLER = diffusion.Config(width=4, blocks=1, history=2, horizon=3, executed=2, sampler_steps=2)
STEERED = SMALL | {"sampler": SAMPLER, "num_updates": 2}
ENDED = {"succeeded": np.ones(len(clock_data(3, True).ends))}
# Of each: the algorithm, its settings, the environment, the dataset, and how else it is made.
CASES: dict[str, tuple[str, dict[str, Any], Any, Any, dict[str, Any]]] = {
    "ppo": (
        "ppo",
        ROLLOUT
        | {
            "memory": 3,
            "memory_cell": "lstm",
            "normalize_observation": True,
            "normalize_reward": True,
            "separate_grad_norms": True,
            "std_type": "softplus",
            "target_kl": 0.1,
            "value_clip_range": 0.2,
            "kl_response": "adapt_learning_rate",
            "anneal_steps": 100,
            "also_annealed": ("entropy_coefficient", "clip_range"),
            "num_minibatches": 1,
        },
        DRIFT,
        None,
        {},
    ),
    "ppo of images": ("ppo", ROLLOUT | {"cnn_channels": (2,), "hidden": (4, 4), "target_kl": 0.1}, PIXELS, None, {}),
    "ppo of parts": (
        "ppo",
        ROLLOUT
        | PARTS
        | {
            "hidden": (4, 4),
            "memory": 3,
            "memory_cell": "mingru",
            "memory_layers": 2,
            "normalize_observation": True,
            "advantage_scope": "rollout",
            "state_dependent_std": True,
        },
        LOOKING,
        None,
        {},
    ),
    "ppo of choices": (
        "ppo",
        ROLLOUT | {"memory": 3, "normalize_observation": True, "random_age": True},
        limited(Repeat(), 7),
        None,
        {},
    ),
    "sac of parts": (
        "sac",
        SMALL
        | PARTS
        | {
            "normalize_observation": True,
            "n_step": 2,
            "fusion": "late",
            "embedding_size": 2,
        },
        LOOKING,
        None,
        {},
    ),
    "td3 of parts": ("td3", SMALL | {"cnn_channels": (2,), "image_shift": 1}, LOOKING, None, {}),
    "crossq of parts": (
        "crossq",
        SMALL
        | PARTS
        | {
            "critic_hidden": (4,),
            "normalize_observation": True,
            "random_age": True,
            "norm_first": True,
            "unit_norm": True,
            "num_atoms": 5,
            "return_bound": 2.0,
            "target_rate": 0.1,
        },
        LOOKING,
        None,
        {},
    ),
    "bc of parts": ("bc", OFFLINE | {"cnn_channels": (2,), "image_shift": 1}, LOOKING, looking_data, {}),
    "iql of parts": ("iql", OFFLINE | PARTS, LOOKING, looking_data, {}),
    "cql of parts online": (
        "cql",
        SMALL
        | PARTS
        | {
            "num_actions": 2,
            "penalty_draws": 2,
            "image_shift": 1,
        },
        LOOKING,
        looking_data,
        {"online": True},
    ),
    "td3_bc of parts": ("td3_bc", OFFLINE | PARTS, LOOKING, looking_data, {}),
    "diffusion of parts": (
        "diffusion",
        {
            "width": 4,
            "blocks": 1,
            "batch_size": 4,
            "horizon": 3,
            "executed": 2,
            "sampler_steps": 2,
            "cnn_channels": (2,),
            "history": 2,
            "image_shift": 1,
            "policy_obs": ("camera",),
        },
        LOOKING,
        looking_data,
        {},
    ),
    "rlpd of parts": (
        "rlpd",
        SMALL
        | {
            "num_updates": 2,
            "policy_delay": 2,
            "history": 2,
            "executed": 2,
            "policy_obs": ("camera",),
            "value_obs": ("privileged_state",),
            "cnn_channels": (2,),
            "normalize_observation": True,
        },
        LOOKING,
        looking_data,
        {},
    ),
    "a2c": (
        "a2c",
        {
            "num_envs": 2,
            "rollout_length": 4,
            "hidden": (4,),
            "normalize_observation": True,
            "anneal_steps": 50,
        },
        "cartpole",
        None,
        {},
    ),
    "a2c of actions in a box": (
        "a2c",
        {
            "num_envs": 2,
            "rollout_length": 4,
            "hidden": (4,),
            "normalize_observation": True,
            "normalize_reward": True,
        },
        DRIFT,
        None,
        {},
    ),
    "impala": (
        "impala",
        ROLLOUT | {"normalize_observation": True, "normalize_reward": True, "anneal_steps": 50, "vtrace_lambda": 0.9},
        "cartpole",
        None,
        {},
    ),
    "trpo": (
        "trpo",
        TRUSTED | {"normalize_observation": True, "normalize_reward": True, "num_minibatches": 2, "anneal_steps": 50},
        DRIFT,
        None,
        {},
    ),
    "trpo of parts": ("trpo", TRUSTED | PARTS | {"normalize_observation": True}, LOOKING, None, {}),
    "trpo of choices": ("trpo", TRUSTED | {"npg": True}, limited(Repeat(), 7), None, {}),
    "pqn": ("pqn", ROLLOUT | {"normalize_observation": True, "anneal_steps": 50}, "cartpole", None, {}),
    "reppo": (
        "reppo",
        ROLLOUT | ATOMS | {"normalize_reward": True, "anneal_steps": 50},
        DRIFT,
        None,
        {},
    ),
    "reppo of choices": ("reppo", ROLLOUT | ATOMS | {"value_min": 0.0}, "cartpole", None, {}),
    "reppo of parts": ("reppo", ROLLOUT | ATOMS | PARTS | {"normalize_observation": False}, LOOKING, None, {}),
    "dqn": (
        "dqn",
        SMALL
        | {
            "prioritized": True,
            "double": True,
            "n_step": 2,
            "storage": "bfloat16",
            "anneal_steps": 50,
        },
        "cartpole",
        None,
        {},
    ),
    "dqn of quantiles": (
        "dqn",
        SMALL
        | {
            "prioritized": True,
            "head": "quantile",
            "exploration": "noisy",
            "dueling": True,
            "num_atoms": 3,
            "importance_anneal_steps": 9,
        },
        "cartpole",
        None,
        {},
    ),
    "dqn of categories": ("dqn", SMALL | {"head": "categorical", "num_atoms": 3, "newest_size": 8}, PIXELS, None, {}),
    "sac": (
        "sac",
        SMALL
        | {
            "normalize_observation": True,
            "layer_norm": True,
            "dropout": 0.1,
            "num_critics": 3,
            "n_step": 2,
        },
        DRIFT,
        None,
        {},
    ),
    "td3": ("td3", SMALL | {"normalize_observation": True}, DRIFT, None, {}),
    "fast td3": (
        "td3",
        SMALL
        | {
            "num_atoms": 5,
            "noise_max": 0.4,
            "policy_value": "min",
            "target_policy": False,
            "delay_targets": False,
            "weight_decay": 0.1,
            "newest_size": 8,
        },
        DRIFT,
        None,
        {},
    ),
    "crossq": ("crossq", SMALL | {"critic_hidden": (4,)}, DRIFT, None, {}),
    "flash_sac": ("flash_sac", FLASH | {"anneal_steps": 50, "n_step": 2}, DRIFT, None, {}),
    "flash_sac of parts": (
        "flash_sac",
        FLASH | PARTS | {"cross_batch": False, "unit_norm": False, "max_noise_steps": 1},
        LOOKING,
        None,
        {},
    ),
    "native": ("sac", SMALL, "inverted_pendulum", None, {}),
    "bc": ("bc", OFFLINE | {"policy": "gaussian", "dropout": 0.1}, DRIFT, drift_data, {}),
    "iql": ("iql", OFFLINE | {"dropout": 0.1, "policy_decay_steps": 9}, DRIFT, drift_data, {}),
    "td3_bc": ("td3_bc", OFFLINE | {"target_penalty": 0.1}, DRIFT, drift_data, {}),
    "td3_bc online": ("td3_bc", SMALL, DRIFT, drift_data, {"online": True}),
    "cql": ("cql", OFFLINE | {"num_actions": 2, "lagrange": True, "max_target": True}, DRIFT, drift_data, {}),
    "cal-ql online": (
        "cql",
        SMALL
        | {
            "num_actions": 2,
            "calibrated": True,
            "penalty_draws": 2,
            "reward_scale": "returns",
        },
        DRIFT,
        drift_data,
        {"online": True},
    ),
    "rlpd": ("rlpd", SMALL | {"num_updates": 2, "policy_delay": 2}, DRIFT, drift_data, {}),
    "diffusion": (
        "diffusion",
        {
            "width": 4,
            "blocks": 1,
            "batch_size": 4,
            "horizon": 3,
            "executed": 2,
            "sampler_steps": 2,
            "labels": 2,
        },
        DRIFT,
        drift_data,
        {},
    ),
    "flow": (
        "diffusion",
        {
            "network": "transformer",
            "objective": "flow",
            "width": 4,
            "blocks": 1,
            "batch_size": 4,
            "horizon": 3,
            "executed": 2,
            "sampler_steps": 2,
        },
        DRIFT,
        drift_data,
        {},
    ),
    "progress": ("progress", OFFLINE | {"num_atoms": 5}, CLOCK, lambda: clock_data(3, True), ENDED),
    "recap": ("recap", OFFLINE | {"num_atoms": 5}, CLOCK, lambda: clock_data(3, True), ENDED),
    "fqe": ("fqe", {"members": 2, "batch_size": 4, "hidden": (4,)}, CLOCK, lambda: clock_data(3, True), {}),
    **{method: ("steering", STEERED | {"method": method}, REACHED, None, {}) for method in steering.AGENTS},
}


def made(case: str, env: Environment | None = None) -> Algorithm:
    """The algorithm of a case, in another environment where one is given."""
    name, settings, own, data, options = CASES[case]
    env = env or (rljax.make(own) if isinstance(own, str) else own)
    if name == "fqe":
        idle = Policy({}, (), lambda variables, key, obs, memory, _: (jnp.zeros((*obs.shape[:-1], 1)), memory, ()))
        return fqe.make(env, fqe.Config(**settings), data(), idle)
    module = dsrl if name == "steering" else algorithms.get(name)
    config = module.Config(**settings)
    make = algorithms.get(name).make
    return make(env, config) if data is None else make(env, config, data(), **options)
