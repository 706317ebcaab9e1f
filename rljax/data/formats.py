"""Files of offline data: D4RL's HDF5, Minari's folders, OGBench's npz and PushT's, checked where they come in.

Nothing is unpickled or evaluated. What does not fit is refused in one line: which file, what is wrong, what is allowed.
"""

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np

from rljax.data import demonstrations, files
from rljax.data.dataset import Dataset, Metadata
from rljax.paths import local
from rljax.spaces import Box, Discrete, Space
from rljax.types import PyTree, Refused, Transition

_ABOUT = ("name", "task", "policy", "version", "normalization")  # the fields of `Metadata` that files keep
_ROWS = ("observations", "actions", "rewards", "terminals")
_MAIN, _METADATA = "main_data.hdf5", "metadata.json"
_MINARI_NAME = re.compile(r"(?:[-\w/]+/)?[-\w]+-v\d+")
_MINARI_VERSION = "0.5.0"  # the first release with this layout, which later ones read


def load(
    path: str | os.PathLike[str],
    task: str | None = None,
    action_space: Space | None = None,
    observation_space: PyTree | None = None,
    max_episode_steps: int | None = None,
) -> Dataset:
    """Reads a file of D4RL's, OGBench's or PushT's layout, or a folder of Minari's; arrays are NumPy's.

    Without `next_observations` a step's successor is the observation of the row below, which the last row of a
    truncated episode does not have: as in D4RL's `qlearning_dataset`, that row is left out, and the episode truncated
    one step earlier. (OGBench's files hold nothing there but the last observation.) Minari's hold all successors.

    Args:
      task: for the metadata, in place of what the file says.
      action_space: what actions must lie in; they are clipped to it, if they exceed it by no more than 1e-4.
      observation_space: what observations must be shaped as; a dict of spaces where they are a dict.
      max_episode_steps: the time limit of D4RL's oldest files, which have no `timeouts`.

    Raises:
      ValueError: whatever in the file does not fit; in one line.
    """
    where, file = str(path), _locate(local(path))
    with files.reading(where):
        about: dict[str, str] = {}
        if not h5py.is_hdf5(file):
            with np.load(file, allow_pickle=False) as arrays:
                if demonstrations.is_push_t(arrays):
                    transitions, about = demonstrations.read_push_t(where, arrays)
                else:
                    transitions = _read_ogbench(where, arrays)
        else:
            with h5py.File(file) as group:
                if file.name == _MAIN or "episode_0" in group:
                    transitions, about = _read_minari(where, group, file.with_name(_METADATA))
                else:
                    transitions, about = _read_d4rl(where, group, max_episode_steps)
    if len(transitions.reward) == 0:
        raise Refused(f"{where}: no step has a successor; at least one must")
    transitions = files.fit(where, transitions, action_space, observation_space)
    about = {"name": file.stem, **about, "sha256": files.sha256(file)} | ({} if task is None else {"task": task})
    return Dataset.of(transitions, Metadata(**about))


def save_d4rl(dataset: Dataset, path: str | os.PathLike[str], overwrite: bool = False) -> str:
    """Writes a file of D4RL's layout, with `next_observations`, which `load` reads back exactly; returns its sha256.

    The file is there whole or not at all. Returns to go are not kept: those of the file are not discounted.

    Raises:
      ValueError: the file exists, or observations are not one array.
    """
    path = local(path)
    if path.exists() and not overwrite:
        raise Refused(f"{path}: exists already; overwrite=True replaces it")
    if not hasattr(dataset.obs, "shape"):
        raise Refused(f"{path}: D4RL's layout has one array of observations; dicts are for save_minari")
    d = jax.tree.map(np.asarray, dataset)
    with files.whole(path) as part, h5py.File(part, "w") as file:
        file["observations"], file["next_observations"] = d.obs, d.next_obs
        file["actions"], file["rewards"] = d.action, d.reward
        file["terminals"], file["timeouts"] = d.terminated, d.truncated
        file.attrs.update(_about(d))
    return files.sha256(path)


def save_minari(
    dataset: Dataset,
    folder: str | os.PathLike[str],
    action_space: Space,
    observation_space: PyTree,
    name: str | None = None,
) -> str:
    """Writes a folder that Minari loads, and `load` exactly; returns the sha256 of its main_data.hdf5.

    The folder is there whole or not at all. Returns to go are not kept: those of the files are not discounted.

    Args:
      observation_space: a dict of spaces where observations are a dict.
      name: Minari's id, such as "hopper/medium-v0", with which `folder` ends; None takes the last part of it.

    Raises:
      ValueError: the folder exists, its name is none of Minari's, or the dataset does not fit the spaces or Minari's
        episodes, which hold each observation once.
    """
    folder = local(folder)
    name = folder.name if name is None else name
    if folder.exists():
        raise Refused(f"{folder}: exists already; choose another name")
    if not _MINARI_NAME.fullmatch(name) or not folder.absolute().as_posix().endswith(f"/{name}"):
        raise Refused(f"{folder}: must end with its name, and {name!r} must read as hopper/medium-v0 or medium-v0 do")
    d = jax.tree.map(np.asarray, dataset)
    files.fit(str(folder), d, action_space, observation_space)
    _refuse_gaps(str(folder), d)
    metadata = {
        "dataset_id": name,
        "total_episodes": len(d.ends),
        "total_steps": d.size,
        "minari_version": _MINARI_VERSION,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps(_described(observation_space)),
        "action_space": json.dumps(_described(action_space)),
        "algorithm_name": d.metadata.policy or "",
        "rljax": _about(d),
    }
    with files.whole(folder) as part:
        data = part / "data"
        data.mkdir(parents=True)
        with h5py.File(data / _MAIN, "w") as file:
            for i, (start, end) in enumerate(zip(d.starts, d.ends)):
                episode = file.create_group(f"episode_{i}")
                episode.attrs.update({"id": i, "total_steps": end - start})
                rows = jax.tree.map(lambda x, y, a=start, b=end: np.append(x[a:b], y[b - 1 : b], 0), d.obs, d.next_obs)
                _write(episode, "observations", rows)
                episode["actions"], episode["rewards"] = d.action[start:end], d.reward[start:end]
                episode["terminations"], episode["truncations"] = d.terminated[start:end], d.truncated[start:end]
        metadata["dataset_size"] = round((data / _MAIN).stat().st_size / 1e6, 1)  # MB
        (data / _METADATA).write_text(json.dumps(metadata, indent=1), encoding="utf-8")
    return files.sha256(folder / "data" / _MAIN)


def download(name: str, **arguments: Any) -> Dataset:
    """Downloads a dataset with Minari, such as "mujoco/hopper/medium-v0", and reads it with the arguments of `load`.

    Raises:
      ValueError: Minari is not installed; or as `load`.
    """
    try:
        import minari
    except ImportError:
        raise Refused(f'{name}: downloads are Minari\'s: pip install "rljax[minari]"') from None
    minari.download_dataset(name)
    return load(minari.load_dataset(name).storage.data_path, **arguments)


def _locate(path: Path) -> Path:
    """The file that holds the arrays."""
    if path.is_dir():
        for file in (path / _MAIN, path / "data" / _MAIN):
            if file.is_file():
                return file
        raise Refused(f"{path}: a folder without data/{_MAIN}; allowed are Minari's, in its HDF5 format")
    if not path.is_file():
        raise Refused(f"{path}: no such file or folder")
    if not h5py.is_hdf5(path) and not zipfile.is_zipfile(path):
        raise Refused(f"{path}: neither HDF5 nor npz, or damaged; allowed are D4RL's, Minari's and OGBench's files")
    return path


def _read_d4rl(where: str, file: h5py.File, max_episode_steps: int | None) -> tuple[Transition, dict[str, str]]:
    rows = files.rows(where, file, _ROWS, ["timeouts", "next_observations"])
    terminated = files.flags(where, rows, "terminals")
    if "timeouts" in rows:
        ended = files.flags(where, rows, "timeouts")
    elif max_episode_steps is None or max_episode_steps < 1:
        raise Refused(f"{where}: no timeouts, as in D4RL's oldest files; give max_episode_steps, of at least 1")
    else:
        number = np.arange(len(terminated))
        begins = np.maximum.accumulate(np.where(np.append(True, terminated[:-1]), number, 0))
        ended = (number - begins) % max_episode_steps == max_episode_steps - 1
    about = {k: files.text(file.attrs[k]) for k in _ABOUT if k in file.attrs}
    if isinstance(algorithm := file.get("metadata/algorithm"), h5py.Dataset):
        about.setdefault("policy", files.text(algorithm[()]))
    return _with_successors(rows, terminated, ended), about


def _read_ogbench(where: str, arrays: Any) -> Transition:
    """As published, without `next_observations`, `terminals` mark rows that hold an episode's last observation only."""
    if "rewards" not in arrays:
        raise Refused(
            f"{where}: no rewards, as in goal-conditioned sets; allowed are sets with the rewards of one task"
        )
    rows = files.rows(where, arrays, _ROWS, ["masks", "next_observations"])
    ended = files.flags(where, rows, "terminals")
    # OGBench's episodes may go on where the task is done; ours are parted there, for nothing is to be gained after it.
    done = ~files.flags(where, rows, "masks") if "masks" in rows else np.zeros_like(ended)
    return _with_successors(rows, done if "next_observations" in rows else done & ~ended, ended)


def _with_successors(rows: dict[str, Any], terminated: Any, ended: Any) -> Transition:
    """Transitions of rows in order, whose episodes end where either says; for which are left out see `load`."""
    obs, lost = rows["observations"], ended & ~terminated
    if "next_observations" in rows:
        kept, truncated, next_obs = np.ones_like(lost), lost, rows["next_observations"]
    else:
        lost[-1] |= ~terminated[-1]
        kept, truncated = ~lost, np.append(lost[1:], False) & ~terminated
        # The value of a terminated step's successor is never used: its own observation will do.
        next_obs = obs[(np.arange(len(obs)) + ~terminated)[kept]]
    if not kept.all():
        rows = {name: x[kept] for name, x in rows.items()}
    obs, action, reward = rows["observations"], rows["actions"], rows["rewards"]
    return Transition(obs, action, reward, terminated[kept], truncated[kept], next_obs)


def _read_minari(where: str, file: h5py.File, metadata: Path) -> tuple[Transition, dict[str, str]]:
    said = files.read_json(metadata)
    count = sum(name.startswith("episode_") for name in file)
    names = [f"episode_{i}" for i in range(count)]
    if missing := [name for name in names if not isinstance(file.get(name), h5py.Group)]:
        raise Refused(f"{where}: no group {missing[0]}, though there are {count}; they must be numbered from 0")
    if count == 0 or said.get("total_episodes", count) != count:
        raise Refused(
            f"{where}: {count} episodes; there must be some, and {_METADATA} says {said.get('total_episodes')}"
        )
    shapes = {
        "observations": _space_shape(metadata, said, "observation_space"),
        "actions": _space_shape(metadata, said, "action_space"),
    }
    episodes = [_read_episode(f"{where}: {name}", file[name], shapes) for name in names]
    own = said["rljax"] if isinstance(said.get("rljax"), dict) else {}
    about = {"policy": said.get("algorithm_name"), **own, "name": said.get("dataset_id")}
    joined = jax.tree.map(lambda *x: np.concatenate(x), *episodes)
    return joined, {k: str(about[k]) for k in _ABOUT if about.get(k)}


def _read_episode(where: str, group: h5py.Group, shapes: dict[str, Any]) -> Transition:
    """One that neither terminates nor is truncated is truncated by its end.

    Args:
      shapes: of each step; what is None or missing is learnt from the first episode.
    """
    found: dict[str, Any] = {"observations": _tree(where, group, "observations")}
    found |= {name: files.array(where, group, name) for name in ("actions", "rewards", "terminations", "truncations")}
    steps = len(found["rewards"])
    if steps == 0:
        raise Refused(f"{where}: no steps; an episode must have one at least")
    for name, tree in found.items():
        shape = jax.tree.map(lambda x: x.shape[1:], tree)
        if shapes.get(name) is None:
            shapes[name] = shape if name in ("observations", "actions") else ()
        if shape != shapes[name]:
            raise Refused(f"{where}: {name} has the shape {shape} at each step, and must have {shapes[name]}")
        wanted = steps + 1 if name == "observations" else steps
        if lengths := {len(x) for x in jax.tree.leaves(tree)} - {wanted}:
            raise Refused(f"{where}: {lengths.pop()} {name} and {steps} rewards; there must be {wanted}")
    terminated: Any = files.flags(where, found, "terminations")
    truncated: Any = files.flags(where, found, "truncations")
    if (early := (terminated | truncated)[:-1]).any():
        raise Refused(f"{where}: ends at step {np.argmax(early)} of {steps}; only the last may be an end")
    truncated[-1] |= ~terminated[-1]
    obs = jax.tree.map(lambda x: x[:-1], found["observations"])
    next_obs = jax.tree.map(lambda x: x[1:], found["observations"])
    return Transition(obs, found["actions"], found["rewards"], terminated, truncated, next_obs)


def _tree(where: str, group: h5py.Group, name: str) -> PyTree:
    """An array, or a group as a dict of them."""
    if isinstance(inner := group.get(name), h5py.Group) and len(inner):
        return {key: _tree(f"{where}/{name}", inner, key) for key in inner}
    return files.array(where, group, name)


def _write(group: h5py.Group, name: str, tree: PyTree) -> None:
    if isinstance(tree, dict):
        inner = group.create_group(name)
        for key, value in tree.items():
            _write(inner, key, value)
    else:
        group[name] = tree


def _about(dataset: Dataset) -> dict[str, str]:
    known = {k: getattr(dataset.metadata, k) for k in _ABOUT}
    return {k: v for k, v in known.items() if v is not None}


def _refuse_gaps(where: str, d: Dataset) -> None:
    inside = ~(d.terminated | d.truncated)[:-1]
    for x, following in zip(jax.tree.leaves(d.obs), jax.tree.leaves(d.next_obs)):
        gap = inside & (following[:-1] != x[1:]).any(axis=tuple(range(1, x.ndim)))
        if gap.any():
            raise Refused(
                f"{where}: next_obs of transition {np.argmax(gap)} is not obs of the next one, in the midst of an "
                "episode; Minari's episodes hold each observation once"
            )


def _described(space: PyTree) -> dict[str, Any]:
    """A space, or a dict of them, as Minari writes it."""
    if isinstance(space, dict):
        return {"type": "Dict", "subspaces": {k: _described(v) for k, v in space.items()}}
    if isinstance(space, Discrete):
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": space.n}
    if not isinstance(space, Box):
        raise Refused(f"save_minari: {space!r} is not a space; allowed are a Box, a Discrete and a dict of them")
    bounds = {"low": space.low.tolist(), "high": space.high.tolist()}
    return {"type": "Box", "dtype": np.dtype(space.dtype).name, "shape": list(space.shape), **bounds}


def _space_shape(metadata: Path, said: dict[str, Any], key: str) -> Any:
    """The shape of a space as Minari writes it, a tuple or a dict of shapes; None where it says nothing of it."""

    def shape(space: Any) -> Any:
        match space["type"]:
            case "Dict":
                return {k: shape(v) for k, v in space["subspaces"].items()}
            case "Tuple":
                return {f"_index_{i}": shape(v) for i, v in enumerate(space["subspaces"])}
            case "Box":
                return tuple(space["shape"])
            case "MultiBinary":
                return tuple(np.atleast_1d(space["n"]).tolist())
            case "MultiDiscrete":
                return np.shape(space["nvec"])
            case _:
                return ()

    try:
        return shape(json.loads(said[key])) if key in said else None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Refused(f"{metadata}: {key} does not describe a space of Minari's") from None
