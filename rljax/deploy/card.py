"""What an exported policy is, in plain JSON types: its inputs and outputs, its task, and the run that it is from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rljax.algorithms.core.contract import sha256_of
from rljax.deploy.source import Port, Source
from rljax.envs import Environment
from rljax.spaces import ArraySpace, Box, parts
from rljax.training.checkpoint import Checkpointer
from rljax.training.folder import run_folder
from rljax.training.versions import versions

Card = dict[str, Any]


def card(source: Source, about: Card) -> Card:
    """The card of an exported policy.

    Args:
      about: what is known of its run (see `of_run`).
    """
    env = source.env
    spaces = parts(env.observation_space)
    return {
        **about,
        "task": env.unwrapped.name or type(env.unwrapped).__name__,
        "deterministic": source.deterministic,
        "inputs": [_input(port, spaces.get(port.key)) for port in source.inputs],
        "outputs": [_output(port, env.action_space) for port in source.outputs],
        **_robot(env),
        "parameters_sha256": sha256_of(source.policy.variables),
        "versions": {name: version for name, version in versions().items() if version is not None},
    }


def of_run(run: str | Path, description: Card, which: str | int, member: int) -> Card:
    """What is known of a run: its algorithm, and how long it was trained until the checkpoint."""
    known: Card = {"algorithm": description["algorithm"], "total_steps": description.get("total_steps")}
    if str(run).startswith("zoo:"):
        return {"run": str(run), **known}
    folder = run_folder(run)
    checkpointer = Checkpointer(folder / "checkpoints", read_only=True)
    try:
        iteration = checkpointer.whole(which if isinstance(which, int) else None)
        steps = None if iteration is None else checkpointer.progress(iteration).get("steps")
    finally:
        checkpointer.close()
    found = {"checkpoint": iteration, "steps": steps}
    return {"run": "/".join(folder.parts[-2:]), **known, "which": which, "member": member, **found}


def lines(card: Card) -> Iterator[tuple[str, str]]:
    """The entries as names and texts; what is no text is JSON."""
    for name, value in card.items():
        if value is not None:
            yield name, value if isinstance(value, str) else json.dumps(value)


def _input(port: Port, space: ArraySpace | None) -> Card:
    described: Card = {"name": port.name, "group": port.group, **_array(port)}
    if port.group == "obs" and space is not None:
        described |= _range(space)
    if port.initial is not None:
        initial = port.initial
        same = initial.size and (initial == initial.flat[0]).all()
        described["initial"] = initial.flat[0].item() if same else initial.tolist()
    return described | ({"distribution": port.kind} if port.kind else {})


def _output(port: Port, space: ArraySpace) -> Card:
    described: Card = {"name": port.name, "group": port.group, **_array(port)}
    return described | (_range(space) if port.group == "action" else {})


def _array(port: Port) -> Card:
    return {"shape": list(port.shape), "dtype": str(port.dtype)}


def _range(space: ArraySpace) -> Card:
    """The bounds of a Box, one number where all are alike and null where there is none; or the number of choices."""
    if not isinstance(space, Box):
        return {"count": space.n if isinstance(space.n, int) else list(space.n)}

    def plain(bounds: np.ndarray) -> Any:
        flat = [x if np.isfinite(x) else None for x in bounds.ravel().tolist()]
        return flat[0] if len(set(flat)) == 1 else flat

    return {"low": plain(space.low), "high": plain(space.high)}


def _robot(env: Environment) -> Card:
    """The rate of control, where the task knows it, and the names of a MuJoCo model's joints and actuators."""
    found: Card = {}
    if rate := getattr(env.unwrapped, "control_rate", None):
        found["control_rate_hz"] = round(float(rate) / env.steps_per_action, 6)
    model: Any = getattr(env.unwrapped, "model", None)
    if hasattr(model, "njnt") and hasattr(model, "nu"):
        found["joints"] = [model.joint(i).name for i in range(model.njnt)]
        found["actuators"] = [model.actuator(i).name for i in range(model.nu)]
    return found
