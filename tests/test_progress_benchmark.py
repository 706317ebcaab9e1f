"""The benchmark of progress critics: how what they say becomes a table and a picture, by hand and on tiny files."""

import dataclasses

import numpy as np
import pytest

from benchmarks import progress
from rljax.data import formats
from tests.datasets import dataset_of

FAULT = np.array([0, 0, 0, 0, 3, 3, 0, 0, 0, 0] * 2, np.int8)
FALLS = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.3, 0.4, 0.6, 0.8, 1.0] * 2)


def test_a_measure_by_hand(monkeypatch):
    monkeypatch.setattr(progress, "GR_RL", progress.dataclasses.replace(progress.GR_RL, within=1))
    found = progress.measure(FALLS, np.array([10, 20]), FAULT, 0.3)
    assert found.f1 == found.precision == found.recall == found.wrong_approach == 1.0
    assert found.dropped == pytest.approx(0.1)
    assert progress.measure(FALLS, np.array([10, 20]), FAULT, 0.5).f1 == 0.0  # nothing falls so far
    everything = progress.measure(np.ones(20), np.array([10, 20]), FAULT, -1.0)
    assert everything.precision == pytest.approx(0.3)
    assert everything.recall == everything.dropped == 1.0


def test_files_become_a_table_and_a_picture(tmp_path, monkeypatch):
    settings = progress.Settings(tasks=("lace",), critics=("distributional",), seeds=2, runs=tmp_path)
    settings = dataclasses.replace(settings, results=tmp_path / "results")
    last = np.arange(20) % 10 == 9
    data = dataset_of(np.zeros((20, 2)), np.zeros((20, 1)), np.zeros(20), terminated=last)
    for seed in range(2):
        folder = progress.folder(settings, "lace", seed)
        formats.save_d4rl(data, folder / "demonstrations.hdf5")
        np.save(folder / "faults.npy", FAULT)
        np.save(progress.progress_path(settings, "distributional", "lace", seed), FALLS)
    monkeypatch.setattr(progress.pipeline, "pin", lambda *_, **__: None)  # nobody made these
    found = progress.results(settings)
    record = progress.table(settings, found)
    everything, own = record["rows"]
    assert everything[:3] == ["lace", "everything dropped", "0.75 (0.75 to 0.75) (2)"]  # 6 of 10 are faulty, or before
    assert own[1] == "distributional"
    assert own[-1].startswith("1.00")
    assert all(len(row) == len(record["columns"]) for row in record["rows"])
    progress.draw(settings, found)
    assert (tmp_path / "progress.png").stat().st_size > 1000
    assert progress.example(data, FAULT) == 0
