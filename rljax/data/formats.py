"""Files of offline data: D4RL's HDF5, Minari's folders, OGBench's npz and PushT's, checked where they come in.

Nothing is unpickled or evaluated. Files that do not fit are refused in one line: which file, what is wrong, what is
allowed. Nothing is guessed silently: the layout taken for an npz is printed on standard error, in one line.
"""

import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import jax
import numpy as np

from rljax.data import demonstrations, files, minari_spaces
from rljax.data.dataset import Dataset, Metadata
from rljax.paths import local
from rljax.spaces import ArraySpace, Box, Discrete
from rljax.types import PyTree, Refused, Transition

_ABOUT = ("name", "task", "policy", "version", "normalization")  # the fields of `Metadata` that files keep
_ROWS = ("observations", "actions", "terminals")
_OGBENCH = ("masks", "valids", "qpos", "qvel", "button_states")  # what only OGBench's files have
_MAIN, _METADATA = "main_data.hdf5", "metadata.json"
_MINARI_NAME = re.compile(r"(?:[-\w/]+/)?[-\w]+-v\d+")
_MINARI_VERSION = "0.5.0"  # the first release with this layout, which later ones read
_MARKED = "ends_are_marked"  # the attribute of files of our own, whose episodes have no further ends
_GAP = 1e-6  # distance beyond which two observations differ, as in IQL's and RLPD's loaders

Layout = Literal["d4rl", "ogbench", "minari", "push_t"]
Rewards = Literal["required", "optional"]


def load(
    path: str | os.PathLike[str],
    task: str | None = None,
    action_space: ArraySpace | None = None,
    observation_space: PyTree | None = None,
    max_episode_steps: int | None = None,
    *,
    rewards: Rewards = "required",
    layout: Layout | None = None,
    flatten: bool = False,
    push_t: demonstrations.PushTReward = "human",
) -> Dataset:
    """Reads a file of D4RL's, OGBench's or PushT's layout, or a folder of Minari's; arrays are NumPy's.

    d4rl: `terminals` end the task, `timeouts` or max_episode_steps the episode. Without `next_observations` a step's
    successor is the observation of the row below, which the last row of a truncated episode does not have: as in
    D4RL's `qlearning_dataset`, that row is left out, and the episode truncated one step earlier; its action stays, as
    the next action of the row before. With `next_observations` an episode also ends where the row below begins
    elsewhere.

    ogbench: `terminals` mark the rows that hold an episode's last observation and nothing else; in compact sets
    `valids` are 0 there; `masks` are 0 where the task is done. As published they have no rewards.

    minari: all successors are there. Text is left out of observations, and images are read from JPEG.

    push_t: see `demonstrations.read_push_t`.

    Args:
      task: the task in the metadata, in place of the file's.
      action_space: space of the actions; they are clipped to it if they exceed it by no more than 1e-4, else refused.
      observation_space: space whose shape observations must have; a dict of spaces where they are a dict.
      max_episode_steps: the time limit of D4RL's oldest files, which have no `timeouts`.
      rewards: required refuses a file without them; optional reads zeros, and says so in `metadata.rewards`.
      layout: layout of an npz that may be read in several ways, or to be sure.
      flatten: joins Minari's observations of several parts into a vector, as Gymnasium's `flatten` does: parts sorted
        by name, choices as ones among zeros. Where a part is an image, all stay as they are.
      push_t: rewards and ends of PushT's demonstrations (see `demonstrations.read_push_t`).

    Raises:
      ValueError: something in the file does not fit; in one line.
    """
    for name, value, allowed in (("rewards", rewards, get_args(Rewards)), ("layout", layout, get_args(Layout))):
        if value not in allowed and (name, value) != ("layout", None):
            raise Refused(f"{path}: {name} = {value!r} is not allowed; it must be one of {', '.join(allowed)}")
    where, file = str(path), _locate(local(path))
    with files.reading(where):
        about: dict[str, Any] = {}
        following = None
        if not h5py.is_hdf5(file):
            with np.load(file, allow_pickle=False) as arrays:
                found = _layout_of(where, arrays, layout)
                has = "rewards" in arrays or found == "push_t"
                if found == "push_t":
                    transitions, about, following = demonstrations.read_push_t(where, arrays, push_t)
                elif found == "ogbench":
                    transitions, following = _read_ogbench(where, arrays)
                else:
                    transitions, following = _read_d4rl(where, arrays, max_episode_steps)
        else:
            with h5py.File(file) as group:
                found = "minari" if file.name == _MAIN or "episode_0" in group else "d4rl"
                if layout not in (None, found):
                    raise Refused(f"{where}: is of the layout {found}, and not {layout}")
                if found == "minari":
                    transitions, about = _read_minari(where, group, file.with_name(_METADATA), flatten)
                    has = about.pop("rewards")
                else:
                    about = {k: files.text(group.attrs[k]) for k in _ABOUT if k in group.attrs}
                    if isinstance(algorithm := group.get("metadata/algorithm"), h5py.Dataset):
                        about.setdefault("policy", files.text(algorithm[()]))
                    marked = group.attrs.get(_MARKED, False)
                    transitions, following = _read_d4rl(where, group, max_episode_steps, bool(marked))
                    has = "rewards" in group
    if rewards == "required" and not has:
        raise Refused(f"{where}: no rewards, as sets to imitate or of many goals have none; bc and diffusion need none")
    if len(transitions.reward) == 0:
        raise Refused(f"{where}: no step has a successor; at least one must")
    transitions = files.fit(where, transitions, action_space, observation_space)
    if following is not None and isinstance(action_space, Box):
        following = np.clip(following, action_space.low, action_space.high)
    about = {"name": file.stem, **about, "rewards": has, "sha256": files.sha256(file)}
    return Dataset.of(transitions, Metadata(**about | ({} if task is None else {"task": task})), following)


def save_d4rl(dataset: Dataset, path: str | os.PathLike[str], overwrite: bool = False) -> str:
    """Writes a file of D4RL's layout, with `next_observations`, which `load` reads back exactly; returns its sha256.

    The file is there whole or not at all. Returns to go are not kept: those of the file are not discounted. Rewards
    that are not known are not written.

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
        file["actions"], file["terminals"], file["timeouts"] = d.action, d.terminated, d.truncated
        if d.metadata.rewards:
            file["rewards"] = d.reward
        if not np.array_equal(d.next_action, d.action[np.arange(d.size) + ~(d.terminated | d.truncated)]):
            file["next_actions"] = d.next_action
        file.attrs.update(_about(d))
        file.attrs[_MARKED] = True
    return files.sha256(path)


def save_minari(
    dataset: Dataset,
    folder: str | os.PathLike[str],
    action_space: ArraySpace,
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
        "rljax": _about(d) | ({} if d.metadata.rewards else {"rewards": False}),
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


def _layout_of(where: str, arrays: Any, layout: Layout | None) -> Layout:
    """The layout of an npz, printed on standard error where it was not asked for; refused where it is ambiguous."""
    names = set(arrays)
    if layout == "minari":
        raise Refused(f"{where}: is an npz, and Minari's sets are folders; allowed are d4rl, ogbench and push_t")
    if layout is not None:
        return layout
    if demonstrations.is_push_t(arrays):
        return "push_t"
    if missing := [name for name in _ROWS if name not in names]:
        raise Refused(f"{where}: no {missing[0]}; there is {', '.join(sorted(names)) or 'nothing'}")
    theirs = [name for name in _OGBENCH if name in names]
    if bool(theirs) == ("timeouts" in names):
        raise Refused(
            f"{where}: terminals may mark the last step of a task that is done, as D4RL's do, or a row with the last "
            "observation alone, as OGBench's; say which: layout='d4rl' or layout='ogbench'"
        )
    found: Layout = "ogbench" if theirs else "d4rl"
    print(f"{where}: read as of the layout {found}, for it has {[*theirs, 'timeouts'][0]}", file=sys.stderr)
    return found


def _required(file: Any) -> list[str]:
    """Names that a file of rows must hold, with the rewards where it has some."""
    return [name for name in ("observations", "actions", "rewards", "terminals") if name != "rewards" or name in file]


def _read_d4rl(
    where: str, file: Any, max_episode_steps: int | None, marked: bool = False
) -> tuple[Transition, np.ndarray | None]:
    rows = files.rows(where, file, _required(file), ["timeouts", "next_observations", "next_actions"])
    terminated = files.flags(where, rows, "terminals")
    ended = np.zeros_like(terminated)
    if "timeouts" in rows:
        ended = files.flags(where, rows, "timeouts")
    elif max_episode_steps is not None and max_episode_steps >= 1:
        number = np.arange(len(terminated))
        begins = np.maximum.accumulate(np.where(np.append(True, terminated[:-1]), number, 0))
        ended = (number - begins) % max_episode_steps == max_episode_steps - 1
    elif "next_observations" not in rows:
        raise Refused(f"{where}: no timeouts, as in D4RL's oldest files; give max_episode_steps, of at least 1")
    return _with_successors(rows, terminated, ended, marked)


def _read_ogbench(where: str, arrays: Any) -> tuple[Transition, np.ndarray | None]:
    rows = files.rows(where, arrays, _required(arrays), ["masks", "valids", "next_observations"])
    ended = files.flags(where, rows, "terminals")
    # OGBench's episodes may go on where the task is done; ours are parted there, for nothing is to be gained after it.
    done = ~files.flags(where, rows, "masks") if "masks" in rows else np.zeros_like(ended)
    if "next_observations" in rows:
        return _with_successors(rows, done, ended)
    # In a compact set terminals mark the last step as well, and valids tell the two apart.
    last_observation = ~files.flags(where, rows, "valids") if "valids" in rows else ended
    return _with_successors(rows, done & ~last_observation, last_observation)


def _with_successors(
    rows: dict[str, Any], terminated: Any, ended: Any, marked: bool = False
) -> tuple[Transition, np.ndarray | None]:
    """Transitions of rows in order, whose episodes end where either flag says; `load` says which rows are left out.

    Args:
      marked: whether episodes end nowhere else.

    Returns:
      The transitions, and the next actions where the rows tell.
    """
    obs, lost, following = rows["observations"], ended & ~terminated, rows.get("next_actions")
    if "next_observations" in rows:
        kept, truncated, next_obs = np.ones_like(lost), lost, rows["next_observations"]
        if not marked:
            truncated = truncated | (_gaps(obs, next_obs) & ~terminated)
    else:
        lost[-1] |= ~terminated[-1]
        kept, truncated = ~lost, np.append(lost[1:], False) & ~terminated
        # The value of a terminated step's successor is never used: its own observation will do.
        below = (np.arange(len(obs)) + ~terminated)[kept]
        next_obs, following = obs[below], rows["actions"][below]
    if not kept.all():
        rows = {name: x[kept] for name, x in rows.items()}
    obs, action = rows["observations"], rows["actions"]
    reward = rows.get("rewards", np.zeros(len(obs), np.float32))
    return Transition(obs, action, reward, terminated[kept], truncated[kept], next_obs), following


def _gaps(obs: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
    """After which rows [N] another episode begins: the next observation is not that of the row below."""
    gaps, step = np.zeros(len(obs), bool), max(1, 2**24 // max(1, obs[:1].nbytes))
    for start in range(0, len(obs) - 1, step):
        end = min(start + step, len(obs) - 1)
        apart = obs[start + 1 : end + 1].astype(np.float64) - next_obs[start:end]
        gaps[start:end] = np.sqrt(np.square(apart).reshape(end - start, -1).sum(1)) > _GAP
    return gaps


def _read_minari(where: str, file: h5py.File, metadata: Path, flatten: bool) -> tuple[Transition, dict[str, Any]]:
    said = files.read_json(metadata)
    count = sum(name.startswith("episode_") for name in file)
    names = [f"episode_{i}" for i in range(count)]
    if missing := [name for name in names if not isinstance(file.get(name), h5py.Group)]:
        raise Refused(f"{where}: no group {missing[0]}, though there are {count}; they must be numbered from 0")
    if count == 0 or said.get("total_episodes", count) != count:
        raise Refused(
            f"{where}: {count} episodes; there must be some, and {_METADATA} says {said.get('total_episodes')}"
        )
    spaces = minari_spaces.of(metadata, said)
    if spaces.observation is None and flatten:
        raise Refused(f"{metadata}: no observation_space, so that observations cannot be flattened")
    if left_out := spaces.text:
        print(f"{where}: left out, for it is text: {', '.join(left_out)}", file=sys.stderr)
    shapes = {"observations": spaces.shape, "actions": spaces.action_shape}
    episodes = [_read_episode(f"{where}: {name}", file[name], shapes, spaces) for name in names]
    own = said["rljax"] if isinstance(said.get("rljax"), dict) else {}
    about = {"policy": said.get("algorithm_name"), "task": spaces.task, **own, "name": said.get("dataset_id")}
    joined = jax.tree.map(lambda *x: np.concatenate(x), *episodes)
    if flatten and not any(x.ndim == 4 for x in jax.tree.leaves(joined.obs)):
        obs, next_obs = (spaces.flattened(where, x) for x in (joined.obs, joined.next_obs))
        joined = joined.replace(obs=obs, next_obs=next_obs)
    return joined, {k: str(about[k]) for k in _ABOUT if about.get(k)} | {"rewards": own.get("rewards", True)}


def _read_episode(where: str, group: h5py.Group, shapes: dict[str, Any], spaces: minari_spaces.Spaces) -> Transition:
    """Reads an episode; one that neither terminates nor is truncated is truncated at its end.

    Args:
      shapes: shapes of each step; those that are None or missing are taken from the first episode.
    """
    found: dict[str, Any] = {"observations": _tree(where, group, "observations", spaces.observation, spaces.jpeg)}
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


def _tree(where: str, group: h5py.Group, name: str, space: Any, jpeg: bool) -> PyTree:
    """An array, or a group as a dict of them, without text; images are decoded.

    Args:
      space: as Minari writes it; None where it says nothing of it.
    """
    inner = group.get(name)
    if isinstance(inner, h5py.Group) and len(inner):
        parts = minari_spaces.parts(space)
        kept = [key for key in inner if not minari_spaces.is_text(parts.get(key))]
        return {key: _tree(f"{where}/{name}", inner, key, parts.get(key), jpeg) for key in kept}
    if jpeg and minari_spaces.is_image(space) and isinstance(inner, h5py.Dataset) and inner.ndim <= 2:
        return minari_spaces.decoded(f"{where}: {name}", inner[()], space)
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
    """Minari's description of a space, or of a dict of spaces."""
    if isinstance(space, dict):
        return {"type": "Dict", "subspaces": {k: _described(v) for k, v in space.items()}}
    if isinstance(space, Discrete):
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": space.n}
    if not isinstance(space, Box):
        raise Refused(f"save_minari: {space!r} is not a space; allowed are a Box, a Discrete and a dict of them")
    bounds = {"low": space.low.tolist(), "high": space.high.tolist()}
    return {"type": "Box", "dtype": np.dtype(space.dtype).name, "shape": list(space.shape), **bounds}
