"""Benchmark of IMPALA with actors in threads: returns of many seeds with the defaults of experiments/impala.py.

    python -m benchmarks.impala

Each seed is a run of the experiment in runs/benchmarks/impala, which goes on where it was interrupted. Speed is that of
the runs themselves: actors, learner and simulators on the cores that they had, with whatever else ran there.
"""

import dataclasses

from benchmarks import campaign, off_policy
from experiments import impala

# What Gymnasium's documentation calls a solution, and what solves CartPole.
TARGETS = {"gymnasium:LunarLander-v3": 200.0, "gymnasium:CartPole-v1": 475.0}
NAMES = {"gymnasium:LunarLander-v3": "lunar_lander", "gymnasium:CartPole-v1": "cartpole"}


def main(settings: off_policy.Settings) -> None:
    campaign.require_known("tasks", settings.tasks, TARGETS)
    settings = dataclasses.replace(settings, seeds=settings.seeds or 3)
    for task in settings.tasks:
        defaults = dataclasses.replace(impala.TASKS[task], env=task)
        made = impala.make(defaults)
        record = off_policy.returns(made, task, defaults.total_steps, TARGETS[task], settings)
        rates = []
        for seed in record["seeds"]:
            folder = settings.runs / made.name / f"{task.replace(':', '-')}-seed{seed}"
            steps, seconds = campaign.logged(folder, "seconds")[-1]
            rates.append(steps / seconds)
        record |= {"actors": defaults.actors, "steps_per_second_of_runs": rates}
        campaign.write(settings, f"impala-{NAMES[task]}", record)


if __name__ == "__main__":
    campaign.main(main, off_policy.Settings(tasks=tuple(TARGETS)))
