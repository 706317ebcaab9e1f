"""Data that come to a run block by block, such as a dataset that does not fit on the device."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rljax.data.chunks import Chunks
from rljax.data.dataset import Dataset, Metadata
from rljax.types import Refused


class Feed:
    """Data that a run is given block by block, in the place of a dataset: `algorithm._replace(data=feed)`."""

    @property
    def metadata(self) -> Metadata:
        """Facts about the data."""
        raise NotImplementedError

    @property
    def spec(self) -> dict[str, Any]:
        """The entry in config.json, which a resumed run must match."""
        raise NotImplementedError

    @property
    def example(self) -> Any:
        """The shapes of a block."""
        raise NotImplementedError

    def left(self, iteration: int) -> int:
        """The number of iterations, this one included, for which there are data; 0 where they are still to come."""
        raise NotImplementedError

    def at(self, iteration: int, place: Callable[[Any], Any], state: Any) -> Any:
        """The block of this iteration, put on the device by `place`.

        Args:
          state: the training state, for a feed of what its policy makes.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of what a run has used; another may begin."""


class Stream(Feed):
    """Blocks of a dataset that stays on the host (its arrays may be memory-mapped); one is in use, the next on its way.

    A block is drawn uniformly, by its number alone: a run that is resumed meets the same blocks. Within it batches are
    drawn as from a whole dataset. It takes a dataset's place: `algorithm._replace(data=Stream(algorithm.data, …))`.

    Args:
      dataset: a dataset on the host; its `drawn` makes a block of single transitions, or of whole episodes where
        samples are sequences. One without this method is refused.
      block_size: transitions of a block; two are on the device at a time.
      iterations: number of iterations that learn from a block.
      seed: of the draws.

    Raises:
      ValueError: no transitions, or no iterations, or a dataset without `drawn`.
    """

    def __init__(self, dataset: Dataset | Chunks, block_size: int, iterations: int, seed: int = 0):
        for name, value in (("block_size", block_size), ("iterations", iterations)):
            if value < 1:
                raise Refused(f"Stream: {name} = {value} is not allowed; it must be at least 1")
        if not callable(getattr(dataset, "drawn", None)):
            raise Refused(f"Stream: a {type(dataset).__name__} does not say what a block of it is (`drawn`)")
        self.dataset, self.block_size, self.iterations, self.seed = dataset, block_size, iterations, seed
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._coming: dict[int, concurrent.futures.Future] = {}
        self._current: tuple[int, Dataset | Chunks] | None = None

    @property
    def metadata(self) -> Metadata:
        return self.dataset.metadata

    @property
    def spec(self) -> dict[str, Any]:
        how = {"block_size": self.block_size, "iterations": self.iterations, "seed": self.seed}
        return self.dataset.spec | {"stream": how}

    @functools.cached_property
    def example(self) -> Dataset | Chunks:  # type: ignore[override]
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.block(0))

    def left(self, iteration: int) -> int:
        return self.iterations - iteration % self.iterations

    def at(self, iteration: int, place: Callable[[Any], Any], state: Any = None) -> Any:
        """The block of this iteration, put on the device by `place`; the one after it is begun."""
        number = iteration // self.iterations
        if self._current is None or self._current[0] != number:
            coming = self._coming.pop(number, None)
            block = coming.result() if coming else place(self.block(number))
            self._current, self._coming = (number, block), {}
            self._coming[number + 1] = self._thread.submit(lambda: place(self.block(number + 1)))
        return self._current[1]

    def close(self) -> None:
        self._coming, self._current = {}, None

    def block(self, number: int) -> Dataset | Chunks:
        """Block `number`, on the host."""
        return self.dataset.drawn(np.random.default_rng((self.seed, number)), self.block_size)
