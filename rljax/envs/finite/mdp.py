"""Finite Markov decision processes, with their transitions as arrays.

Axes are actions, successors, states: states come last because there are most of them, so that a backup reads memory in
order, which on a CPU is several times as fast as [state, action, successor].
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rljax.types import Key, Refused

TOLERANCE = 1e-4
"""Largest distance of a transition's probability sum from 1; probabilities are divided by their sum."""
UNROLLED = 24
"""Pairs of an action and a successor up to which a backup is written out; beyond, it is a loop, which compiles at once
and is as fast. (Many small processes under vmap are faster without one.)"""


class MDP(struct.PyTreeNode):
    """S states, A actions, and for each pair up to K successors; dense where K = S and `successors` is None.

    Make one with `sparse`, `dense` or `from_lists`, which check what they are given.

    Fields:
      rewards: f [A, S], expected: r(s, a). 0 in terminal states; -inf where the state does not have the action.
      probabilities: f [A, K, S], P(s'|s, a); unused successors, terminal states and missing actions have 0.
      successors: int32 [A, K, S], or None: then successor k is state k.
      terminal: bool [S]; nothing follows, and the value is 0.
      start: f [S], the distribution of first states.
      discount: f [], the float nearest to γ; 1 is allowed where every state can reach a terminal one. Change it by
        `with_discount`.
      discount_rest: f [], γ - discount: without it, 1/(1-γ) would have lost its digits.
    """

    rewards: jax.Array
    probabilities: jax.Array
    successors: jax.Array | None
    terminal: jax.Array
    start: jax.Array
    discount: jax.Array
    discount_rest: jax.Array

    @property
    def one_minus_discount(self) -> jax.Array:
        """1 - γ, f [], as exact as its type."""
        return (1 - self.discount) - self.discount_rest

    @property
    def num_states(self) -> int:
        return self.rewards.shape[-1]

    @property
    def num_actions(self) -> int:
        return self.rewards.shape[-2]

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays."""
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self))

    def with_discount(self, discount: float) -> "MDP":
        """The same process with another γ. Whether it can end is not looked at: `backward_induction` needs no end.

        Raises:
          Refused: γ that is not in [0, 1], or rounds to 1.
        """
        nearest, rest = _split_discount(discount, self.rewards.dtype)
        return self.replace(discount=nearest, discount_rest=rest)

    def expected(self, values: jax.Array) -> jax.Array:
        """E[V(s')|s, a], [A, S], from values [S]."""
        if self.successors is None:
            # A sum rather than a product of matrices: accelerators round the factors of those to a few bits.
            return (self.probabilities * values[:, None]).sum(1)
        return self._over_actions(values, lambda carry, _, expected: (carry, expected), None)[1]

    def action_values(self, values: jax.Array) -> jax.Array:
        """r(s, a) + γ E[V(s')|s, a], [A, S] (Sutton and Barto 2018, eq. 4.10)."""
        return self.rewards + self.discount * self.expected(values)

    def backup(self, values: jax.Array) -> jax.Array:
        """The largest action values, [S]: one application of Bellman's optimality operator."""
        if self.successors is None:
            return self.action_values(values).max(0)

        def larger(best: jax.Array, action: jax.Array, expected: jax.Array) -> tuple[jax.Array, None]:
            return jnp.maximum(best, self.rewards[action] + self.discount * expected), None

        return self._over_actions(values, larger, jnp.full_like(self.rewards[0], -jnp.inf))[0]

    def greedy(self, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The largest action values, [S], and their actions, int32 [S]; of equal ones the first."""
        if self.successors is None:
            q = self.action_values(values)
            return q.max(0), q.argmax(0).astype(jnp.int32)

        def larger(carry: tuple, action: jax.Array, expected: jax.Array) -> tuple[tuple, None]:
            best, policy = carry
            value = self.rewards[action] + self.discount * expected
            return (jnp.maximum(best, value), jnp.where(value > best, action, policy)), None

        start = jnp.full_like(self.rewards[0], -jnp.inf), jnp.zeros(self.rewards.shape[-1], jnp.int32)
        return self._over_actions(values, larger, start)[0]

    def _over_actions(self, values: jax.Array, step: Callable[..., tuple[Any, Any]], start: Any) -> tuple[Any, Any]:
        """`step(carry, action, E[V(s')|s, action])` over actions, as in a scan, for a sparse process."""
        actions, width, states = self.probabilities.shape
        few = actions * width <= UNROLLED

        def add(total: jax.Array, x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            # One successor after the other: each is a loop over states, which the compiler fuses into one.
            probabilities, successors = x
            return total + probabilities * values.at[successors].get(mode="promise_in_bounds"), None

        def one(carry: Any, x: tuple) -> tuple[Any, Any]:
            action, probabilities, successors = x
            zeros = jnp.zeros(states, values.dtype)
            unroll = width if few else min(width, 8)
            return step(carry, action, jax.lax.scan(add, zeros, (probabilities, successors), unroll=unroll)[0])

        xs = jnp.arange(actions, dtype=jnp.int32), self.probabilities, self.successors
        return jax.lax.scan(one, start, xs, unroll=actions if few else 1)

    def under(self, policy: jax.Array) -> "MDP":
        """The process with one action left, the deterministic policy's, int [S]."""

        def chosen(x: jax.Array) -> jax.Array:
            index = policy.reshape((1,) * (x.ndim - 1) + (-1,))
            return jnp.take_along_axis(x, jnp.broadcast_to(index, (1, *x.shape[1:])), axis=0)

        successors = None if self.successors is None else chosen(self.successors)
        return self.replace(
            rewards=chosen(self.rewards), probabilities=chosen(self.probabilities), successors=successors
        )

    def refuse_missing(self, who: str) -> None:
        """Refuses missing actions, since sampling needs every action in every state; a traced process passes unseen.

        Raises:
          Refused: a missing action.
        """
        if isinstance(self.rewards, jax.core.Tracer):
            return
        missing = np.argwhere(np.isneginf(np.asarray(self.rewards)))
        if missing.size:
            action, state = missing[0]
            raise Refused(f"{who} needs every action in every state, and state {state} has no action {action}")

    def sample(self, key: Key, state: jax.Array, action: jax.Array) -> jax.Array:
        """A successor, int32 []."""
        k = jax.random.categorical(key, jnp.log(self.probabilities[action, :, state]))
        return (k if self.successors is None else self.successors[action, k, state]).astype(jnp.int32)


def split_states(mdp: MDP, devices: Sequence[jax.Device] | None = None) -> MDP:
    """The same process with its states split over devices (all where None); values are gathered in every backup.

    Raises:
      Refused: the states do not divide.
    """
    devices = jax.devices() if devices is None else devices
    if mdp.num_states % len(devices):
        raise Refused(f"mdp: {mdp.num_states} states do not divide over {len(devices)} devices")
    mesh = jax.make_mesh((len(devices),), ("states",), axis_types=(AxisType.Auto,), devices=devices)

    def put(x: jax.Array) -> jax.Array:
        spec = PartitionSpec(*[None] * (x.ndim - 1), "states") if x.ndim else PartitionSpec()
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree.map(put, mdp)


def shaped(mdp: MDP, potential: jax.Array) -> MDP:
    """The process with γ Φ(s') - Φ(s) added to its rewards, Φ = potential [S], and 0 in terminal states.

    Ng, Harada and Russell 1999, "Policy invariance under reward transformations": V* falls by Φ and Q* by Φ(s), so that
    the best actions stay the same.
    """
    potential = jnp.where(mdp.terminal, 0.0, potential)
    bonus = mdp.discount * mdp.expected(potential) - potential
    return mdp.replace(rewards=mdp.rewards + jnp.where(mdp.terminal, 0.0, bonus))


def sparse(
    successors: Any,
    probabilities: Any,
    rewards: Any,
    discount: float,
    terminal: Any = None,
    start: Any = None,
    dtype: Any = np.float32,
) -> MDP:
    """Makes an MDP from padded lists of successors.

    Args:
      successors: int [A, K, S]; where the probability is 0 any state will do.
      probabilities: [A, K, S]; over K they sum to 1, to 1e-4, and are divided by their sum. In terminal states and for
        missing actions they do not count.
      rewards: r(s, a) [A, S], r(s) [S], or r(s, a, s') [A, K, S]; -inf where the state does not have the action.
      discount: γ in [0, 1]; 1 only where every state can reach a terminal one.
      terminal: bool [S]; None for no such states.
      start: distribution of first states [S]; uniform over the states that are not terminal by default.
      dtype: float32 or float64.

    Raises:
      Refused: shapes that do not fit, and numbers that are not probabilities, with the first state and action.
    """
    successors, probabilities = np.asarray(successors), np.asarray(probabilities)
    if successors.ndim != 3 or successors.shape != probabilities.shape:
        raise Refused(
            f"mdp: successors and probabilities must both be [actions, successors, states], got {successors.shape} "
            f"and {probabilities.shape}"
        )
    if not np.issubdtype(successors.dtype, np.integer):
        raise Refused(f"mdp: successors must be integers, got {successors.dtype}")
    states = successors.shape[-1]
    wrong = (successors < 0) | (successors >= states)
    if wrong.any():
        action, k, state = np.argwhere(wrong)[0]
        raise Refused(
            f"mdp: successor {successors[action, k, state]} of state {state}, action {action} is not a state; there "
            f"are {states}"
        )
    return _checked(successors.astype(np.int32, copy=False), probabilities, rewards, discount, terminal, start, dtype)


def dense(
    probabilities: Any, rewards: Any, discount: float, terminal: Any = None, start: Any = None, dtype: Any = np.float32
) -> MDP:
    """Makes an MDP from P[a, s, s'] [A, S, S] and rewards r(s, a) [A, S], r(s) [S] or r(s, a, s') [A, S, S].

    All else as for `sparse`.
    """
    probabilities, rewards = np.asarray(probabilities), np.asarray(rewards)
    if probabilities.ndim != 3 or probabilities.shape[1] != probabilities.shape[2]:
        raise Refused(f"mdp: probabilities must be [actions, states, states], got {probabilities.shape}")
    if rewards.ndim == 3:
        rewards = rewards.swapaxes(1, 2)
    return _checked(None, probabilities.swapaxes(1, 2), rewards, discount, terminal, start, dtype)


def from_lists(
    transitions: Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]],
    discount: float,
    start: Any = None,
    dtype: Any = np.float32,
) -> MDP:
    """Makes an MDP from Gymnasium's `{state: {action: [(probability, successor, reward, terminated), …]}}`.

    A state that is only reached by terminated transitions is terminal. Where one is reached by others too (Gymnasium's
    Taxi has such, out of reach from its start), terminated transitions lead to one more state, the last, instead.

    Raises:
      Refused: as `sparse`.
    """
    states, actions = len(transitions), len(transitions[0])
    width = max(len(row) for of_state in transitions.values() for row in of_state.values())
    successors: np.ndarray = np.zeros((actions, width, states), np.int32)
    probabilities: np.ndarray = np.zeros((actions, width, states))
    rewards: np.ndarray = np.zeros((actions, width, states))
    terminated = np.zeros((actions, width, states), bool)
    for state, of_state in transitions.items():
        if len(of_state) != actions:
            raise Refused(f"mdp: state {state} has {len(of_state)} actions, state 0 has {actions}")
        for action, row in of_state.items():
            for k, (probability, successor, reward, ended) in enumerate(row):
                place = action, k, state
                successors[place], probabilities[place], rewards[place] = successor, probability, reward
                terminated[place] = ended
    used = probabilities > 0
    # A terminal state may be written as leading to itself, or as if it could be left.
    terminal, went_on = np.zeros(states, bool), np.zeros(states, bool)
    terminal[successors[used & terminated]] = True
    elsewhere = successors != np.arange(states)
    went_on[successors[used & ~terminated & elsewhere & ~terminal]] = True
    if (terminal & went_on).any():
        successors = np.where(terminated, states, successors)
        padding = ((0, 0), (0, 0), (0, 1))
        successors, probabilities, rewards = (np.pad(x, padding) for x in (successors, probabilities, rewards))
        terminal = np.append(np.zeros(states, bool), True)
        start = None if start is None else np.append(start, 0.0)
    return sparse(successors, probabilities, rewards, discount, terminal, start, dtype)


def _checked(
    successors: np.ndarray | None,
    probabilities: np.ndarray,
    rewards: Any,
    discount: float,
    terminal: Any,
    start: Any,
    dtype: Any,
) -> MDP:
    actions, _, states = probabilities.shape
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    terminal = np.zeros(states, bool) if terminal is None else np.asarray(terminal, bool)
    if terminal.shape != (states,):
        raise Refused(f"mdp: terminal must be [states] = ({states},), got {terminal.shape}")
    nearest, rest = _split_discount(discount, dtype)

    rewards = np.asarray(rewards, np.float64)
    if rewards.shape == (states,):
        rewards = np.broadcast_to(rewards, (actions, states))
    if rewards.shape not in (probabilities.shape, (actions, states)):
        raise Refused(f"mdp: rewards must be [actions, states] = {(actions, states)}, got {rewards.shape}")
    shares, expected = np.empty(probabilities.shape, dtype), np.empty((actions, states))
    for action in range(actions):  # one after the other, for the sake of memory
        shares[action], expected[action] = _rows(action, probabilities[action], rewards[action], terminal)
    missing = (expected == -np.inf).all(0)
    if missing.any():
        raise Refused(f"mdp: state {np.argmax(missing)} has no action: all of its rewards are -inf")
    with np.errstate(over="ignore"):
        large = np.isinf(expected.astype(dtype)) & np.isfinite(expected)
    if large.any():
        action, state = np.argwhere(large)[0]
        raise Refused(f"mdp: the reward of state {state}, action {action} is too large for {dtype}")

    if start is None:
        if terminal.all():
            raise Refused("mdp: all states are terminal; there is none to start from")
        start = ~terminal / (~terminal).sum()
    start = np.asarray(start, np.float64)
    if start.shape != (states,) or not ((start >= 0).all() and abs(start.sum() - 1) <= TOLERANCE):
        raise Refused("mdp: start must be a distribution over states")
    if discount == 1:
        stuck = np.flatnonzero(~_can_end(successors, shares, terminal))
        if stuck.size:
            raise Refused(
                f"mdp: discount = 1 needs an end, and state {stuck[0]} cannot reach a terminal state; for a fixed "
                f"number of steps make it with another discount and give backward_induction its with_discount(1)"
            )
    return MDP(
        rewards=jnp.asarray(expected, dtype),
        probabilities=jnp.asarray(shares),
        successors=None if successors is None else jnp.asarray(successors),
        terminal=jnp.asarray(terminal),
        start=jnp.asarray(start / start.sum(), dtype),
        discount=nearest,
        discount_rest=rest,
    )


def _rows(
    action: int, probabilities: np.ndarray, rewards: np.ndarray, terminal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The transitions of an action, [K, S], checked and summing to 1, and its expected rewards [S]."""
    probabilities = np.asarray(probabilities, np.float64)
    # Where a probability is 0, or nothing follows, any reward will do; -inf anywhere else is a missing action.
    used = (probabilities != 0) & ~terminal
    missing = ~terminal & ((rewards == -np.inf) if rewards.ndim == 1 else (used & (rewards == -np.inf)).any(0))
    ignored = terminal | missing
    bad = ~(np.isfinite(probabilities) & (probabilities >= 0)) & ~ignored
    if bad.any():
        k, state = np.argwhere(bad)[0]
        raise Refused(f"mdp: state {state}, action {action}: {probabilities[k, state]} is not a probability")
    probabilities = np.where(ignored, 0.0, probabilities)
    total = probabilities.sum(0)
    bad = (np.abs(total - 1) > TOLERANCE) & ~ignored
    if bad.any():
        state = np.argmax(bad)
        raise Refused(f"mdp: the probabilities of state {state}, action {action} sum to {total[state]:.6g}")
    probabilities /= np.where(ignored, 1.0, total)

    bad = ~np.isfinite(rewards) & ~ignored & (True if rewards.ndim == 1 else used)
    if bad.any():
        place = tuple(np.argwhere(bad)[0])
        raise Refused(f"mdp: the reward of state {place[-1]}, action {action} is {rewards[place]}")
    if rewards.ndim == 2:
        rewards = np.where(used & ~ignored, probabilities * np.where(used & ~ignored, rewards, 0.0), 0.0).sum(0)
    return probabilities, np.where(terminal, 0.0, np.where(missing, -np.inf, rewards))


def _split_discount(discount: float, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """γ as the nearest float and the remainder."""
    discount = float(discount)
    if not 0 <= discount <= 1:
        raise Refused(f"mdp: discount must be in [0, 1], got {discount}")
    dtype = np.dtype(dtype)
    nearest = dtype.type(discount)
    if nearest == 1 and discount < 1:
        raise Refused(f"mdp: discount = {discount!r} is 1 in {dtype}; give dtype = float64, or a smaller one")
    return jnp.asarray(nearest), jnp.asarray(discount - float(nearest), dtype)


def _can_end(successors: np.ndarray | None, probabilities: np.ndarray, terminal: np.ndarray) -> np.ndarray:
    """The states that can reach a terminal one, bool [S]: some policy ends from everywhere only if all can."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order

    states = terminal.size
    action, k, state = np.nonzero(probabilities)
    successor = k if successors is None else successors[action, k, state]
    # Backwards, from a node that stands for the end.
    rows = np.concatenate([successor, np.full(terminal.sum(), states)])
    columns = np.concatenate([state, np.flatnonzero(terminal)])
    graph = coo_array((np.ones(rows.size, np.int8), (rows, columns)), (states + 1, states + 1)).tocsr()
    reached = np.zeros(states + 1, bool)
    reached[breadth_first_order(graph, states, return_predecessors=False)] = True
    return reached[:states]
