"""Options of training that change nothing of its mathematics: logs, evaluations, checkpoints, devices and display."""

import dataclasses
from typing import Annotated

from rljax.config import Config, Count, Must, Whole, require
from rljax.training.progress import Progress


@dataclasses.dataclass(frozen=True)
class Options(Config):
    """Options of `training.train`. Steps are environment steps, rounded up to whole iterations and whole logs."""

    log_every: Count | None = None
    """Steps (offline, updates) between rows of metrics.csv; a hundredth of the run where not given."""
    evaluate_every: Whole | None = None
    """Steps (offline, updates) between evaluations; a tenth of the run where not given, 0 for none."""
    evaluation_episodes: Count = 20
    """Episodes of each evaluation on the way."""
    final_episodes: Whole = 100
    """Episodes of the evaluation at the end."""
    checkpoint_every: Whole | None = None
    """Steps (offline, updates) between checkpoints; a tenth of the run where not given."""
    keep_checkpoints: Annotated[int, Must("at least 2", lambda x: x >= 2)] = 2
    """Number of newest checkpoints to keep, besides the best; at least 2, for one is whole while another is written."""
    save_replay: bool = True
    """Save the contents of replay buffers in checkpoints; a run resumed without them refills its buffer first."""
    devices: Count | None = None
    """Number of devices; where not given, as many as divide the members, or for one member all (on a CPU, one)."""
    progress: Progress = True
    """Show the progress bar and lines of what happens; "lines" shows these alone, and False nothing."""
    tensorboard: bool = True
    """Also log to TensorBoard, in the run folder."""
    wandb: bool = False
    """Also log to Weights & Biases (pip install 'rljax[wandb]')."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "progress", self.progress in (True, False, "lines"), "True, False or lines")
