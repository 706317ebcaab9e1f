"""Benchmark of TRPO: returns of many seeds, and speed, with the defaults of experiments/trpo.py.

    python -m benchmarks.trpo
    python -m benchmarks.trpo --tasks half_cheetah

The seeds of a robot are runs that go on where they were interrupted; those of a classic task are one program.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from benchmarks import campaign, off_policy
from experiments import trpo
from rljax import training

# Those of rl-baselines3-zoo.
CLASSIC = {"cartpole": 500.0, "acrobot": -83.1, "pendulum": -174.6}
# Tianshou's at 1M steps, of Gymnasium's v3.
MUJOCO = {"half_cheetah": 4471.0, "hopper": 2046.0, "walker2d": 3827.0}


def main(settings: off_policy.Settings) -> None:
    campaign.require_known("tasks", settings.tasks, CLASSIC | MUJOCO)
    for task in settings.tasks:
        if task in MUJOCO:
            off_policy.main("trpo", MUJOCO, dataclasses.replace(settings, tasks=(task,)))
        else:
            campaign.write(settings, f"trpo-{task}", together(task, settings))


def together(task: str, settings: off_policy.Settings) -> dict[str, Any]:
    """The record of a task, whose seeds are members of one program."""
    defaults = dataclasses.replace(trpo.TASKS[task], env=task)
    made, seeds = trpo.make(defaults), settings.seeds or 5
    keys = jax.vmap(jax.random.key)(np.arange(seeds, dtype=np.uint32))
    options = training.Options(evaluate_every=0, progress=False)
    result = training.train(made, keys, defaults.total_steps, options)
    assert result.evaluation is not None
    evaluation = result.evaluation
    arguments = ["--tasks", task, "--seeds", str(seeds), *([] if settings.speed else ["--no-speed"])]
    return {
        **campaign.returns(made, task, result.steps, evaluation["episodes"], evaluation["members"]),
        **(off_policy.speed(made) if settings.speed else {}),
        "target": {"return": CLASSIC[task]},
        **campaign.provenance("trpo", arguments),
    }


if __name__ == "__main__":
    campaign.main(main, off_policy.Settings(tasks=(*CLASSIC, *MUJOCO)))
