"""From a run folder to the zoo: the arrays of its policy, and a card with a score that is measured here."""

import csv
import hashlib
import io
from pathlib import Path
from typing import Any, Literal, cast

import jax
import numpy as np

from rljax import zoo
from rljax.analysis.statistics import bootstrap_interval
from rljax.config import plain
from rljax.data import files, normalized_score
from rljax.envs import Environment
from rljax.policy import Policy
from rljax.training.evaluate import evaluate
from rljax.training.folder import run_folder, write_json
from rljax.training.loading import by_place, load_with_env
from rljax.training.versions import hardware, versions
from rljax.types import Refused

AT_ONCE = 250
"""Episodes that are played side by side."""
_DESCRIPTION = ("algorithm", "env", "config", "data", "key_impl", "total_steps", "settings")


def add(
    run: str | Path,
    name: str,
    command: str,
    choice: str,
    episodes: int = 100,
    seed: int = 1,
    which: Literal["newest", "best"] | int = "newest",
    member: int = 0,
    note: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the policy of a run and its card to the zoo, and returns the card.

    Args:
      run: a run folder of one of rljax's algorithms, on an environment that `rljax.make` knows.
      name: the task and the algorithm, such as "half_cheetah-sac".
      command: the command that trained it.
      choice: how its seed and its checkpoint were chosen.
      episodes, seed: number of episodes of the score, and the seed of their random key.
      which, member: see `rljax.load`.
      note: what else a user should know.
      overwrite: whether a policy of that name may be replaced.

    Raises:
      Refused: not such a run, a bad name, one that is taken, or files of more than `zoo.LARGEST` bytes.
    """
    if not name.replace("-", "").replace("_", "").isalnum() or name != name.lower() or not name.isascii():
        raise Refused(f"name = {name!r} is not allowed; it must be of lower-case letters, digits, - and _")
    if name in zoo.names() and not overwrite:
        raise Refused(f"the zoo has a policy {name!r} already: --overwrite replaces it")
    if not command.strip() or not choice.strip():
        raise Refused("command and choice must say how the policy was trained, and how it was chosen")
    folder = run_folder(run)
    policy, env, description = load_with_env(folder, which=which, member=member)
    about = files.read_json(folder / "versions.json")
    keys, machine = description["keys"], [about, *about.get("resumed", [])]
    several = isinstance(keys[0], list)
    content = _archive({place: np.asarray(x) for place, x in by_place(policy).items()})
    others = sum(path.stat().st_size for path in zoo.FOLDER.glob("*.npz") if path.stem != name)
    if others + len(content) > zoo.LARGEST:
        raise Refused(f"{name} has {len(content):,} bytes, and with it the zoo more than {zoo.LARGEST:,}")
    steps, seconds, trained_seed = _progress(folder, member)
    card = {
        "name": name,
        **{part: plain(description.get(part)) for part in _DESCRIPTION},
        "keys": keys[member] if several else keys,
        "hyper": {hyper: [values[member]] for hyper, values in (description.get("hyper") or {}).items()},
        "command": command.strip(),
        "seed": trained_seed,
        "choice": choice.strip(),
        "note": note.strip(),
        "steps": steps,
        "seconds": seconds,
        "commits": list(dict.fromkeys(entry["versions"]["commit"] for entry in machine)),
        "versions": about["versions"],
        "hardware": about["hardware"],
        "evaluation": score(policy, env, episodes, seed) | {"versions": versions(), "hardware": hardware()},
        "parameters": sum(x.size for x in by_place(policy).values()),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": "MIT",
    }
    (zoo.FOLDER / f"{name}.json").unlink(missing_ok=True)  # so that no card describes another archive
    with files.whole(zoo.FOLDER / f"{name}.npz") as part:
        part.write_bytes(content)
    write_json(zoo.FOLDER / f"{name}.json", card)
    return card


def score(policy: Policy, env: Environment, episodes: int, seed: int) -> dict[str, Any]:
    """Mean returns of a policy in whole episodes, with their 95 % bootstrap intervals over the episodes."""
    if episodes < 2:
        raise Refused(f"episodes = {episodes} is not allowed; it must be at least 2, for an interval")
    found: dict[str, Any] = {"episodes": episodes, "seed": seed}
    sizes = [min(AT_ONCE, episodes - start) for start in range(0, episodes, AT_ONCE)]
    for part, deterministic in enumerate((True, False)):
        play = jax.jit(
            lambda policy, key, number, deterministic=deterministic: evaluate(env, policy, key, number, deterministic),
            static_argnums=2,
        )
        key = jax.random.fold_in(jax.random.key(seed), part)
        played = [play(policy, jax.random.fold_in(key, index), size) for index, size in enumerate(sizes)]
        whole = jax.tree.map(lambda *x: np.concatenate(x), *played)
        returns = whole.returns.astype(np.float64)
        low, high = bootstrap_interval(returns)
        found["deterministic" if deterministic else "stochastic"] = {
            "mean": returns.mean(),
            "low": low,
            "high": high,
            "std": returns.std(ddof=1),
            "mean_length": whole.lengths.mean(),
            **({"success": whole.highest["success"].astype(np.float64).mean()} if "success" in whole.highest else {}),
            **({} if (norm := normalized_score(env.name, returns.mean())) is None else {"normalized": norm}),
        }
    return plain(found)


def _archive(arrays: dict[str, np.ndarray]) -> bytes:
    """An npz of arrays, the same for the same arrays.

    Raises:
      Refused: an array is of a type that NumPy cannot store, such as bfloat16.
    """
    if strange := [place for place, x in arrays.items() if x.dtype.kind not in "biuf"]:
        raise Refused(f"{strange[0]} is of type {arrays[strange[0]].dtype}, which an npz cannot hold")
    file, named = io.BytesIO(), cast(dict[str, Any], arrays)  # for NumPy's types, which take it for other arguments
    np.savez_compressed(file, **named)
    return file.getvalue()


def _progress(folder: Path, member: int) -> tuple[int, float, int]:
    """Steps (or updates) and seconds of the training of a member, and its seed, by the last row of metrics.csv."""
    with files.reading(str(folder / "metrics.csv")), (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["member"]) == member]
    if not rows:
        raise Refused(f"{folder / 'metrics.csv'} has no row of member {member}")
    return int(rows[-1]["step"]), float(rows[-1]["seconds"]), int(rows[-1]["seed"])
