"""Recurrent cells: unrolled against stepped, against NumPy, and after resets."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.nn.networks import MLP
from rljax.nn.recurrent import CELLS, GRU, MinGRU, stacked, unroll

KEY = jax.random.key(0)
LENGTH, BATCH, INPUTS, UNITS = 5, 3, 2, 6
every_cell = pytest.mark.parametrize("name", list(CELLS))


@functools.cache
def made(name):
    """A cell, its parameters, inputs, and its two compiled ways."""
    cell = CELLS[name](UNITS)
    params = jax.jit(cell.init)(KEY, cell.initial_carry((BATCH,)), jnp.ones((BATCH, INPUTS)))
    xs = jax.random.normal(jax.random.key(1), (LENGTH, BATCH, INPUTS))
    return cell, params, xs, jax.jit(cell.apply), jax.jit(functools.partial(cell.apply, method="unroll"))


def begun(cell):
    """A carry in the middle of an episode."""
    shapes = cell.initial_carry((BATCH,))
    return jax.tree.map(lambda x: jax.random.normal(jax.random.key(2), x.shape), shapes)


def stepped(name, carry, xs, reset):
    """The outputs and the last carry of one step after the other."""
    _, params, _, step, _ = made(name)
    ys = []
    for x, fresh in zip(xs, reset, strict=True):
        kept = jax.tree.map(functools.partial(jnp.where, fresh[:, None], 0.0), carry)
        carry, y = step(params, kept, x)
        ys.append(y)
    return carry, jnp.stack(ys)


@every_cell
@settings(max_examples=20, deadline=None)
@given(reset=st.lists(st.lists(st.booleans(), min_size=BATCH, max_size=BATCH), min_size=LENGTH, max_size=LENGTH))
def test_a_cell_unrolled_equals_its_steps_with_the_carry_zeroed_before_a_reset(name, reset):
    cell, params, xs, _, unrolled = made(name)
    reset = jnp.array(reset)
    found = unrolled(params, begun(cell), xs, reset)
    chex.assert_trees_all_close(found, stepped(name, begun(cell), xs, reset), atol=1e-5)


@every_cell
def test_a_cell_remembers_nothing_from_before_a_reset(name):
    """Neither a value, nor a NaN, nor a gradient passes; where there is no reset it does remember."""
    cell, params, xs, _, unrolled = made(name)
    reset, begin = jnp.zeros((LENGTH, BATCH), bool).at[2, 0].set(True), cell.initial_carry((BATCH,))
    first = unrolled(params, begin, xs, reset)[1]
    broken = jax.tree.map(lambda h: h + jnp.nan, begin)
    other = unrolled(params, broken, xs.at[1, 0].set(jnp.nan), reset)[1]
    np.testing.assert_array_equal(first[2:, 0], other[2:, 0])
    assert np.isnan(other[2:, 1]).all()
    gradient = jax.jit(jax.grad(lambda xs: unrolled(params, begin, xs, reset)[1][4].sum()))(xs)
    assert jnp.abs(gradient[:2, 0]).max() == 0.0
    assert jnp.abs(gradient[2:]).min() > 0.0
    assert jnp.abs(gradient[:2, 1:]).min() > 0.0


def test_mingru_by_hand_in_numpy():
    cell, params, xs, _, unrolled = made("mingru")
    p = jax.tree.map(np.asarray, params["params"])
    h, expected = np.asarray(begun(cell)), []
    for x in np.asarray(xs):
        z = 1 / (1 + np.exp(-(x @ p["gate"]["kernel"] + p["gate"]["bias"])))
        h = (1 - z) * h + z * (x @ p["candidate"]["kernel"] + p["candidate"]["bias"])
        expected.append(h)
    carry, ys = unrolled(params, begun(cell), xs, jnp.zeros((LENGTH, BATCH), bool))
    np.testing.assert_allclose(ys, expected, atol=1e-5)
    np.testing.assert_array_equal(carry, ys[-1])


def test_lstm_by_hand_in_numpy():
    """Hochreiter and Schmidhuber's with forget gates; the carry is (cell, output)."""
    cell, params, xs, _, unrolled = made("lstm")
    p = jax.tree.map(np.asarray, params["params"]["cell"])
    c, h = map(np.asarray, begun(cell))

    def gate(letter, x, h):
        return x @ p[f"i{letter}"]["kernel"] + h @ p[f"h{letter}"]["kernel"] + p[f"h{letter}"]["bias"]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    expected = []
    for x in np.asarray(xs):
        i, f, g, o = (gate(letter, x, h) for letter in "ifgo")
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        expected.append(h)
    carry, ys = unrolled(params, begun(cell), xs, jnp.zeros((LENGTH, BATCH), bool))
    np.testing.assert_allclose(ys, expected, atol=1e-5)
    chex.assert_trees_all_close(carry, (c, h), atol=1e-5)


def test_mingru_starts_with_memories_of_2_to_span_steps():
    """A constant gate z forgets to 1/e in 1/z steps; the least bias is that of span, the largest that of 2."""
    cell = MinGRU(4000, span=50)
    bias = cell.init(KEY, cell.initial_carry(), jnp.ones(1))["params"]["gate"]["bias"]
    steps = 1 / jax.nn.sigmoid(bias)
    assert 2.0 <= steps.min() < 2.1
    assert 49.9 < steps.max() <= 50.0
    np.testing.assert_allclose(steps.mean(), 26.0, rtol=0.03)  # uniform


@every_cell
def test_a_cell_initialised_by_unroll_or_inside_a_module_has_the_same_parameters(name):
    cell, params, xs, _, _ = made(name)
    reset = jnp.zeros((LENGTH, BATCH), bool)
    unrolled = jax.jit(functools.partial(cell.init, method="unroll"))(KEY, cell.initial_carry((BATCH,)), xs, reset)
    chex.assert_trees_all_close(unrolled, params, atol=1e-6)

    class Actor(nn.Module):
        @nn.compact
        def __call__(self, carry, xs, reset):
            carry, ys = CELLS[name](UNITS).unroll(carry, xs, reset)
            return carry, MLP((), output=1)(ys)

    variables = jax.eval_shape(Actor().init, KEY, cell.initial_carry((BATCH,)), xs, reset)
    held = variables["params"][f"{type(cell).__name__}_0"]
    assert jax.tree.map(jnp.shape, held) == jax.tree.map(jnp.shape, params["params"])


@every_cell
def test_a_cell_steps_without_a_batch_axis(name):
    cell, params, xs, _, _ = made(name)
    carry, y = jax.eval_shape(cell.apply, params, cell.initial_carry(), xs[0, 0])
    assert y.shape == (UNITS,)
    chex.assert_trees_all_equal_shapes(carry, cell.initial_carry())


def test_gru_has_orthogonal_kernels():
    params = made("gru")[1]
    for name in ("hr", "hz", "hn"):
        kernel = params["params"]["cell"][name]["kernel"]
        np.testing.assert_allclose(kernel.T @ kernel, np.eye(UNITS), atol=1e-5)


def test_layers_add_their_output_to_what_they_read():
    """With the second layer's candidates at 0 nothing is added, and the first's output is that of the whole."""

    class Two(nn.Module):
        @nn.compact
        def __call__(self, carries, xs, reset):
            return unroll(stacked("mingru", UNITS, 2), carries, xs, reset)

    cell, _, xs, _, unrolled = made("mingru")
    reset, carries = jnp.zeros((LENGTH, BATCH), bool), [cell.initial_carry((BATCH,))] * 2
    params = jax.jit(Two().init)(KEY, carries, xs, reset)["params"]
    params["MinGRU_1"]["candidate"] = jax.tree.map(jnp.zeros_like, params["MinGRU_1"]["candidate"])
    both = jax.jit(Two().apply)
    after, ys = both({"params": params}, carries, xs, reset)
    first = unrolled({"params": params["MinGRU_0"]}, carries[0], xs, reset)
    chex.assert_trees_all_close((after[0], ys), first, atol=1e-6)
    params["MinGRU_1"]["candidate"]["bias"] += 1.0
    assert jnp.abs(both({"params": params}, carries, xs, reset)[1] - ys).min() > 0.0


def test_trap_no_cell_calls_qr_when_initialised_under_vmap():
    class All(nn.Module):
        @nn.compact
        def __call__(self, x):
            return [CELLS[name](UNITS)(CELLS[name](UNITS).initial_carry(), x) for name in CELLS]

    keys = jax.random.split(KEY, 2)
    lowered = jax.jit(jax.vmap(All().init, (0, None))).lower(keys, jnp.ones(INPUTS)).as_text().lower()
    for name in ("geqrf", "orgqr", "householder", "lapack"):
        assert name not in lowered, name


def test_gru_is_flax_s():
    cell, params, xs, step, _ = made("gru")
    carry = begun(cell)
    of_flax = nn.GRUCell(UNITS).apply({"params": params["params"]["cell"]}, carry, xs[0])
    chex.assert_trees_all_close(step(params, carry, xs[0]), of_flax, atol=1e-6)
    assert isinstance(cell, GRU)
