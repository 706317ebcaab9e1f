"""Benchmark of FlashSAC: returns of many seeds, speed, and the ablation, with the defaults of experiments/flash_sac.py.

    python -m benchmarks.flash_sac
    python -m benchmarks.flash_sac --tasks half_cheetah --no-speed
    python -m benchmarks.flash_sac --tasks --ablation              # what each part is worth, on one task

Runs go on where they were interrupted.
"""

import dataclasses
from typing import Any

import numpy as np

from benchmarks import campaign, off_policy
from experiments import flash_sac as experiment
from rljax.config import config_to_dict
from rljax.types import Refused

TARGETS = {
    "pendulum": -150.0,
    "half_cheetah": 10_400.0,
    "walker2d": 4_500.0,
    "hopper": 3_000.0,
    "ant": None,
    "humanoid": None,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "all of it": {},
    "weights of any norm": {"unit_norm": False},
    "two batches apart": {"cross_batch": False},
    "noise drawn at each step": {"max_noise_steps": 1},
}


@dataclasses.dataclass(frozen=True)
class Settings(off_policy.Settings):
    """Settings of the measurements."""

    ablation: bool = False
    """Whether to train the ablation's variants too."""
    ablation_task: str = "half_cheetah"
    """Task of the ablation."""
    ablation_steps: int = 100_000
    """Environment steps of each run of the ablation."""
    ablation_seeds: int = 3
    """Number of seeds of each variant."""


def main(settings: Settings) -> None:
    off_policy.main("flash_sac", TARGETS, settings)
    if settings.ablation:
        campaign.write(settings, "flash_sac-ablation", ablation(settings))


def ablation(settings: Settings) -> campaign.Record:
    """Trains every variant with every seed on one task, and makes the table of their returns."""
    task, steps, seeds = settings.ablation_task, settings.ablation_steps, range(100, 100 + settings.ablation_seeds)
    defaults = dataclasses.replace(experiment.TASKS[task], env=task, total_steps=steps)
    variants = {
        name: dataclasses.replace(defaults, config=dataclasses.replace(defaults.config, **changed))
        for name, changed in VARIANTS.items()
    }
    folders = {
        (name, seed): settings.runs / "flash_sac" / f"ablation-{task}-{index}-seed{seed}"
        for index, name in enumerate(VARIANTS)
        for seed in seeds
    }

    def evaluation(name: str, seed: int) -> campaign.Record | None:
        config = config_to_dict(experiment.make(variants[name]).config)
        return campaign.finished(folders[name, seed], [seed], total_steps=steps, config=config)

    left = [key for key in folders if evaluation(*key) is None]
    flags = {
        name: [flag for setting in changed.items() for flag in flags_of(*setting)] for name, changed in VARIANTS.items()
    }
    campaign.run_all(
        campaign.experiment(folders[name, seed], seed, "--env", task, "--total-steps", steps, *flags[name])
        for name, seed in left
    )
    found = {key: of for key in folders if (of := evaluation(*key)) is not None}
    if len(found) < len(folders):
        raise Refused(f"{len(folders) - len(found)} runs of the ablation in {settings.runs} have no evaluation")
    rows = []
    for name in VARIANTS:
        each = [found[name, seed]["members"][0]["deterministic"]["mean"] for seed in seeds]
        rows.append(
            {"variant": name, "return": float(np.mean(each)), "of each seed": ", ".join(f"{x:.0f}" for x in each)}
        )
        campaign.show(rows[-1])
    notes = (
        f"{task} after {steps:,} steps, the mean of the deterministic policy over {len(seeds)} seeds, which are others "
        "than the table's; each variant lacks one part."
    )
    return campaign.table("flash_sac", f"FlashSAC on {task}: what each part is worth", rows, notes)


def flags_of(field: str, value: Any) -> list[str]:
    """The flags of an experiment that set a field of its config."""
    name = field.replace("_", "-")
    return [f"--{name if value else f'no-{name}'}"] if isinstance(value, bool) else [f"--{name}", str(value)]


if __name__ == "__main__":
    campaign.main(main, Settings(tasks=tuple(TARGETS)))
