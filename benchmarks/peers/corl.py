"""IQL, CQL, TD3+BC and (filtered) BC of CORL (PyTorch), on a dataset of ours.

CORL's implementations are single files to run, not a library, so that its repository is needed. Beside this one:

    git clone https://github.com/corl-team/CORL ../CORL
    python benchmarks/peers/corl.py iql --task hopper --dataset hopper-medium.hdf5 --updates 1000000 --output out.json

Each file's own `train()` runs, as it is, with its defaults and the settings that CORL publishes for the task and kind
of dataset. What it imports besides PyTorch and NumPy (d4rl, gym, wandb, pyrallis) are stand-ins made here: they hand it
the dataset and the task's spaces, and are told of each update, when we time, evaluate and save. The evaluation is on
Gymnasium's v5 tasks, by the actor's own `act`, outside the time that is reported.

The dataset is an HDF5 file in D4RL's layout: observations, actions, rewards, terminals, timeouts, next_observations.
All its transitions are learnt from, each with its own next observation; `--drop-timeouts` leaves out what d4rl does.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import gymnasium
import h5py
import numpy as np
import record
import torch
import yaml

# By the folder of the published settings: the file, and the class in it that trains.
ALGORITHMS = {
    "iql": ("iql", "ImplicitQLearning"),
    "cql": ("cql", "ContinuousCQL"),
    "td3_bc": ("td3_bc", "TD3_BC"),
    "bc": ("any_percent_bc", "BC"),
    "bc_10": ("any_percent_bc", "BC"),  # of the best tenth of episodes
}
# Returns of a random policy and of an expert, by which D4RL normalises; those of its tasks, which are of version 2.
REFERENCE_RETURNS = {
    "half_cheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
}
KINDS = ("random", "medium", "expert", "medium_replay", "full_replay", "medium_expert")  # for which settings exist
# What this driver decides, and what has no effect here.
FIXED = ("device", "seed", "eval_freq", "n_episodes", "checkpoints_path", "load_model", "project", "group", "name")
CURVE_EPISODES = 10
REPORT_SECONDS = 5
SAVE_SECONDS = 300


class _Done(Exception):
    """Ends `train()`."""


class _Batch(np.ndarray):
    """Observations [n, …] that stay a batch: `act` takes a single one, which it makes [1, …] by `reshape`."""

    def reshape(self, *_: Any) -> np.ndarray:
        return self


class Run:
    """What `train()` calls while it trains: times, evaluates and saves.

    Timed are the updates after the first `warm_up` of this process, without evaluating and saving.
    """

    def __init__(self, arguments: argparse.Namespace, identity: dict[str, Any]) -> None:
        self.arguments = arguments
        self.checkpoint = arguments.output.with_name(arguments.output.name + ".ckpt") if arguments.resume else None
        self.identity = json.dumps(identity, sort_keys=True)
        self.curve: list[tuple[int, float]] = []
        self.timed_updates, self.seconds = 0, 0.0
        self.trainer: Any = None
        self.normalize: Callable[[np.ndarray], np.ndarray]

    def start(self) -> None:
        """Called once all is built, before the first update."""
        if self.checkpoint and self.checkpoint.exists():
            self._restore()
        step = self.trainer.total_it
        self.timed_from = step + self.arguments.warm_up
        self.reported = self.saved = self.last = time.perf_counter()
        self.reported_step = step
        if step >= self.arguments.updates:
            raise _Done

    def update(self, step: int) -> None:
        """Called after each update."""
        now = time.perf_counter()
        if step > self.timed_from:
            self.timed_updates += 1
            self.seconds += now - self.last
        done = step >= self.arguments.updates
        if self.arguments.curve and step % self.arguments.curve == 0:
            self.curve.append((step, self.score(float(np.mean(self.evaluate(CURVE_EPISODES))))))
            print(f"{step:,} updates: normalised score {self.curve[-1][1]:.1f}", file=sys.stderr, flush=True)
        if self.checkpoint and (done or now - self.saved > SAVE_SECONDS):
            self._save()
            self.saved = now
        if done or now - self.reported > REPORT_SECONDS:
            self._report(step, now)
        if done:
            raise _Done
        self.last = time.perf_counter()

    def evaluate(self, episodes: int) -> list[float]:
        return common.evaluate(self.arguments.task, self.act, episodes)

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Observations [n, …] -> deterministic actions [n, …]; draws no random numbers."""
        actor = self.trainer.actor
        actor.eval()
        actions = actor.act(self.normalize(observations).view(_Batch), "cpu")
        actor.train()
        return actions.reshape(len(observations), -1)

    def score(self, mean_return: float) -> float:
        """D4RL's normalised score."""
        low, high = REFERENCE_RETURNS[self.arguments.task]
        return 100 * (mean_return - low) / (high - low)

    def _report(self, step: int, now: float) -> None:
        rate = (step - self.reported_step) / (now - self.reported)
        left = (self.arguments.updates - step) / rate / 60
        progress = f"{step:,} of {self.arguments.updates:,} updates, {rate:,.0f} updates/s, {left:.0f} min left"
        print(progress, file=sys.stderr, flush=True)
        self.reported, self.reported_step = time.perf_counter(), step

    def _parts(self) -> dict[str, Any]:
        """Everything of the trainer that learns: networks, targets, optimisers, schedules.

        Its own `state_dict` is for other ends: it leaves out the targets, and CQL's `load_state_dict` puts another α in
        place of the one that its optimiser steps.
        """
        return {name: part for name, part in vars(self.trainer).items() if hasattr(part, "load_state_dict")}

    def _save(self) -> None:
        _, numbers, *rest = np.random.get_state()  # noqa: NPY002 (CORL draws its batches from it)
        state = {
            "identity": self.identity,
            "parts": {name: part.state_dict() for name, part in self._parts().items()},
            "total_it": self.trainer.total_it,
            "torch": torch.get_rng_state(),
            "numpy": [torch.from_numpy(numbers.astype(np.int64)), *rest],
            "curve": self.curve,
            "timed_updates": self.timed_updates,
            "seconds": self.seconds,
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        # What is cut off while it writes leaves the last one as it was.
        partial = self.checkpoint.with_name(self.checkpoint.name + ".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        if state["identity"] != self.identity:
            raise SystemExit(f"{self.checkpoint} is of another run: {state['identity']}; this is {self.identity}")
        for name, part in self._parts().items():
            part.load_state_dict(state["parts"][name])
        self.trainer.total_it = state["total_it"]
        torch.set_rng_state(state["torch"])
        numbers, *rest = state["numpy"]
        np.random.set_state(("MT19937", numbers.numpy().astype(np.uint32), *rest))  # noqa: NPY002
        self.curve = [(step, score) for step, score in state["curve"]]
        self.timed_updates, self.seconds = state["timed_updates"], state["seconds"]
        print(f"goes on after {self.trainer.total_it:,} updates", file=sys.stderr, flush=True)


def _load(file: Path, **stand_ins: dict[str, Any]) -> types.ModuleType:
    """The module of a file, which imports these stand-ins, given by their contents."""
    modules = {}
    for name, contents in stand_ins.items():
        modules[name] = types.ModuleType(name)
        vars(modules[name]).update(contents)
    spec = importlib.util.spec_from_file_location(f"corl_{file.stem}", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    real = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        spec.loader.exec_module(module)
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(real)
    return module


def _config(train_config: type, published: Path, overrides: dict[str, Any], arguments: argparse.Namespace) -> Any:
    """A `TrainConfig`: its defaults, then what is published, then `--set`, and what this driver decides."""
    types_ = {field.name: field.type for field in dataclasses.fields(train_config)}
    if wrong := [name for name in overrides if name not in types_ or name in FIXED]:
        allowed = ", ".join(name for name in types_ if name not in FIXED)
        raise SystemExit(f"--set does not take {', '.join(wrong)}; for {arguments.algorithm} it takes {allowed}")
    values = yaml.safe_load(published.read_text())
    # IQL's learning rate falls over `max_timesteps`.
    values |= {"max_timesteps": arguments.updates} | overrides
    values |= {"device": "cpu", "seed": arguments.seed, "checkpoints_path": None, "load_model": ""}
    values["eval_freq"] = int(values["max_timesteps"]) + 1  # never: it is we who evaluate
    config = train_config(**{name: _typed(types_[name], value) for name, value in values.items()})
    if config.max_timesteps < arguments.updates:
        raise SystemExit(f"max_timesteps={config.max_timesteps} is below --updates {arguments.updates}")
    return config


def _typed(kind: Any, value: Any) -> Any:
    """Converts a value by the field's type, as pyrallis does, since YAML reads 3e-4 as a string."""
    kind = next(iter(typing.get_args(kind)), kind)  # Optional[float] -> float
    return value if value is None or isinstance(value, bool) else kind(value)


def _recorded(config: Any) -> dict[str, Any]:
    """The config as JSON, which has no infinity."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in FIXED[2:]}
    infinite = {name: str(x) for name, x in values.items() if isinstance(x, float) and not math.isfinite(x)}
    return values | infinite


def _dataset(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    with h5py.File(arguments.dataset) as file:
        names = ("observations", "actions", "next_observations", "rewards", "terminals")
        if missing := [name for name in (*names, "timeouts") if name not in file]:
            raise SystemExit(f"{arguments.dataset} lacks {', '.join(missing)}")
        arrays = {name: file[name][:].astype(np.float32) for name in names}
        timeouts = file["timeouts"][:].astype(bool)
    if arguments.drop_timeouts:
        kept = ~timeouts
        kept[-1] = False
        arrays = {name: array[kept] for name, array in arrays.items()}
    return arrays


def _dataset_name(file: Path) -> str:
    with h5py.File(file) as opened:
        name = opened.attrs.get("name", file.stem)
    return name.decode() if isinstance(name, bytes) else str(name)


def _commit(arguments: argparse.Namespace) -> str | None:
    if not (arguments.corl / ".git").exists():
        return arguments.commit
    return subprocess.check_output(["git", "-C", arguments.corl, "rev-parse", "HEAD"], text=True).strip()


def main() -> None:
    parser = record.parser(
        "Trains CORL's implementation on a dataset and writes what it measured.",
        REFERENCE_RETURNS,
        task="half_cheetah",
        num_envs=None,
        offline=True,
    )
    parser.add_argument("algorithm", choices=ALGORITHMS)
    parser.add_argument("--dataset", type=Path, required=True, help="an HDF5 file in D4RL's layout")
    parser.add_argument("--kind", choices=KINDS, help="whose settings are taken (default: as the dataset's name says)")
    parser.add_argument(
        "--drop-timeouts", action="store_true", help="and the last step: as d4rl.qlearning_dataset does"
    )
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="NAME=VALUE", help="fields of CORL's TrainConfig"
    )
    parser.add_argument("--curve", type=int, help=f"evaluate every so many updates, for {CURVE_EPISODES} episodes")
    parser.add_argument("--warm-up", type=int, default=200, help="first updates, which are not timed")
    parser.add_argument("--threads", type=int, help="of PyTorch (default: its own number)")
    parser.add_argument("--speed-only", action="store_true", help="no evaluation")
    parser.add_argument(
        "--resume", action="store_true", help=f"save to OUTPUT.ckpt every {SAVE_SECONDS} s, and go on from it"
    )
    parser.add_argument(
        "--corl",
        type=Path,
        default=Path(os.environ.get("CORL", "../CORL")),
        help="its repository (default: %(default)s)",
    )
    parser.add_argument("--commit", help="of CORL, where its folder has no .git")
    arguments = parser.parse_args()
    if arguments.updates <= arguments.warm_up:
        parser.error(f"--updates {arguments.updates} is not allowed: more than --warm-up {arguments.warm_up}")
    if arguments.speed_only and arguments.curve:
        parser.error("--speed-only has no --curve")
    name = _dataset_name(arguments.dataset)
    if arguments.kind is None:
        # The longest, since medium_replay says medium too.
        named = [kind for kind in KINDS if kind in name.replace("-", "_")]
        if not named:
            parser.error(f"--kind is needed: the dataset's name, {name}, says none of {', '.join(KINDS)}")
        arguments.kind = max(named, key=len)
    overrides = {}
    for setting in arguments.set:
        field, equals, value = setting.partition("=")
        if not equals:
            parser.error(f"--set {setting}: NAME=VALUE is needed")
        overrides[field] = yaml.safe_load(value)
    file, trainer = ALGORITHMS[arguments.algorithm]
    file = arguments.corl / "algorithms" / "offline" / f"{file}.py"
    published = arguments.corl / "configs" / "offline" / arguments.algorithm
    published = published / arguments.task.replace("_", "") / f"{arguments.kind}_v2.yaml"
    for path in (file, published):
        if not path.exists():
            parser.error(f"there is no {path}: git clone https://github.com/corl-team/CORL, and name it with --corl")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)

    def wrapped(env: Any, normalize: Callable[[np.ndarray], np.ndarray]) -> Any:
        run.normalize = normalize
        return env

    spaces = gymnasium.make(common.TASKS[arguments.task])
    env = types.SimpleNamespace(
        observation_space=spaces.observation_space, action_space=spaces.action_space, seed=lambda seed: None
    )
    module = _load(
        file,
        gym={
            "Env": gymnasium.Env,
            "make": lambda name: env,
            "wrappers": types.SimpleNamespace(TransformObservation=wrapped),
        },
        d4rl={"qlearning_dataset": lambda env: _dataset(arguments)},
        pyrallis={"wrap": lambda: lambda train: train},
        wandb={
            "init": lambda **_: run.start(),
            "run": types.SimpleNamespace(save=lambda: None),
            "log": lambda metrics, step: run.update(step),
        },
    )
    config = _config(module.TrainConfig, published, overrides, arguments)
    with arguments.dataset.open("rb") as opened:
        dataset = {
            "name": name,
            "kind": arguments.kind,
            "sha256": hashlib.file_digest(opened, "sha256").hexdigest(),
            "drop_timeouts": arguments.drop_timeouts,
        }
    run = Run(arguments, {"algorithm": arguments.algorithm, "dataset": dataset, "config": _recorded(config)})
    build = getattr(module, trainer)

    def built(**settings: Any) -> Any:
        run.trainer = build(**settings)
        return run.trainer

    setattr(module, trainer, built)
    with contextlib.suppress(_Done):
        module.train(config)
    returns = [] if arguments.speed_only else run.evaluate(arguments.episodes)
    score = run.score(float(np.mean(returns))) if returns else None
    record.write(
        arguments,
        record.Trained(
            act=run.act,
            steps=arguments.updates,
            compile_seconds=None,
            training_seconds=run.seconds,
            config=_recorded(config),
            timed_steps=run.timed_updates,
            curve=run.curve or None,
        ),
        lambda: returns,
        ("gymnasium", "mujoco", "numpy", "torch"),
        algorithm=arguments.algorithm,
        engine="gymnasium",
        implementation="CORL",
        dataset=dataset,
        updates=arguments.updates,
        updates_per_second=run.timed_updates / run.seconds,
        normalized_score=score,
        normalized_scores=None if score is None else [score],  # one for each seed
        threads=torch.get_num_threads(),
        commit=_commit(arguments),
    )
    if run.checkpoint:
        run.checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
