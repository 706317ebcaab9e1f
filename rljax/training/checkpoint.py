"""Checkpoints: Orbax, asynchronous and atomic, with SHA-256 sums so that a damaged one is never resumed from.

A checkpoint is a folder `checkpoints/<iteration>/` with the items `state` (all of training), `policy` (the variables
for acting, so that loading a policy does not read a replay buffer) and, once policies were evaluated, `best` (those of
each member when it was at its best so far). Orbax writes it under a temporary name and renames it when it is complete.
Once all arrays have been found in it, `MANIFEST.json` is added: the sum of every file, the runner's own notes and the
score; and only then are older checkpoints deleted. A folder without a manifest was cut off before it was complete; one
that does not match was damaged. Both are passed over, the second with a warning, and set aside under `damaged/`, so
that nothing is lost and nothing is in the way.
"""

import contextlib
import hashlib
import json
import math
import shutil
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.types import PyTree, Refused

MANIFEST = "MANIFEST.json"


class Restored(NamedTuple):
    """One item of a checkpoint, and the notes that were saved with it."""

    iteration: int
    item: PyTree
    progress: dict[str, Any]


class Checkpointer:
    """Saves and restores the checkpoints of one run.

    Args:
      folder: folder of the checkpoints; created when needed.
      keep: number of newest checkpoints to keep, at least 2 (so that one is whole while another is written); the one
        with the best score is kept besides.
      read_only: nothing is created, cleaned up or set aside.

    Raises:
      Refused: `keep` is below 2; or several processes share a folder whose path has one of the characters `*?[`.
    """

    def __init__(self, folder: Path, keep: int = 2, read_only: bool = False):
        # Orbax takes half a second to import, which `import rljax` should not.
        import orbax.checkpoint as ocp

        if keep < 2:
            raise Refused(f"keep_checkpoints = {keep} is not allowed; it must be at least 2")
        self.folder = Path(folder).absolute()
        self.keep = keep
        self.read_only = read_only
        self._ocp = ocp
        self._place, self._link = _place(self.folder)
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._saving: threading.Thread | None = None
        self._failure: BaseException | None = None
        if not read_only and jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()

    def save(
        self,
        iteration: int,
        state: PyTree,
        policy: PyTree,
        progress: dict[str, Any],
        score: float | None = None,
        best: PyTree | None = None,
    ) -> None:
        """Starts to save; returns once the arrays are copied off the device. Waits for the save before, if any.

        Args:
          best: the item `best`, of the policies that were the best of their members so far; None saves none.
        """
        self.wait()
        args = self._ocp.args
        items = {"state": state, "policy": policy} | ({} if best is None else {"best": best})
        if jax.default_backend() == "cpu":
            # There Orbax reads the live buffers while it writes, and the next training step reuses them.
            items = jax.tree.map(jnp.copy, items)
        saved = {name: args.StandardSave(_storable(item)) for name, item in items.items()}
        self._orbax.save(self._place / str(iteration), args=args.Composite(**saved))
        notes = {"progress": progress, "score": score if score is not None and math.isfinite(score) else None}
        self._saving = threading.Thread(
            target=self._finish, args=(iteration, tuple(items), notes), name="checkpoint-manifest"
        )
        self._saving.start()

    def wait(self) -> None:
        """Blocks until the newest save is complete, its manifest included; raises what it raised."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """Waits for the newest save and lets go of the folder."""
        try:
            self.wait()
        finally:
            self._orbax.close()
            if self._link is not None:
                self._link.cleanup()

    def iterations(self) -> list[int]:
        """Complete checkpoints, oldest first."""
        return sorted(int(p.parent.name) for p in self.folder.glob(f"*/{MANIFEST}") if p.parent.name.isdigit())

    def restore(self, item: str, target: PyTree, iteration: int | None = None) -> Restored | None:
        """An item of the newest checkpoint that is whole, or of the one asked for.

        Args:
          item: `state`, `policy` or `best`.
          target: a pytree of arrays or `jax.ShapeDtypeStruct` (with shardings, to restore onto a mesh).
          iteration: the newest where None.

        Returns:
          None when there is no checkpoint.

        Raises:
          Refused: the checkpoint asked for is missing or damaged, or all are damaged, or its shapes differ.
        """
        found = self.whole(iteration)
        return None if found is None else Restored(found, self.read(item, target, found), self.progress(found))

    def whole(self, iteration: int | None = None) -> int | None:
        """The newest checkpoint that is whole, or the one asked for; newer ones that are damaged are set aside.

        Returns:
          None when there is no checkpoint.

        Raises:
          Refused: the checkpoint asked for is missing or damaged, or all are damaged.
        """
        candidates = self.iterations()
        if iteration is not None:
            if iteration not in candidates:
                raise Refused(f"no checkpoint {iteration} in {self.folder}; there are {candidates}")
            candidates = [iteration]
        damage = None
        for candidate in reversed(candidates):
            damage = self.damage(candidate)
            if damage is None:
                return candidate
            message = f"checkpoint {self.folder.name}/{candidate} is damaged: {damage}"
            if iteration is not None:
                raise Refused(message)
            warnings.warn(f"{message}; the one before it is used", stacklevel=2)
            self._set_aside(candidate)
        if damage is not None:
            raise Refused(f"every checkpoint in {self.folder} is damaged, the last one read: {damage}")
        return None

    def progress(self, iteration: int) -> dict[str, Any]:
        """The runner's notes in a checkpoint."""
        return self._manifest(iteration)["progress"]

    def has(self, item: str, iteration: int) -> bool:
        """Whether a checkpoint has an item."""
        return (self.folder / str(iteration) / item).is_dir()

    def best(self) -> int | None:
        """The complete checkpoint with the highest score; one that is not finite is no score."""
        scores = {}
        for iteration in self.iterations():
            with contextlib.suppress(Refused):  # a damaged manifest; `damage` reports it
                score = self._manifest(iteration)["score"]
                if score is not None and math.isfinite(score):
                    scores[iteration] = score
        return max(scores, key=lambda iteration: scores[iteration]) if scores else None

    def damage(self, iteration: int) -> str | None:
        """The fault of a checkpoint's files, in one line that names the file; None if they are whole."""
        folder = self.folder / str(iteration)
        try:
            sums = self._manifest(iteration)["sha256"]
        except Refused as error:
            return str(error)
        present = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        if missing := sorted(set(sums) - set(present)):
            return f"{missing[0]} is missing"
        for name, value in sums.items():
            if _sha256(present[name]) != value:
                return f"the SHA-256 sum of {name} does not match"
        return None

    def _manifest(self, iteration: int) -> dict[str, Any]:
        """The manifest, which carries its own sum.

        Raises:
          Refused: it is damaged.
        """
        refused = Refused(f"{MANIFEST} does not match its own sum")
        try:
            manifest = json.loads((self.folder / str(iteration) / MANIFEST).read_text())
        except (OSError, ValueError):  # not there, not text, not JSON
            raise refused from None
        if not isinstance(manifest, dict) or manifest.pop("manifest_sha256", None) != _manifest_sum(manifest):
            raise refused
        return manifest

    def read(self, item: str, target: PyTree, iteration: int) -> PyTree:
        """An item of a checkpoint that is whole (see `restore`).

        Raises:
          Refused: its shapes differ.
        """
        abstract = jax.tree.map(_abstract, _storable(target))
        reader = self._ocp.StandardCheckpointer()
        try:
            restored = reader.restore(self._place / str(iteration) / item, abstract)
        except (ValueError, KeyError, TypeError) as error:
            try:
                stored = self.stored(iteration, item)
            except (ValueError, OSError):
                raise Refused(f"checkpoint {iteration} cannot be read: Orbax does not find its arrays") from error
            if _shapes(abstract) == _shapes(stored):
                raise
            reason = str(error).strip().splitlines()[0].partition(". ")[0]
            raise Refused(
                f"checkpoint {iteration} does not fit this program's {item}: {reason}. It was saved with other "
                "settings, or has a prioritised replay buffer, which needs as many devices as before"
            ) from error
        finally:
            reader.close()
        return _from_stored(restored, target)

    def read_some(self, item: str, target: PyTree, iteration: int) -> PyTree:
        """Those arrays of an item that `target` (nested dicts of shapes) has, on the host; nothing else is read."""
        ocp, shapes = self._ocp, _storable(target)
        arguments = ocp.args.PyTreeRestore(
            item=shapes,
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes),
            partial_restore=True,
        )
        reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        try:
            return _from_stored(reader.restore(self._place / str(iteration) / item, args=arguments), target)
        finally:
            reader.close()

    def digest(self, iteration: int) -> str:
        """The sum of a checkpoint's manifest, and so of all its files."""
        return _manifest_sum(self._manifest(iteration))

    def stored(self, iteration: int, item: str) -> PyTree:
        """The shapes of the stored arrays, as Orbax finds them; its own error where it finds less than it wrote."""
        handler = self._ocp.StandardCheckpointHandler()
        try:
            return handler.metadata(self._place / str(iteration) / item).tree
        finally:
            handler.close()

    def _finish(self, iteration: int, items: tuple[str, ...], notes: dict[str, Any]) -> None:
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() != 0:
                return
            for item in items:
                self.stored(iteration, item)
            folder = self.folder / str(iteration)
            sums = {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(_files(folder))}
            manifest = {**notes, "sha256": sums}
            temporary = folder / f"{MANIFEST}.tmp"
            temporary.write_text(json.dumps(manifest | {"manifest_sha256": _manifest_sum(manifest)}, indent=1))
            temporary.replace(folder / MANIFEST)
            for old in set(self.iterations()[: -self.keep]) - {self.best()}:
                # The manifest goes first, so that a checkpoint half deleted counts as incomplete.
                (self.folder / str(old) / MANIFEST).unlink()
                shutil.rmtree(self.folder / str(old))
        except BaseException as error:  # raised again in the caller's thread by `wait`
            self._failure = error

    def _remove_unfinished(self) -> None:
        """Clears what a killed process left half-written; it could not be resumed from."""
        for path in self.folder.iterdir():
            if path.is_dir() and path.name != "damaged" and not (path / MANIFEST).exists():
                shutil.rmtree(path)

    def _set_aside(self, iteration: int) -> None:
        if self.read_only:
            return
        aside = self.folder / "damaged"
        aside.mkdir(exist_ok=True)
        place = aside / str(iteration)
        shutil.rmtree(place, ignore_errors=True)
        (self.folder / str(iteration)).rename(place)


def _place(folder: Path) -> tuple[Path, tempfile.TemporaryDirectory | None]:
    """A path by which Orbax finds a folder, and the object that keeps the path alive.

    Orbax takes paths for patterns: given a `[`, it loses files that it wrote. So it is given another path to it.
    """
    if not _is_pattern(folder):
        return folder, None
    refused = Refused(f"{folder} is not allowed here; its path must be without the characters * ? [")
    if jax.process_count() > 1 or _is_pattern(Path(tempfile.gettempdir())):
        raise refused
    link = tempfile.TemporaryDirectory(prefix="rljax-")
    place = Path(link.name) / "checkpoints"
    try:
        place.symlink_to(folder, target_is_directory=True)
    except OSError as error:
        link.cleanup()
        raise refused from error
    return place, link


def _is_pattern(path: Path) -> bool:
    return any(character in str(path) for character in "*?[")


def _shapes(tree: PyTree) -> list[tuple[int, ...]]:
    """Shapes of all arrays, sorted: trees come back from storage with other containers, and so in another order."""
    return sorted(tuple(leaf.shape) for leaf in jax.tree.leaves(tree))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(MANIFEST)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest_sum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _storable(tree: PyTree) -> PyTree:
    """The tree to store: typed random keys as plain integers, and no empty arrays, which Orbax refuses."""

    def convert(leaf: Any) -> Any:
        if leaf.size == 0:
            return None
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            data = jax.eval_shape(jax.random.key_data, leaf)
            return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)
        return jax.random.key_data(leaf)

    return jax.tree.map(convert, tree)


def _from_stored(tree: PyTree, target: PyTree) -> PyTree:
    def convert(like: Any, leaf: Any) -> Any:
        if like.size == 0:
            return jnp.zeros(like.shape, like.dtype, device=getattr(like, "sharding", None))
        return jax.random.wrap_key_data(leaf, impl=_key_impl(like)) if _is_key(like) else leaf

    return jax.tree.map(convert, target, tree)


def _key_impl(like: Any) -> Any:
    """The generator of a key, or of a key's shape, which JAX tells only while it traces."""
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)
    return found[0]


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    # Without one Orbax takes the device that it was saved from, which a laptop does not have.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here)
