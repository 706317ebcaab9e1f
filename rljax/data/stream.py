"""A dataset that does not fit on the device, as a stream of blocks that do."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rljax.data.dataset import Dataset, Metadata
from rljax.types import Refused


class Stream:
    """Blocks of a dataset that stays on the host (its arrays may be memory-mapped); one is in use, the next on its way.

    A block is drawn uniformly, by its number alone: a run that is resumed meets the same blocks. Within it batches are
    drawn as from a whole dataset. It takes a dataset's place: `algorithm._replace(data=Stream(algorithm.data, …))`.

    Args:
      dataset: on the host.
      block_size: transitions of a block; two are on the device at a time.
      iterations: how many iterations learn from a block.
      seed: of the draws.

    Raises:
      ValueError: no transitions, or no iterations.
    """

    def __init__(self, dataset: Dataset, block_size: int, iterations: int, seed: int = 0):
        for name, value in (("block_size", block_size), ("iterations", iterations)):
            if value < 1:
                raise Refused(f"Stream: {name} = {value} is not allowed; it must be at least 1")
        self.dataset, self.block_size, self.iterations, self.seed = dataset, block_size, iterations, seed
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._coming: dict[int, concurrent.futures.Future] = {}
        self._current: tuple[int, Dataset] | None = None

    @property
    def metadata(self) -> Metadata:
        return self.dataset.metadata

    @property
    def spec(self) -> dict[str, Any]:
        """What config.json says of it, and a run that is resumed must find again."""
        how = {"block_size": self.block_size, "iterations": self.iterations, "seed": self.seed}
        return self.dataset.spec | {"stream": how}

    @property
    def example(self) -> Dataset:
        """The shapes of a block."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.block_size, *x.shape[1:]), x.dtype), self.dataset)

    def left(self, iteration: int) -> int:
        """For how many iterations the block of this one lasts."""
        return self.iterations - iteration % self.iterations

    def at(self, iteration: int, place: Callable[[Dataset], Dataset]) -> Dataset:
        """The block of this iteration, put on the device by `place`; the one after it is begun."""
        number = iteration // self.iterations
        if self._current is None or self._current[0] != number:
            coming = self._coming.pop(number, None)
            block = coming.result() if coming else place(self.block(number))
            self._current, self._coming = (number, block), {}
            self._coming[number + 1] = self._thread.submit(lambda: place(self.block(number + 1)))
        return self._current[1]

    def block(self, number: int) -> Dataset:
        """Block `number`, on the host."""
        rng = np.random.default_rng((self.seed, number))
        index = np.sort(rng.integers(self.dataset.size, size=self.block_size))  # in order, as a disk likes it
        return jax.tree.map(lambda x: np.asarray(x[index]), self.dataset)
