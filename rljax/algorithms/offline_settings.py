"""Settings of the offline algorithms by family of datasets: one table, each value with its source.

Locomotion's are those of the papers' code on D4RL's MuJoCo tasks; AntMaze's and Adroit's likewise. On a CPU with
AVX512-BF16 the products in bfloat16 take half the time; `precision="float32"` takes them back.
"""

import dataclasses
import re
from typing import Any

from rljax import algorithms

FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "locomotion": {
        "bc": {"precision": "bfloat16"},
        "td3_bc": {"precision": "bfloat16"},  # Fujimoto and Gu 2021, table 2
        "cql": {"precision": "bfloat16", "penalty_draws": 1},  # Kumar et al. 2020, appendix F, and its code
        "iql": {
            "precision": "bfloat16", "reward_scale": "returns", "expectile": 0.7, "advantage_weight": 3.0,
        },  # Kostrikov et al. 2021, appendix B
        "rlpd": {"precision": "bfloat16"},  # Ball et al. 2023, table 2
    },
    "antmaze": {
        "bc": {},
        "td3_bc": {"reward_bias": -1.0},
        "cql": {
            "penalty_weight": 5.0, "lagrange": True, "target_gap": 0.8, "max_target": True, "learning_rate": 1e-4,
            "reward_bias": -0.5, "hidden": (256,) * 5, "normalize_observation": False, "calibrated": True,
        },  # Nakamoto et al. 2023, table 5
        "iql": {
            "reward_bias": -1.0, "expectile": 0.9, "advantage_weight": 10.0, "normalize_observation": False,
        },  # Kostrikov et al. 2021, appendix B
        "rlpd": {"num_target_critics": 1, "hidden": (256, 256, 256), "reward_bias": -1.0},
    },
    "adroit": {
        "bc": {},
        "td3_bc": {},
        "cql": {"penalty_weight": 1.0, "learning_rate": 1e-4},
        "iql": {"expectile": 0.7, "advantage_weight": 0.5, "dropout": 0.1},  # Kostrikov et al. 2021, appendix B
        "rlpd": {"hidden": (256, 256, 256), "reward_bias": -1.0},
    },
}  # fmt: skip

ON_ACCELERATORS: dict[str, dict[str, Any]] = {
    name: {"precision": "float32", "offline_updates": 100} for name in ("bc", "td3_bc", "cql", "iql")
}
"""In place of those on GPUs and TPUs, which multiply what is called float32 there in a lower precision anyway."""

TASKS = {
    "locomotion": ("half_cheetah", "hopper", "walker2d", "ant", "swimmer", "humanoid"),
    "antmaze": ("antmaze",),
    "adroit": ("pen", "hammer", "door", "relocate"),
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
    """The settings of an algorithm for a task or a family: its own where there are none; and of an accelerator."""
    table: dict[str, dict[str, Any]] = FAMILIES.get(family(task) or "", {})
    own = table.get(algorithm, {}) | (ON_ACCELERATORS.get(algorithm, {}) if accelerated else {})
    return dataclasses.replace(algorithms.get(algorithm).Config(), **own)
