"""Checkpoints that are cut off or damaged: refused by name, and the one before is used."""

import hashlib
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.training import checkpoint
from rljax.training.checkpoint import MANIFEST, Checkpointer, _manifest_sum
from rljax.types import Refused


def state(value):
    return {
        "w": jnp.full((300,), value),
        "n": jnp.int32(value),
        "key": jax.random.key(int(value)),
        "none": (),
        "empty": jnp.zeros((0, 3)),
    }


def saved(folder, *iterations, scores=()):
    checkpointer = Checkpointer(folder)
    for position, iteration in enumerate(iterations):
        score = scores[position] if scores else None
        checkpointer.save(iteration, state(iteration), {"p": jnp.float32(iteration)}, {"note": iteration}, score)
    checkpointer.close()
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two checkpoints; tests damage copies of them."""
    return saved(tmp_path_factory.mktemp("run") / "checkpoints", 1, 2)


@pytest.fixture
def copy(two, tmp_path):
    return shutil.copytree(two, tmp_path / "checkpoints")


def restored(folder, **options):
    checkpointer = Checkpointer(folder, **options)
    try:
        return checkpointer.restore("state", state(0))
    finally:
        checkpointer.close()


def test_restores_the_newest_with_keys_and_notes(copy):
    result = restored(copy)
    assert (result.iteration, result.progress) == (2, {"note": 2})
    chex.assert_trees_all_equal(result.item, state(2))
    assert jax.random.bits(result.item["key"]) == jax.random.bits(jax.random.key(2))


def test_one_flipped_byte_in_any_file_is_refused_by_name_and_the_one_before_is_used(two, tmp_path):
    """Orbax 0.12.8 restores an array file with a flipped byte without a word."""
    files = sorted(p.relative_to(two) for p in (two / "2").rglob("*") if p.is_file() and p.stat().st_size)
    assert any("ocdbt" in str(file) for file in files)
    for number, file in enumerate(files):
        folder = shutil.copytree(two, tmp_path / str(number))
        data = bytearray((folder / file).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / file).write_bytes(data)
        with pytest.warns(UserWarning, match=rf"checkpoints?.*2 is damaged: .*{file.name}|{number}/2 is damaged"):
            result = restored(folder)
        assert result.iteration == 1, file
        chex.assert_trees_all_equal(result.item, state(1))


def test_a_missing_file_is_refused_by_name(copy):
    victim = next((copy / "2" / "state").rglob("d/*"))
    victim.unlink()
    with pytest.warns(UserWarning, match=f"{victim.name} is missing"):
        assert restored(copy).iteration == 1


def test_what_a_gpu_saved_is_restored_without_one(copy):
    # As saved on a GPU: Orbax notes each array's device in this file, whose sum is in the manifest.
    path = copy / "2" / "policy" / "_sharding"
    path.write_text(path.read_text().replace(str(jax.devices()[0]), "cuda:0"))
    assert "cuda:0" in path.read_text()
    manifest = json.loads((copy / "2" / MANIFEST).read_text())
    del manifest["manifest_sha256"]
    manifest["sha256"]["policy/_sharding"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (copy / "2" / MANIFEST).write_text(json.dumps(manifest | {"manifest_sha256": _manifest_sum(manifest)}))
    checkpointer = Checkpointer(copy, read_only=True)
    result = checkpointer.restore("policy", {"p": jax.ShapeDtypeStruct((), jnp.float32)})  # as rljax.load has it
    checkpointer.close()
    assert result.item == {"p": 2}


def test_a_damaged_checkpoint_is_set_aside_so_that_its_number_can_be_saved_again(copy):
    (copy / "2" / MANIFEST).write_text("{")
    with pytest.warns(UserWarning, match="2 is damaged"):
        restored(copy)
    assert (copy / "damaged" / "2" / MANIFEST).exists()
    saved(copy, 2)
    assert restored(copy).iteration == 2


def test_a_checkpoint_without_manifest_was_cut_off_and_is_not_used(copy):
    (copy / "2" / MANIFEST).unlink()
    (copy / "3.orbax-checkpoint-tmp-0").mkdir()
    assert restored(copy).iteration == 1
    assert sorted(p.name for p in copy.iterdir()) == ["1"]


def test_reading_only_touches_nothing(copy):
    (copy / "2" / MANIFEST).write_text("{")
    before = sorted(copy.rglob("*"))
    with pytest.warns(UserWarning, match="2 is damaged"):
        assert restored(copy, read_only=True).iteration == 1
    assert sorted(copy.rglob("*")) == before


def test_when_all_are_damaged_that_is_an_error_and_not_a_fresh_start(copy):
    for name in ("1", "2"):
        (copy / name / MANIFEST).write_text("{}")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match=r"every checkpoint .* is damaged"):
        restored(copy)


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    assert restored(tmp_path / "checkpoints") is None


def test_other_shapes_are_refused_in_one_line(copy):
    checkpointer = Checkpointer(copy)
    target = state(0) | {"w": jnp.zeros(5)}
    with pytest.raises(ValueError, match="checkpoint 2 does not fit this program's state") as error:
        checkpointer.restore("state", target)
    assert "\n" not in str(error.value)
    checkpointer.close()


def test_keeps_the_newest_and_the_best(tmp_path):
    folder = saved(tmp_path / "checkpoints", 1, 2, 3, 4, 5, scores=(0.0, 9.0, 1.0, 8.0, 2.0))
    checkpointer = Checkpointer(folder)
    assert checkpointer.iterations() == [2, 4, 5]
    assert checkpointer.best() == 2
    np.testing.assert_array_equal(checkpointer.restore("policy", {"p": jnp.float32(0)}, 2).item["p"], 2.0)
    checkpointer.close()


def test_what_is_saved_is_the_state_at_the_call_though_its_buffers_are_reused(tmp_path):
    """Training donates its state to the next step while the save is still being written."""
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    advance = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    x = jnp.zeros(1_000_000)
    for iteration in range(3):
        checkpointer.save(iteration, {"x": x}, {"p": x}, {}, None)
        for _ in range(20):
            x = advance(x)
        checkpointer.wait()
        stored = checkpointer.restore("state", {"x": x}).item["x"]
        np.testing.assert_array_equal(stored, 20.0 * iteration)
    checkpointer.close()


def test_a_failed_save_is_reported_by_the_next_call(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path / "checkpoints")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("rljax.training.checkpoint._sha256", full)
    checkpointer.save(1, state(1), state(1), {}, None)
    with pytest.raises(OSError, match="no space"):
        checkpointer.wait()
    checkpointer.close()


def test_fewer_than_two_are_not_kept(tmp_path):
    with pytest.raises(ValueError, match="keep_checkpoints = 1 is not allowed"):
        Checkpointer(tmp_path, keep=1)


def test_the_manifest_lists_every_file(two):
    sums = json.loads((two / "2" / MANIFEST).read_text())["sha256"]
    files = {p.relative_to(two / "2").as_posix() for p in (two / "2").rglob("*") if p.is_file()}
    assert set(sums) == files - {MANIFEST}


NAN = float("nan")


def test_a_score_that_is_not_a_number_is_none(tmp_path):
    """It compares with nothing, so that it stayed the best for ever, and the true best was deleted."""
    folder = saved(tmp_path / "checkpoints", 1, 2, 3, 4, scores=(NAN, 10.0, 500.0, 400.0))
    checkpointer = Checkpointer(folder, read_only=True)
    assert checkpointer.iterations() == [3, 4]
    assert checkpointer.best() == 3
    checkpointer.close()
    for path in folder.glob(f"*/{MANIFEST}"):
        json.loads(path.read_text(), parse_constant=pytest.fail)


def test_a_manifest_with_a_score_that_is_not_a_number_is_whole_but_not_the_best(copy):
    """As they were written before."""
    for iteration, score in ((1, 5.0), (2, NAN)):
        path = copy / str(iteration) / MANIFEST
        manifest = json.loads(path.read_text()) | {"score": score}
        del manifest["manifest_sha256"]
        path.write_text(json.dumps(manifest | {"manifest_sha256": _manifest_sum(manifest)}))
    checkpointer = Checkpointer(copy, read_only=True)
    assert checkpointer.best() == 1
    assert checkpointer.damage(2) is None
    checkpointer.close()


def test_no_character_of_a_path_is_taken_for_a_pattern(tmp_path):
    """Orbax looks for its files by patterns: below "[old]" it finds none, and says nothing."""
    folder = saved(tmp_path / "runs [old] *?#%{c} é" / "checkpoints", 1)
    chex.assert_trees_all_equal(restored(folder).item, state(1))
    assert restored(shutil.copytree(folder, tmp_path / "moved" / "checkpoints")).iteration == 1


def test_what_cannot_be_found_after_it_was_written_is_not_called_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_place", lambda folder: (folder, None))  # as Orbax would have it by itself
    checkpointer = Checkpointer(tmp_path / "[old]" / "checkpoints")
    checkpointer.save(1, state(1), state(1), {}, None)
    with pytest.raises(ValueError, match="does not exist"):
        checkpointer.wait()
    assert checkpointer.iterations() == []
    checkpointer.close()
    # As a folder was left before, called whole.
    (tmp_path / "[old]" / "checkpoints" / "1" / MANIFEST).touch()
    monkeypatch.undo()
    monkeypatch.setattr(Checkpointer, "damage", lambda *_: None)
    checkpointer = Checkpointer(tmp_path / "[old]" / "checkpoints", read_only=True)
    with pytest.raises(Refused, match="checkpoint 1 cannot be read: Orbax does not find its arrays"):
        checkpointer.restore("state", state(1))
    checkpointer.close()


def test_an_error_that_is_not_of_shapes_keeps_its_name(copy, monkeypatch):
    checkpointer = Checkpointer(copy, read_only=True)

    def broken(*_):
        raise ValueError("a defect elsewhere")

    monkeypatch.setattr(checkpointer._ocp.StandardCheckpointer, "restore", broken)
    with pytest.raises(ValueError, match="a defect elsewhere") as error:
        checkpointer.restore("state", state(0))
    assert not isinstance(error.value, Refused)
    checkpointer.close()


def test_restoring_into_shapes_makes_what_restoring_into_arrays_does(copy):
    checkpointer = Checkpointer(copy, read_only=True)
    chex.assert_trees_all_equal(checkpointer.restore("state", jax.eval_shape(lambda: state(0))).item, state(2))
    checkpointer.close()
