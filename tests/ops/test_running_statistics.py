"""Running statistics against float64, in any order and over devices, and after more samples than f32 can count."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from rljax.devices import AXIS
from rljax.ops import running_statistics as rs

update = jax.jit(rs.update)
merge = jax.jit(rs.merge)


def _stats(batch, example_ndim=1):
    example = jax.tree.map(lambda x: jnp.zeros(x.shape[x.ndim - example_ndim :], x.dtype), batch)
    return update(rs.init(example), batch)


def _assert_close(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


def test_one_batch_by_hand():
    stats = _stats(jnp.array([[1.0, 10.0], [3.0, 10.0]]))
    assert float(stats.count) == 2.0
    np.testing.assert_allclose(stats.mean, [2.0, 10.0])
    np.testing.assert_allclose(stats.m2, [2.0, 0.0])
    np.testing.assert_allclose(rs.variance(stats), [1.0, 0.0])
    normalised = rs.normalize(stats, jnp.array([[3.0, 10.0], [1e6, 11.0], [-1e6, 9.0]]))
    # The second never varied: its differences are not scaled up.
    np.testing.assert_allclose(normalised, [[1.0, 0.0], [10.0, 1.0], [-10.0, -1.0]], rtol=1e-5)
    np.testing.assert_allclose(rs.normalize(stats, jnp.array([12.0, 10.0]), clip=5.0), [5.0, 0.0])
    np.testing.assert_allclose(rs.normalize(stats, jnp.array([3.0, 12.0]), epsilon=3.0), [0.5, 2 / 3**0.5], rtol=1e-5)


def test_before_any_data_normalisation_changes_nothing_but_the_clip():
    stats = rs.init(jnp.zeros(2))
    np.testing.assert_allclose(rs.variance(stats), [1.0, 1.0])
    np.testing.assert_allclose(rs.normalize(stats, jnp.array([3.0, -20.0])), [3.0, -10.0], rtol=1e-6)


def test_many_batches_equal_one_pass_in_float64():
    data = np.random.default_rng(0).normal(3.0, [0.1, 20.0], (40, 25, 2))
    stats = rs.init(jnp.zeros(2))
    for batch in data:
        stats = update(stats, jnp.asarray(batch, jnp.float32))
    assert float(stats.count) == 1000
    np.testing.assert_allclose(stats.mean, data.mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(rs.variance(stats), data.var((0, 1)), rtol=1e-4)


def test_a_large_mean_with_a_small_deviation_keeps_its_variance():
    # f32 is spaced by 1e-3 at 1e4: the naive E[x^2] - E[x]^2 would be off by the order of 10, and even be negative.
    data = np.random.default_rng(0).normal(1e4, 1e-2, (50, 200, 3)).astype(np.float32)
    exact = data.astype(np.float64)
    stats = rs.init(jnp.zeros(3))
    for batch in data:
        stats = update(stats, jnp.asarray(batch))
    np.testing.assert_allclose(rs.variance(stats), exact.var((0, 1)), rtol=0.02)
    np.testing.assert_allclose(stats.mean, exact.mean((0, 1)), atol=1.5e-3)  # the spacing of f32
    at_once = _stats(jnp.asarray(data.reshape(-1, 3)))
    np.testing.assert_allclose(rs.variance(at_once), exact.var((0, 1)), rtol=0.01)
    normalised = np.asarray(rs.normalize(stats, jnp.asarray(data)))
    assert np.all(np.abs(normalised.mean((0, 1))) < 0.15)
    assert np.all(np.abs(normalised.std((0, 1)) - 1) < 0.02)


@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (2, 1, 2)])
def test_any_number_of_batch_axes_is_reduced(leading):
    x = np.random.default_rng(0).normal(size=(*leading, 2, 3)).astype(np.float32)
    stats = update(rs.init(jnp.zeros((2, 3))), jnp.asarray(x))
    flat = x.reshape(-1, 2, 3)
    assert float(stats.count) == len(flat)
    _assert_close(stats.mean, flat.mean(0))
    _assert_close(rs.variance(stats), flat.var(0))


def test_pytrees_keep_bytes_and_integers_as_they_are():
    rng = np.random.default_rng(0)
    obs = {
        "image": jnp.asarray(rng.integers(0, 255, (5, 4, 4, 1)), jnp.uint8),
        "joints": jnp.asarray(rng.normal(5.0, 3.0, (5, 7)), jnp.float32),
        "gripper": jnp.asarray(rng.normal(size=5), jnp.float32),
        "goal": jnp.arange(5),
    }
    stats = update(rs.init(jax.tree.map(lambda x: x[0], obs)), obs)
    normalised = rs.normalize(stats, obs)
    for name in ("image", "goal"):
        assert normalised[name].dtype == obs[name].dtype
        np.testing.assert_array_equal(normalised[name], obs[name])
    for name in ("joints", "gripper"):
        np.testing.assert_allclose(normalised[name].mean(0), 0.0, atol=1e-5)
        np.testing.assert_allclose(normalised[name].std(0), 1.0, atol=1e-3)
    assert sum(x.size for x in jax.tree.leaves(stats)) < 25  # no statistics of the image are kept
    only = rs.init({"image": obs["image"][0]})
    _assert_close(update(only, {"image": obs["image"]}), only)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_])
@pytest.mark.parametrize("on_host", [False, True])
def test_a_vector_of_whole_numbers_is_numbers_on_host_and_device(dtype, on_host):
    """A Box of integers, bytes of a memory, MultiBinary: normalised as the same numbers in floating point are."""
    x = np.random.default_rng(0).integers(0, 2 if dtype == jnp.bool_ else 200, (50, 3)).astype(dtype)
    stats, floats = _stats(jnp.asarray(x)), _stats(jnp.asarray(x, jnp.float32))
    _assert_close(stats, floats)
    normalised = rs.normalize(stats, x, on_host=on_host)
    assert isinstance(normalised, np.ndarray) == on_host
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, rs.normalize(floats, np.float32(x)), rtol=1e-5, atol=1e-5)


def test_what_hardly_varies_is_not_scaled_up():
    """A table is 0.4 high in all data, and 0.401 where it acts: not ten deviations, but the millimetre that it is."""
    for value in (0.0, 0.4, -250.0):
        stats = _stats(jnp.full((1000, 1), value))
        np.testing.assert_allclose(rs.normalize(stats, jnp.array([[value + 0.001]])), 0.001, atol=2e-5)
    small = _stats(1e-3 * jax.random.normal(jax.random.key(0), (1000, 1)))  # but small units are units
    assert rs.normalize(small, jnp.array([1e-3])) > 0.9


def test_half_precision_observations_are_accumulated_in_single_precision():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4096, 1)), jnp.bfloat16)
    stats = _stats(x)
    assert stats.mean.dtype == jnp.float32
    assert rs.normalize(stats, x).dtype == jnp.bfloat16
    np.testing.assert_allclose(rs.variance(stats), np.asarray(x, np.float64).var(0), rtol=1e-4)


def test_leaves_with_different_batch_axes_or_wrong_shapes_are_refused():
    for wrong in (jnp.ones((3, 1)), jnp.ones((2, 3)), jnp.ones(())):
        with pytest.raises(ValueError, match="must be of shape"):
            rs.update(rs.init(jnp.zeros(2)), wrong)
    with pytest.raises(ValueError, match="share their batch axes"):
        rs.update(rs.init({"a": jnp.zeros(2), "b": jnp.zeros(2)}), {"a": jnp.ones((3, 2)), "b": jnp.ones((4, 2))})


BATCH_SIZES = (1, 2, 5, 17)  # few, so that few programs are compiled


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    st.lists(st.sampled_from(BATCH_SIZES), min_size=1, max_size=6),
    st.floats(-100, 100),
    st.floats(0.1, 10),
    st.randoms(use_true_random=False),
)
def test_the_order_of_updates_and_merges_does_not_matter(sizes, mean, std, random):
    rng = np.random.default_rng(random.randrange(2**31))
    batches = [rng.normal(mean, std, (n, 2)).astype(np.float32) for n in sizes]
    exact = np.concatenate(batches).astype(np.float64)
    shuffled = random.sample(batches, len(batches))
    in_order = functools.reduce(update, batches, rs.init(jnp.zeros(2)))
    reordered = functools.reduce(update, shuffled, rs.init(jnp.zeros(2)))
    merged = functools.reduce(merge, [_stats(jnp.asarray(batch)) for batch in shuffled])
    tolerance = 1e-4 * std**2 + 1e-6 * abs(mean) * std
    for stats in (in_order, reordered, merged):
        assert float(stats.count) == len(exact)
        np.testing.assert_allclose(stats.mean, exact.mean(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(rs.variance(stats), exact.var(0), rtol=1e-3, atol=tolerance)


def test_merging_with_nothing_changes_nothing():
    stats, nothing = _stats(jnp.array([[1.0], [4.0]])), rs.init(jnp.zeros(1))
    _assert_close(merge(stats, nothing), stats)
    _assert_close(merge(nothing, stats), stats)
    _assert_close(merge(nothing, nothing), nothing)


def test_members_of_a_named_axis_end_with_the_statistics_of_all_the_data():
    data = jnp.asarray(np.random.default_rng(0).normal(100.0, [0.1, 3.0], (4, 50, 2)), jnp.float32)
    offset = data + jnp.arange(4.0)[:, None, None]  # the members see different things
    stats = _stats(jnp.ones((10, 2)))
    together = jax.jit(jax.vmap(lambda x: rs.update(stats, x), axis_name=AXIS))(offset)
    expected = update(stats, offset.reshape(-1, 2))
    for member in range(4):
        _assert_close(jax.tree.map(lambda x: x[member], together), expected)  # noqa: B023
    assert float(together.count[0]) == 210


def test_devices_under_shard_map_end_with_equal_statistics():
    mesh = jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    data = jnp.asarray(np.random.default_rng(0).normal(size=(8 * jax.device_count(), 2)), jnp.float32)
    stats = rs.init(jnp.zeros(2))
    sharded = jax.jit(
        # Replicated out_specs: shard_map itself checks that every device holds the same.
        jax.shard_map(
            lambda stats, x: rs.update(stats, x),
            mesh=mesh,
            in_specs=(P(), P(AXIS)),
            out_specs=P(),
        )
    )(stats, data)
    _assert_close(sharded, update(stats, data))


@pytest.mark.parametrize("size", [1, 64])
def test_long_runs_neither_stop_learning_nor_drift(size):
    """Past 2^24 samples a plain f32 count stands still while m2 goes on: the variance would grow without bound."""
    rng = np.random.default_rng(0)
    start = rs.Statistics(
        count=jnp.asarray(2.0**30, jnp.float32), mean=jnp.zeros(2), m2=2.0**30 * jnp.array([1.0, 0.7])
    )
    data = jnp.asarray(rng.normal([0.0, 0.5], [1.0, 2.0], (1000, size, 2)), jnp.float32)

    @jax.jit
    def run(stats):
        def repeat(stats, _):
            return jax.lax.scan(lambda stats, x: (rs.update(stats, x), None), stats, data)[0], None

        return jax.lax.scan(repeat, stats, length=1000)[0]

    stats = run(start)  # 10^6 updates: more than seven times the horizon of 2^17
    assert float(stats.count) == 2.0**17 * size
    flat = np.asarray(data, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(stats.mean, flat.mean(0), atol=0.01)
    np.testing.assert_allclose(rs.variance(stats), flat.var(0), rtol=0.01)


def test_normalisation_passes_gradients_to_observations_and_none_to_statistics():
    stats = _stats(jnp.array([[1.0], [3.0], [9.0]]))
    to_stats, to_x = jax.grad(lambda stats, x: rs.normalize(stats, x).sum(), (0, 1))(stats, jnp.array([2.0]))
    assert all(bool(jnp.all(leaf == 0)) for leaf in jax.tree.leaves(to_stats))
    np.testing.assert_allclose(to_x, 1 / np.sqrt(rs.variance(stats)), rtol=1e-5)


def test_a_fresh_state_shares_no_buffer_so_that_it_can_be_donated():
    stats = rs.init(jnp.zeros(3))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(stats)]
    assert len(set(pointers)) == len(pointers)
    jax.jit(rs.update, donate_argnums=0)(stats, jnp.ones((2, 3)))


def test_a_number_that_is_not_finite_does_not_stay_for_ever():
    """It counts as the mean so far; all other elements count as they are."""
    seen = rs.update(rs.init(jnp.zeros(2)), jnp.array([[1.0, 4.0], [3.0, 8.0]]))
    after = rs.update(seen, jnp.array([[jnp.nan, 6.0], [jnp.inf, 10.0]]))
    np.testing.assert_allclose(after.mean, [2.0, 7.0])
    np.testing.assert_allclose(after.m2, [2.0, 20.0], rtol=1e-6)
