"""What transitions must be: the first fault has its line."""

import json

import numpy as np
import pytest

from rljax.remote.schema import Field, Schema
from rljax.spaces import Discrete
from rljax.types import Refused
from tests.remote.pairs import schema, transitions
from tests.toys import Looking


def test_transitions_as_they_should_be_are_counted():
    assert schema().check(transitions(5), most=5) == 5


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"obs": np.zeros((2, 4), np.float32)}, r"obs has the shape \[2, 4\], and must have \[2, 3\]"),
        ({"obs": np.zeros((2, 3))}, "obs is of type float64, and must be float32"),
        ({"obs": np.full((2, 3), np.nan, np.float32)}, "obs is not finite"),
        ({"next_obs": np.full((2, 3), np.inf, np.float32)}, "next_obs is not finite"),
        ({"action": np.full((2, 2), 2.1, np.float32)}, "action goes from 2.1 to 2.1, which is out of bounds"),
        ({"action": np.zeros((3, 2), np.float32)}, "action has the shape"),
        ({"reward": np.float32([0, np.nan])}, "reward is not finite"),
        ({"reward": np.zeros((2, 1), np.float32)}, "reward has the shape"),
        ({"terminated": np.zeros(2, np.uint8)}, "terminated is of type uint8, and must be bool"),
        ({"version": np.full(2, -1, np.int32)}, "version goes from -1 to -1"),
        ({"episode_length": np.zeros(2, np.int32)}, "episode_length goes from 0"),
        ({"more": np.zeros(2)}, "have 1 arrays that are not known"),
    ],
)
def test_the_first_fault_has_its_line(changed, reason):
    with pytest.raises(Refused, match=reason):
        schema().check(transitions(**changed), most=10)


def test_what_is_missing_is_named():
    arrays = transitions()
    del arrays["next_obs"]
    with pytest.raises(Refused, match="transitions lack next_obs"):
        schema().check(arrays, most=10)


@pytest.mark.parametrize("count", [0, 11])
def test_the_number_of_transitions_has_bounds(count):
    with pytest.raises(Refused, match=f"{count} transitions in a frame; from 1 to 10"):
        schema().check(transitions(count), most=10)


def test_an_action_may_be_rounded_beyond_its_bounds():
    schema().check(transitions(action=np.full((2, 2), 2.0001, np.float32)), most=10)


def test_an_actor_is_told_what_the_learner_checks():
    for field in schema().fields.values():
        told = Field.of(json.loads(json.dumps(field.described(), allow_nan=False)))
        assert (told.dtype, told.shape) == (field.dtype, field.shape)
        for mine, theirs in ((field.low, told.low), (field.high, told.high)):
            assert (mine is None) == (theirs is None)
            assert mine is None or np.array_equal(mine, theirs)


def test_parts_of_an_observation_have_names_and_choices_must_exist():
    env = Looking()
    of = Schema(env.observation_space, Discrete(4))
    assert of.described()["obs/camera"] == ["uint8", [6, 6, 1], None, None]
    assert of.fields["obs/words"].dtype == "int32"
    with pytest.raises(Refused, match="obs/words goes from 3 to 3"):
        of.fields["obs/words"].check("obs/words", np.int32(3))
    with pytest.raises(Refused, match="action goes from 4 to 4"):
        of.action.check("action", np.int32(4))
    tree = of.tree({name: name for name in of.fields})
    assert tree == {part: f"obs/{part}" for part in ("camera", "privileged_state", "words")}
