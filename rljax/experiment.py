"""Shared code of all files in `experiments/`: flags, the run folder, seeds and sweeps, the curve, the summary."""

import dataclasses
import functools
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import rljax
from rljax import paths, training
from rljax.algorithms import offline_settings
from rljax.algorithms.core.contract import Algorithm
from rljax.algorithms.core.offline import continued
from rljax.data import Dataset, Stream, normalized_score
from rljax.envs.environment import Environment
from rljax.envs.registry import canonical, check_recorded, is_module, time_limit
from rljax.spaces import Dict
from rljax.training.lock import locked
from rljax.training.progress import shielded_output
from rljax.training.runner import Result
from rljax.types import Key, Refused

_LARGEST_SEED = 2**63 - 1
_COUNTED_IN_PYTHON = (
    "seed", "total_steps", "online_steps", "log_every", "evaluate_every", "checkpoint_every", "anneal_steps",
    "exploration_steps",
)  # fmt: skip
_SCHEDULES = ("anneal_steps", "exploration_steps", "policy_decay_steps")
"""Settings that are derived from total_steps where they are not given."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings of a run that are the same for every algorithm."""

    seed: int = 0
    """Seed of the first member."""
    seeds: int = 1
    """Number of independent seeds, trained in one program: seed, seed + 1 and so on."""
    sweep: tuple[str, ...] = ()
    """Hyperparameters to sweep in the same program, e.g. learning_rate=1e-4,3e-4,1e-3; several make a grid."""
    runs: Path = Path("runs")
    """Folder of all run folders."""
    name: str | None = None
    """Name of the run folder; the task and the seed where not given."""
    resume: bool = False
    """Continue from the folder's newest whole checkpoint; where there is none, start from the beginning."""
    overwrite: bool = False
    """Move a finished run of that name aside (to NAME.1, NAME.2, …) and start anew."""
    log_every: int | None = None
    """Environment steps between rows of metrics.csv; a hundredth of the run where not given."""
    evaluate_every: int | None = None
    """Environment steps between evaluations; a tenth of the run where not given, 0 for none."""
    evaluation_episodes: int = 20
    """Episodes of each evaluation on the way."""
    final_episodes: int = 100
    """Episodes of the evaluation at the end."""
    stop_at_return: float | None = None
    """Mean return of an evaluation on the way at which the run stops; it never stops early where not given."""
    checkpoint_every: int | None = None
    """Environment steps between checkpoints; a tenth of the run where not given."""
    devices: int | None = None
    """Number of devices; where not given, as many as divide the members, or for one member all (on a CPU, one)."""
    progress: bool = True
    """Show the progress bar; the lines above it are printed anyway."""
    wandb: bool = False
    """Also log to Weights & Biases (pip install 'rljax[wandb]')."""
    video: bool = False
    """Film one episode of the final policy (of the first member): video.mp4."""


@dataclasses.dataclass(frozen=True)
class FromDataset:
    """The dataset to learn from, and its task."""

    dataset: Path = Path("dataset.hdf5")
    """A file of D4RL's layout (HDF5), a folder of Minari's, or OGBench's npz; experiments/collect.py makes some."""
    env: str | None = None
    """The task, as rljax.make takes it, or none if it has no simulator; the dataset's where not given."""
    family: str | None = None
    """Family of tasks whose published settings are the defaults of --config: locomotion, antmaze, adroit,
    adroit_binary, or none; where not given, found by the name of the task or the dataset."""
    max_episode_steps: int | None = None
    """Time limit of the episodes in D4RL's oldest files, which do not mark it; where not given, the limit of --env."""

    rewards: ClassVar[Literal["required", "optional"]] = "required"


@dataclasses.dataclass(frozen=True)
class OfflineRun(FromDataset):
    """Settings of a run that are the same for every algorithm that learns from a dataset."""

    total_steps: int = 1_000_000
    """Updates of each member."""
    online_steps: int = 0
    """Environment steps after all updates, in which the same agent acts and goes on learning."""
    block_size: int = 0
    """Transitions per block, for a dataset that is streamed because it does not fit on the device; 0 keeps all of it
    there."""


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """Difference between executed and commanded actions (see rljax.envs.ExecutionMismatch)."""

    delay: int = 0
    """Steps until an action has an effect."""
    smoothing: float = 0.0
    """Share of the last executed action in the next one, in [0, 1)."""
    rate_limit: float = 1.0
    """Largest change of the executed action in a step, as a share of the action's range."""

    def options(self) -> dict[str, Any]:
        """The arguments for rljax.make; none where actions are executed as commanded."""
        return {} if self == Mismatch() else {"mismatch": dataclasses.asdict(self)}


def main(
    experiment: Callable[[Any], Any],
    settings: Any,
    tasks: Mapping[str, Any],
    accelerated: Mapping[str, Any] | None = None,
    prefixes: bool = False,
    by: str | None = None,
) -> None:
    """Parses flags into `settings`, whose defaults depend on `--env` or `--task`, and calls `experiment` with them.

    Where JAX will run on an accelerator, and the physics with it (`--engine` is not native), the defaults are those of
    `accelerated`, as far as it has the task: there thousands of environments cost little more than one.

    `by` is another flag on which the defaults depend, in place of those two.

    With `prefixes` a flag of a nested config begins with its name (--policy.width), since several configs share names.

    Bad input ends with one line and exit code 2, training that diverged with 1, and a run stopped by a signal with 128
    plus its number, as shells do. Any other error is a defect, of rljax or of the user's code, and keeps its traceback.
    """

    def default(arguments: list[str]) -> Any:
        if by is not None:
            return tasks.get(_argument(arguments, by) or "", settings())
        name = next((name for name in ("env", "task") if hasattr(settings, name)), None)
        if name is None:  # what acts in the task of another run
            return settings()
        task = canonical(_argument(arguments, name) or getattr(settings, name))
        fast = accelerated and _argument(arguments, "engine") != "native" and training.expect_accelerator()
        known = {**tasks, **(accelerated or {})} if fast else tasks
        return dataclasses.replace(known.get(task, settings()), **{name: task})

    _main(experiment, settings, default, prefixes)


def main_offline(experiment: Callable[[Any], Any], settings: Any, algorithm: str) -> None:
    """The same for an algorithm that learns from a dataset: the defaults depend on its task (offline_settings.py)."""

    def default(arguments: list[str]) -> Any:
        names = ("dataset", "env", "family", "max-episode-steps")
        path, task, family, limit = (_argument(arguments, name) for name in names)
        if family not in (None, "none", *offline_settings.FAMILIES):
            known = ", ".join(offline_settings.FAMILIES)
            raise Refused(f"family = {family!r} is not allowed; it must be one of {known}, or none")
        if limit is not None and not (limit.isdecimal() and int(limit)):
            raise Refused(f"max_episode_steps = {limit} is not allowed; it must be an integer of at least 1")
        steps = int(limit) if limit else time_limit(task or "")
        if path is not None:
            about = load_dataset(paths.local(path), settings.rewards, steps).metadata
            task = task or about.task
            if family is None and task in (None, "none") and (family := offline_settings.family(about.name)):
                print(f"settings of {family}, by the name of the dataset; --family none for others", file=sys.stderr)
        elif not {"-h", "--help"} & set(arguments):
            raise Refused("--dataset is missing: a file or folder of data; experiments/collect.py makes some")
        task = canonical(task) if task else None
        config = offline_settings.config(algorithm, family or task, training.expect_accelerator())
        return settings(env=task, family=family, max_episode_steps=steps, config=config)

    _main(experiment, settings, default)


def _main(
    experiment: Callable[[Any], Any], settings: Any, default: Callable[[list[str]], Any], prefixes: bool = False
) -> None:
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    arguments = sys.argv[1:]
    try:
        parsed = tyro.cli(
            settings, prog=Path(sys.argv[0]).name, args=arguments, default=default(arguments),
            config=() if prefixes else (tyro.conf.OmitArgPrefixes,),
        )  # fmt: skip
        _check_integers(parsed)
        with shielded_output():
            result = experiment(paths.localized(parsed))
    except (Refused, training.Diverged) as error:
        sys.exit(_failure(error))
    if isinstance(result, Result) and result.interrupted is not None:
        sys.exit(128 + result.interrupted)


@functools.lru_cache(maxsize=1)
def load_dataset(
    path: Path,
    rewards: Literal["required", "optional"] = "required",
    max_episode_steps: int | None = None,
    flatten: bool = True,
) -> Dataset:
    """The dataset of a path, read once, with vectors for actions.

    Args:
      rewards: whether a file without them is refused.
      max_episode_steps: the time limit of D4RL's oldest files, which do not mark it.
      flatten: whether observations with several parts become vectors (see `vectors_of`).
    """
    from rljax.data import formats

    dataset = formats.load(path, rewards=rewards, max_episode_steps=max_episode_steps, flatten=flatten)
    return vectors_of(dataset) if flatten else continuous(dataset)


def continuous(dataset: Dataset) -> Dataset:
    """The same dataset; refused where actions are not vectors of floating-point numbers."""
    name, action = dataset.metadata.name, np.asarray(dataset.action)
    if action.dtype.kind not in "f":
        raise Refused(f"{name}: actions are of type {action.dtype}; only continuous ones are learned from, as floats")
    if action.ndim != 2:
        raise Refused(f"{name}: actions have the shape {list(action.shape[1:])}; they must be vectors")
    return dataset


def vectors_of(dataset: Dataset) -> Dataset:
    """The same dataset, with dicts of vectors joined as Gymnasium's `FlattenObservation` does: by name.

    A dict with an image in it stays a dict.

    Raises:
      Refused: a part is neither a vector nor an image, or actions are no vectors of floating-point numbers.
    """
    if hasattr(continuous(dataset).obs, "shape"):
        return dataset
    parts = jax.tree.leaves_with_path(dataset.obs)
    for path, x in parts:
        if x.ndim not in (2, 4):
            part, shape = jax.tree_util.keystr(path), list(x.shape[1:])
            raise Refused(
                f"{dataset.metadata.name}: observations{part} have the shape {shape}; without a task, parts of a dict "
                "must be vectors or images"
            )
    if any(x.ndim == 4 for _, x in parts):
        return dataset

    def joined(obs: Any) -> np.ndarray:
        return np.concatenate([np.asarray(x, np.float32) for x in jax.tree.leaves(obs)], axis=-1)

    return dataset.replace(obs=joined(dataset.obs), next_obs=joined(dataset.next_obs))


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
    _set_up_devices(how)  # before the environment, which may be the first to use JAX
    env = rljax.make(task) if task else spaces_of(dataset)
    if isinstance(env.observation_space, Dict):
        dataset = dataset_of(settings, flatten=False)
    if env.max_episode_steps is None:
        print("no task, or none with a time limit: nothing is evaluated", file=sys.stderr)
        how = dataclasses.replace(how, evaluate_every=0, final_episodes=0)
    if settings.online_steps and not task:
        raise Refused("online_steps needs a task to act in: --env")
    if settings.online_steps and not goes_online:
        raise Refused(f"online_steps must be 0: {experiment} learns nothing from its own actions")
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
    how = dataclasses.replace(how, name=f"{result.folder.name}-online")
    online = functools.partial(make_algorithm, env, dataset, online=True)
    result = run(experiment, online, settings.online_steps, how, initialize=continued(result.state))
    _compare(result, dataset, task)
    return result


def dataset_of(settings: FromDataset, flatten: bool = True) -> Dataset:
    """The dataset that the flags name; `flatten` as in `load_dataset`."""
    return load_dataset(paths.local(settings.dataset), settings.rewards, settings.max_episode_steps, flatten)


def task_of(settings: Any, dataset: Dataset) -> str | None:
    """The task of the flags, or else of the dataset; None for none."""
    task = settings.env or dataset.metadata.task
    if task and not settings.env:
        check_recorded(task)
    return None if task == "none" else task


def spaces_of(dataset: Dataset) -> Environment:
    """A stand-in environment where there is no simulator, with actions bounded as the dataset's are."""
    action, sizes = (
        np.asarray(dataset.action),
        jax.tree.map(lambda x: x.shape[1] if x.ndim == 2 else list(x.shape[1:]), dataset.obs),
    )
    low, high = action.min(0), action.max(0)
    # An action that never varies has no range.
    bounds = {"action_low": low.tolist(), "action_high": np.where(high > low, high, low + 1.0).tolist()}
    return rljax.make("spaces_only", observation_size=sizes, **bounds)


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


def run(
    experiment: str,
    make_algorithm: Callable[[], Algorithm],
    total_steps: int,
    settings: Run,
    extra: dict[str, Any] | None = None,
    initialize: Callable[[Any], Any] | None = None,
) -> Result:
    """Trains as `settings` say, into `runs/<experiment>/<name>`, draws the curve and prints where everything is.

    Args:
      experiment: first part of the folder, such as "ppo".
      make_algorithm: called once devices are set up; nothing of JAX may have run before.
      total_steps: steps of each member.
      extra: further entries of config.json.
      initialize: changes the first state of a run that starts anew (see `training.train`).
    """
    for field, least in (("seed", 0), ("seeds", 1), ("evaluation_episodes", 1), ("final_episodes", 0)):
        if getattr(settings, field) < least:
            raise Refused(f"{field} = {getattr(settings, field)} is not allowed; it must be at least {least}")
    if settings.seed + settings.seeds - 1 > _LARGEST_SEED:
        raise Refused(f"seed = {settings.seed} is not allowed; the last seed must be at most {_LARGEST_SEED}")
    seeds, hyper = _members(settings)
    _set_up_devices(settings)
    algorithm = make_algorithm()
    if total_steps >= 2**31 * algorithm.per_iteration:
        raise Refused(f"total_steps = {total_steps} is not allowed; iterations must be fewer than 2^31")
    if settings.video:
        _require_pictures(algorithm.env)
    name = settings.name or _default_name(algorithm, settings)
    folder = paths.local(settings.runs) / experiment / name
    if jax.process_index() == 0:
        paths.require_writable(folder)
    if settings.resume:
        _check_schedules(folder, algorithm.config, total_steps)
    elif settings.overwrite:
        set_aside(folder)
    keys = keys_of(seeds)
    result = training.train(
        algorithm,
        keys if len(seeds) > 1 else keys[0],
        total_steps,
        hyper=hyper,
        folder=folder,
        resume=settings.resume,
        log_every=settings.log_every,
        evaluate_every=settings.evaluate_every,
        evaluation_episodes=settings.evaluation_episodes,
        final_episodes=settings.final_episodes,
        checkpoint_every=settings.checkpoint_every,
        devices=settings.devices,
        progress=settings.progress or "lines",
        wandb=settings.wandb,
        settings=extra,
        initialize=initialize,
        callbacks=() if settings.stop_at_return is None else (training.StopAtReturn(settings.stop_at_return),),
    )
    if result.interrupted is None:
        film = _film(folder, algorithm.env, settings) if settings.video and jax.process_index() == 0 else None
        _summarize(result, hyper, film)
    return result


def keys_of(seeds: Sequence[int]) -> Key:
    """The keys [seeds] of seeds up to 2^63 - 1: those of `jax.random.key`, which drops all bits of a seed but 32."""
    for seed in seeds:
        if not 0 <= seed <= _LARGEST_SEED:
            raise Refused(f"seed = {seed} is not allowed; it must be from 0 to {_LARGEST_SEED}")
    words = np.asarray(seeds, np.uint64)
    keys = jax.vmap(jax.random.key)((words & np.uint64(2**32 - 1)).astype(np.uint32))
    upper = (words >> np.uint64(32)).astype(np.uint32)
    if not upper.any():
        return keys
    data = np.array(jax.random.key_data(keys))
    data[:, 0::2] = upper[:, None]  # where JAX puts them if jax_enable_x64 is on
    return jax.random.wrap_key_data(jnp.asarray(data), impl=str(jax.random.key_impl(keys)))


def _check_schedules(folder: Path, config: Any, total_steps: int) -> None:
    """Tells whoever extends a run how to keep the schedules that follow `total_steps`."""
    try:
        before = json.loads((folder / "config.json").read_text())
        old, steps = before["config"], before["total_steps"]
    except (OSError, ValueError, KeyError):  # `training.train` says what is wrong with the folder
        return
    changed = [name for name in _SCHEDULES if old.get(name) and old[name] != getattr(config, name, None)]
    if changed and steps != total_steps:
        flags = " ".join(f"--{name.replace('_', '-')} {old[name]}" for name in changed)
        raise Refused(
            f"{folder} was begun with total_steps = {steps}, which its schedules follow; give --total-steps {steps} "
            f"to finish it, keep them with {flags} to go on for longer (a learning rate that has fallen to 0 stays "
            "there), or start anew under another --name"
        )


def _set_up_devices(settings: Run) -> None:
    """Several members are trained on all cores of a CPU; a second call changes nothing."""
    members = len(_members(settings)[0])
    if settings.devices is not None or members > 1:
        training.use_cpu_cores(settings.devices, members)


def set_aside(folder: Path) -> None:
    """Renames a run folder, if it is there, to NAME.1 (or NAME.2, …); refuses one that is being written."""
    if folder.exists():
        with locked(folder):
            pass
        aside = next(p for n in itertools.count(1) if not (p := folder.with_name(f"{folder.name}.{n}")).exists())
        try:
            folder.rename(aside)
        except OSError as error:
            raise Refused(f"{folder} cannot be moved aside: {error.strerror or error}") from None


def _members(settings: Run) -> tuple[list[int], dict[str, np.ndarray] | None]:
    """The seed of each member and the swept values of each: every setting of the grid with every seed."""
    grid: dict[str, list[float]] = {}
    for text in settings.sweep:
        name, _, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if name in grid:
            raise Refused(f"sweep = {settings.sweep} names {name} twice; give all its values at once")
        try:
            grid[name] = [float(value) for value in values.split(",")]
        except ValueError:
            raise Refused(f"sweep = {text!r} is not allowed; it must look like learning_rate=1e-4,3e-4") from None
    seeds = range(settings.seed, settings.seed + settings.seeds)
    members = list(itertools.product(*grid.values(), seeds))
    if len(members) == 1 and grid:
        raise Refused(f"sweep = {settings.sweep} has one value; set it as a flag of its own")
    hyper = {name: np.array([member[i] for member in members]) for i, name in enumerate(grid)}
    return [int(member[-1]) for member in members], hyper or None


def _default_name(algorithm: Algorithm, settings: Run) -> str:
    what = algorithm.env.spec["name"] if algorithm.data is None else algorithm.data.metadata.name
    parts = [str(what).replace(":", "-").replace("/", "-"), f"seed{settings.seed}"]
    if settings.seeds > 1:
        parts.append(f"to{settings.seed + settings.seeds - 1}")
    parts += [f"sweep-{text.partition('=')[0].strip()}" for text in settings.sweep]
    return "-".join(parts)


def _require_pictures(env: Environment) -> None:
    """Draws one state, so that a user is told before a long training that there can be no video."""
    try:
        import av  # noqa: F401

        env.render(jax.jit(env.reset)(jax.random.key(0)))
    except (RuntimeError, ImportError) as error:  # no drawing (NotImplementedError), no OpenGL
        raise Refused(f"video = True is not possible: {error}") from error


def _film(folder: Path, env: Environment, settings: Run) -> Path | None:
    """An episode of the newest checkpoint's policy; a run whose film fails is still a run."""
    from rljax.analysis.video import animate

    path = folder / "video.mp4"
    try:
        animate(env, rljax.load(folder, env=env), keys_of([settings.seed])[0], path, progress=settings.progress)
    except (Exception, KeyboardInterrupt) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"warning: {path} could not be made: {reason}", file=sys.stderr)
        return None
    return path


def _code_of(folder: Path | None) -> str:
    """What else `rljax.load` must be told of a run whose environment is code of the user's."""
    if folder is None or not (folder / "config.json").exists():
        return ""
    name = str(json.loads((folder / "config.json").read_text())["env"].get("name"))
    return f", env=rljax.make({name!r})" if is_module(name) else ""


def _summarize(result: Result, hyper: dict[str, Any] | None, film: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from rljax.analysis.plots import learning_curve

    assert result.folder is not None
    evaluated = any(row.get("evaluation/return") is not None for row in result.rows)
    if evaluated or (result.evaluation is None and any("episode/return" in row for row in result.rows)):
        learning_curve(result.folder, path=result.folder / "learning_curve.png")
    console = Console()
    if result.evaluation is not None:
        table = Table(title=f"Return over {result.evaluation['episodes']} episodes after {result.steps:,} steps")
        for column in ("seed", *(hyper or {}), "deterministic", "stochastic", "episode length"):
            table.add_column(column, justify="right")
        for member in result.evaluation["members"]:
            first, second = member["deterministic"], member["stochastic"]
            table.add_row(
                str(member["seed"]),
                *(f"{value:g}" for value in member["hyper"].values()),
                f"{first['mean']:.1f} ± {first['std']:.1f}",
                f"{second['mean']:.1f} ± {second['std']:.1f}",
                f"{first['mean_length']:.0f}",
            )
        console.print(table)
    # Not by the console, which takes the brackets and colons of a name for markup.
    print(
        f"trained {result.seconds:.1f} s (and {result.compile_seconds:.1f} s to get ready) on {result.placement}\n"
        f"run folder: {result.folder}   policy: rljax.load({str(result.folder)!r}{_code_of(result.folder)})"
        + (f"\nvideo: {film}" if film else "")
    )


def _argument(arguments: list[str], name: str) -> str | None:
    """The value of a flag that decides the defaults of others."""
    found = None
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.replace("_", "-") == f"--{name}":
            found = value if equals else next(iter(arguments[index + 1 : index + 2]), None)
    return found


def _failure(error: Exception) -> int:
    """Prints the error as one line; 1 where training diverged, 2 for bad input."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1 if isinstance(error, training.Diverged) else 2


def _check_integers(settings: Any, name: str = "") -> None:
    """Refuses integers that a compiled program cannot hold, in nested settings too."""
    if dataclasses.is_dataclass(settings):
        for field in dataclasses.fields(settings):
            _check_integers(getattr(settings, field.name), field.name)
    elif isinstance(settings, tuple):
        for value in settings:
            _check_integers(value, name)
    elif isinstance(settings, int) and name not in _COUNTED_IN_PYTHON and not -(2**31) <= settings < 2**31:
        raise Refused(f"{name} = {settings} is not allowed; it must be below 2^31")
