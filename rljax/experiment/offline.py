"""A run on a dataset, and after it one in the task."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import rljax
from rljax.algorithms.core.contract import Algorithm
from rljax.algorithms.core.offline import continued
from rljax.data import Dataset, Stream, normalized_score
from rljax.envs.registry import canonical
from rljax.experiment.data import dataset_of, in_form_of, spaces_of, task_of
from rljax.experiment.running import run, set_up_devices
from rljax.training.result import Result
from rljax.types import Refused


def run_offline(
    experiment: str, make_algorithm: Callable[..., Algorithm], settings: Any, goes_online: bool = True
) -> Result:
    """Trains on the dataset of `settings` (an `OfflineRun` with `run`), then online for `online_steps`.

    Args:
      experiment: first part of the folder, such as "iql".
      make_algorithm: `(env, dataset) -> Algorithm`; with `online=True` as well, where it goes online.
      goes_online: whether the algorithm can learn from its own experience.
    """
    dataset, how = dataset_of(settings), settings.run
    task = task_of(settings, dataset)
    if settings.online_steps < 0:
        raise Refused(f"online_steps = {settings.online_steps} is not allowed; it must be 0 or more")
    set_up_devices(how)  # before the environment, which may be the first to use JAX
    env = rljax.make(task) if task else spaces_of(dataset)
    dataset = in_form_of(env, dataset, settings)
    if env.max_episode_steps is None:
        print("no task, or none with a time limit: nothing is evaluated", file=sys.stderr)
        how = dataclasses.replace(how, evaluate_every=0, final_episodes=0)
    if settings.online_steps and not task:
        raise Refused("online_steps needs a task to act in: --env")
    if settings.online_steps and not goes_online:
        raise Refused(f"online_steps must be 0: {experiment} learns nothing from its own actions")
    if settings.online_steps and how.population is not None:
        raise Refused("online_steps must be 0 with --population: hyperparameters would begin anew")
    if settings.online_steps:
        make_algorithm(env, None, online=True)  # what cannot go on online is refused now, and not after all updates
    if settings.block_size < 0:
        raise Refused(f"block_size = {settings.block_size} is not allowed; it must be 0 or more")

    def offline() -> Algorithm:
        algorithm = make_algorithm(env, dataset)
        if not settings.block_size:
            return algorithm
        # So that a transition is learned from about once while its block is there.
        iterations = max(1, settings.block_size // (algorithm.config.batch_size * algorithm.per_iteration))
        return algorithm._replace(data=Stream(algorithm.data, settings.block_size, iterations))

    result = run(experiment, offline, settings.total_steps, how)
    _compare(result, dataset, task)
    if not settings.online_steps or result.interrupted is not None:
        return result
    assert result.folder is not None
    how = dataclasses.replace(how, name=f"{result.folder.name}-online", start_from=None, start_parts=())
    online = functools.partial(make_algorithm, env, dataset, online=True)
    result = run(experiment, online, settings.online_steps, how, initialize=continued(result.state))
    _compare(result, dataset, task)
    return result


def _compare(result: Result, dataset: Dataset, task: str | None) -> None:
    """Prints the policy's scores beside the data's returns."""
    line = "the dataset has no rewards"
    if getattr(dataset.metadata, "rewards", True):
        line = f"returns of the dataset's episodes: mean {dataset.returns.mean():.1f}, best {dataset.returns.max():.1f}"
    if result.evaluation is not None:
        means = [member["deterministic"]["mean"] for member in result.evaluation["members"]]
        if (score := normalized_score(canonical(task) if task else None, means)) is not None:
            line += f"; normalised scores of the policy: {', '.join(f'{value:.1f}' for value in score)}"
    print(line)
