"""The settings of the offline algorithms: by family of tasks, and on accelerators."""

import dataclasses

import jax
import pytest

from rljax import algorithms
from rljax.algorithms import cql, offline_settings, td3_bc
from tests.algorithms.test_offline import DATA, ENV
from tests.toys import spaces


@pytest.mark.parametrize(
    ("task", "family"),
    [
        ("hopper", "locomotion"),
        ("half_cheetah", "locomotion"),
        ("ant", "locomotion"),
        ("antmaze-umaze-v2", "antmaze"),
        ("pen-human-v1", "adroit"),
        ("door-cloned-v1", "adroit"),
        ("pen-binary-v0", "adroit_binary"),
        ("pendulum", None),
        ("humanoidmaze-medium-v0", None),
        ("halfcheetah-medium-v2", "locomotion"),
        ("HalfCheetah-v5", "locomotion"),
        ("half_cheetah-medium-replay-v0", "locomotion"),
        ("halfcheetah_medium-v2", "locomotion"),
        ("Walker2d-v5", "locomotion"),
        ("mujoco/halfcheetah/medium-v0", "locomotion"),
        ("D4RL/antmaze/umaze-v1", "antmaze"),
        ("Ant_maze_u-maze_noisy_multistart_True_multigoal_False_sparse", "antmaze"),
        ("D4RL/door/human-v2", "adroit"),
        ("antmaze", "antmaze"),
        ("adroit", "adroit"),
        ("locomotion", "locomotion"),
        ("none", None),
        ("HumanoidStandup-v5", None),
        ("antsoccer-arena-navigate-v0", None),
        ("gymnasium:Hopper-v5", None),
        ("brax:ant", None),
        (None, None),
    ],
)
def test_settings_are_those_of_the_tasks_family(task, family, monkeypatch):
    monkeypatch.setattr(offline_settings, "multiplies_bfloat16", lambda: False)
    assert offline_settings.family(task) == family
    for name in offline_settings.FAMILIES["antmaze"]:
        config, default = offline_settings.config(name, task), algorithms.get(name).Config()
        table = offline_settings.FAMILIES.get(family, {}).get(name, {})
        assert config == dataclasses.replace(default, **table)


@pytest.mark.parametrize("name", ["bc", "td3_bc", "cql", "iql"])
def test_on_accelerators_a_hundred_updates_are_one_iteration_though_not_online(name, monkeypatch):
    monkeypatch.setattr(offline_settings, "multiplies_bfloat16", lambda: True)
    config = offline_settings.config(name, "hopper", accelerated=True)
    assert (config.precision, config.offline_updates) == ("float32", 100)
    assert dataclasses.replace(config, precision="bfloat16", offline_updates=0) == offline_settings.config(
        name, "hopper"
    )
    assert algorithms.get(name).make(ENV, config, DATA).per_iteration == 100
    if name != "bc":  # which does not act and learn
        assert algorithms.get(name).make(ENV, config, DATA, online=True).per_iteration < 3


# What the sources say, in their words and numbers.
CAL_QL_ANTMAZE = {  # nakamotoo/Cal-QL: scripts/run_antmaze.sh; what it does not say, JaxCQL/conservative_sac*.py
    "cql_min_q_weight": 5.0,
    "cql_target_action_gap": 0.8,
    "cql_lagrange": True,
    "policy_arch": "256-256",
    "qf_arch": "256-256-256-256",
    "mixing_ratio": 0.5,
    "reward_scale": 10.0,
    "reward_bias": -5.0,
    "enable_calql": True,
    "cql_max_target_backup": True,
    "backup_entropy": False,
    "cql_n_actions": 10,
    "policy_lr": 1e-4,
    "qf_lr": 3e-4,
    "discount": 0.99,
    "soft_target_update_rate": 5e-3,
    "policy_log_std_offset": -1.0,
    "batch_size": 256,
    "orthogonal_init": True,
}
CAL_QL_ADROIT = CAL_QL_ANTMAZE | {  # scripts/run_adroit.sh
    "cql_min_q_weight": 1.0,
    "cql_lagrange": False,
    "policy_arch": "512-512",
    "qf_arch": "512-512-512",
    "reward_bias": 5.0,
}
CORL_CQL = CAL_QL_ANTMAZE | {  # tinkoff-ai/CORL: configs/offline/cql/halfcheetah/medium_v2.yaml
    "cql_min_q_weight": 10.0,
    "cql_lagrange": False,
    "policy_arch": "256-256-256",
    "qf_arch": "256-256-256",
    "reward_scale": 1.0,
    "reward_bias": 0.0,
    "enable_calql": False,
    "cql_max_target_backup": False,
    "policy_lr": 3e-5,
}


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("antmaze-medium-diverse-v2", CAL_QL_ANTMAZE),
        ("pen-binary-v0", CAL_QL_ADROIT),
        ("half_cheetah", CORL_CQL),
        (None, CORL_CQL),
    ],
)
def test_cql_is_set_as_its_sources_are(task, said):
    c = offline_settings.config("cql", task)
    layers = {"policy_arch": c.hidden, "qf_arch": c.hidden if c.critic_hidden is None else c.critic_hidden}
    found = {
        "cql_min_q_weight": c.penalty_weight,
        "cql_lagrange": c.lagrange,
        **{name: "-".join(map(str, widths)) for name, widths in layers.items()},
        "mixing_ratio": c.offline_share,
        "reward_scale": 1.0 if c.reward_scale == "none" else c.reward_scale,
        "reward_bias": c.reward_bias,
        "enable_calql": c.calibrated,
        "cql_max_target_backup": c.max_target,
        "backup_entropy": c.entropy_in_target,
        "cql_n_actions": c.num_actions,
        "policy_lr": c.learning_rate,
        "qf_lr": c.critic_learning_rate,
        "discount": c.discount,
        "soft_target_update_rate": c.target_rate,
        "policy_log_std_offset": c.initial_log_std,
        "batch_size": c.batch_size,
        "orthogonal_init": True,
    }
    if c.lagrange:
        found["cql_target_action_gap"] = c.target_gap
    assert found == {name: said[name] for name in found}
    # The temperature's step is the policy's, its target -d; log α' starts at 1 (Scalar(1.0)).
    assert (c.temperature_learning_rate, c.target_entropy_per_dim) == (said["policy_lr"], -1.0)
    assert c.normalize_observation == (said is CORL_CQL)
    if c.lagrange:
        start = jax.jit(cql.Agent(dataclasses.replace(c, hidden=(4,), critic_hidden=(4,)), *spaces(3, 1)).init)(
            jax.random.key(0)
        )
        assert start.params["log_penalty_weight"] == 1.0


def test_policy_and_critics_have_widths_of_their_own():
    config = offline_settings.config("cql", "antmaze-umaze-v2")
    params = jax.eval_shape(cql.Agent(config, *spaces(29, 8)).init, jax.random.key(0)).params
    depth = {part: len(params[part]["params"]["MLP_0"]) for part in ("policy", "critic")}
    assert depth == {"policy": 3, "critic": 5}  # hidden layers, and the output


def test_rebrac_is_set_as_its_source_is():
    """tinkoff-ai/CORL: configs/offline/rebrac/halfcheetah/medium_v2.yaml."""
    c, d = td3_bc.REBRAC, 6
    found = {
        "actor_bc_coef": 1 / (c.value_weight * d),
        "critic_bc_coef": c.target_penalty,
        "actor_learning_rate": c.learning_rate,
        "critic_learning_rate": c.critic_learning_rate,
        "actor_ln": c.policy_layer_norm,
        "critic_ln": c.layer_norm,
        "actor_n_hiddens": len(c.hidden),
        "critic_n_hiddens": len(c.critic_hidden or c.hidden),
        "hidden_dim": c.hidden[0],
        "batch_size": c.batch_size,
        "gamma": c.discount,
        "tau": c.target_rate,
        "policy_freq": c.policy_delay,
        "policy_noise": c.target_noise,
        "noise_clip": c.target_noise_clip,
        "normalize_states": c.normalize_observation,
        "normalize_reward": c.reward_scale != "none",
    }
    assert found == {
        "actor_bc_coef": pytest.approx(0.001),
        "critic_bc_coef": 0.01,
        "actor_learning_rate": 0.001,
        "critic_learning_rate": 0.001,
        "actor_ln": False,
        "critic_ln": True,
        "actor_n_hiddens": 3,
        "critic_n_hiddens": 3,
        "hidden_dim": 256,
        "batch_size": 1024,
        "gamma": 0.99,
        "tau": 0.005,
        "policy_freq": 2,
        "policy_noise": 0.2,
        "noise_clip": 0.5,
        "normalize_states": False,
        "normalize_reward": False,
    }
    params = jax.eval_shape(td3_bc.Agent(c, *spaces(17, d)).init, jax.random.key(0)).params
    normalised = {part: any("LayerNorm" in name for name in params[part]["params"]["MLP_0"]) for part in params}
    assert normalised == {"policy": False, "critic": True}


@pytest.mark.parametrize(
    ("task", "said"),
    [  # ikostrikov/rlpd: README.md and train_finetuning.py, over configs/rlpd_config.py
        ("hopper", {"hidden": (256, 256), "num_min_qs": 2, "backup_entropy": True, "bias": 0.0}),
        ("antmaze-umaze-v2", {"hidden": (256,) * 3, "num_min_qs": 1, "backup_entropy": False, "bias": -1.0}),
        ("pen-binary-v0", {"hidden": (256,) * 3, "num_min_qs": 2, "backup_entropy": False, "bias": 0.0}),
    ],
)
def test_rlpd_is_set_as_its_commands_are(task, said):
    c = offline_settings.config("rlpd", task)
    found = {"hidden": c.hidden, "num_min_qs": c.num_target_critics, "backup_entropy": c.entropy_in_target}
    assert found | {"bias": c.reward_bias} == said
    assert (c.num_critics, c.layer_norm, c.num_updates, c.learning_starts) == (10, True, 20, 5000)


@pytest.mark.parametrize(
    ("task", "said"),
    [  # ikostrikov/implicit_q_learning: configs/*_config.py and train_offline.py
        ("hopper", (0.7, 3.0, 0.0, 0.0, "returns")),
        ("antmaze-umaze-v2", (0.9, 10.0, 0.0, -1.0, "none")),
        ("pen-human-v1", (0.7, 0.5, 0.1, 0.0, "none")),
    ],
)
def test_iql_is_set_as_its_configs_are(task, said):
    c = offline_settings.config("iql", task)
    assert (c.expectile, c.advantage_weight, c.dropout, c.reward_bias, c.reward_scale) == said
    assert (c.learning_rate, c.critic_learning_rate, c.hidden) == (3e-4, 3e-4, (256, 256))


def test_products_in_bfloat16_are_for_cpus_that_have_them(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    for flags, has in (("fpu avx512f", False), ("fpu avx512_bf16", True), ("fpu amx_bf16", True), ("asimd bf16", True)):
        info.write_text(f"processor : 0\nflags\t: {flags}\n")
        assert offline_settings.multiplies_bfloat16(info) == has
    assert not offline_settings.multiplies_bfloat16(tmp_path / "none")
    for has, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(offline_settings, "multiplies_bfloat16", lambda has=has: has)
        assert offline_settings.config("iql", "hopper").precision == precision
        assert offline_settings.config("iql", "antmaze-umaze-v2").precision == "float32"
