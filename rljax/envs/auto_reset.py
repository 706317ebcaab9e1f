"""Auto-reset: a batch of environments that never stops, and never loses the successor observation."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from rljax.envs.environment import Environment, State
from rljax.envs.wrappers import Wrapper
from rljax.types import Key, Refused, Transition

ResetPolicy = Literal["pool", "full", "first"]


class AutoReset(Wrapper):
    """Steps `num_envs` environments together and replaces each that is done by a fresh one.

    Unlike other environments it is batched already: `reset(key)` takes ONE key and every leaf of the state has a
    leading axis [num_envs]. After a step, `obs` is what to act on next, `reward`, `terminated`, `truncated` and
    `metrics` belong to the step just made, and `info["next_obs"]` is its successor observation from before the reset.

    Where fresh states come from:
      pool: from `pool_size` reset states, taken in turn and drawn anew by `refresh` (once per rollout): no reset
        is computed per step, and episodes still start differently.
      full: every environment calls `reset` at every step; exact, and costly where resets are.
      first: each environment returns to its own first state for ever, as Brax does; for comparison only.
    """

    def __init__(self, env: Environment, num_envs: int, policy: ResetPolicy = "pool", pool_size: int | None = None):
        if num_envs < 1:
            raise Refused(f"AutoReset: num_envs must be at least 1, got {num_envs}")
        if policy not in get_args(ResetPolicy):
            raise Refused(f"AutoReset: policy must be one of {get_args(ResetPolicy)}, got {policy!r}")
        if pool_size is not None and pool_size < 1:
            raise Refused(f"AutoReset: pool_size must be at least 1, got {pool_size}")
        super().__init__(env)
        self.num_envs = num_envs
        self.policy = policy
        self.pool_size = max(num_envs, 32) if pool_size is None else pool_size

    def reset(self, key: Key) -> State:
        first_key, pool_key, later_key = jax.random.split(key, 3)
        state = self._draw(first_key, self.num_envs)
        info = state.info | {"next_obs": state.obs}
        if self.policy == "pool":
            info["pool"] = self._draw(pool_key, self.pool_size)
            info["pool_index"] = jnp.arange(self.num_envs, dtype=jnp.int32) % self.pool_size
            info["pool_oldest"] = jnp.zeros(self.num_envs, jnp.int32)
        elif self.policy == "first":
            info["pool"] = state
        else:
            info["reset_key"] = jax.random.split(later_key, self.num_envs)
        return state.replace(info=info)

    def step(self, state: State, action: jax.Array) -> State:
        own = {
            name: state.info[name] for name in ("pool", "pool_index", "pool_oldest", "reset_key") if name in state.info
        }
        inner = {name: value for name, value in state.info.items() if name not in (*own, "next_obs")}
        # The flags of the last step belong to an episode that is over: a wrapper that adds to them must not see them.
        going = jnp.zeros_like(state.done)
        after = jax.vmap(self.env.step)(state.replace(terminated=going, truncated=going, info=inner), action)
        if self.policy == "pool":
            index = own["pool_index"]
            fresh = jax.tree.map(lambda x: x[index], own["pool"])
            own["pool_index"] = jnp.where(after.done, (index + 1) % self.pool_size, index)
        elif self.policy == "first":
            fresh = own["pool"]
        else:
            keys = jax.vmap(jax.random.split)(own["reset_key"])
            fresh, own["reset_key"] = jax.vmap(self.env.reset)(keys[:, 0]), keys[:, 1]

        def replace(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(after.done.reshape(after.done.shape + (1,) * (new.ndim - 1)), new, old)

        physics, obs, info = jax.tree.map(
            replace, (fresh.physics, fresh.obs, fresh.info), (after.physics, after.obs, after.info)
        )
        return after.replace(physics=physics, obs=obs, info=info | own | {"next_obs": after.obs})

    def refresh(self, state: State, key: Key, count: int | None = None) -> State:
        """Draws the pool of reset states anew, or the `count` oldest of them; the other policies need none.

        Call it once per rollout; where rollouts are as short as a step, with a small `count`.
        """
        if self.policy != "pool":
            return state
        if count is None or count >= self.pool_size:
            return state.replace(info=state.info | {"pool": self._draw(key, self.pool_size)})
        oldest = state.info["pool_oldest"]  # the same for all, though each environment has one
        place = (oldest[0] + jnp.arange(count)) % self.pool_size
        pool = jax.tree.map(lambda old, new: old.at[place].set(new), state.info["pool"], self._draw(key, count))
        return state.replace(info=state.info | {"pool": pool, "pool_oldest": (oldest + count) % self.pool_size})

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

    def _draw(self, key: Key, count: int) -> State:
        return jax.vmap(self.env.reset)(jax.random.split(key, count))
