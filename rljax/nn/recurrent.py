"""Memory: recurrent cells with one interface, one step at a time or over a sequence with resets.

A cell maps a carry and an input to the next carry and the output, `cell(carry, x)`. `cell.unroll(carry, xs, reset)`
does the same over a time-major sequence: xs [T, B, d] and reset bool [T, B] give the last carry and outputs
[T, B, units]. reset[t] zeroes the carry BEFORE step t: it says that xs[t] is the first observation of an episode. Both
ways share their parameters, so that a policy is unrolled in training and stepped when it acts. A carry starts as zeros
(`initial_carry`).
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.config import one_of
from rljax.nn.initializers import orthogonal
from rljax.types import Key, PyTree


def _unrolled(cell: nn.Module, carry: PyTree, xs: jax.Array, reset: jax.Array) -> tuple[PyTree, jax.Array]:
    """The steps of a cell of Flax, one after the other."""

    def step(cell: Any, carry: PyTree, inputs: tuple[jax.Array, jax.Array]) -> tuple[PyTree, jax.Array]:
        x, reset = inputs
        return cell(jax.tree.map(lambda h: jnp.where(reset[..., None], 0.0, h), carry), x)

    scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
    return scan(cell, carry, (xs, reset))


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078). The carry is f32 [..., units]."""

    units: int

    def setup(self) -> None:
        self.cell = nn.GRUCell(self.units, kernel_init=orthogonal(), recurrent_kernel_init=orthogonal())

    def __call__(self, carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Steps from carry [..., units] and input [..., d] to the next carry and the output, both [..., units]."""
        return self.cell(carry, x)

    def unroll(self, carry: jax.Array, xs: jax.Array, reset: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Runs over a sequence: carry [B, units], xs [T, B, d], reset bool [T, B] -> (carry, outputs [T, B, units])."""
        return _unrolled(self.cell, carry, xs, reset)

    def initial_carry(self, batch_shape: tuple[int, ...] = ()) -> jax.Array:
        """Zeros [*batch_shape, units]."""
        return jnp.zeros((*batch_shape, self.units), jnp.float32)


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997). The carry is a pair of f32 [..., units]."""

    units: int

    def setup(self) -> None:
        self.cell = nn.OptimizedLSTMCell(self.units, kernel_init=orthogonal(), recurrent_kernel_init=orthogonal())

    def __call__(self, carry: PyTree, x: jax.Array) -> tuple[PyTree, jax.Array]:
        """Steps from a carry of two [..., units] and input [..., d] to the next carry and the output [..., units]."""
        return self.cell(carry, x)

    def unroll(self, carry: PyTree, xs: jax.Array, reset: jax.Array) -> tuple[PyTree, jax.Array]:
        """Runs over a sequence: carry of two [B, units], xs [T, B, d], reset bool [T, B] -> (carry, [T, B, units])."""
        return _unrolled(self.cell, carry, xs, reset)

    def initial_carry(self, batch_shape: tuple[int, ...] = ()) -> PyTree:
        """Two arrays of zeros [*batch_shape, units]."""
        return tuple(jnp.zeros((*batch_shape, self.units), jnp.float32) for _ in range(2))


class MinGRU(nn.Module):
    """Minimal gated recurrent unit (Feng et al. 2024, arXiv:2410.01201, sec. 3.1), unrolled in parallel.

    h' = (1 - z) h + z (V x + c) with z = sigmoid(W x + b). Gates do not read the carry, which is f32 [..., units], so
    that a sequence is a scan of an associative operation, of depth log T, and all matrix products are one. Gates start
    with memories of 2 to `span` steps (Tallec and Ollivier 2018, arXiv:1804.11188, eq. 16), since a gate that is half
    open has forgotten everything after ten.
    """

    units: int
    span: int = 128

    def setup(self) -> None:
        def closed(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
            return -jnp.log(jax.random.uniform(key, shape, dtype, 1.0, self.span - 1.0))

        self.gate = nn.Dense(self.units, kernel_init=orthogonal(), bias_init=closed)
        self.candidate = nn.Dense(self.units, kernel_init=orthogonal())

    def __call__(self, carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Steps from carry [..., units] and input [..., d] to the next carry and the output, both [..., units]."""
        keep, added = self._factors(x)
        carry = keep * carry + added
        return carry, carry

    def unroll(self, carry: jax.Array, xs: jax.Array, reset: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Runs over a sequence: carry [B, units], xs [T, B, d], reset bool [T, B] -> (carry, outputs [T, B, units])."""
        keep, added, cut = jax.lax.associative_scan(_joined, (*self._factors(xs), reset[..., None]))
        ys = keep * jnp.where(cut, 0.0, carry) + added
        return ys[-1], ys

    def initial_carry(self, batch_shape: tuple[int, ...] = ()) -> jax.Array:
        """Zeros [*batch_shape, units]."""
        return jnp.zeros((*batch_shape, self.units), jnp.float32)

    def _factors(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The share of the carry that is kept, 1 - z, and what is added, z (V x + c)."""
        gate = self.gate(x)
        return jax.nn.sigmoid(-gate), jax.nn.sigmoid(gate) * self.candidate(x)


Stretch = tuple[jax.Array, jax.Array, jax.Array]
"""Steps of a linear recurrence as one, h' = keep · h + added, and whether the carry is zeroed within or before them."""


def _joined(first: Stretch, second: Stretch) -> Stretch:
    """Two successive stretches as one. A reset chooses, and does not multiply: 0 · NaN is NaN."""
    keep, added, cut = first
    later_keep, later_added, later_cut = second
    keep, added = (jnp.where(later_cut, 0.0, x) for x in (keep, added))
    return later_keep * keep, later_keep * added + later_added, cut | later_cut


CELLS: dict[str, Callable[[int], GRU | LSTM | MinGRU]] = {"gru": GRU, "lstm": LSTM, "mingru": MinGRU}
MemoryCell = Annotated[str, one_of(CELLS)]


def stacked(cell: MemoryCell, units: int, layers: int) -> list[GRU | LSTM | MinGRU]:
    """The layers of a memory, by the name of their cell."""
    return [CELLS[cell](units) for _ in range(layers)]


def initial_carries(cells: Sequence[GRU | LSTM | MinGRU], batch_shape: tuple[int, ...] = ()) -> PyTree:
    """The carries of layers at the start of an episode: a list, or the carry itself of one layer alone."""
    carries = [cell.initial_carry(batch_shape) for cell in cells]
    return carries if len(carries) > 1 else carries[0]


def unroll(
    cells: Sequence[GRU | LSTM | MinGRU], carries: PyTree, xs: jax.Array, reset: jax.Array
) -> tuple[PyTree, jax.Array]:
    """Unrolls cells of as many units one upon the other; each but the first adds its output to what it reads.

    Carries are as `initial_carries` gives them; xs [T, B, d], reset bool [T, B] -> (carries, outputs [T, B, units]).
    """
    if len(cells) == 1:
        return cells[0].unroll(carries, xs, reset)
    after = []
    for layer, (cell, carry) in enumerate(zip(cells, carries, strict=True)):
        carry, ys = cell.unroll(carry, xs, reset)
        xs = xs + ys if layer else ys
        after.append(carry)
    return after, xs
