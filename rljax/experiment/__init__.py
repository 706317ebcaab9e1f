"""Shared code of all files in `experiments/`: flags, the run folder, seeds and sweeps, the curve, the summary."""

from rljax.experiment.command_line import main, main_offline
from rljax.experiment.data import dataset_of, in_form_of, load_dataset, spaces_of, task_of, vectors_of
from rljax.experiment.members import keys_of
from rljax.experiment.offline import run_offline
from rljax.experiment.running import run, set_aside
from rljax.experiment.settings import FromDataset, Mismatch, OfflineRun, Run
from rljax.training.result import Result

__all__ = [
    "FromDataset",
    "Mismatch",
    "OfflineRun",
    "Result",
    "Run",
    "dataset_of",
    "in_form_of",
    "keys_of",
    "load_dataset",
    "main",
    "main_offline",
    "run",
    "run_offline",
    "set_aside",
    "spaces_of",
    "task_of",
    "vectors_of",
]
