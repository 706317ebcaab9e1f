"""Settings of the offline algorithms by family of datasets: one table, each value with its source.

All are those of the papers' code on D4RL's tasks. On a CPU with instructions for them, locomotion uses products in
bfloat16, which take half the time; `precision="float32"` turns them off.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from rljax import algorithms

FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "locomotion": {
        "bc": {},
        "td3_bc": {},  # Fujimoto and Gu 2021, table 2
        # Kumar et al. 2020, appendix F, and their code; penalty_draws is ours, and estimates the same gradient.
        "cql": {"penalty_draws": 1},
        # Kostrikov et al. 2021, appendix B; they leave observations as they are, CORL's IQL normalises them.
        "iql": {"reward_scale": "returns", "expectile": 0.7, "advantage_weight": 3.0},
        "rlpd": {},  # Ball et al. 2023, table 2
    },
    "antmaze": {
        "bc": {},
        "td3_bc": {"reward_bias": -1.0},  # CORL, configs/offline/td3_bc/antmaze
        # Cal-QL's code, scripts/run_antmaze.sh, and its defaults in JaxCQL/conservative_sac.py.
        "cql": {
            "penalty_weight": 5.0,
            "lagrange": True,
            "target_gap": 0.8,
            "max_target": True,
            "calibrated": True,
            "learning_rate": 1e-4,
            "temperature_learning_rate": 1e-4,
            "reward_scale": 10.0,
            "reward_bias": -5.0,
            "hidden": (256, 256),
            "critic_hidden": (256,) * 4,
            "normalize_observation": False,
        },
        # Kostrikov et al. 2021, appendix B
        "iql": {
            "reward_bias": -1.0,
            "expectile": 0.9,
            "advantage_weight": 10.0,
            "normalize_observation": False,
        },
        # RLPD's code: the command of its README, and train_finetuning.py for the rewards.
        "rlpd": {
            "num_target_critics": 1,
            "hidden": (256, 256, 256),
            "reward_bias": -1.0,
            "entropy_in_target": False,
        },
    },
    "adroit": {
        "bc": {},
        "td3_bc": {},
        "cql": {"penalty_weight": 1.0, "lagrange": True, "target_gap": 5.0},  # CORL, configs/offline/cql/pen
        "iql": {"expectile": 0.7, "advantage_weight": 0.5, "dropout": 0.1},  # Kostrikov et al. 2021, appendix B
        "rlpd": {},
    },
    # "pen-binary-v0" and its like, whose rewards are -1 until success, and 0.
    "adroit_binary": {
        # Cal-QL's code, scripts/run_adroit.sh, and its defaults.
        "cql": {
            "penalty_weight": 1.0,
            "max_target": True,
            "calibrated": True,
            "learning_rate": 1e-4,
            "temperature_learning_rate": 1e-4,
            "reward_scale": 10.0,
            "reward_bias": 5.0,
            "hidden": (512, 512),
            "critic_hidden": (512,) * 3,
            "normalize_observation": False,
        },
        "rlpd": {"hidden": (256, 256, 256), "entropy_in_target": False},  # RLPD's code, README
    },
}

ON_ACCELERATORS: dict[str, dict[str, Any]] = {
    name: {"precision": "float32", "offline_updates": 100} for name in ("bc", "td3_bc", "cql", "iql")
}
"""Replacements on GPUs and TPUs, which multiply float32 in a lower precision anyway."""

TASKS = {
    "locomotion": ("half_cheetah", "hopper", "walker2d", "ant", "swimmer", "humanoid"),
    "antmaze": ("antmaze",),
    "adroit": ("pen", "hammer", "door", "relocate"),
    "adroit_binary": ("pen_binary", "door_binary", "relocate_binary"),
}
"""First words of the names of tasks: "antmaze-umaze-v2" begins with "antmaze", and not with "ant"."""


def family(name: str | None) -> str | None:
    """The family of a task or a dataset, by any spelling of its name, or the family so called; None for none.

    Words are joined as `rljax.make` does: "half_cheetah", "HalfCheetah-v5", "mujoco/halfcheetah/medium-v0".
    """
    if not name or ":" in name:  # an adapter's task has its own rewards
        return None
    if name in FAMILIES:
        return name
    families = {task.replace("_", ""): family for family, tasks in TASKS.items() for task in tasks}
    for part in name.lower().split("/"):
        words = re.split("[-_ ]", part)
        for count in range(len(words), 0, -1):
            if found := families.get("".join(words[:count])):
                return found
    return None


def config(algorithm: str, task: str | None, accelerated: bool = False) -> Any:
    """The settings of an algorithm for a task or a family, else its defaults; `accelerated`: on an accelerator."""
    table: dict[str, dict[str, Any]] = FAMILIES.get(family(task) or "", {})
    fast = {"precision": "bfloat16"} if family(task) == "locomotion" and multiplies_bfloat16() else {}
    own = fast | table.get(algorithm, {}) | (ON_ACCELERATORS.get(algorithm, {}) if accelerated else {})
    return dataclasses.replace(algorithms.get(algorithm).Config(), **own)


def multiplies_bfloat16(path: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has instructions for products in bfloat16, so far as Linux tells; without, they are slower."""
    try:
        flags = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))
