"""A finite MDP as an environment to sample from."""

import difflib
import inspect
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rljax.envs.environment import Environment, State, initial_state
from rljax.envs.finite.mdp import MDP
from rljax.envs.finite.worlds import WORLDS
from rljax.envs.wrappers import TimeLimit
from rljax.spaces import Box, Discrete
from rljax.types import Key, Refused


class Finite(Environment):
    """The states of an `MDP`; the reward is the expected reward of the state and the action.

    Args:
      mdp: the process; its discount is left to the learner.
      observation: "index", int32 [], for tables; or "one_hot", f32 [S], for networks.

    Raises:
      Refused: another observation, and a process in which some state lacks some action.
    """

    name = "finite"

    def __init__(self, mdp: MDP, observation: Literal["index", "one_hot"] = "index"):
        if observation not in ("index", "one_hot"):
            raise Refused(f"Finite: observation must be index or one_hot, got {observation!r}")
        mdp.refuse_missing("Finite")
        self.mdp, self.observation = mdp, observation
        self.action_space = Discrete(mdp.num_actions)
        self.observation_space = (
            Discrete(mdp.num_states) if observation == "index" else Box(0.0, 1.0, (mdp.num_states,))
        )

    def observe(self, state: jax.Array) -> jax.Array:
        return state if self.observation == "index" else jax.nn.one_hot(state, self.mdp.num_states)

    def reset(self, key: Key) -> State:
        start_key, key = jax.random.split(key)
        state = jax.random.categorical(start_key, jnp.log(self.mdp.start)).astype(jnp.int32)
        return initial_state((state, key), self.observe(state))

    def rekey(self, state: State, key: Key) -> State:
        position, _ = state.physics
        return state.replace(physics=(position, key))

    def step(self, state: State, action: jax.Array) -> State:
        position, key = state.physics
        key, step_key = jax.random.split(key)
        after = self.mdp.sample(step_key, position, action)
        return state.replace(
            physics=(after, key),
            obs=self.observe(after),
            reward=self.mdp.rewards[action, position].astype(jnp.float32),
            terminated=self.mdp.terminal[after],
            truncated=jnp.zeros((), bool),
        )


def world(name: str, **kwargs: Any) -> MDP:
    """The world of that name, with the arguments of its function in `worlds`.

    Raises:
      Refused: an unknown name, an argument that the world does not take, or a missing one that it needs.
    """
    if name not in WORLDS:
        near = difflib.get_close_matches(name, WORLDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise Refused(f"unknown world {name!r}; {hint}known: {', '.join(WORLDS)}")
    taken = inspect.signature(WORLDS[name]).parameters
    if unknown := sorted(set(kwargs) - set(taken)):
        raise Refused(f"{name} does not take {', '.join(unknown)}; it takes: {', '.join(taken)}")
    needed = [key for key, parameter in taken.items() if parameter.default is parameter.empty and key not in kwargs]
    if needed:
        raise Refused(f"{name} needs {', '.join(needed)}; it takes: {', '.join(taken)}")
    return WORLDS[name](**kwargs)


def make(name: str, observation: Literal["index", "one_hot"] = "one_hot", **kwargs: Any) -> Environment:
    """For `rljax.make("finite:<world>")`: the time limit is 200 steps unless `max_episode_steps` says otherwise."""
    limit = kwargs.pop("max_episode_steps", 200)
    env = Finite(world(name, **kwargs), observation)
    return TimeLimit(env, limit) if limit else env
