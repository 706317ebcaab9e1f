"""The first state of a run, and what another run's checkpoint gives to it."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax import zoo
from rljax.algorithms.core import experience
from rljax.algorithms.core.contract import Algorithm
from rljax.algorithms.core.learner import Learner
from rljax.config import Config, config_to_dict, require
from rljax.training.checkpoint import Checkpointer
from rljax.training.folder import run_folder
from rljax.training.loading import read_description
from rljax.types import PyTree, Refused


@dataclasses.dataclass(frozen=True)
class StartFrom(Config):
    """The newest whole checkpoint of another run, from which a new run begins, with settings of its own.

    Statistics by which observations are normalised come along: what was learned means nothing without them. What is
    frozen, such as a policy that is steered, is the new run's own. Steps are counted, and schedules begin, anew; an
    algorithm with replay begins with `learning_starts` random actions, as every new run of it does.

    Fields:
      folder: the other run's folder.
      parts: trained parts of the learner to take, such as "policy" and "critic", with their target networks; all other
        parts, and all optimizer states, begin anew. Where none is named the whole learner is taken, with its target
        networks, its optimizer states, and the statistics by which rewards are normalised.
    """

    folder: str | Path
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        path = isinstance(self.folder, str | Path) and bool(str(self.folder))
        require(self, "folder", path, "the path of a run folder")


@dataclasses.dataclass(frozen=True)
class Source:
    """What a run begins with.

    Fields:
      description: the checkpoint, for config.json, so that a resumed run is compared.
      parts: see `StartFrom`.
      given: the arrays of the checkpoint, as `_taken` names them, on the host; None for a run that is resumed.
    """

    description: dict[str, Any]
    parts: tuple[str, ...]
    given: dict[str, PyTree] | None

    def put_into(self, state: Any) -> Any:
        """The state with what is taken; one member's goes to all of a state's, [members, …]."""
        if self.given is None:
            return state
        learner, params, targets = state.learner, self.given["params"], self.given.get("targets", {})
        # The target of a part that had none there begins as the part itself.
        targets = {part: targets.get(part, x) for part, x in params.items() if part in learner.targets}
        learner = learner.replace(
            params=learner.params | _put(learner.params, params),
            targets=learner.targets | _put(learner.targets, targets),
        )
        for name in ("optimizer_state", "extras"):
            if name in self.given:
                learner = learner.replace(**{name: _put(getattr(learner, name), self.given[name])})
        state = state.replace(learner=learner)
        if "return_statistics" in self.given:
            state = state.replace(return_statistics=_put(state.return_statistics, self.given["return_statistics"]))
        if "obs_statistics" in self.given:
            statistics = _put(state.obs_statistics, self.given["obs_statistics"])
            if isinstance(state, experience.State):
                return state.replace(experience=state.experience.replace(obs_statistics=statistics))
            state = state.replace(obs_statistics=statistics)
        return state


def _put(old: PyTree, new: PyTree) -> PyTree:
    """Arrays of the host where those of `old` are; of a dict, the entries that `new` has."""

    def put(old: jax.Array, new: np.ndarray) -> jax.Array:
        whole = np.broadcast_to(new, old.shape)
        # Without a device where there is but one: naming it would have the loop compiled again at its second call.
        return jnp.array(whole) if len(old.sharding.device_set) == 1 else jax.device_put(whole, old.sharding)

    if isinstance(old, dict) and isinstance(new, dict):
        old = {name: old[name] for name in new}
    return jax.tree.map(put, old, new)


def find(start: StartFrom, algorithm: Algorithm, members: int | None, resumed: Path | None) -> Source:
    """Finds the checkpoint, and reads from it what the algorithm's learner takes, and nothing else.

    Args:
      members: number of members of the new run; None without an axis for them.
      resumed: the folder of a run to be resumed. Once it has checkpoints of its own it needs no other's, which may be
        gone by then; only its description is compared.

    Raises:
      Refused: there is no whole checkpoint, it has no such part, or what it has does not fit.
    """
    if zoo.name_in(start.folder) is not None:
        reason = "the zoo has policies without their critics and optimizers; a run can start only from a run folder"
        raise Refused(f"start_from = {start.folder} is not allowed: {reason}")
    folder = run_folder(start.folder).absolute()
    if resumed is None:
        read_description(folder)  # refuses what is no run folder
    checkpointer = Checkpointer(folder / "checkpoints", read_only=True)
    try:
        before = None if resumed is None else _recorded(resumed)
        iteration = None
        if before is not None and before["parts"] == list(start.parts):
            iteration = before["iteration"]  # the other run may have gone on since then
            own = resumed is not None and any(resumed.glob("checkpoints/*/MANIFEST.json"))
            same, there = before["folder"] == str(folder), iteration in checkpointer.iterations()
            if there:
                same = checkpointer.digest(iteration) == before["manifest_sha256"]
            if own and same:
                return Source(before, start.parts, None)
            if own and not there:
                iteration = None
        found = checkpointer.whole(iteration)
        if found is None:
            raise Refused(f"there is no whole checkpoint in {folder} to start from")
        digest = checkpointer.digest(found)
        description = {"folder": str(folder), "parts": list(start.parts), "iteration": found, "manifest_sha256": digest}
        if before is not None and before | {"folder": str(folder)} == description:
            description = before  # the other run was moved
        return Source(description, start.parts, _read(checkpointer, found, start.parts, algorithm, members))
    finally:
        checkpointer.close()


def _recorded(folder: Path) -> dict[str, Any] | None:
    """What config.json says that a run began with; None where it says nothing."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        recorded = json.loads((folder / "config.json").read_text())["settings"]["start_from"]
        return {name: recorded[name] for name in ("folder", "parts", "iteration", "manifest_sha256")}
    return None


def _read(
    checkpointer: Checkpointer, iteration: int, parts: tuple[str, ...], algorithm: Algorithm, members: int | None
) -> dict[str, PyTree]:
    """What is taken from a whole checkpoint; of one member without an axis for members."""
    folder = checkpointer.folder.parent
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    if not isinstance(getattr(state, "learner", None), Learner):
        raise Refused(f"start_from is not possible for {algorithm.name}: its state has no learner")
    if unknown := sorted(set(parts) - set(state.learner.params)):
        known = ", ".join(state.learner.params)
        raise Refused(f"start_from: {algorithm.name} does not train {', '.join(unknown)}; it trains {known}")
    described = read_description(folder)
    keys = described["keys"]
    theirs = len(keys) if isinstance(keys[0], list) else None
    if theirs not in (None, 1, members):
        raise Refused(f"start_from: {folder} has {theirs} members, and this run {members or 1}; only one goes to all")
    normalizes = bool(algorithm.config.normalize_observation)
    if normalizes != described["config"].get("normalize_observation", normalizes):
        raise Refused(
            f"start_from: {folder} was trained with normalize_observation = {not normalizes}; give this run the same "
            f"(--{'no-' * normalizes}normalize-observation)"
        )
    names = {"params", "targets"} if parts else {"params", "targets", "optimizer_state", "extras"}
    names |= {"obs_statistics"} if normalizes else set()
    names |= {"return_statistics"} if not parts and config_to_dict(algorithm.config).get("normalize_reward") else set()
    stored = checkpointer.stored(iteration, "state").get("training", {})
    places = {name: _place(stored, name) for name in sorted(names)}
    found = {name: _at(stored, place) for name, place in places.items()}
    wanted = _taken(state, parts, names)
    if parts:
        if missing := sorted(set(parts) - set(found["params"])):
            has = ", ".join(sorted(found["params"])) or "none"
            raise Refused(f"start_from: {folder} has no part {', '.join(missing)}; it has {has}")
        found |= {name: _chosen(found[name], parts) for name in ("params", "targets")}
        wanted["targets"] = _chosen(wanted.get("targets", {}), tuple(found["targets"]))
        found["targets"] = _chosen(found["targets"], tuple(wanted["targets"]))
        if not wanted["targets"]:  # none of the parts has one here and there
            del wanted["targets"], found["targets"]
    if theirs is not None:
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct((theirs, *x.shape), x.dtype), wanted)
    other = described["algorithm"] != algorithm.name
    _check_fit(folder, wanted, found, f", for it was trained by {described['algorithm']}" if other else "")
    target = _nested({places[name]: piece for name, piece in wanted.items()})
    read = checkpointer.read_some("state", {"training": target}, iteration)["training"]
    given = {name: _at(read, places[name]) for name in wanted}
    if theirs == 1:
        given = jax.tree.map(lambda x: x[0], given)
    _check_actions(checkpointer, iteration, algorithm, theirs)
    if algorithm.data is not None and "obs_statistics" in given:
        ours = jax.jit(lambda key: algorithm.init(key).obs_statistics)(jax.random.key(0))
        close = jax.tree.map(lambda x, y: np.allclose(x, y, rtol=1e-4), given.pop("obs_statistics"), ours)
        if not all(jax.tree.leaves(close)):
            raise Refused(f"start_from: {folder} normalised observations by the statistics of other data")
    return given


def _check_actions(checkpointer: Checkpointer, iteration: int, algorithm: Algorithm, members: int | None) -> None:
    """Refuses a policy whose -1 and 1 were other actions, such as the range of other data."""
    found: list[Any] = []

    def note(key: jax.Array) -> tuple[()]:
        found.append(algorithm.policy(algorithm.init(key)).variables.get("action_range"))  # constants, not traced
        return ()

    jax.eval_shape(note, jax.random.key(0))
    if found[0] is None or "action_range" not in checkpointer.stored(iteration, "policy").get("variables", {}):
        return
    ours = [np.asarray(x) for x in found[0]]
    shapes = [jax.ShapeDtypeStruct((*(() if members is None else (members,)), *x.shape), x.dtype) for x in ours]
    target = {"variables": {"action_range": shapes}}
    theirs = checkpointer.read_some("policy", target, iteration)["variables"]["action_range"]
    if not all(np.allclose(x, y, rtol=1e-4, atol=1e-6) for x, y in zip(ours, theirs, strict=True)):
        folder = checkpointer.folder.parent
        raise Refused(f"start_from: {folder} was trained on actions of another range (see action_normalization)")


def _taken(state: Any, parts: tuple[str, ...], names: set[str]) -> dict[str, PyTree]:
    """The pieces of a state that are taken from a checkpoint, by name."""
    pieces = {name: getattr(state if name.endswith("_statistics") else state.learner, name) for name in names}
    if parts:
        pieces |= {name: _chosen(pieces[name], parts) for name in ("params", "targets")}
    return {name: piece for name, piece in pieces.items() if jax.tree.leaves(piece)}


def _chosen(tree: dict[str, PyTree], parts: tuple[str, ...]) -> dict[str, PyTree]:
    return {part: x for part, x in tree.items() if part in parts}


def _place(stored: dict[str, Any], name: str) -> tuple[str, ...]:
    """Where a checkpoint's state has a piece: in the learner, at the top, or among what is experienced."""
    if not name.endswith("_statistics"):
        return ("learner", name)
    return (name,) if name in stored else ("experience", name)


def _at(tree: dict[str, Any], place: tuple[str, ...]) -> Any:
    """The branch of nested dicts at a place; an empty one where there is none."""
    for name in place:
        tree = tree.get(name, {})
    return tree


def _nested(branches: dict[tuple[str, ...], PyTree]) -> dict[str, Any]:
    """Nested dicts of branches at places: the inverse of `_at`."""
    tree: dict[str, Any] = {}
    for (*outer, last), branch in branches.items():
        inner = tree
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = branch
    return tree


def _check_fit(folder: Path, wanted: dict[str, PyTree], stored: dict[str, PyTree], why: str) -> None:
    """Refuses a checkpoint whose arrays differ in place, shape or type from those wanted; `why` follows the reason."""
    here, there = _in_words(wanted), _in_words(stored)
    # What was learned first, for the states of optimizers differ where that does.
    for place in sorted(here.keys() | there.keys(), key=lambda place: (not place.startswith("params/"), place)):
        ours, theirs = here.get(place, "nothing"), there.get(place, "nothing")
        if ours != theirs:
            found = f"{place} is {theirs} there, and here {ours}{why}"
            raise Refused(f"start_from: {folder} does not fit this run: {found}")


def _in_words(tree: PyTree) -> dict[str, str]:
    """Type and shape of each array that is stored, by its place."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    described = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves if 0 not in x.shape}
    return {place: f"{x.dtype} {list(x.shape)}" for place, x in described.items()}


def of_its_own(state: Any, made_from: Any) -> Any:
    """Copies arrays that a state shares with others than `made_from`: it will be donated, and they may be in use."""
    own = {id(x) for x in jax.tree.leaves(made_from)}

    def copy(x: Any) -> Any:
        if id(x) not in own:
            return jnp.copy(x)
        own.remove(id(x))  # no buffer is donated twice
        return x

    return jax.tree.map(copy, state)
