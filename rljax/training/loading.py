"""A trained policy from a run folder."""

import json
from pathlib import Path
from types import ModuleType
from typing import Literal

import flax.linen as nn
import jax

from rljax import algorithms
from rljax.algorithms.core.contract import in_words
from rljax.algorithms.core.fed import fed
from rljax.config import config_from_dict, from_plain
from rljax.envs import Environment
from rljax.envs.registry import make_recorded
from rljax.policy import Policy
from rljax.training.checkpoint import Checkpointer
from rljax.training.folder import run_folder
from rljax.types import Refused


def load(
    folder: str | Path,
    *,
    which: Literal["newest", "best"] | int = "newest",
    member: int = 0,
    env: Environment | None = None,
    network: nn.Module | None = None,
    algorithm: ModuleType | None = None,
) -> Policy:
    """The policy of a run, ready to act, normalisation included: `action = policy(key, obs)`.

    Args:
      folder: a run folder.
      which: the policy of the newest whole checkpoint; the one with which the member evaluated best on the way; or that
        of a checkpoint, by its iteration.
      member: index of the member, of a run with several.
      env: the environment, for a run on one that `rljax.make` does not know, or that was wrapped.
      network: the custom network that it was trained with.
      algorithm: the module of its algorithm, with `Config` and `make`, for one that rljax does not have.

    Raises:
      ValueError: not a run folder, no such member, or no whole checkpoint.
    """
    if which not in ("newest", "best") and (isinstance(which, bool) or not isinstance(which, int)):
        raise Refused(f"which = {which!r} is not allowed; it must be newest, best or an iteration")
    folder = run_folder(folder)
    description = read_description(folder)
    name = description["algorithm"]
    try:
        algorithm = algorithms.get(name) if algorithm is None else algorithm
    except Refused:
        reason = f"{folder} was trained by {name!r}, which is not rljax's: pass algorithm=, its module"
        raise Refused(reason) from None
    spec = description["env"]
    if env is None and (not spec or "class" in spec):
        raise Refused(
            f"{folder} was trained on an environment that is not in the registry, or on a wrapped one: pass env=..."
        )
    env = make_recorded(spec) if env is None else env
    own = (description.get("settings") or {}).get("network")
    if own and network is None:
        raise Refused(f"{folder} was trained with a network that is not rljax's: pass network={own}")
    if own and network is not None and in_words(network) != own:
        raise Refused(f"{folder} was trained with network={own}, and this is {in_words(network)}")
    config = config_from_dict(algorithm.Config, description["config"])
    made = algorithm.make(env, config) if network is None else algorithm.make(env, config, network=network)
    data = description.get("data")
    if isinstance(data, dict) and data.get("from") == "actors":
        made = fed(made)  # there may be no simulator, of which its state would have a part
    keys = description["keys"]
    members = len(keys) if isinstance(keys[0], list) else None
    if not 0 <= member < (members or 1):
        raise Refused(f"member = {member} is not in {folder}, which has {members or 1}")

    def template(key: jax.Array) -> Policy:
        return made.policy(made.init(key))

    key = jax.random.key(0, impl=description["key_impl"])
    target = jax.eval_shape(template, key)
    if members is not None:
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct((members, *x.shape), x.dtype), target)
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
    return policy if members is None else jax.tree.map(lambda x: x[member], policy)


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


def read_description(folder: Path) -> dict:
    """A run's config.json, checked for what is needed to rebuild it."""
    folder = run_folder(folder)
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
    return description | {part: from_plain(description[part]) for part in ("env", "config")}
