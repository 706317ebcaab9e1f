"""Transitions that have arrived, block by block, in the place of a dataset."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rljax.algorithms.core.fed import Arrived
from rljax.data import Dataset, Feed, Metadata
from rljax.remote.schema import Schema
from rljax.remote.server import Server
from rljax.types import Transition

MOST_ITERATIONS = 32
MOST_BYTES_OF_BLOCK = 4 * 2**20
"""A block has the transitions of as many iterations as fit into this, and at most `MOST_ITERATIONS`."""
WAIT_SECONDS = 0.5
"""Seconds for which the runner waits for transitions before it looks whether it shall stop."""


class FromActors(Feed):
    """The transitions that a server has received, in blocks; and the dataset, where there is one."""

    def __init__(self, server: Server, schema: Schema, shape: tuple[int, int], name: str, dataset: Dataset | None):
        self.server, self.schema, self.shape, self.name, self.dataset = server, schema, shape, name, dataset
        self.number = shape[0] * shape[1]
        self.most = max(1, min(MOST_ITERATIONS, MOST_BYTES_OF_BLOCK // (self.number * schema.num_bytes)))
        self._first, self._rows = 0, 0
        self._block: Any = None
        self._placed: tuple[Any, ...] | None = None

    @property
    def metadata(self) -> Metadata:
        return Metadata(name=self.name) if self.dataset is None else self.dataset.metadata

    @property
    def spec(self) -> dict[str, Any]:
        return ({} if self.dataset is None else self.dataset.spec) | {"from": "actors"}

    @property
    def example(self) -> Any:
        arrays = {
            name: np.zeros((self.most * self.number, *field.shape), field.dtype)
            for name, field in self.schema.fields.items()
        }
        block, dataset = self._arrived(arrays, 0, 0), () if self.dataset is None else (self.dataset,)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (block, *dataset))

    def left(self, iteration: int) -> int:
        if self._first <= iteration < self._first + self._rows:
            return self._first + self._rows - iteration
        return min(self.most, self.server.wait(self.number, WAIT_SECONDS) // self.number)

    def at(self, iteration: int, place: Callable[[Any], Any], state: Any = None) -> Any:
        if self._placed is None:
            self._placed = () if self.dataset is None else (place(self.dataset),)
        inside = self._first <= iteration < self._first + self._rows
        rows = 0 if inside else min(self.most, self.server.waiting // self.number)
        if rows or self._block is None:
            arrays = self.server.take(rows * self.number) if rows else {}
            self._first, self._rows = iteration, rows
            self._block = place(self._arrived(arrays, iteration, rows))
        return (self._block, *self._placed)

    def unused(self, iteration: int) -> int:
        """Number of transitions that arrived and that no iteration before this one has taken."""
        return self.server.waiting + max(0, self._first + self._rows - iteration) * self.number

    def _arrived(self, arrays: dict[str, np.ndarray], iteration: int, rows: int) -> Arrived:
        """A block of arrays [rows * number, …], filled up with zeros."""

        def of(name: str) -> np.ndarray:
            field = self.schema.fields[name]
            whole = np.zeros((self.most, self.number, *field.shape), field.dtype)
            if rows:
                whole[:rows] = arrays[name].reshape(rows, self.number, *field.shape)
            return whole.reshape(self.most, *self.shape, *field.shape)

        whole: dict[str, Any] = {name: of(name) for name in self.schema.fields}
        steps = Transition(
            obs=self.schema.tree(whole),
            action=whole["action"],
            reward=whole["reward"],
            terminated=whole["terminated"],
            truncated=whole["truncated"],
            next_obs=self.schema.tree(whole, "next_obs"),
        )
        rest = {name: whole[name] for name in ("episode_return", "episode_length", "version", "intervened")}
        rest["first"] = np.array([iteration], np.int32)
        rest["backlog"] = np.array([self.server.waiting], np.float32)
        rest["connected"] = np.array([self.server.connected], np.float32)
        return Arrived(steps=steps, **rest)
