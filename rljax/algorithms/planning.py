"""Exact planning in a finite MDP: value iteration, policy iteration and what lies between them.

Bellman 1957, "Dynamic programming": value iteration and backward induction. Howard 1960, "Dynamic programming and
Markov processes": policy iteration. Puterman and Shin 1978: modified policy iteration. MacQueen 1966 and Porteus 1971:
bounds from the span of the last change. Puterman 1994, "Markov decision processes", chapter 6, has all of them;
Haarnoja et al. 2017 (arXiv 1702.08165) the entropy-regularised one.

All are pure functions of arrays: jit them, vmap them over MDPs of one shape, shard states over devices.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from rljax.envs.finite import MDP
from rljax.types import Refused

Method = Literal["direct", "bicgstab"]
BLOCK = 128
"""Sweeps after which residuals join the history."""
PATIENCE = 30
"""Sweeps without a smaller change, once changes are of the size of rounding, after which there is nothing to gain."""


class Solution(struct.PyTreeNode):
    """What planning found.

    Fields:
      values: f [S], V.
      action_values: f [S, A], Q: one backup of `values`.
      policy: int32 [S], greedy in Q; of equal actions the first. Soft value iteration has its probabilities, f [S, A].
      bound: f [], how far `values` may be from V* in any state, rounding included; infinite where nothing is certain
        (γ = 1).
      residuals: f [max_sweeps], the largest change of each sweep; NaN after the last one.
      sweeps: int32 [], backups of all states that were made.
    """

    values: jax.Array
    action_values: jax.Array
    policy: jax.Array
    bound: jax.Array
    residuals: jax.Array
    sweeps: jax.Array


def value_iteration(
    mdp: MDP, tolerance: float = 1e-6, max_sweeps: int = 10_000, blocks: int = 1, values: jax.Array | None = None
) -> Solution:
    """Backs up all states until the values are certain to `tolerance`, or as far as rounding lets them be.

    It stops by the span of the last change rather than by its size: V* lies between the smallest and the largest change
    times γ/(1-γ) (MacQueen 1966; Puterman 1994, theorem 6.6.6), and the middle is returned. For γ = 1 it stops once no
    value changes by more than the tolerance, and nothing is certified.

    Args:
      tolerance: of the certified error, in units of reward.
      max_sweeps: after so many it stops in any case; look at `bound`. It is also the length of `residuals`: with
        thousands of processes at once a small one saves memory and time.
      blocks: more than 1 backs the states up in so many blocks, each with the new values of those before it
        (Gauss-Seidel): fewer sweeps, each a little slower. It must divide the number of states.
      values: a first guess [S]; zeros by default.
    """
    if mdp.num_states % blocks:
        raise Refused(f"value_iteration: blocks = {blocks} must divide {mdp.num_states} states")
    backup = mdp.backup if blocks == 1 else functools.partial(_blockwise, mdp, blocks=blocks)
    start = jnp.zeros_like(mdp.rewards[0]) if values is None else values
    start = jnp.where(mdp.terminal, 0.0, start)
    return _solution(mdp, *_iterated(mdp, lambda v: (backup(v), None), start, tolerance, max_sweeps, blocks == 1))


def soft_value_iteration(mdp: MDP, temperature: float, tolerance: float = 1e-6, max_sweeps: int = 10_000) -> Solution:
    """Value iteration with an entropy bonus α H(π) in every state: V = α log Σ exp(Q/α), π = exp((Q - V)/α).

    The soft backup is monotone and moves with a constant as the hard one does, so that the same bounds hold.
    """

    def backup(values: jax.Array) -> jax.Array:
        q = jnp.stack(mdp.action_values(values), -1)
        return jnp.where(mdp.terminal, 0.0, temperature * jax.nn.logsumexp(q / temperature, axis=-1))

    start = jnp.zeros_like(mdp.rewards[0])
    values, residuals, count = _iterated(mdp, lambda v: (backup(v), None), start, tolerance, max_sweeps)
    solution = _solution(mdp, values, residuals, count, backup)
    # Of the logarithm and the exponentials, over and above a hard backup's.
    rounding = jnp.finfo(start.dtype).eps * (mdp.num_actions + 4) * (temperature + jnp.abs(solution.values).max())
    return solution.replace(
        policy=jax.nn.softmax(solution.action_values / temperature),
        bound=solution.bound + 2 * rounding / jnp.maximum(1 - mdp.discount, 1e-30),
    )


def policy_evaluation(mdp: MDP, policy: jax.Array, method: Method = "direct", tolerance: float = 1e-6) -> jax.Array:
    """V of a deterministic policy, int [S], from (I - γ P) V = r: [S].

    Args:
      method: "direct" solves it by a matrix [S, S]; "bicgstab" needs products with P alone, for many states.
      tolerance: of bicgstab, relative to the rewards.
    """
    under = mdp.under(policy)
    if method == "direct":
        matrix = jnp.eye(mdp.num_states, dtype=mdp.rewards.dtype) - mdp.discount * _matrix(under)
        return jnp.linalg.solve(matrix, under.rewards[0])

    def left(values: jax.Array) -> jax.Array:
        return values - mdp.discount * under.expected(values)[0]

    return jax.scipy.sparse.linalg.bicgstab(left, under.rewards[0], tol=tolerance)[0]


def policy_iteration(mdp: MDP, max_iterations: int = 100, method: Method = "direct") -> Solution:
    """Evaluates and improves by turns until no action is better (Howard 1960). `sweeps` counts improvements.

    An action is only given up for one that is better by more than rounding, so that ties do not send it in circles.
    """

    def improve(carry: tuple) -> tuple:
        policy, _, residuals, count = carry
        values = policy_evaluation(mdp, policy, method)
        q = jnp.stack(mdp.action_values(values), -1)
        current = jnp.take_along_axis(q, policy[:, None], axis=-1)[:, 0]
        gain = q.max(-1) - current
        better = gain > _rounding(mdp, values)
        policy = jnp.where(better, jnp.argmax(q, -1), policy).astype(jnp.int32)
        return policy, better.any(), residuals.at[count].set(gain.max()), count + 1

    start = jnp.zeros(mdp.num_states, jnp.int32), jnp.array(True)
    residuals = jnp.full(max_iterations, jnp.nan, mdp.rewards.dtype)
    policy, _, residuals, count = jax.lax.while_loop(
        lambda carry: carry[1] & (carry[3] < max_iterations), improve, (*start, residuals, jnp.int32(0))
    )
    return _solution(mdp, policy_evaluation(mdp, policy, method), residuals, count)


def modified_policy_iteration(
    mdp: MDP, evaluations: int = 20, tolerance: float = 1e-6, max_sweeps: int = 10_000
) -> Solution:
    """Value iteration with `evaluations` cheaper backups under the greedy policy after each full one."""

    def evaluate(values: jax.Array, policy: jax.Array) -> jax.Array:
        under = mdp.under(policy)
        return jax.lax.fori_loop(0, evaluations, lambda _, v: under.action_values(v)[0], values)

    start = jnp.zeros_like(mdp.rewards[0])
    found = _iterated(mdp, lambda v: _greedy(mdp.action_values(v)), start, tolerance, max_sweeps, then=evaluate)
    return _solution(mdp, *found)


def backward_induction(mdp: MDP, horizon: int, last: jax.Array | None = None) -> Solution:
    """The best for a given number of steps. What `Solution` holds has one more axis, the first step first.

    Values are [horizon + 1, S], ending with `last`; action values [horizon, S, A]; policies [horizon, S]. The bound is
    that of rounding.

    Args:
      last: values [S] of where the last step leads; zeros by default.
    """
    last = jnp.zeros_like(mdp.rewards[0]) if last is None else last

    def step(carry: tuple, _: Any) -> tuple[tuple, tuple]:
        values, error = carry
        q = jnp.stack(mdp.action_values(values), -1)
        new = q.max(-1)
        error = mdp.discount * error + _rounding(mdp, values)
        return (new, error), (new, q, q.argmax(-1).astype(jnp.int32), jnp.abs(new - values).max())

    start = last, jnp.zeros_like(mdp.discount)
    (_, bound), (values, q, policy, residuals) = jax.lax.scan(step, start, None, horizon, reverse=True)
    return Solution(jnp.concatenate([values, last[None]]), q, policy, bound, residuals, jnp.int32(horizon))


def _iterated(
    mdp: MDP, sweep: Callable[[jax.Array], tuple[jax.Array, Any]], start: jax.Array, tolerance: float,
    max_sweeps: int, synchronous: bool = True, then: Callable[[jax.Array, Any], jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Values, residuals and the number of sweeps, of `sweep(values) -> (new values, more)` and `then(new, more)`.

    It ends where what is left is below half the tolerance, or where the changes are rounding and fall no further.
    """

    def left(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
        size = jnp.maximum(-low, high)
        change = (high - low) / 2 if synchronous else size
        return change, jnp.where(mdp.discount < 1, _horizon(mdp) * change, size)

    def one(carry: tuple) -> tuple:
        values, _, (lowest, since), recent, count = carry
        new, more = sweep(values)
        low, high = _span(mdp, new - values)
        change, error = left(low, high)
        since = jnp.where(change < lowest, 0, since + 1)
        stalled = (since >= PATIENCE) & (change <= 2 * _rounding(mdp, new))
        recent = recent.at[count % BLOCK].set(jnp.maximum(-low, high))
        done = (error <= tolerance / 2) | stalled
        if then is not None:
            new = jax.lax.cond(done, lambda new, _: new, then, new, more)
        return new, done, (jnp.minimum(lowest, change), since), recent, count + 1

    def block(carry: tuple) -> tuple:
        # Under vmap a loop selects between old and new of all that it carries: the whole history, but once in a while.
        values, done, progress, residuals, first = carry
        last = jnp.minimum(first + BLOCK, max_sweeps)
        recent = jnp.full(BLOCK, jnp.nan, start.dtype)
        values, done, progress, recent, count = jax.lax.while_loop(
            lambda carry: ~carry[1] & (carry[4] < last), one, (values, done, progress, recent, first)
        )
        return values, done, progress, jax.lax.dynamic_update_slice(residuals, recent, (first,)), count

    progress = jnp.asarray(jnp.inf, start.dtype), jnp.int32(0)
    residuals = jnp.full(-(-max_sweeps // BLOCK) * BLOCK, jnp.nan, start.dtype)
    values, _, _, residuals, count = jax.lax.while_loop(
        lambda carry: ~carry[1] & (carry[4] < max_sweeps),
        block,
        (start, jnp.array(False), progress, residuals, jnp.int32(0)),
    )
    return values, residuals[:max_sweeps], count


def _blockwise(mdp: MDP, values: jax.Array, blocks: int) -> jax.Array:
    size = mdp.num_states // blocks

    def one(block: jax.Array, values: jax.Array) -> jax.Array:
        def part(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, block * size, size, axis=-1)

        own = mdp.replace(
            rewards=part(mdp.rewards),
            probabilities=part(mdp.probabilities),
            successors=None if mdp.successors is None else part(mdp.successors),
        )
        return jax.lax.dynamic_update_slice_in_dim(values, own.backup(values), block * size, axis=0)

    return jax.lax.fori_loop(0, blocks, one, values)


def _horizon(mdp: MDP) -> jax.Array:
    """γ/(1-γ); 0 for γ = 1."""
    return jnp.where(mdp.discount < 1, mdp.discount / jnp.maximum(1 - mdp.discount, 1e-30), 0.0)


def _span(mdp: MDP, change: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest change; 0 is between them where an episode can end, for there values stay."""
    low, high = change.min(), change.max()
    ends = mdp.terminal.any()
    return jnp.where(ends, jnp.minimum(low, 0.0), low), jnp.where(ends, jnp.maximum(high, 0.0), high)


def _rounding(mdp: MDP, values: jax.Array) -> jax.Array:
    """How far one computed backup may be from the exact one of the process that was meant."""
    precision = jnp.finfo(values.dtype).eps
    terms = mdp.probabilities.shape[1] + 2
    return terms * precision * (jnp.abs(mdp.rewards).max() + mdp.discount * jnp.abs(values).max())


def _solution(
    mdp: MDP,
    values: jax.Array,
    residuals: jax.Array,
    count: jax.Array,
    backup: Callable[[jax.Array], jax.Array] | None = None,
) -> Solution:
    """With the bound that one more backup proves, whatever was done before it; the middle of what it leaves open."""
    new = (backup or mdp.backup)(values)
    low, high = _span(mdp, new - values)
    values = jnp.where(mdp.terminal, 0.0, new + _horizon(mdp) * (low + high) / 2)
    bound = _horizon(mdp) * (high - low) / 2 + 2 * _rounding(mdp, new) / jnp.maximum(1 - mdp.discount, 1e-30)
    bound = jnp.where(mdp.discount < 1, bound, jnp.inf)
    q = mdp.action_values(values)
    return Solution(values, jnp.stack(q, -1), _greedy(q)[1], bound, residuals, count)


def _greedy(action_values: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The largest of each state, and which it is; of equal ones the first."""
    best, policy = action_values[0], jnp.zeros(action_values[0].shape, jnp.int32)
    for action, value in enumerate(action_values[1:], start=1):
        policy, best = jnp.where(value > best, action, policy), jnp.maximum(best, value)
    return best, policy


def _matrix(mdp: MDP) -> jax.Array:
    """P [S, S] of a process with one action."""
    if mdp.successors is None:
        return mdp.probabilities[0].T
    states = jnp.arange(mdp.num_states)
    matrix = jnp.zeros((mdp.num_states, mdp.num_states), mdp.rewards.dtype)
    return matrix.at[states, mdp.successors[0]].add(mdp.probabilities[0])
