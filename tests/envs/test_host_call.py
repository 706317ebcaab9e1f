import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rljax.envs import make
from rljax.envs.host_call import host_call
from rljax.envs.mujoco.task import MujocoTask

X = jnp.arange(24.0).reshape(2, 4, 3)
Y = jnp.array([1.0, 10.0, 100.0])


@pytest.fixture
def calls():
    return []


@pytest.fixture
def add(calls):
    """Adds vectors [3] on the host, and their sum; notes the shapes that it was called with."""

    def function(x, y):
        calls.append((x.shape, y.shape))
        return [x + y, (x + y).sum(axis=1)]

    def call(x, y):
        return host_call(function, [x, y], [jax.ShapeDtypeStruct((3,), x.dtype), jax.ShapeDtypeStruct((), x.dtype)])

    return call


def expect(outputs, x):
    np.testing.assert_array_equal(outputs[0], np.asarray(x + Y))
    np.testing.assert_array_equal(outputs[1], np.asarray((x + Y).sum(-1)))


def test_without_vmap_the_batch_is_one(add, calls):
    expect(add(X[0, 0], Y), X[0, 0])
    assert calls == [((1, 3), (1, 3))]


def test_nested_vmaps_make_one_flat_batch_and_one_call(add, calls):
    function = jax.jit(jax.vmap(jax.vmap(add, in_axes=(0, None)), in_axes=(0, None)))
    expect(function(X, Y), X)
    assert calls == [((8, 3), (8, 3))]


def test_vmap_over_another_axis(add):
    expect(jax.vmap(add, in_axes=(1, None))(X[0].T, Y), X[0])


def test_in_scan_and_while(add, calls):
    def body(x, _):
        return add(x, Y)[0], None

    result, _ = jax.jit(lambda x: jax.lax.scan(body, x, None, 5))(X[0, 0])
    np.testing.assert_array_equal(result, X[0, 0] + 5 * Y)
    assert len(calls) == 5


def test_each_device_calls_for_its_own_part(add, calls):
    devices = jax.devices()[:2]
    if len(devices) < 2:
        pytest.skip("one device")
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,), devices=devices)
    split = PartitionSpec("devices")
    function = jax.shard_map(
        jax.vmap(add, in_axes=(0, None)),
        mesh=mesh,
        in_specs=(split, PartitionSpec()),
        out_specs=split,
        check_vma=False,
    )
    expect(jax.jit(function)(X[0], Y), X[0])
    assert calls == [((2, 3), (2, 3))] * 2


def test_calls_with_an_effect_are_not_merged(calls):
    def function(x):
        calls.append(x.shape)
        return [x + len(calls)]

    def call(x):
        return host_call(function, [x], [jax.ShapeDtypeStruct((), jnp.float32)], effect=True)[0]

    results = jax.jit(lambda x: call(x) + call(x))(jnp.float32(0))
    assert len(calls) == 2
    assert results == 3.0


def test_without_jit_it_is_an_ordinary_call(add, calls):
    with jax.disable_jit():
        expect(add(X[0, 0], Y), X[0, 0])
        expect(jax.vmap(add, in_axes=(0, None))(X[0], Y), X[0])
    assert calls == [((1, 3), (1, 3)), ((4, 3), (4, 3))]


def test_simulators_on_the_host_work_without_jit():
    task = make("inverted_pendulum", engine="native").unwrapped
    assert isinstance(task, MujocoTask)
    engine = task.engine

    def simulated(qpos):
        return engine.step(engine.reset(qpos, jnp.zeros(2)), jnp.ones(1)).qpos

    qpos = jnp.array([[0.0, 0.1], [0.0, 0.2]])
    expected = jax.jit(jax.vmap(simulated))(qpos)
    with jax.disable_jit():
        np.testing.assert_array_equal(jax.vmap(simulated)(qpos), expected)


def test_a_call_outside_a_program_keeps_nothing_alive():
    class Simulator:
        def __call__(self, x):
            return [x + 1.0]

    simulator = Simulator()
    assert host_call(simulator, [X[0, 0]], [jax.ShapeDtypeStruct((3,), jnp.float32)])[0].shape == (3,)
    kept = weakref.ref(simulator)
    del simulator
    gc.collect()
    assert kept() is None


def test_an_error_on_the_host_reaches_the_caller():
    def function(x):
        raise RuntimeError("no simulator")

    with pytest.raises(Exception, match="no simulator"):
        jax.block_until_ready(host_call(function, [X[0, 0]], [jax.ShapeDtypeStruct((3,), jnp.float32)]))
