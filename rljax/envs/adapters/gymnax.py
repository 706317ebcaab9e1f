"""Tasks of gymnax: `make("gymnax:Breakout-MinAtar")` (Lange 2022, github.com/RobertTLange/gymnax)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.adapters.common import box, check_observation, import_package, like, rekey, unknown_name
from rljax.envs.environment import Environment, State, initial_state
from rljax.envs.wrappers import end_broken
from rljax.spaces import ArraySpace, Box, Discrete
from rljax.types import Key, Refused

_NO_LIMIT = np.iinfo(np.int32).max


class GymnaxEnvironment(Environment):
    """A gymnax environment with its parameters. Physics: {"state": gymnax's state, "key": of the next step, "obs"}.

    Steps are gymnax's `step_env`, which does not reset, so that the last observation survives. Observations are f32,
    images [height, width, channels] as they are, a `Discrete` one as one-hot.

    The time limit is gymnax's own, `max_steps_in_episode`. gymnax 1.x tells it apart from termination. Before, `done`
    is both: there `terminated` is what `done` would be without the limit, and a step that ends for the limit alone is
    `truncated`. What gymnax itself counts as termination stays so: UmbrellaChain and MemoryChain end by their own
    length. DeepSea's totals over many episodes start anew in each. A step that is not finite ends its episode
    (see `Guard`).
    """

    def __init__(self, env: Any, params: Any, name: str = ""):
        self.env = env
        self.params = params
        self.name = name
        limit = int(params.max_steps_in_episode)
        self.max_episode_steps = None if limit == _NO_LIMIT else limit
        self._num_observations = getattr(env.observation_space(params), "n", None)
        space = self._space("observation_space", env.observation_space(params))
        self.observation_space: ArraySpace = Box(0.0, 1.0, (space.n,)) if isinstance(space, Discrete) else space
        self.action_space = self._space("action_space", env.action_space(params))
        observed = jax.eval_shape(self.reset, jax.random.key(0)).obs
        check_observation(name, self.observation_space.shape, observed.shape)

    def _space(self, which: str, space: Any) -> ArraySpace:
        if hasattr(space, "n"):
            return Discrete(int(space.n))
        if hasattr(space, "low"):
            return box(f"{self.name}: {which}", np.asarray(space.low), np.asarray(space.high), space.shape)
        raise Refused(f"{self.name}: spaces are Box or Discrete here, it has a {type(space).__name__}")

    def reset(self, key: Key) -> State:
        reset_key, step_key = jax.random.split(key)
        obs, state = self.env.reset_env(reset_key, self.params)
        physics = {"state": jax.tree.map(jnp.asarray, state), "key": step_key, "obs": self._observe(obs)}
        return initial_state(physics, physics["obs"], unstable=jnp.float32(0.0)).replace(info=self._info(state))

    def step(self, state: State, action: jax.Array) -> State:
        before = state.physics["state"]
        key, step_key = jax.random.split(state.physics["key"])
        obs, after, reward, done, _ = self.env.step_env(step_key, before, action, self.params)
        if hasattr(self.env, "is_truncated"):  # gymnax 1.x
            terminated, truncated = done, self.env.is_truncated(after, self.params)
        else:
            # Some games note `done` in their state, so asking `is_terminal` of it would not do. XLA computes what the
            # two calls have in common once.
            unlimited = self.params.replace(max_steps_in_episode=_NO_LIMIT)
            terminated, truncated = self.env.step_env(step_key, before, action, unlimited)[3], done
        terminated = jnp.asarray(terminated, bool)
        stepped = state.replace(
            obs=self._observe(obs),
            reward=jnp.asarray(reward, jnp.float32),
            terminated=terminated,
            truncated=jnp.asarray(truncated, bool) & ~terminated,
            info=state.info | self._info(after),
        )
        stepped = end_broken(stepped, state.physics["obs"])
        return stepped.replace(physics={"state": like(after, before), "key": key, "obs": stepped.obs})

    def rekey(self, state: State, key: Key) -> State:
        """`state` with its random keys drawn anew, and nothing else changed."""
        return state.replace(physics=rekey(state.physics, key))

    def _observe(self, obs: jax.Array) -> jax.Array:
        if self._num_observations is not None:
            return jax.nn.one_hot(obs, self._num_observations)
        return jnp.asarray(obs, jnp.float32)

    def _info(self, state: Any) -> dict[str, jax.Array]:
        return {"elapsed": jnp.asarray(state.time, jnp.int32)}


def make(name: str, **kwargs: Any) -> Environment:
    """Makes a gymnax task.

    Args:
      max_episode_steps: replaces gymnax's `max_steps_in_episode`; None or 0 for none.
      **kwargs: fields of the task's `EnvParams`, else arguments of its constructor.

    Raises:
      ValueError: gymnax is missing, or does not know the task or an argument.
    """
    gymnax = import_package("gymnax", "gymnax", '"rljax[gymnax]"')
    if name not in gymnax.registered_envs:
        raise unknown_name("gymnax", name, gymnax.registered_envs)
    if "max_episode_steps" in kwargs:
        kwargs["max_steps_in_episode"] = kwargs.pop("max_episode_steps") or _NO_LIMIT
    try:
        _, params = gymnax.make(name)
        own = {key: value for key, value in kwargs.items() if not hasattr(params, key)}
        env, params = gymnax.make(name, **own)
    except TypeError as error:
        raise Refused(f"gymnax:{name}: {error}") from error
    params = params.replace(**{key: value for key, value in kwargs.items() if key not in own})
    return GymnaxEnvironment(env, params, f"gymnax:{name}")
