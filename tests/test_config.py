"""What the types of a config's fields allow, and how a bad value is refused."""

import dataclasses
from typing import Literal

import numpy as np
import pytest

from rljax.algorithms import ppo
from rljax.config import Config, Count, Fraction, Positive, Widths, config_from_dict, config_to_dict, require
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Layers(Config):
    hidden: Widths = (8,)
    output: Widths | None = None


@dataclasses.dataclass(frozen=True)
class Steps(Config):
    number: Count = 4
    size: int = 2

    def __post_init__(self):
        super().__post_init__()
        require(self, "size", self.number % self.size == 0, f"a divisor of number = {self.number}")


@dataclasses.dataclass(frozen=True)
class Both(Layers, Steps):
    number: Count = 6
    rate: Positive | None = None
    share: Fraction = 1.0
    kind: Literal["small", "large"] = "small"


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("number", 0, "at least 1"),
        ("number", 2.0, "whole, as an int is"),
        ("size", 4, "a divisor of number = 6"),
        ("size", 2.0, "whole, as an int is"),
        ("hidden", (8, 0), "at least 1 in each layer"),
        ("hidden", (8, 2.0), "whole, as an int is"),
        ("output", (0,), "at least 1 in each layer, or None"),
        ("rate", 0.0, "positive, or None"),
        ("share", np.nan, "in [0, 1]"),
        ("kind", "huge", "one of small, large"),
    ],
)
def test_a_value_that_the_type_of_its_field_does_not_allow_is_refused(field, value, allowed):
    with pytest.raises(Refused) as error:
        Both(**{field: value})
    assert str(error.value) == f"test_config.Both: {field} = {value!r} is not allowed; it must be {allowed}"


def test_what_the_types_allow_is_taken_and_written_and_read():
    config = Both(number=np.int64(9), size=3, hidden=(), output=(1, 2), rate=0.5, share=0)
    assert config_from_dict(Both, config_to_dict(config)) == config
    assert Both().number == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"squash": "no"}, "squash = 'no' is not allowed; it must be True or False"),
        ({"initial_log_std": "x"}, "initial_log_std = 'x' is not allowed; it must be a number"),
        ({"learning_rate": True}, "learning_rate = True is not allowed; it must be a number"),
        ({"num_envs": True}, "num_envs = True is not allowed; it must be whole"),
        ({"num_envs": "8"}, "num_envs = '8' is not allowed; it must be whole"),
        ({"hidden": 64}, "hidden = 64 is not allowed; it must be whole"),
        ({"policy_obs": "state"}, "policy_obs = 'state' is not allowed; it must be a tuple of names"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(settings, message):
    with pytest.raises(Refused, match=message):
        ppo.Config(**settings)
