"""Learning from samples with a table, one entry for each state (and action).

Sutton and Barto 2018, "Reinforcement learning: an introduction": `first_visit_monte_carlo` (section 5.1), `td_lambda`
(12.2), and `control` by SARSA (6.4), Q-learning (6.5), Expected SARSA (6.6) and double Q-learning (6.7; van Hasselt
2010).
They converge to the solutions that rljax/algorithms/planning.py computes.

All are scans over one agent's experience: vmap them over keys for many agents.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from rljax.envs.finite import MDP
from rljax.ops.exploration import epsilon_greedy
from rljax.types import Key, Refused

Method = Literal["q_learning", "sarsa", "expected_sarsa", "double_q_learning"]


class Learned(NamedTuple):
    """The result of control: action values f [S, A], and the reward of each step, f [steps]."""

    action_values: jax.Array
    rewards: jax.Array


def control(
    mdp: MDP,
    key: Key,
    steps: int,
    method: Method = "q_learning",
    learning_rate: float = 0.1,
    rate_power: float = 0.0,
    epsilon: float = 0.1,
    initial: float = 0.0,
    max_episode_steps: int = 1_000,
) -> Learned:
    """Learns to act, ε-greedily, for `steps` steps; an episode that ends is followed by another.

    Args:
      learning_rate: α.
      rate_power: ω; the n-th update of an entry has the rate max(α, n^-ω), or α alone for 0. Between 1/2 and 1, and
        with α = 0, the values converge (Even-Dar and Mansour 2003).
      epsilon: probability of a random action.
      initial: initial value of all entries; a high one makes the agent try everything.
      max_episode_steps: steps after which episodes are cut, which targets ignore.

    Raises:
      Refused: an unknown method, and a process in which some state lacks some action.
    """
    if method not in get_args(Method):
        raise Refused(f"control: method must be one of {', '.join(get_args(Method))}, got {method!r}")
    mdp.refuse_missing("control")
    states, actions = mdp.num_states, mdp.num_actions
    tables = 2 if method == "double_q_learning" else 1

    def begin(key: Key) -> jax.Array:
        return jax.random.categorical(key, jnp.log(mdp.start)).astype(jnp.int32)

    def step(carry: tuple, key: Key) -> tuple[tuple, jax.Array]:
        q, visits, state, action, elapsed = carry
        next_key, action_key, coin_key, begin_key, first_key = jax.random.split(key, 5)
        after = mdp.sample(next_key, state, action)
        reward = mdp.rewards[action, state]
        next_action = epsilon_greedy(action_key, q[:, after].sum(0), epsilon)
        table = jax.random.bernoulli(coin_key).astype(jnp.int32) if tables == 2 else jnp.int32(0)
        own, other = q[table, after], q[(1 - table) % tables, after]
        if method == "q_learning":
            value = own.max()
        elif method == "sarsa":
            value = own[next_action]
        elif method == "expected_sarsa":
            value = (1 - epsilon) * own.max() + epsilon * own.mean()
        else:
            value = other[jnp.argmax(own)]
        target = reward + jnp.where(mdp.terminal[after], 0.0, mdp.discount * value)
        count = visits[table, state, action] + 1
        rate = jnp.maximum(learning_rate, count**-rate_power) if rate_power else learning_rate
        q = q.at[table, state, action].add(rate * (target - q[table, state, action]))
        visits = visits.at[table, state, action].set(count)

        over = mdp.terminal[after] | (elapsed + 1 >= max_episode_steps)
        first = begin(begin_key)
        state = jnp.where(over, first, after)
        fresh = epsilon_greedy(first_key, q[:, first].sum(0), epsilon)
        action = jnp.where(over, fresh, next_action)
        return (q, visits, state, action, jnp.where(over, 0, elapsed + 1)), reward

    first_key, action_key, steps_key = jax.random.split(key, 3)
    q = jnp.full((tables, states, actions), initial, mdp.rewards.dtype)
    q = jnp.where(mdp.terminal[:, None], 0.0, q)
    state = begin(first_key)
    action = epsilon_greedy(action_key, q[:, state].sum(0), epsilon)
    carry = (q, jnp.zeros((tables, states, actions), q.dtype), state, action, jnp.int32(0))
    carry, rewards = jax.lax.scan(step, carry, jax.random.split(steps_key, steps))
    return Learned(carry[0].mean(0), rewards)


def td_lambda(
    mdp: MDP,
    policy: jax.Array,
    key: Key,
    steps: int,
    trace: float = 0.9,
    learning_rate: float = 0.05,
    max_episode_steps: int = 1_000,
) -> jax.Array:
    """Values [S] of a policy, by TD(λ) with accumulating traces (Sutton and Barto 2018, section 12.2).

    Args:
      policy: probabilities of actions [S, A].
      trace: λ.

    Returns:
      The mean of the values over the second half of the steps (Polyak and Juditsky 1992), which a constant rate needs.
    """

    def step(carry: tuple, x: tuple[Key, jax.Array]) -> tuple[tuple, None]:
        values, traces, total, state, elapsed = carry
        key, late = x
        action_key, next_key, begin_key = jax.random.split(key, 3)
        action = jax.random.categorical(action_key, jnp.log(policy[state]))
        after = mdp.sample(next_key, state, action)
        following = jnp.where(mdp.terminal[after], 0.0, values[after])
        error = mdp.rewards[action, state] + mdp.discount * following - values[state]
        traces = (mdp.discount * trace * traces).at[state].add(1.0)
        values = values + learning_rate * error * traces
        over = mdp.terminal[after] | (elapsed + 1 >= max_episode_steps)
        first = jax.random.categorical(begin_key, jnp.log(mdp.start)).astype(jnp.int32)
        state = jnp.where(over, first, after)
        traces = jnp.where(over, 0.0, traces)
        return (values, traces, total + late * values, state, jnp.where(over, 0, elapsed + 1)), None

    first_key, steps_key = jax.random.split(key)
    zeros = jnp.zeros(mdp.num_states, mdp.rewards.dtype)
    state = jax.random.categorical(first_key, jnp.log(mdp.start)).astype(jnp.int32)
    late = (jnp.arange(steps) >= steps // 2).astype(zeros.dtype)
    keys = jax.random.split(steps_key, steps)
    (_, _, total, *_), _ = jax.lax.scan(step, (zeros, zeros, zeros, state, jnp.int32(0)), (keys, late))
    return total / late.sum()


def first_visit_monte_carlo(mdp: MDP, policy: jax.Array, key: Key, episodes: int, length: int) -> jax.Array:
    """Values [S] of a policy [S, A], as means of the returns after first visits (section 5.1); NaN without a visit.

    Episodes are cut after `length` steps: choose it so long that γ to its power is nothing, or that all have ended.
    """

    def episode(key: Key) -> tuple[jax.Array, jax.Array]:
        def step(carry: tuple[jax.Array, jax.Array], key: Key) -> tuple[tuple, tuple]:
            state, going = carry
            action_key, next_key = jax.random.split(key)
            action = jax.random.categorical(action_key, jnp.log(policy[state]))
            after = mdp.sample(next_key, state, action)
            reward = jnp.where(going, mdp.rewards[action, state], 0.0)
            return (after, going & ~mdp.terminal[after]), (state, going, reward)

        first_key, steps_key = jax.random.split(key)
        first = jax.random.categorical(first_key, jnp.log(mdp.start)).astype(jnp.int32)
        _, (states, going, rewards) = jax.lax.scan(
            step, (first, ~mdp.terminal[first]), jax.random.split(steps_key, length)
        )
        _, returns = jax.lax.scan(
            lambda total, reward: (reward + mdp.discount * total,) * 2,
            jnp.zeros((), rewards.dtype),
            rewards,
            reverse=True,
        )
        time = jnp.arange(length)
        visited = jnp.full(mdp.num_states, length).at[states].min(jnp.where(going, time, length))
        is_first = going & (visited[states] == time)
        zeros = jnp.zeros(mdp.num_states, returns.dtype)
        return zeros.at[states].add(jnp.where(is_first, returns, 0.0)), zeros.at[states].add(is_first)

    totals, counts = jax.lax.map(episode, jax.random.split(key, episodes), batch_size=256)
    return totals.sum(0) / jnp.where(counts.sum(0) > 0, counts.sum(0), jnp.nan)
