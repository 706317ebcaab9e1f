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
import jax.numpy as jnp
import numpy as np

from rljax.algorithms.core.contract import Algorithm
from rljax.algorithms.core.experience import Experience, Loop, State
from rljax.data import Replay
from rljax.envs import RescaleAction
from rljax.envs.environment import State as EnvState
from rljax.ops import running_statistics
from rljax.remote.feed import Arrived, FromActors
from rljax.remote.schema import Schema
from rljax.remote.server import Offer, Server
from rljax.spaces import Box, as_given, example
from rljax.training.callbacks import Callback
from rljax.training.logs import CsvLog, Row
from rljax.types import Key, Mean, Metrics, PyTree, Refused, Transition

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms on which actors may run, whatever the learner runs on."""
COLUMNS = (
    *("step", "actor", "connected", "connections", "transitions", "episodes", "return", "lag"),
    *("interventions", "dropped", "overruns", "seconds"),
)
"""Columns of actors.csv."""
_NOTHING: Any = ()
"""What a loop without environments has of them."""


class FedLoop(Loop):
    """The loop of an algorithm with replay that is given its transitions, in place of acting."""

    def init(self, key: Key) -> State:
        key, learner_key = jax.random.split(key)
        experience = Experience(
            replay=self._replay(_NOTHING).init(),
            obs_statistics=self.first_statistics(),
            env_state=_NOTHING,
            memory=_NOTHING,
            fresh=_NOTHING,
        )
        return State(jnp.int32(0), key, self.agent.hyper(), self.agent.init(learner_key), experience)

    def step(self, state: State, *data: Any) -> tuple[State, Metrics]:
        arrived, *dataset = data[0]
        key, sample_key, learn_key = jax.random.split(state.key, 3)
        hyper = self.agent.now(state.hyper, state.iteration * float(self.per_iteration))
        experience, metrics = self.insert(state, arrived)
        learner, experience, of_updates = self.improve(
            state.learner,
            experience,
            self.learns(state.iteration, experience.replay),
            (sample_key, learn_key),
            hyper,
            *dataset,
        )
        state = state.replace(iteration=state.iteration + 1, key=key, learner=learner, experience=experience)
        return state, metrics | of_updates

    def insert(self, state: State, arrived: Arrived) -> tuple[Experience, Metrics]:
        """The experience with this iteration's transitions, and what they say of their actors."""
        experience, replay = state.experience, self._replay(_NOTHING)
        row = state.iteration - arrived.first[0]
        own = {name: getattr(arrived, name) for name in arrived.__dataclass_fields__}
        now = {name: jax.tree.map(lambda x: x[row], x) for name, x in own.items() if np.ndim(own[name]) != 1}
        steps: Transition = now["steps"]
        steps = steps.replace(action=self.in_unit(steps.action), extras=self.agent.extras)

        def put(buffer: Any, items: Transition) -> tuple[Any, None]:
            return replay.insert(buffer, items), None

        buffer, _ = jax.lax.scan(put, experience.replay, steps)
        statistics = experience.obs_statistics
        if self.config.normalize_observation and self.prepared is None:
            statistics = running_statistics.update(statistics, as_given(self.env.observation_space, steps.obs))
        done = steps.terminated | steps.truncated
        lag = jnp.maximum(state.iteration - now["version"], 0) * float(self.per_iteration)
        metrics = {
            "episode/return": Mean.of(now["episode_return"], done),
            "episode/length": Mean.of(now["episode_length"], done),
            "actors/lag": Mean.of(lag),
            "actors/interventions": Mean.of(now["intervened"]),
            "actors/backlog": arrived.backlog[0],
            "actors/connected": arrived.connected[0],
        }
        return experience.replace(replay=buffer, obs_statistics=statistics), metrics

    def in_unit(self, action: jax.Array) -> jax.Array:
        """Actions of the environment in the agent's units."""
        if not isinstance(self.env, RescaleAction):
            return action
        low, high = self.env.onto
        bounded = np.isfinite(low) & np.isfinite(high)
        box = Box(np.where(bounded, low, 0.0), np.where(bounded, high, 0.0))
        unit = jnp.clip(box.to_unit(action), -1.0, 1.0)
        return jnp.where(bounded, unit, action).astype(self.env.action_space.dtype)

    def explore(
        self, leaves: list[jax.Array], key_data: jax.Array, memory: list[jax.Array], obs: PyTree, trained: jax.Array
    ) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
        """An action in the environment's units, the next data of the key, and the next memory; for one observation.

        Args:
          leaves: the arrays of `acting`.
          trained: bool [], whether the policy acts; else actions are random.
        """
        agent, action_space = self.agent, self.env.unwrapped.action_space
        shapes = jax.eval_shape(self.acting, jax.eval_shape(self.init, jax.random.key(0)))
        variables, hyper, statistics = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
        key, own = jax.random.split(jax.random.wrap_key_data(key_data, impl="threefry2x32"))
        structure = jax.tree.structure(agent.exploring_memory)
        one, kept = jax.tree.map(lambda x: x[None], (obs, jax.tree.unflatten(structure, memory)))
        asked = (variables, self.normalize(statistics, one), kept, own, hyper)
        if self.random_start:
            action, after, _ = jax.lax.cond(trained, agent.explore, agent.start, *asked)
        else:
            action, after, _ = agent.explore(*asked)
        if isinstance(self.env, RescaleAction):
            action = self.env.rescale(action)
        dtype = jnp.float32 if isinstance(action_space, Box) else action_space.dtype
        after = [x[0] for x in jax.tree.leaves(after)]
        return action[0].astype(dtype), jax.random.key_data(key), after

    def acting(self, state: State) -> PyTree:
        """What `explore` depends on, as it changes from update to update."""
        hyper = self.agent.now(state.hyper, state.iteration * float(self.per_iteration))
        return self.agent.acting(state.learner, hyper), hyper, state.obs_statistics

    def exported(self) -> bytes:
        """`explore`, serialized by `jax.export`: its platform is the actor's."""
        leaves = jax.tree.leaves(jax.eval_shape(self.acting, jax.eval_shape(self.init, jax.random.key(0))))
        shapes = jax.eval_shape(
            lambda: (
                jax.random.key_data(jax.random.key(0, impl="threefry2x32")),
                [jnp.asarray(x) for x in jax.tree.leaves(self.agent.exploring_memory)],
                example(self.env.observation_space),
                jnp.zeros((), bool),
            )
        )
        return bytes(jax.export.export(jax.jit(self.explore), platforms=PLATFORMS)(leaves, *shapes).serialize())

    def _replay(self, env_state: EnvState) -> Replay:
        obs = jax.eval_shape(lambda: example(self.env.observation_space))
        return self.buffer(obs, jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), bool))


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
        if self._source is not None and (lost := self._source.unused(self._iteration)):
            self._note(f"{lost} transitions had arrived and were not learned from")
        self.server.close(over)
        if self._csv is not None:
            self._csv.close()
            self._csv = None

    def feed(self, algorithm: Algorithm) -> Algorithm:
        """The algorithm, with transitions of actors in place of its own environments', and open to them.

        Raises:
          Refused: it has no replay that others could fill.
        """
        loop = algorithm.loop
        if type(loop) is not Loop:
            raise Refused(
                f"{algorithm.name} cannot be fed by actors: it must learn from a replay, as sac, td3 or rlpd do"
            )
        c = loop.config
        for name, bad, allowed in (
            ("n_step", c.n_step != 1, "1, for the steps of several actors are mixed"),
            ("prioritized", loop.agent.prioritized, "False"),
            ("calibrated", loop.prepared is not None and c.calibrated, "False"),
            ("executed", loop.env.action_space.shape != algorithm.env.action_space.shape, "1, without chunks"),
            ("history", repr(loop.env.observation_space) != repr(algorithm.env.observation_space), "1"),
        ):
            if bad:
                raise Refused(f"{algorithm.name}.Config: {name} must be {allowed} where actors feed it")
        if loop.agent.rewrites or jax.tree.leaves(loop.agent.extras):
            raise Refused(f"{algorithm.name} cannot be fed by actors: it keeps more than transitions in its replay")
        self.loop = FedLoop(loop.name, loop.env, loop.agent, loop.prepared, loop.random_start)
        env = algorithm.env
        schema = Schema(env.observation_space, env.action_space)  # type: ignore[arg-type]  # no Dict of actions
        self._acting = jax.jit(lambda state: jax.tree.leaves(self.loop.acting(state)))
        name = str(env.spec.get("name", algorithm.name))
        self._source = source = FromActors(self.server, schema, (c.rollout_length, c.num_envs), name, algorithm.data)
        memory = tuple(np.asarray(x) for x in jax.tree.leaves(loop.agent.exploring_memory))
        self.server.open(schema, self.loop.exported(), memory, source.number)
        self._note(f"listening on {self.server.address[0]}:{self.server.address[1]}")
        return algorithm._replace(init=self.loop.init, step=self.loop.step, data=source, loop=self.loop)

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
