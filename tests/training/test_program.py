"""The compiled loop of a run."""

import jax
import numpy as np

from rljax.algorithms import bc
from rljax.training.program import build
from tests.datasets import drift_data
from tests.toys import Drift, limited


def test_the_loop_of_an_algorithm_with_data_is_compiled_once():
    """Data that name a device make the state do so too, and the second call would be another program."""
    algorithm = bc.make(limited(Drift(), 7), bc.Config(hidden=(4,), batch_size=8), drift_data())
    program = build(algorithm, None, 1, "threefry2x32")
    state, totals = program.init(np.asarray(jax.random.key_data(jax.random.key(0))), {})
    data = program.place(algorithm.data)
    for count in (0, 2, 3):
        state, totals, _ = program.run(state, totals, np.int32(0), np.int32(count), data)
    assert program.run._cache_size() == 1
    assert int(state.iteration) == 5
