"""Spaces: bounds, broadcasting, samples, membership."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.spaces import Box, Dict, Discrete, MultiDiscrete
from rljax.types import Refused


def samples(space, count=500):
    return np.asarray(jax.vmap(space.sample)(jax.random.split(jax.random.key(0), count)))


def test_box_broadcasts_scalar_bounds_to_its_shape():
    box = Box(-1.0, [1.0, 2.0, 3.0])
    assert box.shape == (3,)
    np.testing.assert_array_equal(box.low, np.full(3, -1.0, np.float32))
    assert box.low.dtype == box.high.dtype == np.float32
    assert Box(0.0, 1.0, (2, 2)).high.shape == (2, 2)
    assert Box(0.0, 1.0).shape == ()


def test_box_refuses_low_above_high():
    with pytest.raises(ValueError, match="low must not be above high"):
        Box([0.0, 2.0], 1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.nan, 1.0), r"low must not be above high, nor NaN; element \[\] has low=nan, high=1.0"),
        (([0.0, -1.0], [np.nan, 1.0]), r"element \[0\] has low=0.0, high=nan"),
        ((np.inf, np.inf, (2,)), r"element \[0\] has low=inf, high=inf"),
        ((np.ones((3, 40)), np.zeros((3, 40))), r"element \[0, 0\] has low=1.0, high=0.0"),
        (([0.0, 0.0], 1.0, (3,)), r"bounds must fit \(3,\), got low \[2\], high \[\]"),
        (([0.0, 0.0], [1.0, 1.0, 1.0]), r"bounds must fit each other, got low \[2\], high \[3\]"),
        ((-1, 255, (2,), np.uint8), "low must be of type uint8, which goes from 0 to 255"),
        ((0, np.inf, (2,), np.int32), "high must be of type int32, which goes from -2147483648 to 2147483647"),
    ],
)
def test_box_refuses_what_are_no_bounds_in_one_line(arguments, words):
    with pytest.raises(Refused, match=words) as error:
        Box(*arguments)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("largest", [np.finfo(np.float32).max, np.finfo(np.float64).max])
def test_the_largest_number_of_a_float_type_stands_for_no_bound(largest):
    box = Box([-largest, -1.0], [largest, 1.0])
    assert box.low.tolist() == [-np.inf, -1.0]
    assert box.high.tolist() == [np.inf, 1.0]
    assert not box.bounded
    assert not box.unbounded
    assert Box(-largest, largest, (2,)).unbounded


def test_a_box_prints_equal_bounds_once():
    assert repr(Box(0, 255, (84, 84, 4), np.uint8)) == "Box(low=0, high=255, shape=(84, 84, 4))"
    assert repr(Box([0.0, 1.0], 2.0)) == "Box(low=[0.0, 1.0], high=2.0, shape=(2,))"


def test_box_samples_fill_their_bounds_element_by_element():
    box = Box([-1.0, 5.0], [1.0, 9.0])
    drawn = samples(box)
    assert drawn.shape == (500, 2)
    assert drawn.dtype == np.float32
    assert np.all(drawn >= box.low)
    assert np.all(drawn <= box.high)
    np.testing.assert_allclose(drawn.mean(0), [0.0, 7.0], atol=0.2)


def test_integer_box_samples_reach_both_bounds():
    drawn = samples(Box(253, 255, (2,), np.uint8))
    assert drawn.dtype == np.uint8
    assert set(drawn.ravel().tolist()) == {253, 254, 255}


def test_unbounded_box_says_so_and_cannot_be_sampled():
    box = Box([-np.inf, 0.0], 1.0)
    assert not box.bounded
    assert Box(0.0, 1.0, (2,)).bounded
    with pytest.raises(ValueError, match="finite bounds"):
        box.sample(jax.random.key(0))


def test_box_contains_its_bounds_and_not_nan_or_another_shape():
    box = Box(-1.0, 1.0, (2,))
    assert box.contains([-1.0, 1.0])
    assert not box.contains([0.0, 1.1])
    assert not box.contains([np.nan, 0.0])
    assert not box.contains([0.0])


@settings(max_examples=30, deadline=None)
@given(st.integers(-1000, 1000), st.integers(0, 1000), st.integers(0, 2**31 - 1))
def test_every_box_contains_its_samples(low, width, seed):
    box = Box(low / 7, (low + width) / 7, (3,))
    assert box.contains(box.sample(jax.random.key(seed)))


def test_discrete_samples_every_value_and_contains_only_integers_in_range():
    space = Discrete(3)
    assert space.shape == ()
    assert set(samples(space).tolist()) == {0, 1, 2}
    assert space.contains(0)
    assert space.contains(np.int32(2))
    assert not space.contains(3)
    assert not space.contains(-1)
    assert not space.contains(1.0)
    assert not space.contains([1])


def test_discrete_refuses_no_values():
    with pytest.raises(ValueError, match="at least 1"):
        Discrete(0)


def test_several_choices_are_sampled_each_on_its_own_and_contain_only_integers_in_range():
    space = MultiDiscrete((3, 1, 4))
    assert space.shape == (3,)
    drawn = samples(space)
    assert drawn.dtype == np.int32
    assert [set(choice.tolist()) for choice in drawn.T] == [{0, 1, 2}, {0}, {0, 1, 2, 3}]
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 2])[0, 1]) < 0.15
    assert space.contains([2, 0, 3])
    assert space.contains(np.array([0, 0, 0], np.uint8))
    for wrong in ([3, 0, 0], [0, 1, 0], [-1, 0, 0], [0.0, 0.0, 0.0], [0, 0], 0, [[0, 0, 0]]):
        assert not space.contains(wrong)
    assert repr(MultiDiscrete(np.array([3, 4]))) == "MultiDiscrete((3, 4))"
    assert MultiDiscrete(np.array([3, 4])) == MultiDiscrete((3, 4))
    assert hash(MultiDiscrete([3, 4])) == hash(MultiDiscrete((3, 4)))
    assert Dict({"a": space}).contains({"a": [2, 0, 3]})


@pytest.mark.parametrize("n", [(), (3, 0), (2.0,), ((2, 3),), 3, (True,)])
def test_what_are_no_choices_is_refused_in_one_line(n):
    with pytest.raises(Refused, match="MultiDiscrete: n must be one or more integers, each at least 1, got ") as error:
        MultiDiscrete(n)
    assert "\n" not in str(error.value)


def test_bounds_to_unit():
    """`RescaleAction` maps back."""
    box = Box([-1.0, 2.0], [3.0, 4.0])
    values, units = np.array([[-1.0, 4.0], [1.0, 3.0], [5.0, 2.5]]), [[-1, 1], [0, 0], [2, -0.5]]
    np.testing.assert_allclose(box.to_unit(values), units)


def test_bounds_that_are_equal_or_very_far_apart_have_units_too():
    box = Box([2.0, -3e38], [2.0, 3e38])
    np.testing.assert_allclose(box.to_unit(np.float32([[2.0, 3e38], [2.0, 0.0]])), [[0.0, 1.0], [0.0, 0.0]])


def test_samples_are_finite_between_the_widest_bounds_and_as_jax_draws_them_elsewhere():
    wide = Box(-3.4e38, [3.4e38, 1.0])
    drawn = np.asarray(jax.vmap(wide.sample)(jax.random.split(jax.random.key(0), 50)))
    assert np.isfinite(drawn).all()
    assert drawn[:, 0].min() < -1e38 < 1e38 < drawn[:, 0].max()
    key = jax.random.key(1)
    np.testing.assert_array_equal(
        Box(-3.0, 0.7, (9,)).sample(key), jax.random.uniform(key, (9,), minval=-3.0, maxval=0.7)
    )
