"""What the tests of the hands' tasks share; each file has its own `task`."""

import jax
import pytest

COUNT = 64


@pytest.fixture(scope="module")
def step(task):
    return jax.jit(jax.vmap(task.step))


@pytest.fixture(scope="module")
def states(task):
    """Fresh ones."""
    return jax.jit(jax.vmap(task.reset))(jax.random.split(jax.random.key(0), COUNT))


@pytest.fixture(scope="module")
def put(task):
    """States with these positions and velocities."""

    def put(states, qpos, qvel):
        physics = jax.vmap(task.engine.reset)(qpos, qvel)
        return states.replace(physics=physics, obs=jax.vmap(task.observe)(physics))

    return jax.jit(put)
