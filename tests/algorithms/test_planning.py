"""Planning against linear programming (HiGHS), NumPy and closed forms."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

from benchmarks.planning import certified
from rljax.algorithms import planning
from rljax.envs.finite import dense, sparse, split_states, worlds
from tests.envs.finite.test_mdp import matrices

STATES, ACTIONS, WIDTH = 15, 3, 4


def by_linear_program(successors, shares, rewards, discount, terminal):
    """V*: the least function that no action improves on (Puterman 1994, section 6.9).

    HiGHS is exact to its tolerances only; so its solution says which actions are best, and their equations are solved.
    """
    states = np.arange(STATES)
    table = np.zeros((ACTIONS, STATES, STATES))
    for action in range(ACTIONS):
        for k in range(WIDTH):
            np.add.at(table[action], (states, successors[action, k]), np.where(terminal, 0.0, shares[action, k]))
    rewards = np.where(terminal, 0.0, rewards)
    constraints = vstack([csr_array(discount * matrix - np.eye(STATES)) for matrix in table])
    result = linprog(np.ones(STATES), A_ub=constraints, b_ub=-rewards.ravel(), bounds=(None, None), method="highs")
    assert result.success
    best = (rewards + discount * table @ result.x).argmax(0)
    exact = np.linalg.solve(np.eye(STATES) - discount * table[best, states], rewards[best, states])
    size = 1 + np.abs(exact).max()
    assert np.abs(exact - result.x).max() < 1e-5 * size
    assert (rewards + discount * table @ exact <= exact + 1e-12 * size).all()
    return exact


def random_process(seed) -> tuple[Any, Any, Any, float, Any]:
    """Shares of very different size, ties, states that end or do not, any discount."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(WIDTH, 10.0 ** rng.uniform(-1, 1)), (ACTIONS, STATES)).swapaxes(1, 2)
    rewards = rng.normal(size=(ACTIONS, STATES)) * 10.0 ** rng.uniform(-2, 2)
    successors = rng.integers(0, STATES, (ACTIONS, WIDTH, STATES))
    if seed % 3 == 0:
        rewards = np.round(rewards)
    if seed % 5 == 0:  # two actions that are the same
        successors[1], shares[1], rewards[1] = successors[0], shares[0], rewards[0]
    discount = float(rng.choice([0.0, 0.5, 0.9, 0.99]))
    return successors, shares, rewards, discount, np.arange(STATES) < seed % 4


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_bounds_hold_on_hundreds_of_processes_against_a_linear_program(double):
    """The exact process is that of the float64 numbers; the one of float32 has rounded probabilities and rewards."""
    with jax.enable_x64(double):
        solvers: dict[str, Any] = {
            "value iteration": planning.value_iteration,
            "in blocks": functools.partial(planning.value_iteration, blocks=3),
            "policy iteration": planning.policy_iteration,
            "modified": planning.modified_policy_iteration,
        }
        solvers = {name: jax.jit(jax.vmap(solver)) for name, solver in solvers.items()}
        seeds = range(200)
        mdps = [sparse(*random_process(seed), dtype=np.float64 if double else np.float32) for seed in seeds]
        exact = np.stack([by_linear_program(*random_process(seed)) for seed in seeds])
        together = jax.tree.map(lambda *x: jnp.stack(x), *mdps)
        for name, solver in solvers.items():
            solution = solver(together)
            error = np.abs(np.asarray(solution.values) - exact).max(1)
            assert (error <= np.asarray(solution.bound) + 1e-13).all(), name
            # And the bounds are worth having.
            size = 1e-6 + np.abs(exact).max(1) * (1e-9 if double else 1e-3)
            assert (np.asarray(solution.bound) <= size).all(), name
            policies = np.asarray(solution.policy)
            chosen = np.take_along_axis(np.asarray(solution.action_values), policies[..., None], -1)[..., 0]
            assert (np.abs(chosen - exact).max(1) <= 2 * np.asarray(solution.bound) + 1e-6 * size).all(), name
            assert (np.asarray(solution.sweeps) < 10_000).all(), name


def assert_certified(*arguments):
    for method, error, bound, size in certified(*arguments):
        assert (error <= bound).all(), method
        assert np.median(bound / size) < 3e-5 / (1 - arguments[1]), method  # rounding, and little more


def test_bounds_hold_in_float32_for_a_discount_that_no_float_is():
    """1/(1-γ) magnifies the rounding of γ = 0.9999: a state that is paid 1 was 1.66 off, and certain to 0.02."""
    assert_certified(40, 0.9999, ("value iteration", "policy iteration"))
    one = jax.jit(planning.value_iteration)(dense(np.ones((1, 1, 1)), np.ones((1, 1)), 0.9999))
    assert abs(float(one.values[0]) - 1e4) <= float(one.bound) < 0.1
    shares = np.array([[0.5, 0.5], [0.25, 0.75]])
    values = planning.policy_evaluation(dense(shares[None], np.array([[3.0, 5.0]]), 0.9999), jnp.zeros(2, int))
    np.testing.assert_allclose(values, np.linalg.solve(np.eye(2) - 0.9999 * shares, [3.0, 5.0]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("discount", [0.9, 0.99, 0.999, 0.9999])
def test_bounds_hold_on_many_processes_for_any_discount(discount):
    assert_certified(700, discount)


def test_bounds_of_rows_that_sum_to_one_but_nearly():
    shares, rewards = np.array([[[0.33333] * 3, [0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]]), np.array([[1.0, 2.0, 3.0]])
    solution = jax.jit(planning.value_iteration)(dense(shares, rewards, 0.999))
    exact = np.linalg.solve(np.eye(3) - 0.999 * shares[0] / shares[0].sum(1, keepdims=True), rewards[0])
    assert np.abs(solution.values - exact).max() <= float(solution.bound) < 0.3


def equations(jaxpr):
    """How many there are, those of loops and calls included."""
    inner = [sub for x in jaxpr.eqns for p in x.params.values() for sub in (p if isinstance(p, tuple) else (p,))]
    jaxprs = [getattr(x, "jaxpr", x) for x in inner if hasattr(x, "jaxpr") or hasattr(x, "eqns")]
    return len(jaxpr.eqns) + sum(map(equations, jaxprs))


def test_programs_do_not_grow_with_actions_and_successors():
    """Written out, the 441 pairs of an action and a successor of a shop with 21 states compiled for 45 seconds."""
    for solve in (planning.value_iteration, planning.policy_iteration, planning.modified_policy_iteration):
        sizes = []
        for actions, width in ((10, 9), (20, 40)):
            grown = worlds.garnet(50, actions, width), dense(np.full((actions, 50, 50), 0.02), np.ones(50), 0.9)
            sizes.append([equations(jax.make_jaxpr(solve)(mdp).jaxpr) for mdp in grown])
        assert sizes[0] == sizes[1]
        assert max(sizes[0]) < 1_000


def test_backups_are_the_same_written_out_and_in_a_loop():
    """Of two actions with nine successors, and of those twice: more pairs than are written out."""
    mdp, values = worlds.garnet(30, 2, 9), jnp.arange(30.0)
    twice = mdp.replace(
        rewards=jnp.tile(mdp.rewards, (2, 1)),
        probabilities=jnp.tile(mdp.probabilities, (2, 1, 1)),
        successors=jnp.tile(mdp.successors, (2, 1, 1)),
    )
    expected = np.asarray(mdp.rewards) + 0.95 * matrices(mdp) @ np.arange(30.0)
    np.testing.assert_allclose(mdp.action_values(values), expected, rtol=1e-5)
    np.testing.assert_allclose(twice.action_values(values), np.tile(expected, (2, 1)), rtol=1e-5)
    for process in (mdp, twice):
        best, policy = process.greedy(values)
        np.testing.assert_allclose(best, expected.max(0), rtol=1e-5)
        np.testing.assert_array_equal(policy, expected.argmax(0))
        np.testing.assert_allclose(process.backup(values), best, rtol=1e-6)


def undiscounted(seed):
    """Eight states in a row and random leaps between them; steps cost something or nothing, in a few one is paid."""
    rng = np.random.default_rng(seed)
    successors = rng.integers(0, 8, (3, 2, 8))
    successors[0, 0] = np.minimum(np.arange(8) + 1, 7)  # there is always a way to the end
    rewards = rng.choice([-2.0, -1.0, 0.0] if seed % 4 else [-2.0, 0.0, 1.0], (3, 8))
    return successors, rng.dirichlet([1, 1], (3, 8)).swapaxes(1, 2), rewards, 1.0, np.arange(8) == 7


def test_without_a_discount_policy_iteration_finds_what_value_iteration_does():
    """Action 0 everywhere never ends on the cliff, and its equations have no solution."""
    cliff = worlds.cliff_walking(discount=1.0)
    found = jax.jit(planning.policy_iteration)(cliff)
    assert found.converged
    np.testing.assert_allclose(found.values, jax.jit(planning.value_iteration)(cliff).values, atol=1e-3)
    together = jax.tree.map(lambda *x: jnp.stack(x), *[sparse(*undiscounted(seed)) for seed in range(60)])
    found = jax.jit(jax.vmap(planning.policy_iteration))(together)
    expected = jax.jit(jax.vmap(functools.partial(planning.value_iteration, max_sweeps=5_000)))(together)
    assert not np.isnan(found.values).any()
    finite = np.asarray(found.converged)
    np.testing.assert_array_equal(finite, expected.converged)
    assert 45 <= finite.sum() < 60
    np.testing.assert_allclose(found.values[finite], expected.values[finite], atol=1e-3)


def test_a_loop_that_pays_for_ever_is_not_solved_and_gives_no_nan():
    stay, go = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]
    mdp = dense(np.array([stay, go]), np.array([[1.0, 0.0], [0.0, 0.0]]), 1.0, terminal=[False, True])
    for solve, options in (
        (planning.policy_iteration, {}),
        (planning.modified_policy_iteration, {"max_sweeps": 50}),
        (planning.value_iteration, {"max_sweeps": 50}),
    ):
        solution = jax.jit(functools.partial(solve, **options))(mdp)
        assert not solution.converged
        assert not np.isnan(solution.values).any()
        assert np.isinf(solution.bound)


def test_a_policy_that_never_ends_is_worth_minus_infinity_unless_nothing_is_paid():
    lake = worlds.gridworld("S..G", discount=1.0)
    dear = worlds.gridworld("S..G", discount=1.0, step_reward=-1.0)
    back = jnp.array([worlds.LEFT, worlds.LEFT, worlds.RIGHT, 0])
    for method in ("direct", "bicgstab"):
        evaluate = jax.jit(functools.partial(planning.policy_evaluation, method=method))
        np.testing.assert_allclose(evaluate(lake, back), [0, 0, 1, 0], atol=1e-6)  # against the edge, for nothing
        np.testing.assert_allclose(evaluate(dear, back), [-np.inf, -np.inf, 0, 0], atol=1e-6)


def test_missing_actions_are_never_taken_and_leave_the_bound_small():
    shares = np.array([[[0.5, 0.5], [0.5, 0.5]], [[0.9, 0.1], [0.0, 0.0]]])
    rewards = np.array([[1.0, 2.0], [0.5, -np.inf]])
    exact = np.linalg.solve(np.eye(2) - 0.9 * shares[0], rewards[0])
    mdp = dense(shares, rewards, 0.9)
    for solve in (planning.value_iteration, planning.policy_iteration, planning.modified_policy_iteration):
        solution = jax.jit(solve)(mdp)
        assert np.abs(solution.values - exact).max() <= float(solution.bound) < 1e-3
        np.testing.assert_array_equal(solution.policy, 0)
    soft = jax.jit(planning.soft_value_iteration)(mdp, 1e-3)
    np.testing.assert_allclose(soft.policy[1], [1.0, 0.0])
    assert float(soft.bound) < 1e-2
    np.testing.assert_array_equal(planning.policy_evaluation(mdp, jnp.array([0, 1])), -np.inf)


def test_backward_induction_needs_no_end():
    mdp = dense(np.ones((1, 1, 1)), np.ones((1, 1)), 0.5)
    np.testing.assert_array_equal(planning.backward_induction(mdp.with_discount(1.0), 3).values[:, 0], [3, 2, 1, 0])
    with pytest.raises(ValueError, match=r"discount = 1 needs an end.*with_discount\(1\)"):
        dense(np.ones((1, 1, 1)), np.ones((1, 1)), 1.0)
    assert float(mdp.with_discount(0.9).one_minus_discount) == np.float32(0.1)


def test_policy_iteration_ends_though_all_actions_are_equal():
    mdp = worlds.garnet(50, 1, 3, discount=0.9)
    same = mdp.replace(
        rewards=jnp.tile(mdp.rewards, (4, 1)),
        probabilities=jnp.tile(mdp.probabilities, (4, 1, 1)),
        successors=jnp.tile(mdp.successors, (4, 1, 1)),
    )
    solution = jax.jit(planning.policy_iteration)(same)
    assert int(solution.sweeps) == 1
    np.testing.assert_array_equal(solution.policy, 0)


def test_toy_texts_have_their_known_values():
    """Against an exact solve in NumPy of the optimal policy's equations, which no other policy beats."""
    with jax.enable_x64(True):
        known = {"frozen_lake": 0.41464036, "cliff_walking": -12.24789770, "taxi": 6.32746431}
        for name, value in known.items():
            mdp = worlds.WORLDS[name](dtype=np.float64)
            solution = jax.jit(planning.value_iteration)(mdp, tolerance=1e-9)
            table, policy = matrices(mdp), np.asarray(solution.policy)
            states = np.arange(mdp.num_states)
            rewards = np.asarray(mdp.rewards)
            matrix = np.eye(mdp.num_states) - 0.99 * table[policy, states]
            exact = np.linalg.solve(matrix, rewards[policy, states])
            assert (rewards + 0.99 * table @ exact <= exact + 1e-9).all()
            np.testing.assert_allclose(solution.values, exact, atol=1e-6)
            np.testing.assert_allclose(np.asarray(mdp.start) @ exact, value, atol=1e-6)


def test_evaluation_without_a_matrix_is_that_with_one():
    mdp = worlds.garnet(300, 3, 4, discount=0.95, seed=3)
    policy = jax.random.randint(jax.random.key(0), (300,), 0, 3)
    exact = np.linalg.solve(
        np.eye(300) - 0.95 * matrices(mdp)[policy, np.arange(300)], np.asarray(mdp.rewards)[policy, np.arange(300)]
    )
    for method in ("direct", "bicgstab"):
        values = jax.jit(planning.policy_evaluation, static_argnames="method")(mdp, policy, method=method)
        np.testing.assert_allclose(values, exact, atol=2e-4)
    solutions = [planning.policy_iteration(mdp, method=method) for method in ("direct", "bicgstab")]
    np.testing.assert_array_equal(solutions[0].policy, solutions[1].policy)


def test_span_stops_long_before_the_change_does():
    """In an ergodic process all values change alike: the span closes at once, the change only as γ^n."""
    mdp = worlds.garnet(200, 4, 20, discount=0.99)
    solution = planning.value_iteration(mdp, tolerance=1e-2)
    assert int(solution.sweeps) < 30
    assert float(solution.residuals[int(solution.sweeps) - 1]) > 1e-2
    assert np.isnan(solution.residuals[int(solution.sweeps) :]).all()
    blocks = planning.value_iteration(worlds.gridworld(["S" + "." * 62 + "G"]), blocks=8)
    assert int(blocks.sweeps) < int(planning.value_iteration(worlds.gridworld(["S" + "." * 62 + "G"])).sweeps) + 1
    with pytest.raises(ValueError, match="must divide 200 states"):
        planning.value_iteration(mdp, blocks=3)


def test_backward_induction_counts_the_steps_that_are_left():
    """On a corridor the goal is worth 1 once there are steps enough to reach it."""
    mdp = worlds.gridworld("S...G", discount=1.0)
    solution = planning.backward_induction(mdp, 4)
    values, policies = solution.values, solution.policy
    np.testing.assert_allclose(values[0], [1, 1, 1, 1, 0])
    np.testing.assert_allclose(values[2], [0, 0, 1, 1, 0])
    np.testing.assert_allclose(values[4], 0)
    assert policies.shape == (4, 5)
    assert int(policies[0, 0]) == worlds.RIGHT
    assert solution.action_values.shape == (4, 5, 4)
    np.testing.assert_allclose(solution.action_values[0, 3, worlds.RIGHT], 1.0)
    np.testing.assert_allclose(solution.residuals, 1.0)  # with every step that is left, one more cell
    assert float(solution.bound) < 1e-5
    paid = planning.backward_induction(mdp, 1, last=jnp.array([0.0, 7.0, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(paid.values[0], [7, 7, 7, 1, 0])


def test_backward_induction_is_within_its_bound_of_float64():
    solve = jax.jit(planning.backward_induction, static_argnums=1)
    for seed in range(20):
        process = random_process(seed)
        computed = solve(sparse(*process, dtype=np.float32), 30)
        with jax.enable_x64(True):
            exact = np.asarray(solve(sparse(*process, dtype=np.float64), 30).values)
        assert np.abs(computed.values - exact).max() <= float(computed.bound)


def test_soft_values_are_those_of_their_policy_and_become_hard_ones():
    mdp = worlds.garnet(30, 4, 3, discount=0.9)
    temperature = 0.7
    solution = planning.soft_value_iteration(mdp, temperature)
    policy = solution.policy
    np.testing.assert_allclose(policy.sum(-1), 1.0, rtol=1e-5)
    entropy = -(policy * jnp.log(policy)).sum(-1)
    table, probs = matrices(mdp), np.asarray(policy)
    under = np.einsum("sa,ast->st", probs, table)
    rewards = (probs * np.asarray(mdp.rewards).T).sum(-1) + temperature * np.asarray(entropy)
    exact = np.linalg.solve(np.eye(30) - 0.9 * under, rewards)
    np.testing.assert_allclose(solution.values, exact, atol=1e-3)
    hard = planning.value_iteration(mdp).values
    np.testing.assert_allclose(planning.soft_value_iteration(mdp, 1e-3).values, hard, atol=0.02)


def test_soft_values_are_within_their_bound():
    """Of those in float64, iterated for long by the definition."""
    solve = jax.jit(planning.soft_value_iteration)
    for seed in range(40):
        successors, shares, rewards, discount, terminal = random_process(seed)
        temperature = 10.0 ** (seed % 4 - 2)
        solution = solve(sparse(successors, shares, rewards, discount, terminal), temperature)
        values = np.zeros(STATES)
        for _ in range(4000):
            q = rewards + discount * (shares * values[successors]).sum(1)
            top = q.max(0)
            values = np.where(terminal, 0.0, top + temperature * np.log(np.exp((q - top) / temperature).sum(0)))
        error, bound = np.abs(solution.values - values).max(), float(solution.bound)
        assert error <= bound
        assert bound <= 1e-5 + 2e-3 * np.abs(values).max()


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices")
def test_states_are_split_over_devices():
    mdp = worlds.garnet(64, 3, 4)
    split = split_states(mdp, jax.devices()[:4])
    assert [x.data.shape for x in split.successors.addressable_shards] == [(3, 4, 16)] * 4
    solve = jax.jit(planning.value_iteration)
    np.testing.assert_allclose(solve(split).values, solve(mdp).values, rtol=1e-5)
    with pytest.raises(ValueError, match="63 states do not divide over 4 devices"):
        split_states(worlds.garnet(63, 3, 4), jax.devices()[:4])
