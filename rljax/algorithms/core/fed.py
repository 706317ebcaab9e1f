"""The loop of agents whose experience others make: actors elsewhere, on robots or in simulators that are not JAX.

It is the loop of experience.py, in which the transitions of an iteration come as data, in place of a rollout.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import export

from rljax.algorithms.core.contract import Algorithm
from rljax.algorithms.core.experience import Experience, Loop, State
from rljax.data import Replay
from rljax.envs import RescaleAction
from rljax.envs.environment import State as EnvState
from rljax.ops import running_statistics
from rljax.spaces import Box, as_given, example
from rljax.types import Key, Mean, Metrics, PyTree, Refused, Transition

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms on which actors may run, whatever the learner runs on."""
_NOTHING: Any = ()
"""What a loop without environments has of them."""


class Arrived(struct.PyTreeNode):
    """Transitions of several iterations, leaves [iterations, rollout_length, num_envs, …].

    Fields:
      first: int32 [1], the iteration that the first row is for.
      backlog, connected: f32 [1], transitions that wait in the queue, and actors that are connected.
      steps: transitions, with actions in the environment's units.
      episode_return, episode_length: sum of rewards and number of steps of the episode so far.
      version: int32, the iteration whose policy has acted.
      intervened: bool, whether someone else has chosen the action.
    """

    first: jax.Array
    backlog: jax.Array
    connected: jax.Array
    steps: Transition
    episode_return: jax.Array
    episode_length: jax.Array
    version: jax.Array
    intervened: jax.Array


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
        return bytes(export.export(jax.jit(self.explore), platforms=PLATFORMS)(leaves, *shapes).serialize())

    def _replay(self, env_state: EnvState) -> Replay:
        obs = jax.eval_shape(lambda: example(self.env.observation_space))
        return self.buffer(obs, jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), bool))


def fed(algorithm: Algorithm) -> Algorithm:
    """The algorithm with transitions as data of its step: `(arrived, *dataset)`, the first an `Arrived`.

    Raises:
      Refused: it has no replay that others could fill.
    """
    loop = algorithm.loop
    if type(loop) is not Loop:
        raise Refused(f"{algorithm.name} cannot be fed by actors: it must learn from a replay, as sac, td3 or rlpd do")
    c = loop.config
    for name, bad, allowed in (
        ("n_step", c.n_step != 1, "1, for the steps of several actors are mixed"),
        ("return_bound", c.return_bound != 0, "0, for the steps of several actors are mixed"),
        ("prioritized", loop.agent.prioritized, "False"),
        ("calibrated", loop.prepared is not None and c.calibrated, "False"),
        ("executed", loop.env.action_space.shape != algorithm.env.action_space.shape, "1, without chunks"),
        ("history", repr(loop.env.observation_space) != repr(algorithm.env.observation_space), "1"),
    ):
        if bad:
            raise Refused(f"{algorithm.name}.Config: {name} must be {allowed} where actors feed it")
    if loop.agent.rewrites or jax.tree.leaves(loop.agent.extras):
        raise Refused(f"{algorithm.name} cannot be fed by actors: it keeps more than transitions in its replay")
    made = FedLoop(loop.name, loop.env, loop.agent, loop.prepared, loop.random_start)
    return algorithm._replace(init=made.init, step=made.step, loop=made)
