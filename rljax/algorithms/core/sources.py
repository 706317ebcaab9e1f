"""What an agent samples its batches from: a replay, or a dataset."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from rljax.data import Batch, Replay, ReplayState
from rljax.data.replay import Sequences
from rljax.ops.augment import shift_batch
from rljax.types import Key, PyTree


@dataclasses.dataclass(frozen=True)
class Remembered:
    """A replay to draw from, as an agent's `sample` sees it.

    Fields:
      replay, state: the buffer and its state.
      num_updates, batch_size: how many batches, and how many transitions of each this device draws.
      normalize: maps observations to normalised ones.
      image_shift: most pixels by which images are shifted.
      divisor: f32 [], by which rewards are divided; None leaves them as they are.
    """

    replay: Replay
    state: ReplayState
    num_updates: int
    batch_size: int
    normalize: Callable[[PyTree], PyTree]
    image_shift: int = 0
    divisor: jax.Array | None = None

    def sample(self, key: Key, discount: Any, importance_exponent: Any = 0.0) -> Batch:
        """Batches of windows of n steps, leaves [num_updates, batch_size, …], with observations normalised."""
        number, size = self.num_updates, self.batch_size
        batch = self.replay.sample(self.state, key, number * size, discount, importance_exponent, number)
        batch = batch.replace(obs=self.normalize(batch.obs), next_obs=self.normalize(batch.next_obs))
        if self.divisor is not None:
            batch = batch.replace(reward=batch.reward / self.divisor)
        batch = shift_batch(key, batch, self.image_shift)
        # Every num_updates-th goes to the same batch: prioritised draws come in the order of their index.
        return jax.tree.map(lambda x: x.reshape(size, number, *x.shape[1:]).swapaxes(0, 1), batch)

    def sequences(self, key: Key, length: int) -> Sequences:
        """Stretches of `length` consecutive steps, leaves [num_updates, length, batch_size, …], normalised likewise."""
        number, size = self.num_updates, self.batch_size
        drawn = self.replay.sample_sequences(self.state, key, number * size, length)
        steps = drawn.steps
        steps = steps.replace(obs=self.normalize(steps.obs), next_obs=self.normalize(steps.next_obs))
        if self.divisor is not None:
            steps = steps.replace(reward=steps.reward / self.divisor)
        split = jax.tree.map(
            lambda x: x.reshape(length, number, size, *x.shape[2:]).swapaxes(0, 1), drawn.replace(steps=steps)
        )
        return split


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A dataset to draw from, as an agent's `sample` sees it.

    Fields:
      data: the dataset, or this device's part of it.
      num_updates, batch_size: how many batches, and how many rows of each this device draws.
      image_shift: most pixels by which images are shifted.
    """

    data: Any
    num_updates: int
    batch_size: int
    image_shift: int = 0

    def sample(self, key: Key, discount: Any) -> Any:
        """Batches, leaves [num_updates, batch_size, …]."""
        rows = shift_batch(key, self.data.sample(key, self.num_updates * self.batch_size, discount), self.image_shift)
        return jax.tree.map(lambda x: x.reshape(self.num_updates, self.batch_size, *x.shape[1:]), rows)
