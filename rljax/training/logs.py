"""Where numbers go: a CSV file (always), TensorBoard, Weights & Biases (an extra)."""

import csv
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from rljax.types import Refused

Row = dict[str, float | int | None]


class CsvLog:
    """One row per log and member in `metrics.csv`; an empty cell where a quantity was not measured.

    Opened again after an interruption it drops the rows past `resume_step`, for those steps are made again.
    """

    def __init__(self, path: Path, columns: Sequence[str], resume_step: int | None = None):
        self.columns = list(columns)
        kept = self._kept_rows(path, resume_step) if resume_step is not None and path.exists() else []
        temporary = path.with_suffix(".csv.tmp")
        with temporary.open("w", newline="") as file:
            self._write(file, kept, header=True)
        temporary.replace(path)
        self._file = path.open("a", newline="")

    def write(self, rows: Iterable[Row]) -> None:
        self._write(self._file, rows)
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, file: TextIO, rows: Iterable[dict[str, Any]], header: bool = False) -> None:
        writer = csv.DictWriter(file, self.columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows({k: "" if v is None or v != v else v for k, v in row.items()} for row in rows)

    def _kept_rows(self, path: Path, resume_step: int) -> list[dict[str, Any]]:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None or list(reader.fieldnames) != self.columns:
                raise Refused(f"{path} has other columns than this run: {reader.fieldnames}")
            # A process killed while writing leaves at most one short row, which is past the checkpoint.
            rows = [row for row in reader if all(value is not None for value in row.values())]
            return [row for row in rows if int(row["step"]) <= resume_step]


class TensorBoardLog:
    """The same numbers as TensorBoard scalars; the mean over members."""

    def __init__(self, folder: Path, resume_step: int | None = None):
        from tensorboardX import SummaryWriter

        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=10)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbLog:
    """Weights & Biases. A server that cannot be reached never stops training: it warns once, and CSV goes on."""

    def __init__(self, folder: Path, config: dict[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise Refused("wandb is not installed: pip install 'rljax[wandb]'") from error
        os.environ.setdefault("WANDB_SILENT", "true")
        self._run: Any = None
        try:
            self._run = wandb.init(
                project="rljax", name=folder.name, id=folder.name, dir=str(folder), config=config, resume="allow"
            )
        except Exception as error:
            warnings.warn(f"W&B does not answer, so nothing is sent to it: {error}", stacklevel=2)

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._run is None:
            return
        try:
            self._run.log(values, step=step)
        except Exception as error:
            warnings.warn(f"W&B failed and is left out from step {step:,} on: {error}", stacklevel=2)
            self._run = None

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
