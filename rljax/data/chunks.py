"""A dataset as sequences: observations until a step, and actions from it on."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.data.dataset import Dataset, Metadata
from rljax.ops.history import side_by_side
from rljax.types import Key, PyTree, Refused, Transition


class ChunkBatch(struct.PyTreeNode):
    """Leaves [batch, …].

    Fields:
      obs: histories [batch, …] of observations (see ops/history.py).
      action: [batch, horizon, d].
      label: i32 [batch], the chunk's label, which conditions the policy.
      weight: f32 [batch], the chunk's weight.
    """

    obs: PyTree
    action: jax.Array
    label: jax.Array
    weight: jax.Array


class Chunks(struct.PyTreeNode):
    """A dataset whose samples are windows within an episode; a pytree that leads with the transitions, as a `Dataset`.

    Before an episode's first step a window repeats its first observation, after its last one its last action. The rows
    must follow one another as in the episodes. If they are consecutive rows of a longer dataset, such as a block of a
    `Stream` or a device's share, no window is drawn that their ends would cut.

    Fields:
      obs, action: observations [N, …] and actions [N, d].
      since, until: i32 [N], steps of the episode before and after each row.
      label, weight: see `ChunkBatch`; chunks of negative weight are to be avoided.
      history, horizon: numbers of observations and actions of a window.
    """

    obs: Any
    action: Any
    since: Any
    until: Any
    label: Any
    weight: Any
    history: int = struct.field(pytree_node=False, default=1)
    horizon: int = struct.field(pytree_node=False, default=1)
    metadata: Metadata = struct.field(pytree_node=False, default=Metadata())

    @classmethod
    def of(cls, dataset: Dataset, history: int, horizon: int, label: Any = None, weight: Any = None) -> "Chunks":
        """Makes chunks from a dataset on the host; labels and weights, [N], are all 0 and all 1 where not given."""
        position = np.arange(dataset.size)
        episode = np.searchsorted(dataset.ends, position, side="right")
        label = np.zeros(dataset.size) if label is None else np.asarray(label)
        weight = np.ones(dataset.size) if weight is None else np.asarray(weight)
        for name, x in (("label", label), ("weight", weight)):
            if x.shape != position.shape:
                raise Refused(f"{dataset.metadata.name}: {name} has the shape {x.shape}, and must be [{len(position)}]")
        if not (weight > 0).any() or not np.isfinite(weight).all():
            raise Refused(f"{dataset.metadata.name}: weights must be finite, and one of them positive")
        return cls(
            obs=jax.tree.map(np.asarray, dataset.obs),
            action=np.asarray(dataset.action, np.float32),
            since=(position - dataset.starts[episode]).astype(np.int32),
            until=(dataset.ends[episode] - 1 - position).astype(np.int32),
            label=label.astype(np.int32),
            weight=weight.astype(np.float32),
            history=history,
            horizon=horizon,
            metadata=dataset.metadata,
        )

    @property
    def size(self) -> int:
        """N."""
        return self.since.shape[0]

    @property
    def spec(self) -> dict[str, Any]:
        """The entry in config.json, which a resumed run must match: labels and weights too."""
        return dataclasses.asdict(self.metadata) | {"label": digest(self.label), "weight": digest(self.weight)}

    def drawn(self, rng: np.random.Generator, size: int) -> "Chunks":
        """This many rows for a block of a `Stream`: whole episodes, one after another, in an order that is drawn.

        The first and the last episode are cut where the block begins and ends, so that every row is as likely.

        Raises:
          ValueError: a block that is shorter than a window.
        """
        if size < (least := self.history + self.horizon - 1):
            raise Refused(f"{self.metadata.name}: blocks of {size} steps are not allowed; a window has {least}")
        starts = np.flatnonzero(np.asarray(self.since) == 0)
        order = rng.permutation(len(starts))
        starts, lengths = starts[order], np.diff(starts, append=self.size)[order]
        ends = np.cumsum(lengths)
        place = (rng.integers(self.size) + np.arange(size)) % self.size  # along the episodes in this order
        episode = np.searchsorted(ends, place, side="right")
        index = starts[episode] + place - (ends - lengths)[episode]
        return jax.tree.map(lambda x: np.asarray(x[index]), self)

    def sample(self, key: Key, batch_size: int, discount: Any = None) -> ChunkBatch:
        """Draws windows, uniformly over the steps they begin at."""
        key, inner_key = jax.random.split(key)
        index = jax.random.randint(key, (batch_size,), 0, self.size)
        # At the ends of the rows a window may need missing ones: a window from their interior takes its place.
        first, last = self.history - 1, self.size - self.horizon
        inner = jax.random.randint(inner_key, (batch_size,), min(first, self.size - 1), max(last, first) + 1)
        whole = jnp.minimum(first, self.since[index]) <= index
        whole &= index + jnp.minimum(self.horizon - 1, self.until[index]) < self.size
        index = jnp.where(whole | (last < first), index, inner)[:, None]
        back = jnp.arange(self.history)[::-1]
        past = index - jnp.minimum(back[None], self.since[index])
        ahead = index + jnp.minimum(jnp.arange(self.horizon)[None], self.until[index])
        obs = jax.tree.map(lambda x: side_by_side(x[jnp.maximum(past, 0)]), self.obs)
        action = self.action[jnp.minimum(ahead, self.size - 1)]
        at = index[:, 0]
        return ChunkBatch(obs, action, self.label[at], self.weight[at])


def in_chunks(dataset: Dataset, history: int, executed: int, kept: Any = None) -> Dataset:
    """A dataset whose steps are chunks, as in an environment under `ObservationHistory` and `ActionChunk`.

    Args:
      dataset: on the host, observations [N, …] and actions [N, d], and rewards.
      kept: bool [N]; a chunk that begins at another step is left out. All are kept where None.

    Returns:
      Histories of observations (see ops/history.py); actions [N, executed * d]; the sum of a chunk's rewards. Each
      episode is there from each of its first `executed` steps on. A chunk that the end cuts short repeats its last
      action.
    """
    dataset.require_rewards()
    obs, action, following = jax.tree.map(np.asarray, (dataset.obs, dataset.action, dataset.next_obs))
    total = np.concatenate([[0.0], np.cumsum(np.asarray(dataset.reward, np.float64))])
    parts = [
        np.arange(first, end, executed)
        for start, end in zip(dataset.starts, dataset.ends)
        for first in range(start, min(start + executed, end))
    ]
    at = np.concatenate(parts)
    if kept is not None:
        kept = np.asarray(kept, bool)
        if kept.shape != (dataset.size,) or not kept.any():
            raise Refused(f"{dataset.metadata.name}: kept must be bool [{dataset.size}], and true somewhere")
        at = at[kept[at]]
    episode = np.searchsorted(dataset.ends, at, side="right")
    begin, end = dataset.starts[episode], dataset.ends[episode]
    until = np.minimum(at + executed, end)
    back = np.arange(history)[::-1]
    past = np.maximum(at[:, None] - back, begin[:, None])
    # The last observation is no episode's next observation but its own.
    last = until[:, None] - 1 - back
    later = np.where(back == 0, last + dataset.size, np.maximum(last + 1, begin[:, None]))
    done = until == end
    # Later chunks were left out: the episode is cut, but has not ended.
    gap = np.append(at[1:] != until[:-1], True)
    rows: Any = (
        jax.tree.map(lambda x: side_by_side(x[past]), obs),
        action[np.minimum(at[:, None] + np.arange(executed), end[:, None] - 1)].reshape(len(at), -1),
        (total[until] - total[at]).astype(np.float32),
        done & np.asarray(dataset.terminated)[until - 1],
        (done & np.asarray(dataset.truncated)[until - 1]) | (gap & ~done),
        jax.tree.map(lambda x, after: side_by_side(np.concatenate([x, after])[later]), obs, following),
    )
    how = f"chunks of {executed} after {history} observations"
    if kept is not None:
        how += f", of those that begin at {kept.sum()} of {len(kept)} steps ({digest(kept)})"
    before = dataset.metadata.normalization
    metadata = dataclasses.replace(dataset.metadata, normalization=how if before == "none" else f"{before}, {how}")
    return Dataset.of(Transition(*rows), metadata)


def digest(x: Any) -> str:
    """The first half of the SHA-256 of an array's type, shape and content, in hexadecimal."""
    x = np.ascontiguousarray(x)
    return hashlib.sha256(f"{x.dtype.str}{x.shape}".encode() + x.tobytes()).hexdigest()[:32]
