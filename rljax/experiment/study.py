"""A study of Optuna's on which many processes work: trials are asked for in batches, and those of the dead done again.

Every process holds a lock of the operating system's while it lives (see `training.lock`), under a name that its trials
have. A trial that runs under a name whose lock is free has lost its process, and is asked for again.
"""

import contextlib
import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rljax import paths
from rljax.experiment.space import Range, Space
from rljax.training.lock import LOCK, locked
from rljax.types import Refused

JOURNAL = "journal.log"
ATTEMPTS = 3
"""Number of times that a trial is begun whose process was lost: one may have been lost by the trial's doing."""


class Study:
    """A study that is open in this process."""

    def __init__(self, optuna: Any, study: Any, folder: Path, process: str, dashboard: str):
        self._optuna, self._study, self._folder = optuna, study, folder
        self._process, self._dashboard = process, dashboard
        self._states = optuna.trial.TrialState

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, folder: Path, name: str, storage: str | None, about: dict[str, Any], sampler: str, pruner: str
    ) -> Iterator["Study"]:
        """The study of a folder, made where there is none.

        Args:
          storage: the address of a database; a journal in the folder where None.
          about: what all of its processes must agree on.

        Raises:
          Refused: Optuna is not installed, the storage cannot be used, or the study is one of something else.
        """
        optuna = _optuna()
        paths.require_writable(folder)
        process = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
        with locked(folder / "processes" / process):
            try:
                with _turn(folder):
                    study = optuna.create_study(
                        storage=storage or _journal(optuna, folder / JOURNAL),
                        study_name=name,
                        direction="maximize",
                        load_if_exists=True,
                        sampler=_sampler(optuna, sampler),
                        pruner=_pruner(optuna, pruner),
                    )
                    given = json.loads(json.dumps(about))
                    before = study.user_attrs.get("about")
                    if before is None:
                        study.set_user_attr("about", given)
            except Refused:
                raise
            except Exception as error:  # of whichever database
                reason = " ".join(str(error).split()) or type(error).__name__
                raise Refused(f"storage = {storage or folder / JOURNAL} cannot be used: {reason[:300]}") from error
            if before is not None and before != given:
                other = next(key for key in given if before.get(key) != given[key])
                raise Refused(
                    f"the study {name} was begun with {other} = {before.get(other)!r}, and now it is {given[other]!r}; "
                    "give another --name"
                )
            yield cls(optuna, study, folder, process, storage or str(folder / JOURNAL))

    def remembered(self, name: str, value: Callable[[], Any]) -> Any:
        """A value that the first process finds, and all others have from it."""
        with _turn(self._folder):
            if name not in self._study.user_attrs:
                self._study.set_user_attr(name, value())
            return self._study.user_attrs[name]

    def ask(self, space: Space, count: int, total: int, shared: Sequence[str]) -> list[Any]:
        """The next trials, at most `count`, which differ in the values called `shared` alone; none once all are begun.

        Args:
          total: trials of the study, over all processes.
          shared: names of the values that members of one program may differ in.
        """
        with _turn(self._folder):
            self._revive()
            left = total - len([t for t in self._study.get_trials(deepcopy=False) if t.state != self._states.FAIL])
            left += self._waiting()
            trials: list[Any] = []
            while len(trials) < min(count, left):
                if trials and not self._waiting():
                    alike = {n: v for n, v in trials[0].params.items() if n not in shared}
                    if alike:
                        self._study.enqueue_trial(alike)
                trial = self._study.ask()
                trial.set_user_attr("process", self._process)
                for name, values in space.items():
                    _suggest(trial, name, values)
                trials.append(trial)
            first = [t for t in trials if _alike(t, trials[0], shared)]
            self._requeue([trial for trial in trials if trial not in first])
        return first

    def tell(self, trials: list[Any], scores: np.ndarray | None) -> None:
        """Ends trials with their scores; those without a number for a score count as pruned."""
        for index, trial in enumerate(trials):
            good = scores is not None and np.isfinite(scores[index])
            value = float(scores[index]) if scores is not None and good else None
            self._study.tell(trial, value, state=self._states.COMPLETE if good else self._states.PRUNED)

    def give_back(self, trials: list[Any]) -> None:
        """Leaves trials that were begun to whoever asks next."""
        with _turn(self._folder):
            self._requeue(trials)

    def best(self) -> dict[str, Any] | None:
        """The values of the best trial; None where none was completed."""
        done = self._study.get_trials(deepcopy=False, states=(self._states.COMPLETE,))
        return dict(self._study.best_params) if done else None

    def lines(self, trials: list[Any]) -> list[str]:
        """What became of trials, in words."""
        frozen = {t.number: t for t in self._study.get_trials(deepcopy=False)}
        return [_line(frozen[trial.number]) for trial in trials]

    def summary(self) -> str:
        """What became of the study, in words."""
        counted = {state.name.lower(): 0 for state in self._states}
        for trial in self._study.get_trials(deepcopy=False):
            counted[trial.state.name.lower()] += 1
        begun = ", ".join(f"{number} {state}" for state, number in counted.items() if number)
        best = self.best()
        line = "no trial has a score" if best is None else f"best: {_line(self._study.best_trial)}"
        return f"study {self._study.study_name}: {begun}\n{line}\nto look at it: optuna-dashboard {self._dashboard}"

    def _waiting(self) -> int:
        return len(self._study.get_trials(deepcopy=False, states=(self._states.WAITING,)))

    def _revive(self) -> None:
        """Has the trials of processes that died done again; those of processes that this machine cannot see stay."""
        running: dict[str, list[Any]] = {}
        for trial in self._study.get_trials(deepcopy=False, states=(self._states.RUNNING,)):
            running.setdefault(str(trial.user_attrs.get("process")), []).append(trial)
        for process, trials in running.items():
            place = self._folder / "processes" / process
            if (place / LOCK).exists():
                with contextlib.suppress(Refused), locked(place):  # held, where it lives
                    self._requeue(trials)

    def _requeue(self, trials: list[Any]) -> None:
        for trial in trials:
            attempt = trial.user_attrs.get("attempt", 1) + 1
            self._study.tell(trial.number, state=self._states.FAIL)
            if attempt <= ATTEMPTS:
                self._study.enqueue_trial(trial.params, user_attrs={"attempt": attempt})


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise Refused("optuna is not installed: pip install 'rljax[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _journal(optuna: Any, path: Path) -> Any:
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _sampler(optuna: Any, name: str) -> Any:
    if name == "random":
        return optuna.samplers.RandomSampler()
    return optuna.samplers.TPESampler(constant_liar=True)  # trials that run count as bad: others look elsewhere


def _pruner(optuna: Any, name: str) -> Any:
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=10)
    return optuna.pruners.MedianPruner(n_warmup_steps=1) if name == "median" else optuna.pruners.NopPruner()


def _suggest(trial: Any, name: str, values: Range | tuple[str, ...]) -> None:
    if not isinstance(values, Range):
        trial.suggest_categorical(name, list(values))
    elif isinstance(values.low, int) and isinstance(values.high, int):
        trial.suggest_int(name, values.low, values.high, log=values.log)
    else:
        trial.suggest_float(name, values.low, values.high, log=values.log)


def _alike(one: Any, other: Any, shared: Sequence[str]) -> bool:
    return all(one.params[name] == value for name, value in other.params.items() if name not in shared)


def _line(trial: Any) -> str:
    values = ", ".join(f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in trial.params.items())
    score = f"{trial.value:.4g}" if trial.state.name == "COMPLETE" else trial.state.name.lower()
    return f"trial {trial.number}: {score} with {values}"


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One process at a time, of those that share a folder; the others wait."""
    try:
        import fcntl
    except ImportError:  # Windows, where processes may begin some trials more than were asked for
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".turn").open("w") as file:
        with contextlib.suppress(OSError):  # no locks on this file system
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
