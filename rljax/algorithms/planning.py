"""Exact planning in a finite MDP: value iteration, policy iteration and what lies between them.

Bellman 1957, "Dynamic programming": value iteration and backward induction. Howard 1960, "Dynamic programming and
Markov processes": policy iteration. Puterman and Shin 1978: modified policy iteration. MacQueen 1966 and Porteus 1971:
bounds from the span of the last change. Puterman 1994, "Markov decision processes", chapter 6, has all of them;
Haarnoja et al. 2017 (arXiv 1702.08165) the entropy-regularised one.

All are pure functions of arrays: jit them, vmap them over MDPs of one shape, shard states over devices.

Without a discount (γ = 1) a value is the sum of all rewards, 0 where none is paid any more. Nothing is certified then,
and `Solution.converged` says whether there are finite values at all: a loop that pays for ever has none.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rljax.envs.finite import MDP
from rljax.envs.finite.chain import Method, ending, evaluated
from rljax.types import Refused

BLOCK = 128
"""Sweeps after which residuals join the history."""
PATIENCE = 30
"""Sweeps without a smaller change, at the size of rounding, after which iteration stops."""


class Solution(struct.PyTreeNode):
    """The result of planning.

    Fields:
      values: f [S], V.
      action_values: f [S, A], Q: one backup of `values`.
      policy: int32 [S], greedy in Q; of equal actions the first. Soft value iteration has its probabilities, f [S, A].
      bound: f [], how far `values` may be from V* in any state, rounding included; infinite where nothing is certain
        (γ = 1).
      residuals: f [max_sweeps], the largest change of each sweep; NaN after the last one.
      sweeps: int32 [], backups of all states that were made.
      converged: bool [], whether it ended by itself, at the tolerance or at what rounding allows, and not for want of
        sweeps or of finite values.
    """

    values: jax.Array
    action_values: jax.Array
    policy: jax.Array
    bound: jax.Array
    residuals: jax.Array
    sweeps: jax.Array
    converged: jax.Array


def value_iteration(
    mdp: MDP, tolerance: float = 1e-6, max_sweeps: int = 10_000, blocks: int = 1, values: jax.Array | None = None
) -> Solution:
    """Backs up all states until the values are certain to `tolerance`, or as far as rounding lets them be.

    It stops by the span of the last change rather than by its size: V* lies between the smallest and the largest change
    times γ/(1-γ) (MacQueen 1966; Puterman 1994, theorem 6.6.6), and the middle is returned. For γ = 1 it stops once no
    value changes by more than the tolerance, and nothing is certified.

    Args:
      tolerance: of the certified error, in units of reward.
      max_sweeps: limit of the sweeps; `bound` tells how accurate they were. It is also the length of `residuals`: with
        thousands of processes at once, a small limit saves memory and time.
      blocks: number of blocks of states, each backed up with the new values of earlier blocks (Gauss-Seidel): fewer
        sweeps, each a little slower. It must divide the number of states.
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

    The soft backup is monotone and, like the hard one, turns an added constant c into γ c, so that the same bounds
    hold.
    """

    def backup(values: jax.Array) -> jax.Array:
        q = mdp.action_values(values)
        return jnp.where(mdp.terminal, 0.0, temperature * jax.nn.logsumexp(q / temperature, axis=0))

    def rounding(new: jax.Array) -> jax.Array:
        """Rounding of the logarithm and the exponentials, in addition to a hard backup's."""
        return jnp.finfo(new.dtype).eps * (mdp.num_actions + 4) * (temperature + jnp.abs(new).max())

    start = jnp.zeros_like(mdp.rewards[0])
    found = _iterated(mdp, lambda v: (backup(v), None), start, tolerance, max_sweeps)
    solution = _solution(mdp, *found, backup, rounding)
    return solution.replace(policy=jax.nn.softmax(solution.action_values / temperature))


def policy_evaluation(mdp: MDP, policy: jax.Array, method: Method = "direct", tolerance: float = 1e-6) -> jax.Array:
    """V of a deterministic policy, int [S], from (I - γ P) V = r: [S].

    V is -inf where the policy may come to a missing action, and for γ = 1 where it may never come to a state after
    which nothing is paid, whatever the sign of the rewards until then.

    Args:
      method: "direct" solves it by a matrix [S, S]; "bicgstab" needs products with P alone, for many states.
      tolerance: of bicgstab, relative to the rewards.
    """
    under, lost = ending(mdp.under(policy))
    values, _ = _certain(under, evaluated(under, method, tolerance))
    return jnp.where(lost, -jnp.inf, values)


def policy_iteration(mdp: MDP, max_iterations: int = 100, method: Method = "direct") -> Solution:
    """Evaluates and improves by turns until no action is better (Howard 1960). `sweeps` counts improvements.

    An action is only replaced by one that is better by more than rounding, so that ties cause no cycles. For γ = 1 the
    first policy ends, and so do all that improve on it unless a loop pays for ever (Bertsekas and Tsitsiklis 1991);
    then the solution is the last policy that ends, and has not converged.
    """
    first, idle, stay = _first_policy(mdp)

    def improve(carry: tuple) -> tuple:
        policy, last, _, _, residuals, count = carry
        under, lost = ending(mdp.under(policy))
        values = evaluated(under, method)
        finite = jnp.isfinite(values).all() & ~lost.any()
        q = mdp.action_values(values)
        gain = q.max(0) - jnp.take_along_axis(q, policy[None], axis=0)[0]
        better = finite & (gain > _rounding(mdp, values))
        resting = finite & idle & (values < 0)
        policy = jnp.where(better, jnp.argmax(q, 0), jnp.where(resting, stay, policy)).astype(jnp.int32)
        residuals = residuals.at[count].set(jnp.where(finite, gain.max(), jnp.inf))
        return policy, jnp.where(finite, values, last), (better | resting).any(), finite, residuals, count + 1

    residuals = jnp.full(max_iterations, jnp.nan, mdp.rewards.dtype)
    start = first, jnp.zeros_like(mdp.rewards[0]), jnp.array(True), jnp.array(True), residuals, jnp.int32(0)
    _, values, going, finite, residuals, count = jax.lax.while_loop(
        lambda carry: carry[2] & (carry[5] < max_iterations), improve, start
    )
    return _solution(mdp, values, residuals, count, finite & ~going)


def modified_policy_iteration(
    mdp: MDP, evaluations: int = 20, tolerance: float = 1e-6, max_sweeps: int = 10_000
) -> Solution:
    """Value iteration with `evaluations` cheaper backups under the greedy policy after each full one."""

    def evaluate(values: jax.Array, policy: jax.Array) -> jax.Array:
        under = mdp.under(policy)
        return jax.lax.fori_loop(0, evaluations, lambda _, v: under.backup(v), values)

    start = jnp.zeros_like(mdp.rewards[0])
    found = _iterated(mdp, mdp.greedy, start, tolerance, max_sweeps, then=evaluate)
    return _solution(mdp, *found)


def backward_induction(mdp: MDP, horizon: int, last: jax.Array | None = None) -> Solution:
    """Optimal values for a given number of steps. Each field of `Solution` has one more axis, the first step first.

    Values are [horizon + 1, S], ending with `last`; action values [horizon, S, A]; policies [horizon, S]. The bound is
    that of rounding. γ may be 1 without an end: `backward_induction(mdp.with_discount(1.0), horizon)`.

    Args:
      last: values [S] of where the last step leads; zeros by default.
    """
    last = jnp.zeros_like(mdp.rewards[0]) if last is None else last

    def step(carry: tuple, _: Any) -> tuple[tuple, tuple]:
        values, error = carry
        q = mdp.action_values(values)
        new = q.max(0)
        error = mdp.discount * error + _rounding(mdp, values)
        return (new, error), (new, q.T, q.argmax(0).astype(jnp.int32), jnp.abs(new - values).max())

    start = last, jnp.zeros_like(mdp.discount)
    (_, bound), (values, q, policy, residuals) = jax.lax.scan(step, start, None, horizon, reverse=True)
    values = jnp.concatenate([values, last[None]])
    return Solution(values, q, policy, bound, residuals, jnp.int32(horizon), jnp.array(True))


def _iterated(
    mdp: MDP,
    sweep: Callable[[jax.Array], tuple[jax.Array, Any]],
    start: jax.Array,
    tolerance: float,
    max_sweeps: int,
    synchronous: bool = True,
    then: Callable[[jax.Array, Any], jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Values, residuals, the number of sweeps and whether it converged.

    Sweeps are `sweep(values) -> (new values, more)` and then, but after the last, `then(new values, more)`. They end
    when the remaining error is below half the tolerance, or when the changes are rounding and fall no further.
    """

    def left(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
        size = jnp.maximum(-low, high)
        change = (high - low) / 2 if synchronous else size
        return change, jnp.where(_discounted(mdp), _horizon(mdp) * change, size)

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
        # Write the history back once per block: under vmap a loop selects between old and new of all that it carries.
        values, done, progress, residuals, first = carry
        last = jnp.minimum(first + BLOCK, max_sweeps)
        recent = jnp.full(BLOCK, jnp.nan, start.dtype)
        values, done, progress, recent, count = jax.lax.while_loop(
            lambda carry: ~carry[1] & (carry[4] < last), one, (values, done, progress, recent, first)
        )
        return values, done, progress, jax.lax.dynamic_update_slice(residuals, recent, (first,)), count

    progress = jnp.asarray(jnp.inf, start.dtype), jnp.int32(0)
    residuals = jnp.full(-(-max_sweeps // BLOCK) * BLOCK, jnp.nan, start.dtype)
    values, done, _, residuals, count = jax.lax.while_loop(
        lambda carry: ~carry[1] & (carry[4] < max_sweeps),
        block,
        (start, jnp.array(False), progress, residuals, jnp.int32(0)),
    )
    return values, residuals[:max_sweeps], count, done


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


def _discounted(mdp: MDP) -> jax.Array:
    return mdp.one_minus_discount > 0


def _horizon(mdp: MDP) -> jax.Array:
    """γ/(1-γ); 0 for γ = 1."""
    return jnp.where(_discounted(mdp), mdp.discount / jnp.where(_discounted(mdp), mdp.one_minus_discount, 1.0), 0.0)


def _span(mdp: MDP, change: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest change; 0 is between them where an episode can end, for there values stay."""
    low, high = change.min(), change.max()
    ends = mdp.terminal.any()
    return jnp.where(ends, jnp.minimum(low, 0.0), low), jnp.where(ends, jnp.maximum(high, 0.0), high)


def _rounding(mdp: MDP, values: jax.Array) -> jax.Array:
    """How far one computed backup of `values` may be from the intended process's exact one.

    Roundings of half an epsilon each: K in a sum of K products, one of each probability, the discount, the product with
    it, the reward and the sum with it, and one of the change from `values`; the other three cover terms of second
    order. With γ itself, 1 - γ is not rounded here: see `MDP.discount_rest`.
    """
    terms = mdp.probabilities.shape[1] + 8
    paid = jnp.where(jnp.isneginf(mdp.rewards), 0.0, jnp.abs(mdp.rewards)).max()
    return terms * jnp.finfo(values.dtype).eps / 2 * (paid + mdp.discount * jnp.abs(values).max())


def _certain(
    mdp: MDP,
    values: jax.Array,
    backup: Callable[[jax.Array], jax.Array] | None = None,
    rounding: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The middle of the interval that one more backup proves for any `values`, and the bound of the remaining error."""
    new = (backup or mdp.backup)(values)
    low, high = _span(mdp, new - values)
    horizon, discounted = _horizon(mdp), _discounted(mdp)
    middle = jnp.where(mdp.terminal, 0.0, new + horizon * (low + high) / 2)
    error = _rounding(mdp, values) + (0.0 if rounding is None else rounding(new))
    # Half the span, the error of this backup and of all that would follow, and the rounding of the lines above.
    bound = horizon * (high - low) / 2 + error / jnp.where(discounted, mdp.one_minus_discount, 1.0)
    size = horizon * jnp.maximum(jnp.abs(low), jnp.abs(high))
    bound = bound + jnp.finfo(new.dtype).eps * (8 * size + jnp.abs(middle).max())
    return middle, jnp.where(discounted, bound, jnp.inf)


def _solution(
    mdp: MDP,
    values: jax.Array,
    residuals: jax.Array,
    count: jax.Array,
    converged: jax.Array,
    backup: Callable[[jax.Array], jax.Array] | None = None,
    rounding: Callable[[jax.Array], jax.Array] | None = None,
) -> Solution:
    """The solution, with the bound that one more backup proves."""
    values, bound = _certain(mdp, values, backup, rounding)
    q = mdp.action_values(values)
    return Solution(values, q.T, jnp.argmax(q, 0).astype(jnp.int32), bound, residuals, count, converged)


def _first_policy(mdp: MDP) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The first policy, int32 [S]: for γ = 1 actions that lead to an end, else each state's first action.

    For γ = 1 also the states where it is possible never to be paid again, bool [S], and the actions for it, int32 [S].
    """
    undiscounted = ~_discounted(mdp)
    possible = ~jnp.isneginf(mdp.rewards)

    def leads(states: jax.Array) -> jax.Array:
        return possible & (mdp.expected(states.astype(mdp.rewards.dtype)) > 0)

    def stays(idle: jax.Array) -> jax.Array:
        return (mdp.rewards == 0) & ~leads(~idle)

    def shrink(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        idle, _ = carry
        fewer = idle & stays(idle).any(0)
        return fewer, (fewer != idle).any()

    def grow(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        found, policy, _ = carry
        steps = leads(found)
        new = ~found & steps.any(0)
        return found | new, jnp.where(new, jnp.argmax(steps, 0).astype(jnp.int32), policy), new.any()

    idle, _ = jax.lax.while_loop(lambda x: x[1], shrink, (jnp.full_like(mdp.terminal, True), undiscounted))
    first = jnp.argmax(possible, 0).astype(jnp.int32)
    _, policy, _ = jax.lax.while_loop(lambda x: x[2], grow, (mdp.terminal, first, undiscounted))
    return policy, undiscounted & idle & ~mdp.terminal, jnp.argmax(stays(idle), 0).astype(jnp.int32)
