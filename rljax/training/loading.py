"""A trained policy from a run folder, or from the zoo."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rljax import algorithms, zoo
from rljax.algorithms.core.contract import Algorithm, in_words
from rljax.algorithms.core.fed import fed
from rljax.config import config_from_dict, from_plain
from rljax.envs import Environment
from rljax.envs.registry import make_recorded
from rljax.policy import Policy
from rljax.training.checkpoint import Checkpointer
from rljax.training.folder import run_folder
from rljax.types import Refused


class Loaded(NamedTuple):
    """A policy, the environment in which it acts, and the description of its run, as config.json has it."""

    policy: Policy
    env: Environment
    description: dict[str, Any]


def load(
    run: str | Path,
    *,
    which: Literal["newest", "best"] | int = "newest",
    member: int = 0,
    env: Environment | None = None,
    network: nn.Module | None = None,
    algorithm: ModuleType | None = None,
) -> Policy:
    """The policy of a run, or one of the zoo, ready to act, normalisation included: `action = policy(key, obs)`.

    Args:
      run: a run folder, or "zoo:NAME" for a policy that comes with rljax (see `rljax.zoo.names`).
      which: the policy of the newest whole checkpoint; the one with which the member evaluated best on the way; or that
        of a checkpoint, by its iteration.
      member: index of the member, of a run with several.
      env: the environment, for a run on one that `rljax.make` does not know, or that was wrapped.
      network: the custom network that it was trained with.
      algorithm: the module of its algorithm, with `Config` and `make`, for one that rljax does not have.

    Raises:
      ValueError: not a run folder, no such member, no whole checkpoint, no such policy, or a damaged one.
    """
    return load_with_env(run, which=which, member=member, env=env, network=network, algorithm=algorithm).policy


def load_with_env(
    run: str | Path,
    *,
    which: Literal["newest", "best"] | int = "newest",
    member: int = 0,
    env: Environment | None = None,
    network: nn.Module | None = None,
    algorithm: ModuleType | None = None,
) -> Loaded:
    """The same as `load`, with the environment (`env`, where given) and the description of the run."""
    if which not in ("newest", "best") and (isinstance(which, bool) or not isinstance(which, int)):
        raise Refused(f"which = {which!r} is not allowed; it must be newest, best or an iteration")
    name = zoo.name_in(run)
    if name is not None and (which != "newest" or member != 0):
        raise Refused(f"{run} is a single policy: which and member must be left out")
    description = read_description(run)
    made = _algorithm_of(run, description, env, network, algorithm)
    keys = description["keys"]
    members = len(keys) if isinstance(keys[0], list) else None
    if not 0 <= member < (members or 1):
        raise Refused(f"member = {member} is not in {run}, which has {members or 1}")

    def template(key: jax.Array) -> Policy:
        return made.policy(made.init(key))

    target = jax.eval_shape(template, jax.random.key(0, impl=description["key_impl"]))
    if name is not None:
        return Loaded(from_places(zoo.arrays(name), target, str(run)), made.env, description)
    if members is not None:
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct((members, *x.shape), x.dtype), target)
    folder = run_folder(run)
    checkpointer = Checkpointer(folder / "checkpoints", read_only=True)
    try:
        iteration = checkpointer.whole(which if isinstance(which, int) else None)
        if iteration is None:
            raise Refused(f"there is no whole checkpoint in {folder}")
        item = "policy"
        if which == "best":
            item, iteration = _best(checkpointer, iteration, member, members or 1)
        policy = checkpointer.read(item, target, iteration)
    finally:
        checkpointer.close()
    policy = policy if members is None else jax.tree.map(lambda x: x[member], policy)
    return Loaded(policy, made.env, description)


def _algorithm_of(
    run: str | Path,
    description: dict[str, Any],
    env: Environment | None,
    network: nn.Module | None,
    algorithm: ModuleType | None,
) -> Algorithm:
    """The algorithm of a run, made again without its data."""
    name = description["algorithm"]
    try:
        algorithm = algorithms.get(name) if algorithm is None else algorithm
    except Refused:
        reason = f"{run} was trained by {name!r}, which is not rljax's: pass algorithm=, its module"
        raise Refused(reason) from None
    spec = description["env"]
    if env is None and (not spec or "class" in spec):
        raise Refused(
            f"{run} was trained on an environment that is not in the registry, or on a wrapped one: pass env=..."
        )
    env = make_recorded(spec) if env is None else env
    own = (description.get("settings") or {}).get("network")
    if own and network is None:
        raise Refused(f"{run} was trained with a network that is not rljax's: pass network={own}")
    if own and network is not None and in_words(network) != own:
        raise Refused(f"{run} was trained with network={own}, and this is {in_words(network)}")
    config = config_from_dict(algorithm.Config, description["config"])
    made = algorithm.make(env, config) if network is None else algorithm.make(env, config, network=network)
    data = description.get("data")
    # There may be no simulator, of which its state would have a part.
    return fed(made) if isinstance(data, dict) and data.get("from") == "actors" else made


def by_place(policy: Policy) -> dict[str, Any]:
    """The arrays of a policy by their places in it: "variables/params/params/value/bias"."""
    leaves = jax.tree_util.tree_leaves_with_path(policy)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def from_places(arrays: Mapping[str, np.ndarray], target: Policy, run: str) -> Policy:
    """The inverse of `by_place`, for a policy of the shapes and types of `target`; `run` is its name in errors.

    Raises:
      Refused: an array is missing, left over, or has another shape.
    """
    wanted = by_place(target)
    for place in sorted(wanted.keys() | arrays.keys()):
        here, there = (list(x[place].shape) if place in x else "nothing" for x in (wanted, arrays))
        if here != there:
            raise Refused(f"{run} does not fit this program: {place} is {there} there, and here {here}")
    leaves = [jnp.asarray(arrays[place], like.dtype) for place, like in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(target), leaves)


def _best(checkpointer: Checkpointer, newest: int, member: int, members: int) -> tuple[str, int]:
    """The item, and its checkpoint, that hold a member's best policy.

    In a folder from before these were kept, that of one member is in the checkpoint with the best score.

    Raises:
      Refused: it had no evaluation on the way, or the checkpoint was made before they were kept by member.
    """
    folder = checkpointer.folder.parent
    notes = checkpointer.progress(newest).get("best")
    if notes is None and (best := checkpointer.best()) is not None:
        if members == 1:
            return "policy", checkpointer.whole(best) or best
        raise Refused(
            f"{folder} was made before the best policy of each member was kept; the checkpoint with the best mean of "
            f"all members is which={best}"
        )
    if notes is None or all(score is None for score in notes["scores"]):
        raise Refused(f"no policy in {folder} was evaluated on the way, so none is the best")
    if notes["scores"][member] is None:
        raise Refused(f"member {member} of {folder} diverged before its first evaluation, so it has no best policy")
    return "best", newest


def read_description(run: str | Path) -> dict[str, Any]:
    """A run's config.json, or a policy's card, checked for what is needed to rebuild it."""
    name = zoo.name_in(run)
    if name is not None:
        path, description = zoo.FOLDER / f"{name}.json", zoo.card(name)
    else:
        folder = run_folder(run)
        path = folder / "config.json"
        try:
            description = json.loads(path.read_text())
        except OSError:
            raise Refused(f"{folder} is not a run folder: it has no config.json") from None
        except ValueError:  # not text, or not JSON
            raise Refused(f"{path} cannot be read: it is not JSON") from None
        if not isinstance(description, dict):
            raise Refused(f"{path} cannot be read: it is not a JSON object")
    if missing := [n for n in ("algorithm", "env", "config", "keys", "key_impl") if n not in description]:
        raise Refused(f"{path} lacks {', '.join(missing)}")
    keys, env, settings = (description.get(part) for part in ("keys", "env", "settings"))
    whole = {
        "algorithm": isinstance(description["algorithm"], str),
        "env": env is None or isinstance(env, dict),
        "config": isinstance(description["config"], dict),
        "keys": isinstance(keys, list) and len(keys) > 0,
        "key_impl": isinstance(description["key_impl"], str),
        "settings": settings is None or isinstance(settings, dict),
    }
    if damaged := [part for part, fits in whole.items() if not fits]:
        raise Refused(f"{path} is damaged: {', '.join(damaged)} cannot be what a run writes")
    return description | {part: from_plain(description[part]) for part in ("env", "config")}
