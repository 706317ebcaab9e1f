"""A learner whose experience comes from actors elsewhere: SAC, RLPD and the like, from replay.

    with Actors(read_token(), port=7777) as actors:
        algorithm = actors.feed(sac.make(env, config))
        training.train(algorithm, key, 20_000, folder="runs/arm", callbacks=[actors])

Training is the runner's, with all that belongs to it; a step of the algorithm takes the transitions of one iteration
from those that have arrived, in place of a rollout. So the ratio of updates to transitions is that of the config, and
training waits where nothing arrives.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax.algorithms.core.contract import Algorithm
from rljax.algorithms.core.fed import fed
from rljax.remote.feed import FromActors
from rljax.remote.schema import Schema
from rljax.remote.server import Offer, Server
from rljax.training.callbacks import Callback
from rljax.training.logs import CsvLog, Row

COLUMNS = (
    *("step", "actor", "connected", "connections", "transitions", "episodes", "return", "lag"),
    *("interventions", "dropped", "overruns", "seconds"),
)
"""Columns of actors.csv."""


class Actors(Callback):
    """The actors of one run: a server that feeds an algorithm, and a callback that hands out its policies.

    Args:
      token, host, port, **how: see `Server`.
      folder: the run folder, in which `actors.csv` has a row per log and actor, and `actors.log` all that happened;
        None keeps neither.
      publish_every: least number of seconds between two policies that are handed out.
      say: takes each line of what happens, besides the log.
    """

    def __init__(
        self,
        token: bytes,
        host: str = "127.0.0.1",
        port: int = 0,
        folder: Path | None = None,
        publish_every: float = 0.25,
        say: Callable[[str], None] = lambda line: None,
        **how: Any,
    ):
        self.folder, self.publish_every, self.say = folder, publish_every, say
        self._csv: CsvLog | None = None
        self._source: FromActors | None = None
        self._iteration = 0
        self._published, self._begin = -float("inf"), time.monotonic()
        self._resumed: int | None = None
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self.server = Server(token, host, port, log=self._note, **how)

    def __enter__(self) -> "Actors":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.close()

    def close(self, over: str | None = None) -> None:
        """Ends the connections (see `Server.close`)."""
        if self._source is not None and (unused := self._source.unused(self._iteration)):
            self._note(f"{unused} transitions had arrived and were not learned from")
        self._source = None
        self.server.close(over)
        if self._csv is not None:
            self._csv.close()
            self._csv = None

    def feed(self, algorithm: Algorithm) -> Algorithm:
        """The algorithm, with transitions of actors in place of its own environments', and open to them.

        Raises:
          Refused: it has no replay that others could fill.
        """
        algorithm = fed(algorithm)
        self.loop, env = algorithm.loop, algorithm.env
        self._acting = jax.jit(lambda state: jax.tree.leaves(self.loop.acting(state)))
        schema = Schema(env.observation_space, env.action_space)  # type: ignore[arg-type]  # no Dict of actions
        shape = self.loop.config.rollout_length, self.loop.config.num_envs
        name = str(env.spec.get("name", algorithm.name))
        self._source = source = FromActors(self.server, schema, shape, name, algorithm.data)
        memory = tuple(np.asarray(x) for x in jax.tree.leaves(self.loop.agent.exploring_memory))
        self.server.open(schema, self.loop.exported(), memory, source.number)
        self._note(f"listening on {self.server.address[0]}:{self.server.address[1]}")
        return algorithm._replace(data=source)

    def on_slice(self, steps: int, state: Any) -> str | None:
        if self._resumed is None:
            self._resumed = steps
            if self.folder is not None and not self.folder.is_dir():
                self.folder = None  # the run keeps everything in memory
        self._iteration = steps // self.loop.per_iteration
        if time.monotonic() - self._published >= self.publish_every:
            self._published = time.monotonic()
            leaves = tuple(np.array(x) for x in jax.device_get(self._acting(state)))
            iteration = int(state.iteration)
            trained = iteration > self.loop.config.first_learning_iteration or not self.loop.random_start
            self.server.publish(Offer(iteration, trained, leaves))
        return None

    def on_log(self, steps: int, rows: list[Row]) -> str | None:
        if self.folder is None:
            return None
        if self._csv is None:
            self._csv = CsvLog(self.folder / "actors.csv", COLUMNS, self._resumed or None)
        self._csv.write(self.rows(steps))
        return None

    def rows(self, steps: int) -> list[dict[str, Any]]:
        """A row for each actor that ever was: counts since this process began, return and lag since the last rows."""
        found = []
        seconds = round(time.monotonic() - self._begin, 3)
        for name, counts in self.server.report().items():
            row = {column: getattr(counts, column) for column in COLUMNS if hasattr(counts, column)}
            row |= {"step": steps, "actor": name, "connected": int(counts.connected), "seconds": seconds}
            lags = [lag * self.loop.per_iteration for lag in counts.lags]
            found.append(row | {"return": _mean(counts.returns), "lag": _mean(lags)})
        return found

    def _note(self, line: str) -> None:
        """Says a line and writes it to actors.log, once the folder is certain to be this run's."""
        self.say(line)
        with self._lock:
            self._lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            if self._resumed is not None and self.folder is not None:
                with (self.folder / "actors.log").open("a") as file:
                    file.writelines(self._lines)
                self._lines.clear()


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
