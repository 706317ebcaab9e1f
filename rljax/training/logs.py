"""Where numbers go: a CSV file (always), TensorBoard, Weights & Biases (an extra)."""

import csv
import json
import os
import secrets
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from rljax.training.folder import write_json
from rljax.types import Refused

Row = dict[str, float | int | None]


class CsvLog:
    """One row per log and member in `metrics.csv`; an empty cell where a quantity was not measured.

    Opened again after an interruption it drops the rows past `resume_step`, since their steps are made again. New
    columns are empty in earlier rows, and columns of evaluations that are no longer made are empty in later ones.
    """

    def __init__(self, path: Path, columns: Sequence[str], resume_step: int | None = None):
        resumed = resume_step is not None and path.exists()
        self.columns = merged_columns(path, columns) if resumed else list(columns)
        kept = self._kept_rows(path, resume_step) if resumed and resume_step is not None else []
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
            # A process killed while writing leaves at most one short row, which is past the checkpoint.
            rows = [row for row in csv.DictReader(file) if all(value is not None for value in row.values())]
        try:
            return [row for row in rows if int(row["step"]) <= resume_step]
        except ValueError:
            raise Refused(f"{path} is damaged: a row has no whole number as its step") from None


def merged_columns(path: Path, columns: Sequence[str]) -> list[str]:
    """The columns of a run that goes on: its own, and those of evaluations that it made before.

    Raises:
      Refused: metrics.csv has other columns besides, so it is of another run or version.
    """
    with path.open(newline="") as file:
        before = csv.DictReader(file).fieldnames or []
    only_before = [name for name in before if name not in columns]
    if "step" not in before or any(not name.startswith("evaluation/") for name in only_before):
        raise Refused(f"{path} has other columns than this run: {', '.join(only_before) or 'none at all'}")
    return [*columns, *only_before]


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
    """Weights & Biases. A server that cannot be reached never stops training: it warns once, and CSV goes on.

    A run has its own id, kept in `wandb.json` in its folder: a resumed run goes on under it, and runs of one name stay
    apart.
    """

    def __init__(self, folder: Path, config: dict[str, Any]):
        wandb = require_wandb()
        os.environ.setdefault("WANDB_SILENT", "true")
        self._run: Any = None
        try:
            self._run = wandb.init(
                project="rljax", name=folder.name, id=_wandb_id(folder), dir=str(folder), config=config, resume="allow"
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


def require_wandb() -> Any:
    """The library.

    Raises:
      Refused: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise Refused("wandb is not installed: pip install 'rljax[wandb]'") from error
    return wandb


def _wandb_id(folder: Path) -> str:
    path = folder / "wandb.json"
    try:
        return str(json.loads(path.read_text())["id"])
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged
        write_json(path, {"id": (made := secrets.token_hex(8))})
        return made
