"""The compiled loop of a run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms import bc
from rljax.training.program import _zero_totals, add, build, means
from rljax.types import Mean
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
    run: Any = program.run
    assert run._cache_size() == 1
    assert int(state.iteration) == 5


def total_of(*steps):
    totals = _zero_totals(steps[0])
    for iteration, metrics in enumerate(steps):
        totals = add(totals, metrics, jnp.int32(iteration))
    return jax.device_get(totals)


def test_a_log_divides_once_so_that_every_episode_counts_alike():
    """One episode of 50 alone, then 19 of 500 together: their mean is 477.5, and that of the two iterations 275."""
    alone, together, none = Mean.of(50.0), Mean.of(np.full(19, 500.0)), Mean.of(np.ones(4), np.zeros(4, bool))
    totals = total_of({"episode/return": none}, {"episode/return": alone}, {"episode/return": together})
    np.testing.assert_allclose(means(totals)["episode/return"], [477.5])
    assert totals["bad"] == {"episode/return": -1}


def test_what_is_not_measured_is_no_number_and_what_is_not_finite_is_noted():
    nothing = Mean.of(jnp.nan, False)
    totals = total_of(
        {"never": nothing, "loss": jnp.float32(1.0), "late": nothing},
        {"never": nothing, "loss": jnp.float32(3.0), "late": Mean.of(jnp.inf)},
        {"never": nothing, "loss": jnp.float32(jnp.nan), "late": Mean.of(2.0)},
    )
    found = means(totals)
    assert np.isnan(found["never"]).all()
    np.testing.assert_array_equal([found["loss"], found["late"]], [[2.0], [2.0]])
    assert totals["bad"] == {"never": -1, "loss": 2, "late": 1}
