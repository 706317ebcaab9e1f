"""Actors and a learner apart: threads step the environments while the learner learns from what they made before.

Hessel et al. 2021, "Podracer architectures for scalable reinforcement learning" (arXiv 2104.06272), section 4: Sebulba,
for simulators that cannot be compiled with the algorithm. Each actor has environments of its own and whichever
parameters were the newest when it began its trajectories; these go through a bounded queue to the learner. They are
older than the learner's own by a few updates, so the algorithm must correct for that, as IMPALA does by V-trace, or
bear it, as PPO does by its clipping.

    algorithm = with_actors(lambda: impala.make(rljax.make("gymnasium:LunarLander-v3", vector="envpool")), actors=2)
    training.train(algorithm, key, total_steps, folder="runs/impala/lunar_lander")

All else is the ordinary runner: to it, the actors are a `Feed` of data. So the run folder, checkpoints, evaluation,
signals and resumption are as always, but for one thing: threads race, so that no run can be repeated bit for bit, and
a resumed one begins with new episodes.
"""

import dataclasses
import functools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import devices
from rljax.algorithms.core.contract import Algorithm
from rljax.algorithms.core.on_policy import Loop
from rljax.data import Feed, Metadata
from rljax.types import Key, Mean, Metrics, PyTree, Refused

PATIENCE = 600.0
"""Seconds after which a learner that gets nothing gives up: an actor hangs in its simulator."""
_PAUSE = 0.2
"""Seconds between two looks at whether the other side has gone."""


class Weights(NamedTuple):
    """What actors take over from the learner; `state` lacks its environments and the optimizers' states."""

    version: int
    state: Any


class Block(NamedTuple):
    """What the learner learns from at once; every leaf has a leading axis, of 1 where it is a number.

    Fields:
      collected: what `Loop.collect` gives.
      metrics: of the environments, and of how old it is.
    """

    collected: PyTree
    metrics: PyTree


def with_actors(
    make: Callable[[], Algorithm], actors: int = 2, queue_size: int = 2, device: jax.Device | None = None
) -> Algorithm:
    """The algorithm that `make` makes, with acting left to threads; an iteration learns from one actor's rollout.

    Its metrics tell how far actors and learner are apart: `actors/lag` counts the updates between the parameters that
    acted and those that learned from it, `actors/queue` the rollouts that were waiting, and `actors/wait` the seconds
    for which the learner waited.

    Args:
      make: called once for each actor and once for the learner, so that all have environments of their own.
      actors: number of threads, each with the config's `num_envs` environments.
      queue_size: rollouts that wait for the learner at most; then actors wait, and parameters age no further.
      device: where the actors' parameters are; the learner's device where None.

    Raises:
      Refused: no actors, no queue, or an algorithm that is not on-policy.
    """
    for name, value in (("actors", actors), ("queue_size", queue_size)):
        if value < 1:
            raise Refused(f"{name} = {value} is not allowed; it must be at least 1")
    algorithm = make()
    if not isinstance(algorithm.loop, Loop):
        raise Refused(
            f"{algorithm.name} cannot leave acting to actors; on-policy algorithms can, and impala is made so"
        )
    learn = algorithm.loop.learn

    def init(key: Key) -> Any:
        return without_environments(algorithm.init(key))

    def step(state: Any, block: Block) -> tuple[Any, Metrics]:
        if devices.split():
            raise Refused("actors feed a learner on one device: --devices 1")
        key, learn_key = jax.random.split(state.key)
        state, metrics = learn(state.replace(key=key), block.collected, learn_key)
        return state, metrics | jax.tree.map(lambda x: x[0], block.metrics)

    feed = Actors([make() for _ in range(actors)], queue_size, device)
    return algorithm._replace(init=init, step=step, data=feed, loop=None)


def without_environments(state: Any) -> Any:
    """A state without the fields that are split over devices: environments, and memory of them."""
    fields = [field.name for field in dataclasses.fields(state) if field.metadata.get("sharded")]
    return state.replace(**dict.fromkeys(fields, ()))


class Actors(Feed):
    """Rollouts as the blocks of a feed, one for each iteration. Threads run from the first block to `close`."""

    def __init__(self, algorithms: list[Algorithm], queue_size: int, device: jax.Device | None):
        self.algorithms, self.queue_size, self.device = algorithms, queue_size, device
        self.weights: Weights | None = None
        self._queue: queue.Queue[tuple[int, Block]] = queue.Queue(queue_size)
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._taken: tuple[int, Any] | None = None
        # Compiled once, for a run that is resumed in this process too. Without the learner, which comes with weights.
        self._programs = [
            (
                jax.jit(lambda key, algorithm=algorithm: _environments(algorithm.init(key))),
                jax.jit(functools.partial(_collected, algorithm)),
            )
            for algorithm in algorithms
        ]
        # A copy: the learner's own buffers are written over in its next step.
        self._copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))

    @property
    def metadata(self) -> Metadata:
        return Metadata(str(self.algorithms[0].env.spec["name"]))

    @property
    def spec(self) -> dict[str, Any]:
        return {"actors": len(self.algorithms), "queue_size": self.queue_size}

    @functools.cached_property
    def example(self) -> Any:
        def one(key: Key) -> Block:
            algorithm = self.algorithms[0]
            _, collected, metrics = collecting(algorithm)(algorithm.init(key), key)
            return Block(collected, metrics | ages(0, 0, 0.0))

        return jax.eval_shape(one, jax.random.key(0))

    def left(self, iteration: int) -> int:
        return 1

    def at(self, iteration: int, place: Callable[[Any], Any], state: Any = None) -> Any:
        """The next rollout, once there is one; hands the state to the actors, whose next rollout will be by it.

        Raises:
          Refused: the state is of many members.
          TimeoutError: no actor delivers any more.
          BaseException: what was raised in an actor.
        """
        if self._taken is not None and self._taken[0] == iteration:
            return self._taken[1]
        if state.iteration.ndim:
            raise Refused("actors feed one member: no seeds or sweeps in one program")
        slim = without_environments(state)
        slim = self._copy(slim.replace(learner=slim.learner.replace(optimizer_state={})))
        self.weights = Weights(iteration, slim if self.device is None else jax.device_put(slim, self.device))
        if not self._threads:
            self._begin(iteration)
        begin, waiting = time.perf_counter(), self._queue.qsize()
        version, block = self._next(begin + PATIENCE)
        metrics = block.metrics | ages(iteration - version, waiting, time.perf_counter() - begin)
        self._taken = iteration, place(block._replace(metrics=metrics))
        return self._taken[1]

    def _next(self, deadline: float) -> tuple[int, Block]:
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                return self._queue.get(timeout=_PAUSE)
            except queue.Empty:
                if time.perf_counter() > deadline:
                    raise TimeoutError(f"no actor has delivered anything for {PATIENCE:.0f} s") from None

    def _begin(self, iteration: int) -> None:
        assert self.weights is not None
        key = jax.random.fold_in(self.weights.state.key, iteration)
        self._stop.clear()
        for number, programs in enumerate(self._programs):
            arguments = (*programs, jax.random.fold_in(key, number))
            self._threads.append(
                threading.Thread(target=self._act, args=arguments, name=f"actor-{number}", daemon=True)
            )
            self._threads[-1].start()

    def _act(self, reset: Callable, collect: Callable, key: Key) -> None:
        """What one thread does until it is told to stop."""
        try:
            with jax.default_device(self.device):
                key, first_key = jax.random.split(key)
                environments = reset(first_key)
                while not self._stop.is_set():
                    key, own_key = jax.random.split(key)
                    assert self.weights is not None
                    version, state = self.weights
                    environments, block = collect(state, environments, own_key)
                    self._put(version, jax.block_until_ready(block))
        except BaseException as error:  # raised again in the learner's thread
            self._failure = error

    def _put(self, version: int, block: Block) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put((version, block), timeout=_PAUSE)
            except queue.Full:
                continue

    def close(self) -> None:
        """Stops the actors after the rollouts that they are at, and forgets what they made."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._threads, self._taken, self._failure = [], None, None
        while not self._queue.empty():
            self._queue.get_nowait()


def _environments(state: Any) -> dict[str, Any]:
    """The fields that `without_environments` leaves out."""
    return {
        field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.metadata.get("sharded")
    }


def collecting(algorithm: Algorithm) -> Callable[[Any, Key], tuple[Any, PyTree, Metrics]]:
    """`Loop.collect`, with metrics as a block has them."""

    def collect(state: Any, key: Key) -> tuple[Any, PyTree, Metrics]:
        state, collected, metrics = algorithm.loop.collect(state, key)
        return state, collected, jax.tree.map(lambda x: jnp.asarray(x)[None], metrics)

    return collect


def _collected(
    algorithm: Algorithm, state: Any, environments: dict[str, Any], key: Key
) -> tuple[dict[str, Any], Block]:
    state, collected, metrics = collecting(algorithm)(state.replace(**environments), key)
    return _environments(state), Block(collected, metrics)


def ages(lag: int, waiting: int, seconds: float) -> Metrics:
    """How far actors and learner are apart."""
    values = {"actors/lag": lag, "actors/queue": waiting, "actors/wait": seconds}
    return {name: Mean(jnp.float32(x)[None], jnp.ones(1, jnp.float32)) for name, x in values.items()}
