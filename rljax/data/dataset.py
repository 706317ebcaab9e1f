"""Offline datasets: transitions of whole episodes in order, held on the device and sampled inside the compiled step.

A `Dataset` is a pytree whose leaves all lead with the transitions, so that it is an argument of a compiled function,
and can be split over devices along that axis. `rljax.data.formats` reads and writes files.
"""

import concurrent.futures
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.data.replay import Batch
from rljax.ops import running_statistics
from rljax.spaces import Space
from rljax.types import Key, Refused, Transition

REFERENCE_RETURNS = {
    "half_cheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
}
"""Returns of a random policy and of an expert, by task (Fu et al. 2020, D4RL, arXiv 2004.07219, appendix)."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Facts about a dataset besides its arrays; all may be missing."""

    name: str = "dataset"
    """Name in errors and tables."""
    task: str | None = None
    """The environment, as `rljax.make` takes it."""
    policy: str | None = None
    """Policy that acted, in words."""
    version: str | None = None
    """Version of the recipe that made it."""
    sha256: str | None = None
    """SHA-256 of the file it was read from, which a resumed run must match."""
    content: str | None = None
    """Fingerprint of all arrays, from before they were prepared; `Dataset.spec` takes it where it is not known yet."""
    rewards: bool = True
    """Whether rewards are known; else all are 0, and algorithms that learn from rewards refuse the dataset."""
    normalization: str = "none"
    """Normalisation of observations, rewards and actions since then."""


class OfflineBatch(Batch):
    """A batch of a dataset, leaves [batch, …].

    Fields:
      next_action: the data's action in `next_obs`; `action`, where it is not known.
      return_to_go: the sum of rewards from here on, discounted by `Dataset.discounted`.
    """

    next_action: jax.Array
    return_to_go: jax.Array


class Dataset(Transition, kw_only=True):
    """Transitions in order, leaves [N, …], NumPy's or JAX's; an episode ends where `terminated` or `truncated` says.

    Fields:
      next_action: the action in `next_obs`; `action`, where an episode ends and it is not known.
      return_to_go: f32 [N], the rewards from here to the end of the episode (but see `discounted`).
      metadata: static.
      ordered: static; whether each row follows the one above it, or is the first of its episode. Rows that were drawn
        at random (`drawn`) have no episodes, and asking for episodes is refused.
    """

    next_action: jax.Array
    return_to_go: jax.Array
    metadata: Metadata = struct.field(pytree_node=False, default=Metadata())
    ordered: bool = struct.field(pytree_node=False, default=True)

    @classmethod
    def of(
        cls, transitions: Transition, metadata: Metadata | None = None, next_action: np.ndarray | None = None
    ) -> "Dataset":
        """Makes a dataset of transitions [N, …] in order, NumPy's from NumPy's. An open last episode is cut at the end.

        Args:
          next_action: the action in `next_obs`, [N, …], where it is known beyond an episode's end; else it is the
            action of the row below, and for an episode's last row its own.

        Raises:
          ValueError: shapes that do not fit, nothing, or values that are not finite; in one line, with the place.
        """
        metadata = metadata or Metadata()
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
            t = jax.tree.map(_narrow, transitions)
        t = t.replace(reward=t.reward.astype(np.float32))
        _check(t, metadata.name)
        truncated = t.truncated & ~t.terminated
        truncated[-1] |= ~t.terminated[-1]
        last = t.terminated | truncated
        following: Any = t.action[np.arange(len(last)) + ~last] if next_action is None else _narrow(next_action)
        if following.shape != t.action.shape or not np.isfinite(following).all():
            raise Refused(f"{metadata.name}: next_action must be finite and of the shape {t.action.shape}")
        to_go = _returns_to_go(t.reward, np.flatnonzero(last) + 1, 1.0)
        rows = (t.obs, t.action, t.reward, t.terminated, truncated, t.next_obs)
        return cls(*rows, next_action=following, return_to_go=to_go, metadata=metadata)

    @property
    def size(self) -> int:
        """N."""
        return self.reward.shape[0]

    @property
    def spec(self) -> dict[str, Any]:
        """The entry in config.json, which a resumed run must match: the content of all arrays too."""
        return dataclasses.asdict(self.identified().metadata)

    def identified(self) -> "Dataset":
        """The dataset with the fingerprint of its arrays in the metadata, unless it is known already."""
        if self.metadata.content is not None:
            return self
        arrays = self.replace(metadata=Metadata(), ordered=True)
        return self.replace(metadata=dataclasses.replace(self.metadata, content=fingerprint(arrays)))

    @property
    def ends(self) -> np.ndarray:
        """Where each episode ends, exclusive: int [episodes]."""
        if not self.ordered:
            raise Refused(f"{self.metadata.name}: its rows were drawn at random, so that none tells what follows it")
        return np.flatnonzero(np.asarray(self.terminated) | np.asarray(self.truncated)) + 1

    @property
    def starts(self) -> np.ndarray:
        """Where each episode begins: int [episodes]."""
        return np.concatenate([[0], self.ends[:-1]])

    @property
    def returns(self) -> np.ndarray:
        """The sum of rewards of each episode, f64 [episodes]."""
        return np.add.reduceat(np.asarray(self.reward, np.float64), self.starts)

    def require_rewards(self) -> None:
        """Refuses a dataset whose rewards are not known, in one line."""
        if not self.metadata.rewards:
            raise Refused(f"{self.metadata.name}: no rewards, which this learns from; bc and diffusion do without")

    def discounted(self, discount: float, after_truncation: float = 0.0) -> "Dataset":
        """The dataset with `return_to_go` discounted by γ.

        Args:
          after_truncation: return-to-go where a truncated episode was cut; may be -inf.
        """
        truncated = np.asarray(self.truncated)[self.ends - 1]
        beyond = np.where(truncated, after_truncation, 0.0)
        return self.replace(return_to_go=_returns_to_go(np.asarray(self.reward), self.ends, discount, beyond))

    def best(self, share: float) -> "Dataset":
        """The share of the episodes with the highest returns, rounded up."""
        if not 0 < share <= 1:
            raise Refused(f"{self.metadata.name}: a share of episodes lies in (0, 1], {share} does not")
        count = int(np.ceil(round(share * len(self.ends), 6)))  # 0.07 × 100 is 7.000000000000001
        kept = np.sort(np.argsort(-self.returns, kind="stable")[:count])
        index = np.concatenate([np.arange(self.starts[i], self.ends[i]) for i in kept])
        return jax.tree.map(lambda x: np.asarray(x)[index], self)

    def statistics(self, space: Space | None = None) -> running_statistics.Statistics:
        """Mean and variance of the observations, as `running_statistics.normalize` takes them.

        A dimension that varies by less than a thousandth of its size counts as one that varies by 1, and is not scaled
        up: where the policy acts, sensors and calibration differ by more.

        Args:
          space: space of an observation, which tells several choices from vectors of whole numbers.
        """

        def mean_of(x: Any, one: Any) -> jax.Array:
            kept = running_statistics.counts(one)  # others are not normalised, and hold a scalar 0
            return jnp.float32(np.mean(x, axis=0, dtype=np.float64) if kept else 0)

        def m2_of(x: Any, one: Any) -> jax.Array:
            if not running_statistics.counts(one):
                return jnp.float32(0)
            variance = np.var(x, axis=0, dtype=np.float64)
            hardly = np.sqrt(variance) <= 1e-3 * np.abs(np.mean(x, axis=0, dtype=np.float64))
            return jnp.float32(np.where(hardly, np.maximum(variance, 1.0), variance) * self.size)

        obs = jax.tree.map(np.asarray, self.obs)
        one = running_statistics.numbers(jax.tree.map(lambda x: x[0], obs), space)
        mean, m2 = (jax.tree.map(f, obs, one) for f in (mean_of, m2_of))
        return running_statistics.Statistics(jnp.float32(self.size), mean, m2)

    def drawn(self, rng: np.random.Generator, size: int) -> "Dataset":
        """This many rows, uniformly and with replacement: a block of a `Stream`."""
        index = np.sort(rng.integers(self.size, size=size))  # in order, as a disk likes it
        return jax.tree.map(lambda x: np.asarray(x[index]), self.replace(ordered=False))

    def sample(self, key: Key, batch_size: int, discount: Any) -> OfflineBatch:
        """Draws transitions, uniformly and with replacement; compiled, so the arrays must be an argument there.

        Args:
          discount: γ; a batch's own is 0 after a termination. A truncated step, and one where the data were cut,
            keeps it.
        """
        index = jax.random.randint(key, (batch_size,), 0, self.size)
        at = jax.tree.map(lambda x: x[index], self)
        return OfflineBatch(
            obs=at.obs,
            action=at.action,
            reward=at.reward,
            next_obs=at.next_obs,
            discount=jnp.where(at.terminated, 0.0, discount),
            index=index,
            weight=jnp.ones(batch_size, jnp.float32),
            next_action=at.next_action,
            return_to_go=at.return_to_go,
        )


def concatenate(datasets: Sequence[Dataset], metadata: Metadata | None = None) -> Dataset:
    """Joins datasets, one after the other."""
    arrays = [d.replace(metadata=Metadata()) for d in datasets]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *arrays)
    return joined.replace(metadata=metadata or dataclasses.replace(datasets[0].metadata, content=None))


def fingerprint(tree: Any) -> str:
    """SHA-256 of arrays with their names, types and shapes, in hexadecimal: the same for NumPy's and JAX's.

    Leaves are read on all cores at once, about half a gigabyte a second on each.
    """
    leaves = [(jax.tree_util.keystr(path), x) for path, x in jax.tree_util.tree_leaves_with_path(tree)]

    def digest(leaf: tuple[str, Any]) -> bytes:
        name, x = leaf[0], np.asarray(leaf[1])
        content = hashlib.sha256(f"{name} {x.dtype} {x.shape} ".encode())
        rows = max(1, 2**24 // max(1, x[:1].nbytes)) if x.ndim else 1
        for start in range(
            0, len(x) if x.ndim else 1, rows
        ):  # in parts: a memory-mapped array is not copied as a whole
            part = np.ascontiguousarray(x[start : start + rows] if x.ndim else x)
            content.update(part.reshape(-1).view(np.uint8))
        return content.digest()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return hashlib.sha256(b"".join(pool.map(digest, leaves))).hexdigest()


def normalized_score(task: str | None, returns: Any) -> Any:
    """100 (R - random) / (expert - random), with D4RL's references; None for a task that has none."""
    if task not in REFERENCE_RETURNS:
        return None
    low, high = REFERENCE_RETURNS[task]
    return 100 * (np.asarray(returns) - low) / (high - low)


def _narrow(x: Any) -> np.ndarray:
    """A NumPy array, floating point as float32 (without a copy where it is float32 already)."""
    x = np.asarray(x)
    return x.astype(np.float32, copy=False) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _returns_to_go(reward: np.ndarray, ends: np.ndarray, discount: float, beyond: np.ndarray | None = None) -> Any:
    """The return-to-go of each step, [N]; after each episode's last step it is `beyond` [episodes], 0 where None."""
    from scipy.signal import lfilter

    result, start = np.empty(len(reward), np.float32), 0
    for end, after in zip(ends, np.zeros(len(ends)) if beyond is None else beyond):
        backwards = reward[start:end][::-1].astype(np.float64)
        if np.isinf(after):
            result[start:end] = after
        else:
            result[start:end] = lfilter([1.0], [1.0, -discount], backwards, zi=[discount * after])[0][::-1]
        start = end
    return result


def _check(t: Transition, name: str) -> None:
    """Refuses arrays that do not make a dataset."""
    size = len(t.reward) if t.reward.ndim else 0
    if size == 0:
        raise Refused(f"{name}: no transitions")
    leaves = {
        field + jax.tree_util.keystr(path): x
        for field in ("obs", "action", "reward", "terminated", "truncated", "next_obs")
        for path, x in jax.tree_util.tree_leaves_with_path(getattr(t, field))
    }
    for field, x in leaves.items():
        if x.shape[:1] != (size,):
            raise Refused(f"{name}: {field} has the shape {x.shape}, and there are {size} rewards")
        if field in ("reward", "terminated", "truncated") and x.ndim != 1:
            raise Refused(f"{name}: {field} must have one axis, and has the shape {x.shape}")
        if np.issubdtype(x.dtype, np.floating) and not (good := np.isfinite(x).reshape(size, -1).all(1)).all():
            raise Refused(f"{name}: {field} is not finite at transition {int(np.argmin(good))}")
    for field in ("terminated", "truncated"):
        if leaves[field].dtype != bool:
            raise Refused(f"{name}: {field} must be boolean, and is {leaves[field].dtype}")
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (t.obs, t.next_obs)]
    if shapes[0] != shapes[1]:
        raise Refused(f"{name}: obs and next_obs differ in shape or type: {shapes[0]} and {shapes[1]}")
