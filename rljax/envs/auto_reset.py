"""Auto-reset: a batch of environments that never stops, and never loses the successor observation."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct

from rljax.envs.environment import Environment, State
from rljax.envs.wrappers import Guard, Wrapper
from rljax.ops.trees import chosen
from rljax.types import Key, Refused, Transition

ResetPolicy = Literal["pool", "full", "first"]
AGE_STREAM = 0xA6E
"""Keys of the first ages are `fold_in(key, this)`: `split` folds in small numbers, and a large one cannot collide."""


class Pool(struct.PyTreeNode):
    """Reset states, each to be used once; split over devices like the environments.

    Fields:
      states: [pool_size].
      used: bool [pool_size], whether a state has started its episode, or was never drawn.
      key: [num_envs], keys of the states to be drawn; all but the first are for other devices.
    """

    states: State
    used: jax.Array
    key: Key


def pool_size_for(num_envs: int) -> int:
    """Size of a pool: a state for every environment, and as many or 32 more, so that they are drawn together.

    A multiple of `num_envs`, so that it divides over every number of devices that the environments divide over.
    """
    return num_envs * (1 + -(-32 // num_envs))


class AutoReset(Wrapper):
    """Steps `num_envs` environments together and replaces each that is done by a fresh one.

    Unlike other environments it is batched already: `reset(key)` takes ONE key and every leaf of the state has a
    leading axis [num_envs]. After a step, `obs` is what to act on next, `reward`, `terminated`, `truncated` and
    `metrics` belong to the step just made, and `info["next_obs"]` is its successor observation from before the reset.
    A broken simulation is truncated before it is seen (see `Guard`). A task that accumulates metrics gets those of the
    reset (`info["first_metrics"]`) at the first step of an episode.

    Where fresh states come from:

    - pool: from `pool_size` reset states, drawn some at a time where they run short. Each starts one episode, so every
      episode is new, for one reset an episode.
    - full: every environment calls `reset` at every step; just as exact, but costly where resets are.
    - first: each environment returns to its own first state for ever, as in Brax, but with noise of its own in each
      episode where the task can `rekey`; for comparison only.

    With `random_age` the very first episodes begin with their clocks at a random age (see `TimeLimit`), so that the
    time limits of environments that began together are not in step; an age counts into the length of an episode.
    """

    def __init__(
        self,
        env: Environment,
        num_envs: int,
        policy: ResetPolicy = "pool",
        pool_size: int | None = None,
        random_age: bool = False,
    ):
        if num_envs < 1:
            raise Refused(f"AutoReset: num_envs must be at least 1, got {num_envs}")
        if policy not in get_args(ResetPolicy):
            raise Refused(f"AutoReset: policy must be one of {get_args(ResetPolicy)}, got {policy!r}")
        if pool_size is not None and pool_size <= num_envs:
            raise Refused(f"AutoReset: pool_size must be more than num_envs = {num_envs}, got {pool_size}")
        super().__init__(Guard.around(env))
        self.num_envs = num_envs
        self.policy = policy
        self.random_age = random_age
        self.pool_size = pool_size_for(num_envs) if pool_size is None else pool_size
        # As many as may be missing; of thousands an eighth, which costs no more in all and stops no step for long.
        self.chunk = min(self.pool_size - num_envs, max(32, num_envs // 8))

    def reset(self, key: Key) -> State:
        first_key, later_key = jax.random.split(key)
        state = self._draw(first_key, self.num_envs)
        if self.policy == "pool":
            nothing = jax.tree.map(self._nothing, state)
            own: Any = Pool(nothing, jnp.ones(self.pool_size, bool), jax.random.split(later_key, self.num_envs))
        elif self.policy == "first":
            own = (state, jax.random.split(later_key, self.num_envs))
        else:
            own = jax.random.split(later_key, self.num_envs)
        if self.random_age:
            ages = jax.random.split(jax.random.fold_in(key, AGE_STREAM), self.num_envs)
            state = jax.vmap(self.env.aged)(state, ages)
        own_info = {"next_obs": state.obs, "fresh": own, "first_metrics": state.metrics}
        return state.replace(info=state.info | own_info)

    def step(self, state: State, action: jax.Array) -> State:
        own = state.info["fresh"]
        own_names = ("fresh", "next_obs", "first_metrics")
        inner = {name: value for name, value in state.info.items() if name not in own_names}
        # The flags and metrics of a last step belong to an episode that is over: accumulation must not see them.
        going = jnp.zeros_like(state.done)
        metrics = chosen(state.done, state.info["first_metrics"], state.metrics)
        before = state.replace(terminated=going, truncated=going, metrics=metrics, info=inner)
        after = jax.vmap(self.env.step)(before, action)
        if self.policy == "pool":
            fresh, own = self._taken(own, after.done)
        elif self.policy == "first":
            first, keys = own
            keys = jax.vmap(jax.random.split)(keys)
            fresh, own = jax.vmap(self.env.rekey)(first, keys[:, 1]), (first, keys[:, 0])
        else:
            keys = jax.vmap(jax.random.split)(own)
            fresh, own = jax.vmap(self.env.reset)(keys[:, 1]), keys[:, 0]
        context = after.context if self.env.keeps_context else fresh.context
        physics, obs, info, context, first_metrics = chosen(
            after.done,
            (fresh.physics, fresh.obs, fresh.info, context, fresh.metrics),
            (after.physics, after.obs, after.info, after.context, state.info["first_metrics"]),
        )
        info |= {"fresh": own, "next_obs": after.obs, "first_metrics": first_metrics}
        return after.replace(physics=physics, obs=obs, info=info, context=context)

    def transition(self, state: State, action: jax.Array, after: State) -> Transition:
        """The experience made by `after = step(state, action)`; leaves are [num_envs, …]."""
        return Transition(
            obs=state.obs,
            action=action,
            reward=after.reward,
            terminated=after.terminated,
            truncated=after.truncated,
            next_obs=after.info["next_obs"],
        )

    def _taken(self, pool: Pool, done: jax.Array) -> tuple[State, Pool]:
        """An unused state [num_envs, …] for each environment that is done, and the pool without these."""
        pool = self._filled(pool)
        (unused,) = jnp.nonzero(~pool.used, size=self.num_envs)
        index = unused[jnp.cumsum(done) - done]
        fresh = jax.tree.map(lambda x: x[index], pool.states)
        # They are read before the pool is written to again, so that it is written to in place.
        fresh, states = jax.lax.optimization_barrier((fresh, pool.states))
        return fresh, pool.replace(states=states, used=pool.used | (jnp.cumsum(~pool.used) <= done.sum()))

    def _filled(self, pool: Pool) -> Pool:
        """The pool with unused states for all environments, should all be done at once."""

        def draw(pool: Pool) -> Pool:
            # All are split, and one is drawn from: JAX's checker of keys does not see into an array that is written to.
            keys = jax.vmap(jax.random.split)(pool.key)
            (place,) = jnp.nonzero(pool.used, size=self.chunk)
            drawn = self._draw(keys[0, 1], self.chunk)
            states = jax.tree.map(lambda old, new: old.at[place].set(new), pool.states, drawn)
            return pool.replace(states=states, used=pool.used.at[place].set(False), key=keys[:, 0])

        return jax.lax.while_loop(lambda pool: (~pool.used).sum() < self.num_envs, draw, pool)

    def _nothing(self, x: jax.Array) -> jax.Array:
        """A leaf of a pool without states yet: copies of some, which nobody takes."""
        some = jax.random.clone(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        return jnp.broadcast_to(some[:1], (self.pool_size, *x.shape[1:]))

    def _draw(self, key: Key, count: int) -> State:
        return jax.vmap(self.env.reset)(jax.random.split(key, count))
