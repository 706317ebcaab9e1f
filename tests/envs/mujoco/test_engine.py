import gc
import importlib.util
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import psutil
import pytest
from jax.sharding import AxisType, PartitionSpec

import rljax
from rljax.envs.mujoco import gymnasium_model, load_model, make_engine
from rljax.envs.mujoco.native import NativeEngine

ROOT = Path(__file__).parents[3]
SUBSTEPS = 5


@pytest.fixture(scope="module")
def model():
    return gymnasium_model("half_cheetah.xml")


@pytest.fixture(scope="module")
def engine(model):
    return NativeEngine(model, SUBSTEPS, ("xpos", "sensordata"))


def starts(model, count):
    generator = np.random.default_rng(0)
    qpos = model.qpos0 + generator.uniform(-0.1, 0.1, (count, model.nq))
    return jnp.float32(qpos), jnp.float32(generator.normal(size=(count, model.nv)) * 0.1)


def test_steps_are_those_of_the_c_library(model, engine):
    """20 control steps, warm start and derived fields included, against one `MjData` stepped by hand."""
    qpos, qvel = starts(model, 3)
    controls = np.random.default_rng(1).uniform(-1, 1, (20, 3, model.nu)).astype(np.float32)
    physics = jax.vmap(engine.reset)(qpos, qvel)
    step = jax.jit(jax.vmap(engine.step))
    datas = [mujoco.MjData(model) for _ in range(3)]
    for data, q, v in zip(datas, qpos, qvel, strict=True):
        data.qpos[:], data.qvel[:] = q, v
        mujoco.mj_forward(model, data)
    np.testing.assert_allclose(physics.xpos, [data.xpos for data in datas], atol=1e-6)
    for control in controls:
        physics = step(physics, control)
        for index, data in enumerate(datas):
            data.ctrl[:] = control[index]
            mujoco.mj_step(model, data, SUBSTEPS)
        for name in ("time", "qpos", "xpos"):
            np.testing.assert_allclose(
                getattr(physics, name), [getattr(d, name) for d in datas], atol=1e-5, err_msg=name
            )
        np.testing.assert_allclose(physics.qvel, [data.qvel for data in datas], atol=2e-4)
        for data, index in zip(datas, range(3), strict=True):  # ours carries single precision from step to step
            for name in ("qpos", "qvel", "qacc_warmstart"):
                getattr(data, name)[:] = getattr(physics, name)[index]


def test_only_what_was_asked_for_is_there(engine, model):
    physics = engine.reset(*(x[0] for x in starts(model, 1)))
    assert physics.xpos.shape == (model.nbody, 3)
    with pytest.raises(AttributeError, match="physics has no cvel; the task asked for xpos, sensordata"):
        _ = physics.cvel


def test_batch_size_and_threads_change_nothing(model):
    results = []
    for threads, size in ((1, 7), (2, 7), (3, 7), (2, 1)):
        engine = NativeEngine(model, SUBSTEPS, threads=threads)
        physics = jax.vmap(engine.reset)(*starts(model, 7))
        control = jnp.full((7, model.nu), 0.3)
        if size == 1:
            results.append(
                np.stack([engine.step(jax.tree.map(lambda x, i=i: x[i], physics), control[i]).qpos for i in range(7)])
            )
        else:
            results.append(np.asarray(jax.vmap(engine.step)(physics, control).qpos))
        engine.close()
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_smaller_batches_after_larger_ones(engine, model):
    step = jax.jit(jax.vmap(engine.step))
    reset = jax.jit(jax.vmap(engine.reset))
    qpos, qvel = starts(model, 9)
    whole = step(reset(qpos, qvel), jnp.zeros((9, model.nu)))
    part = step(reset(qpos[:4], qvel[:4]), jnp.zeros((4, model.nu)))
    np.testing.assert_array_equal(part.qpos, whole.qpos[:4])


@pytest.mark.parametrize("outputs", [(), ("cfrc_ext",)])
def test_one_engine_under_several_threads_and_devices(model, outputs):
    """Programs that run at once, each split over two devices, share one engine and do not mix up their rows."""
    devices = jax.devices()[:2]
    if len(devices) < 2:
        pytest.skip("one device")
    engine = NativeEngine(model, SUBSTEPS, outputs)
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,), devices=devices)
    split = PartitionSpec("devices")

    def roll(qpos, qvel):
        def body(physics, _):
            return jax.vmap(engine.step)(physics, jnp.full((qpos.shape[0], model.nu), 0.2)), None

        return jax.lax.scan(body, jax.vmap(engine.reset)(qpos, qvel), None, 10)[0].qpos

    qpos, qvel = starts(model, 8)
    expected = np.asarray(jax.jit(roll)(qpos, qvel))
    program = jax.jit(jax.shard_map(roll, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))
    found = {}

    def run(index):
        found[index] = np.asarray(program(jnp.roll(qpos, index, 0), jnp.roll(qvel, index, 0)))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(4):
        np.testing.assert_array_equal(found[index], np.roll(expected, index, 0))
    engine.close()


def test_two_environments_in_one_program():
    first, second = rljax.make("hopper"), rljax.make("reacher")
    keys = jax.random.split(jax.random.key(0), 5)

    def both(keys):
        a, b = jax.vmap(first.reset)(keys), jax.vmap(second.reset)(keys)
        a = jax.vmap(first.step)(a, jnp.zeros((5, 3)))
        b = jax.vmap(second.step)(b, jnp.zeros((5, 2)))
        return a.obs, b.obs

    def one(env, size):
        state = jax.vmap(env.reset)(keys)
        return jax.vmap(env.step)(state, jnp.zeros((5, size))).obs

    together = jax.jit(both)(keys)
    np.testing.assert_array_equal(together[0], one(first, 3))
    np.testing.assert_array_equal(together[1], one(second, 2))


def test_an_engine_leaves_no_thread_and_no_memory_behind(model):
    process = psutil.Process()

    def use():
        engine = NativeEngine(model, SUBSTEPS, threads=3)
        rows = [np.zeros((300, *engine.initial[name].shape), np.float32) for name in engine._carried]
        engine._advance(*rows)
        count = process.num_threads()
        engine.close()
        return count

    use()
    gc.collect()
    before, memory = process.num_threads(), process.memory_info().rss
    for _ in range(20):
        assert use() > before - 1
    gc.collect()
    time.sleep(0.2)
    assert process.num_threads() <= before
    assert process.memory_info().rss - memory < 50 * 2**20


def test_stepping_leaks_nothing(engine, model):
    """The long form, ten minutes with 256 environments, is `python -m benchmarks.physics --soak`."""
    process = psutil.Process()
    physics = jax.jit(jax.vmap(engine.reset))(*starts(model, 64))

    @jax.jit
    def roll(physics):
        control = jnp.zeros((64, model.nu))
        return jax.lax.scan(lambda p, _: (jax.vmap(engine.step)(p, control), None), physics, None, 50)[0]

    for _ in range(5):
        physics = jax.block_until_ready(roll(physics))
    threads, memory = process.num_threads(), process.memory_info().rss
    for _ in range(20):
        physics = jax.block_until_ready(roll(physics))
    assert process.num_threads() <= threads
    assert process.memory_info().rss - memory < 20 * 2**20


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_many_programs_of_many_sizes_never_hang(times):
    for _ in range(times):
        command = [sys.executable, "-m", "tests.envs.mujoco.programs_driver"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True)
        assert done.stdout.split()[-1] == "finished"
        assert "terminate" not in done.stderr


def test_auto_is_native_on_a_cpu(model):
    assert make_engine("auto", model, 1).name == ("native" if jax.default_backend() == "cpu" else "mjx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "bullet"}, "engine must be one of auto, native, mjx, warp, got 'bullet'"),
        ({"engine": "native", "iterations": 3}, "engine native: .*unexpected keyword argument 'iterations'"),
        ({"engine": "native", "threads": 0}, "engine native: threads must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        rljax.make("reacher", **arguments)


@pytest.mark.skipif(importlib.util.find_spec("warp") is not None, reason="Warp is installed")
def test_missing_warp_gives_the_command():
    with pytest.raises(ValueError, match=r'engine warp needs MuJoCo Warp, .*: pip install "rljax\[warp\]"'):
        rljax.make("reacher", engine="warp")


def test_sizes_for_contacts_come_from_the_model(model):
    pytest.importorskip("mujoco.mjx")
    from rljax.envs.mujoco.mjx import most_used

    contacts, constraints = most_used(model)
    # A cheetah thrown about lies on its feet, shins and back: a few contacts of four friction edges each.
    assert 2 <= contacts <= 16
    assert constraints >= 4 * contacts
    assert most_used(gymnasium_model("swimmer.xml"))[0] == 0


@pytest.mark.slow
def test_warp_reports_overflow(model):
    pytest.importorskip("warp")
    qpos, qvel = starts(model, 3)
    qpos = qpos.at[:, 1].set(-0.5)  # pressed into the floor
    for options, expected in (({}, 0.0), ({"constraints": 3}, 1.0)):
        engine = make_engine("warp", model, 1, worlds=3, **options)
        physics = jax.jit(jax.vmap(engine.step))(jax.vmap(engine.reset)(qpos, qvel), jnp.zeros((3, model.nu)))
        assert (physics.overflow == expected).all()


def test_missing_gymnasium_gives_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="comes with Gymnasium, which is not installed: pip install gymnasium"):
        gymnasium_model("hopper.xml")


def test_unknown_output_is_refused(model):
    with pytest.raises(ValueError, match="engine native: mjData has no array xpoz"):
        make_engine("native", model, 1, ("xpoz",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<mujoco><worldbody><geom/></worldbody></mujoco>", "is not a model that MuJoCo takes"),
        (None, "there is no MJCF"),
    ],
)
def test_bad_mjcf_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "model.xml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_loading_writes_no_log_file(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rljax.make("half_cheetah")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_an_unstable_simulation_writes_no_log_file(tmp_path, monkeypatch, engine, model):
    monkeypatch.chdir(tmp_path)
    qpos, qvel = starts(model, 2)
    physics = jax.vmap(engine.reset)(qpos, qvel.at[0].set(1e12))
    physics = jax.vmap(engine.step)(physics, jnp.zeros((2, model.nu)))
    assert not np.isfinite(physics.qpos[0]).all() or np.abs(physics.qpos[0]).max() > 1e10
    assert np.isfinite(physics.qpos[1]).all()
    assert list(tmp_path.iterdir()) == []
