"""Shared code of experiments with several stages: demonstrations, stages trained once, successes, pictures.

Each stage has a folder of its own in the run folder; finished work is not done again.
"""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

import rljax
from rljax import training
from rljax.algorithms.core.contract import Algorithm
from rljax.analysis.plots import learning_curve
from rljax.analysis.statistics import bootstrap_interval
from rljax.config import plain
from rljax.data import Dataset, Metadata, demonstrations, files, formats
from rljax.envs import Environment
from rljax.envs.manipulation import ManipulationTask, demonstrators
from rljax.training.folder import write_json
from rljax.types import Key, Refused, Transition

FAULTS = demonstrators.Manner(slip=0.01, hesitation=0.01, wrong_approach=0.4, give_up=0.1, noise=0.002)
"""Default faults of scripted demonstrators."""


def require_manipulation(task: str) -> None:
    """Refuses a task that is not one of manipulation."""
    if not isinstance(rljax.make(task).unwrapped, ManipulationTask):
        raise Refused(f"task = {task} is not allowed; it must be lace, pick_and_place or push_t")


def check_rewards(path: Path, dataset: Dataset, env: Environment) -> None:
    """Refuses demonstrations of a task of manipulation with other rewards than `env` has, where that can be told."""
    task = env.unwrapped
    if isinstance(task, ManipulationTask):
        sparse = bool(np.isin(dataset.reward, (-1.0, 0.0)).all())
        if sparse != (task.reward == "sparse"):
            raise Refused(f"{path}: its rewards are not those of --reward {task.reward}")


def rewarded(path: Path, dataset: Dataset, env: Environment) -> Dataset:
    """A dataset to learn values of `env` from, with the rewards of `env`; refused where they cannot be worked out.

    PushT's demonstrations end in success as a human judged it, where the task sees none.
    """
    if dataset.metadata.version == demonstrations.HUMAN and zipfile.is_zipfile(path):
        return formats.load(path, dataset.metadata.task, push_t=env.unwrapped.reward)  # type: ignore[attr-defined]
    check_rewards(path, dataset, env)
    return dataset


def pin(
    folder: Path, settings: dict[str, Any], free: tuple[str, ...] = (), name: str = "settings", made: str = "*"
) -> None:
    """Notes the settings in a JSON file, or refuses a folder that was made with others.

    Args:
      free: settings that a later call may change.
      name: name of the file, without .json.
      made: files that are made with these settings; if there are some without a note, their settings are unknown.
    """
    path, now = folder / f"{name}.json", plain(json.loads(json.dumps(settings, default=str)))
    if path.exists():
        before, wanted = (flatten_dict(x, sep=".") for x in (plain(files.read_json(path)), now))
        for key in sorted({*before, *wanted}):
            if key.partition(".")[0] not in free and before.get(key) != wanted.get(key):
                raise Refused(
                    f"{folder} holds another run: {key} was {before.get(key)!r} and is now {wanted.get(key)!r}; "
                    "choose another --name"
                )
    elif any(folder.glob(made)):
        raise Refused(f"{folder} holds a run, and no {path.name} that says which; choose another --name")
    if not path.exists() or files.read_json(path) != now:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, now)


def scripted(
    env: Environment, task: str, manner: demonstrators.Manner, key: Key, episodes: int, folder: Path
) -> tuple[Dataset, np.ndarray]:
    """Scripted demonstrations of a task, and the label of each step's fault, [N]; made once.

    Raises:
      Refused: the folder has demonstrations that were made otherwise.
    """
    path = folder / "demonstrations.hdf5"
    about = {"env": env.spec, "manner": dataclasses.asdict(manner), "episodes": episodes}
    about["key"] = np.asarray(jax.random.key_data(key)).tolist()
    pin(folder, about, name=path.stem, made=path.name)
    if not path.exists():
        demonstrator = demonstrators.make(env, manner)
        made = demonstrators.demonstrate(env, demonstrator, key, episodes)
        rows: Any = (made.obs, made.action, made.reward, made.terminated, made.truncated, made.next_obs)
        save_array(folder / "faults.npy", made.fault.astype(np.int8))
        formats.save_d4rl(Dataset.of(Transition(*rows), Metadata(path.stem, task, "scripted")), path)
    fault = np.load(folder / "faults.npy", allow_pickle=False)
    data = formats.load(path)
    print(
        f"{len(data.ends)} demonstrations, {data.terminated[data.ends - 1].mean():.0%} succeed, "
        f"{(fault > 0).mean():.0%} of {data.size:,} steps are in faults"
    )
    return data, fault


def save_array(path: Path, x: np.ndarray) -> None:
    """A file .npy, whole or not at all."""
    with files.whole(path) as part, part.open("wb") as file:
        np.save(file, x)


def retries(data: Dataset, fault: np.ndarray) -> np.ndarray:
    """At which steps a fault is over and a new try begins: bool [N], of the labels [N] of `scripted`."""
    begins = np.append(False, (fault[:-1] > 0) & (fault[1:] == 0))
    begins[data.starts] = False
    return begins


def train(
    algorithm: Algorithm,
    key: Key,
    steps: int,
    folder: Path,
    progress: bool,
    episodes: int = 0,
    settings: dict[str, Any] | None = None,
) -> training.Result:
    """Trains a stage, or goes on where it was interrupted; and draws how often it succeeded on the way.

    Args:
      progress: whether to show a bar; lines are printed anyway.
      episodes: of the evaluation at the end, with more on the way; 0 for none at all.
      settings: further entries of config.json.

    Raises:
      SystemExit: a signal stopped it; 128 plus its number, as of a shell.
    """
    print(folder.name, flush=True)
    options = training.Options(
        evaluate_every=None if episodes else 0,
        evaluation_episodes=50,
        final_episodes=episodes,
        progress=progress or "lines",
    )
    resume = (folder / "config.json").exists()
    result = training.train(algorithm, key, steps, options, folder=folder, resume=resume, settings=settings)
    if result.interrupted is not None:
        raise SystemExit(128 + result.interrupted)
    picture = folder / "learning_curve.png"
    if episodes and not picture.exists():
        learning_curve(folder, "evaluation/success", picture)
    return result


def successes(success: Any, steps: Any) -> dict[str, float]:
    """The success rate of episodes [episodes], with its interval, and how long the episodes were."""
    success = np.asarray(success, np.float64)
    low, high = bootstrap_interval(success)
    share, length = float(success.mean()), float(np.asarray(steps).mean())
    return {"success": share, "low": float(low), "high": float(high), "steps": length}


def in_percent(row: dict[str, float]) -> str:
    """A success rate and its interval, in percent."""
    return f"{row['success']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


def draw_episodes(
    path: Path,
    name: str,
    values: np.ndarray,
    marked: np.ndarray,
    mark: str,
    data: Dataset,
    fault: np.ndarray | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Values [N] along six episodes, those with the most marks, bool [N]; faults are shaded where they are known."""
    import matplotlib.pyplot as plt

    share = np.add.reduceat(marked, data.starts) / (data.ends - data.starts)
    figure, axes = plt.subplots(2, 3, figsize=(12, 5), sharey=True, layout="constrained")
    for axis, episode in zip(axes.flat, np.argsort(-share)[:6]):
        at = np.arange(data.starts[episode], data.ends[episode])
        steps = at - at[0]
        axis.plot(steps, values[at], linewidth=1.2)
        axis.scatter(steps[marked[at]], values[at][marked[at]], s=8, color="tab:red", label=mark, zorder=3)
        if fault is not None:
            axis.fill_between(steps, *limits, where=fault[at] > 0, color="tab:orange", alpha=0.25, label="fault")
        axis.set_title(f"episode {episode}", fontsize=9)
        axis.set_ylim(*limits)
    axes[0, 0].legend(fontsize=8)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel(name, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
