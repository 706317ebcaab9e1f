"""Evaluation: whole episodes on fresh environments, separate from training's."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms.core.contract import Algorithm
from rljax.envs.environment import Environment
from rljax.envs.rollout import Acting, advance, begin
from rljax.envs.wrappers import Guard
from rljax.policy import Policy
from rljax.types import Key, Refused


class Episodes(NamedTuple):
    """The sum of rewards and the number of steps of the underlying task, each [num_episodes].

    `discounted` is the sum of rewards discounted from the first step on, [num_episodes], which values estimate.
    `highest` is the highest value of each of the task's metrics, [num_episodes]: for "success", whether there was any.
    """

    returns: jax.Array
    discounted: jax.Array
    lengths: jax.Array
    highest: dict[str, jax.Array]


def judge(algorithm: Algorithm, given: Environment | None, plays: bool) -> Environment:
    """The environment in which policies are evaluated: the one given, or else the algorithm's.

    Args:
      plays: whether there are evaluations at all.

    Raises:
      Refused: the algorithm evaluates itself, and one was given; its spaces are others; or it has no time limit.
    """
    if algorithm.evaluate is not None and given is not None:
        raise Refused(f"evaluate_in must be None: {algorithm.name} is not evaluated by episodes")
    env = algorithm.env if given is None else given
    for which in ("observation_space", "action_space"):
        ours, theirs = (repr(getattr(one, which)) for one in (algorithm.env, env))
        if ours != theirs:
            raise Refused(f"evaluate_in must have the {which} of the algorithm's environment, {ours}; it has {theirs}")
    if algorithm.evaluate is None and plays and env.max_episode_steps is None:
        raise Refused(f"{env!r} has no time limit: set one, or evaluate_every=0 and final_episodes=0")
    return env


def evaluate(
    env: Environment, policy: Policy, key: Key, num_episodes: int = 100, deterministic: bool = True, discount: Any = 1.0
) -> Episodes:
    """Plays `num_episodes` episodes side by side, each to its own end; pure, so it may be jitted and vmapped.

    An episode whose simulation breaks ends there (see `Guard`). One in which an action of the policy is not finite
    has a return of NaN: else it would look as if the simulation had broken, at no cost.

    Args:
      discount: γ of `Episodes.discounted`, for each action.

    Raises:
      ValueError: `env` has no time limit, so an episode might never end.
    """
    limit = env.max_episode_steps
    if limit is None:
        raise Refused(f"evaluation needs a time limit: TimeLimit(env, max_steps), {env!r} has none")
    env = Guard.around(env)
    reset_key, act_key = jax.random.split(key)
    first = begin(env, policy, reset_key, num_episodes)

    Carry = tuple[jax.Array, Acting, jax.Array, Episodes]

    def unfinished(carry: Carry) -> jax.Array:
        count, _, finished, _ = carry
        return (count < limit) & ~finished.all()

    def step(carry: Carry) -> Carry:
        count, acting, finished, episodes = carry
        acting, action, _ = advance(env, policy, acting, jax.random.fold_in(act_key, count), deterministic)
        state = acting.state
        reward = jnp.where(finished, 0.0, jnp.where(_finite(action), state.reward, jnp.nan))
        returns, discounted = episodes.returns + reward, episodes.discounted + jnp.float32(discount) ** count * reward
        steps = state.info["elapsed"] if "elapsed" in state.info else episodes.lengths + 1
        lengths = jnp.where(finished, episodes.lengths, steps)
        highest = {
            name: jnp.where(finished, old, jnp.maximum(old, state.metrics[name]))
            for name, old in episodes.highest.items()
        }
        return count + 1, acting, finished | state.done, Episodes(returns, discounted, lengths, highest)

    lowest = {name: jnp.full(x.shape, -jnp.inf) for name, x in first.state.metrics.items()}
    zero = jnp.zeros(num_episodes, jnp.float32)
    nothing = Episodes(zero, zero, jnp.zeros(num_episodes, jnp.int32), lowest)
    carry = (jnp.int32(0), first, jnp.zeros(num_episodes, bool), nothing)
    return jax.lax.while_loop(unfinished, step, carry)[-1]


def _finite(action: jax.Array) -> jax.Array:
    """Whether all of each action [n, …] is finite, bool [n]."""
    return jnp.isfinite(action).reshape(action.shape[0], -1).all(1)


def score_names(env: Environment) -> tuple[str, ...]:
    """The names of `scores` in this environment; none without a time limit, where nothing is evaluated."""
    if env.max_episode_steps is None:
        return ()
    succeeds = "success" in jax.eval_shape(env.reset, jax.random.key(0)).metrics
    names = ("return", "stochastic_return", "length") + (("success", "stochastic_success") if succeeds else ())
    return tuple(f"evaluation/{name}" for name in names)


def scores(deterministic: Episodes, stochastic: Episodes) -> dict[str, np.ndarray]:
    """Scores of episodes [members, num_episodes] for a row of metrics.csv: means [members]."""
    values = {"return": deterministic.returns, "stochastic_return": stochastic.returns, "length": deterministic.lengths}
    if "success" in deterministic.highest:
        values |= {"success": deterministic.highest["success"], "stochastic_success": stochastic.highest["success"]}
    return {f"evaluation/{name}": np.asarray(value).mean(-1) for name, value in values.items()}


def summarize(episodes: Episodes) -> list[dict[str, float]]:
    """Entries of evaluation.json for each member, from episodes [members, num_episodes].

    `mean` is the mean return, which is the score; `mean_discounted` is what the algorithm maximises.
    `unstable` is the share of episodes that ended because the simulation broke. For a task that can succeed also the
    share of episodes that did, and the mean of each metric's highest value.
    """
    summaries = [
        {
            "mean": float(returns.mean()),
            "std": float(returns.std()),
            "min": float(returns.min()),
            "max": float(returns.max()),
            "mean_length": float(lengths.mean()),
            "mean_discounted": float(discounted.mean()),
            "unstable": float(unstable.mean()),
        }
        for returns, discounted, lengths, unstable in zip(
            episodes.returns, episodes.discounted, episodes.lengths, episodes.highest["unstable"], strict=True
        )
    ]
    if "success" in episodes.highest:
        for member, summary in enumerate(summaries):
            means = {
                name: float(values[member].mean()) for name, values in episodes.highest.items() if name != "unstable"
            }
            summary |= {"success": means.pop("success")} | {f"highest_{name}": mean for name, mean in means.items()}
    return summaries


def share_unstable(summaries: list[dict[str, float]]) -> str:
    """The share of each member's episodes that ended because the simulation broke, in words; empty where none did."""
    shares = [summary.get("unstable", 0.0) for summary in summaries]
    # That of a member that diverged is NaN.
    return ", ".join(f"{share:.1%}" for share in shares) if any(share > 0 for share in shares) else ""
