"""Settings that experiments share, each of which is a flag of the command line."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

from rljax.config import Count, Whole, require
from rljax.training import Options

LARGEST_SEED = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Which:
    """Settings that say which run it is: its members and its folder."""

    seed: Whole = 0
    """Seed of the first member."""
    seeds: Count = 1
    """Number of independent seeds, trained in one program: seed, seed + 1 and so on."""
    sweep: tuple[str, ...] = ()
    """Hyperparameters to sweep in the same program, e.g. learning_rate=1e-4,3e-4,1e-3; several make a grid; with
    --population also a range, e.g. learning_rate=1e-6..1e-2, from which members begin and which exchanges keep to."""
    population: Literal["pbt", "halving"] | None = None
    """Exchange between members: in population-based training (pbt) the worst quarter goes on as copies of the best with
    changed hyperparameters, in halving the worst half with newly drawn ones; none where not given."""
    population_every: Count | None = None
    """Steps between exchanges of a --population, a multiple of --evaluate-every; each evaluation where not given."""
    runs: Path = Path("runs")
    """Folder of all run folders."""
    name: str | None = None
    """Name of the run folder; the task and the seed where not given."""
    resume: bool = False
    """Continue from the folder's newest whole checkpoint; where there is none, start from the beginning."""
    overwrite: bool = False
    """Move a finished run of that name aside (to NAME.1, NAME.2, …) and start anew."""


@dataclasses.dataclass(frozen=True)
class Run(Options, Which):
    """Settings of a run that are the same for every algorithm."""

    start_from: Path | None = None
    """Run folder from whose newest whole checkpoint a new run begins, with settings of its own."""
    start_parts: tuple[str, ...] = ()
    """Trained parts to take from --start-from, such as policy critic; the whole learner where none is named."""
    progress: bool = True
    """Show the progress bar; the lines above it are printed anyway."""
    stop_at_return: float | None = None
    """Mean return of an evaluation on the way at which the run stops; it never stops early where not given."""
    video: bool = False
    """Film one episode of the final policy (of the first member): video.mp4."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "seed", self.seed <= LARGEST_SEED, f"at most {LARGEST_SEED}")
        last = self.seed + self.seeds - 1
        require(self, "start_parts", not self.start_parts or self.start_from is not None, "empty without --start-from")
        alone = self.population_every is not None and self.population is None
        require(self, "population_every", not alone, "left out without --population")
        require(self, "seeds", last <= LARGEST_SEED, f"fewer: the last seed must be at most {LARGEST_SEED}")

    def options(self) -> Options:
        """The options of `training.train`."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(Options)}
        return Options(**given | {"progress": self.progress or "lines"})


@dataclasses.dataclass(frozen=True)
class FromDataset:
    """The dataset to learn from, and its task."""

    dataset: Path = Path("dataset.hdf5")
    """A file of D4RL's layout (HDF5), a folder of Minari's, or OGBench's npz; experiments/collect.py makes some."""
    env: str | None = None
    """The task, as rljax.make takes it, or none if it has no simulator; the dataset's where not given."""
    family: str | None = None
    """Family of tasks whose published settings are the defaults of --config: locomotion, antmaze, adroit,
    adroit_binary, or none; where not given, found by the name of the task or the dataset."""
    max_episode_steps: int | None = None
    """Time limit of the episodes in D4RL's oldest files, which do not mark it; where not given, the limit of --env."""

    rewards: ClassVar[Literal["required", "optional"]] = "required"


@dataclasses.dataclass(frozen=True)
class OfflineRun(FromDataset):
    """Settings of a run that are the same for every algorithm that learns from a dataset."""

    total_steps: int = 1_000_000
    """Updates of each member."""
    online_steps: int = 0
    """Environment steps after all updates, in which the same agent acts and goes on learning."""
    block_size: int = 0
    """Transitions per block, for a dataset that is streamed because it does not fit on the device; 0 keeps all of it
    there."""


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """Difference between executed and commanded actions (see rljax.envs.ExecutionMismatch)."""

    delay: int = 0
    """Steps until an action has an effect."""
    smoothing: float = 0.0
    """Share of the last executed action in the next one, in [0, 1)."""
    rate_limit: float = 1.0
    """Largest change of the executed action in a step, as a share of the action's range."""

    def options(self) -> dict[str, Any]:
        """The arguments for rljax.make; none where actions are executed as commanded."""
        return {} if self == Mismatch() else {"mismatch": dataclasses.asdict(self)}
