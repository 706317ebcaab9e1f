"""Learning with tables converges to what planning computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import planning, tabular
from rljax.envs.finite import shaped, sparse, worlds

LAKE = worlds.frozen_lake(worlds.FROZEN_LAKE_4X4, discount=0.9)
KEYS = jax.random.split(jax.random.key(0), 4)
UNIFORM = jnp.full((16, 4), 0.25)


def values_of(mdp, policy):
    """V of a policy [S, A], in NumPy."""
    table = np.zeros((mdp.num_states, mdp.num_states))
    rewards = np.zeros(mdp.num_states)
    for action in range(mdp.num_actions):
        rewards += np.asarray(policy[:, action] * mdp.rewards[action])
        for k in range(mdp.probabilities.shape[1]):
            shares = np.asarray(policy[:, action] * mdp.probabilities[action, k])
            np.add.at(table, (np.arange(mdp.num_states), np.asarray(mdp.successors[action, k])), shares)
    return np.linalg.solve(np.eye(mdp.num_states) - float(mdp.discount) * table, rewards)


@pytest.mark.parametrize("method", ["q_learning", "double_q_learning"])
def test_off_policy_control_finds_the_optimal_values(method):
    exact = planning.policy_iteration(LAKE)
    learn = jax.jit(jax.vmap(lambda key: tabular.control(LAKE, key, 200_000, method, 0.0, rate_power=0.7, epsilon=0.5)))
    learned = learn(KEYS).action_values
    assert learned.shape == (4, 16, 4)
    np.testing.assert_allclose(learned.mean(0), exact.action_values, atol=0.05)
    decided = np.asarray(jnp.sort(exact.action_values, -1)[:, -1] - jnp.sort(exact.action_values, -1)[:, -2]) > 0.05
    np.testing.assert_array_equal(learned.mean(0).argmax(-1)[decided], exact.policy[decided])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sarsa", "expected_sarsa"])
def test_on_policy_control_finds_the_values_of_what_it_does(method):
    """At the end Q is that of the ε-greedy policy in Q, which explores and so is worth less than the best."""
    epsilon = 0.3
    learn = jax.jit(
        jax.vmap(lambda key: tabular.control(LAKE, key, 200_000, method, 0.0, rate_power=0.7, epsilon=epsilon))
    )
    learned = np.asarray(learn(KEYS).action_values.mean(0))
    policy = (1 - epsilon) * np.eye(4)[learned.argmax(-1)] + epsilon / 4
    values = values_of(LAKE, policy)
    q = np.stack(LAKE.action_values(jnp.asarray(values, jnp.float32)), -1)
    np.testing.assert_allclose(learned[[0, 4, 8, 14]], q[[0, 4, 8, 14]], atol=0.04)
    assert values[0] < planning.policy_iteration(LAKE).values[0]


def test_double_q_learning_is_not_lured_by_the_best_of_noise():
    """One action ends at 0; the others lead to where each of ten pays -0.1 on average, by chance -1.1 or 0.9.

    Sutton and Barto 2018, example 6.7. The noise is in where one gets to, for rewards here are expected ones.
    """
    successors, shares, rewards = np.full((10, 2, 4), 3), np.full((10, 2, 4), 0.5), np.zeros((10, 4))
    successors[1:, :, 0] = 1
    successors[:, 1, 1] = 2
    rewards[:, 1], rewards[:, 2] = -1.1, 2.0
    mdp = sparse(successors, shares, rewards, 1.0, terminal=[0, 0, 0, 1], start=[1, 0, 0, 0])
    assert int(planning.value_iteration(mdp).policy[0]) == 0

    def lured(method):
        learn = jax.vmap(lambda key: tabular.control(mdp, key, 1_000, method, 0.3, epsilon=0.2).action_values[0])
        return (jax.jit(learn)(jax.random.split(jax.random.key(1), 200)).argmax(-1) > 0).mean()

    assert lured("q_learning") > 0.2
    assert lured("double_q_learning") < 0.05


def test_prediction_finds_the_values_of_a_policy():
    exact = values_of(LAKE, UNIFORM)
    by_traces = jax.jit(jax.vmap(lambda key: tabular.td_lambda(LAKE, UNIFORM, key, 100_000)))(KEYS).mean(0)
    np.testing.assert_allclose(by_traces, exact, atol=0.03)
    by_returns = jax.jit(lambda key: tabular.first_visit_monte_carlo(LAKE, UNIFORM, key, 10_000, 100))(KEYS[0])
    seen = ~np.isnan(by_returns)
    np.testing.assert_array_equal(seen, ~np.asarray(LAKE.terminal))
    np.testing.assert_allclose(by_returns[seen], exact[seen], atol=0.04)


def test_shaping_by_the_distance_to_the_goal_makes_a_sparse_grid_quick_to_learn():
    grid = worlds.gridworld(["S" + "." * 9, *["." * 10] * 8, "." * 9 + "G"], discount=0.95)
    successors = jnp.asarray(grid.successors)
    cells = jnp.arange(100)
    potential = 0.95 ** ((9 - cells // 10) + (9 - cells % 10)).astype(jnp.float32)

    def reached(mdp):
        """Goals reached by the greedy policy of each of 16 agents after 3,000 steps."""

        def one(key):
            q = tabular.control(mdp, key, 3_000, "q_learning", 0.5, epsilon=0.1).action_values
            position, _ = jax.lax.scan(
                lambda s, _: (jnp.where(s == 99, s, successors[q[s].argmax(), 0, s]), None), jnp.int32(0), None, 30
            )
            return position == 99

        return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 16)).sum()

    plain, helped = reached(grid), reached(shaped(grid, potential))
    assert helped >= 14
    assert plain <= 4


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be one of q_learning, sarsa"):
        tabular.control(LAKE, KEYS[0], 10, "td")
