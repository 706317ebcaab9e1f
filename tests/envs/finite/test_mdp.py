"""The MDP type: forms that agree, what is refused, shaping, sampling by counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import planning, tabular
from rljax.envs.finite import Finite, dense, from_lists, shaped, sparse
from rljax.envs.finite.worlds import garnet
from rljax.envs.wrappers import PotentialShaping

SUCCESSORS = np.array([[[1, 2, 2], [0, 0, 2]], [[2, 1, 2], [0, 0, 2]]])  # [actions, successors, states]
SHARES = np.array([[[0.5, 1.0, 1.0], [0.5, 0.0, 0.0]], [[1.0, 0.25, 1.0], [0.0, 0.75, 0.0]]])
REWARDS = np.array([[1.0, 2.0, 0.0], [0.0, -1.0, 0.0]])


def matrices(mdp):
    """P[a, s, s'] in NumPy."""
    actions, width, states = mdp.probabilities.shape
    if mdp.successors is None:
        return np.asarray(mdp.probabilities).swapaxes(1, 2)
    table = np.zeros((actions, states, states))
    for action in range(actions):
        for k in range(width):
            np.add.at(
                table[action],
                (np.arange(states), np.asarray(mdp.successors[action, k])),
                np.asarray(mdp.probabilities[action, k], np.float64),
            )
    return table


def test_a_backup_by_hand():
    mdp = sparse(SUCCESSORS, SHARES, REWARDS, 0.5, terminal=[False, False, True])
    first, second = mdp.action_values(jnp.array([4.0, 8.0, 0.0]))
    np.testing.assert_allclose(first, [1 + 0.5 * (0.5 * 8 + 0.5 * 4), 2.0, 0.0])
    np.testing.assert_allclose(second, [0.0, -1 + 0.5 * (0.25 * 8 + 0.75 * 4), 0.0])
    np.testing.assert_allclose(mdp.backup(jnp.array([4.0, 8.0, 0.0])), [4.0, 2.0, 0.0])


def test_dense_and_sparse_forms_agree():
    mdp = sparse(SUCCESSORS, SHARES, REWARDS, 0.5, terminal=[False, False, True])
    other = dense(matrices(mdp), REWARDS, 0.5, terminal=[False, False, True])
    values = jnp.array([4.0, 8.0, 0.0])
    np.testing.assert_allclose(other.action_values(values), mdp.action_values(values))
    policy = jnp.array([1, 0, 0])
    np.testing.assert_allclose(
        planning.policy_evaluation(mdp, policy), planning.policy_evaluation(other, policy), rtol=1e-6
    )


def test_rewards_may_depend_on_the_state_the_action_or_the_successor():
    of_successor = np.broadcast_to(np.array([0.0, 10.0, 20.0]), (2, 3, 3))  # r(s, a, s') = 10 s'
    table = matrices(sparse(SUCCESSORS, SHARES, REWARDS, 0.5))
    np.testing.assert_allclose(dense(table, of_successor, 0.5).rewards, table @ [0.0, 10.0, 20.0])
    np.testing.assert_allclose(sparse(SUCCESSORS, SHARES, 10.0 * SUCCESSORS, 0.5).rewards, table @ [0.0, 10.0, 20.0])
    np.testing.assert_allclose(sparse(SUCCESSORS, SHARES, np.arange(3.0), 0.5).rewards, [[0, 1, 2]] * 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probabilities": SHARES * 0.9}, "state 0, action 0 sum to 0.9"),
        ({"probabilities": SHARES - 0.6 * (SHARES == 0.25)}, "state 1, action 1: -0.35 is not a probability"),
        ({"probabilities": np.where(SHARES == 0.25, np.nan, SHARES)}, "state 1, action 1: nan is not a probability"),
        ({"successors": SUCCESSORS + 2 * (SUCCESSORS == 1)}, "successor 3 of state 0, action 0 is not a state"),
        ({"successors": SUCCESSORS.astype(float)}, "must be integers"),
        ({"successors": SUCCESSORS[0]}, "must both be"),
        ({"discount": 1.1}, r"discount must be in \[0, 1\], got 1.1"),
        ({"discount": 1.0}, "discount = 1 needs an end, and state 0 cannot reach a terminal state"),
        ({"rewards": REWARDS[:, :2]}, "rewards must be"),
        ({"rewards": np.where(REWARDS == 2, np.inf, REWARDS)}, "reward of state 1, action 0 is inf"),
        ({"terminal": [True]}, "terminal must be"),
        ({"start": [0.5, 0.0, 0.0]}, "start must be a distribution"),
        ({"start": [np.nan, 1.0, 0.0]}, "start must be a distribution"),
        ({"terminal": [True] * 3}, "all states are terminal"),
        ({"rewards": np.array([[0.0, -np.inf, 0.0]] * 2)}, "state 1 has no action: all of its rewards are -inf"),
        ({"rewards": REWARDS * 1e39}, "reward of state 0, action 0 is too large for float32"),
        ({"discount": 1 - 1e-9}, "discount = 0.999999999 is 1 in float32; give dtype = float64"),
    ],
)
def test_what_is_no_process_is_refused(changes, message):
    arguments = {"successors": SUCCESSORS, "probabilities": SHARES, "rewards": REWARDS, "discount": 0.9} | changes
    with pytest.raises(ValueError, match=message):
        sparse(**arguments)


def test_probabilities_are_divided_by_their_sum():
    mdp = sparse(SUCCESSORS, SHARES * 0.99995, REWARDS, 0.5)
    np.testing.assert_array_equal(mdp.probabilities, SHARES.astype(np.float32))
    np.testing.assert_allclose(sparse(SUCCESSORS, SHARES * 0.99995, 10.0 * SUCCESSORS, 0.5).rewards[0], [5, 20, 20])


def test_rewards_of_what_never_follows_do_not_count():
    """A table r(s, a, s') that was made by a division has no numbers there."""
    rewards = np.where(SHARES > 0, 10.0 * SUCCESSORS, np.nan)
    plain = sparse(SUCCESSORS, SHARES, 10.0 * SUCCESSORS, 0.5)
    np.testing.assert_array_equal(sparse(SUCCESSORS, SHARES, rewards, 0.5).rewards, plain.rewards)
    rewards[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match="reward of state 2, action 1 is nan"):
        sparse(SUCCESSORS, SHARES, rewards, 0.5)
    sparse(SUCCESSORS, SHARES, rewards, 0.5, terminal=[False, False, True])


def test_who_samples_needs_every_action():
    rewards = np.where(REWARDS == -1, -np.inf, REWARDS)
    mdp = sparse(SUCCESSORS, SHARES, rewards, 0.5, terminal=[False, False, True])
    with pytest.raises(ValueError, match="Finite needs every action in every state, and state 1 has no action 1"):
        Finite(mdp)
    with pytest.raises(ValueError, match="control needs every action in every state, and state 1 has no action 1"):
        tabular.control(mdp, jax.random.key(0), 10)


def test_without_discount_an_end_that_can_be_reached_is_enough():
    mdp = sparse(SUCCESSORS, SHARES, REWARDS, 1.0, terminal=[False, False, True])
    assert float(mdp.discount) == 1.0
    stuck = SUCCESSORS.copy()
    stuck[:, :, 0] = 0
    with pytest.raises(ValueError, match="state 0 cannot reach a terminal state"):
        sparse(stuck, SHARES, REWARDS, 1.0, terminal=[False, False, True])


def test_lists_in_which_a_state_is_both_an_end_and_not_get_an_end_of_their_own():
    lists = {
        0: {0: [(1.0, 1, 5.0, True)], 1: [(1.0, 1, 0.0, False)]},
        1: {0: [(1.0, 0, 1.0, False)], 1: [(1.0, 1, 0.0, False)]},
    }
    mdp = from_lists(lists, 0.5)
    assert mdp.num_states == 3
    np.testing.assert_array_equal(mdp.terminal, [False, False, True])
    # Going to 1 and back for 1 pays less than 5, at 0.
    np.testing.assert_allclose(planning.value_iteration(mdp).values, [5.0, 3.5, 0.0], atol=1e-5)


def test_samples_follow_the_probabilities_and_episodes_end():
    mdp = sparse(SUCCESSORS, SHARES, REWARDS, 0.5, terminal=[False, False, True], start=[1.0, 0.0, 0.0])
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.vmap(lambda key: mdp.sample(key, jnp.int32(1), jnp.int32(1)))(keys)
    np.testing.assert_allclose(jnp.bincount(drawn, length=3) / 20_000, [0.75, 0.25, 0.0], atol=0.01)
    env = Finite(mdp)
    state = jax.jit(env.reset)(keys[0])
    assert int(state.obs) == 0
    state = jax.jit(env.step)(state, jnp.int32(1))
    assert int(state.obs) == 2
    assert bool(state.terminated)
    assert Finite(mdp, "one_hot").reset(keys[0]).obs.shape == (3,)


def test_shaping_by_a_potential_moves_values_and_no_decision():
    """Ng et al. 1999: Q* falls by the potential of the state; a bonus that is none changes what is best."""
    for seed in range(5):
        mdp = garnet(30, 4, 3, discount=0.9, seed=seed)
        mdp = mdp.replace(terminal=jnp.arange(30) == 7)
        mdp = mdp.replace(
            rewards=jnp.where(mdp.terminal, 0.0, mdp.rewards),
            probabilities=jnp.where(mdp.terminal, 0.0, mdp.probabilities),
        )
        potential = 3.0 * jax.random.normal(jax.random.key(seed), (30,))
        plain, other = (planning.policy_iteration(x) for x in (mdp, shaped(mdp, potential)))
        np.testing.assert_array_equal(plain.policy, other.policy)
        potential = jnp.where(mdp.terminal, 0.0, potential)
        np.testing.assert_allclose(plain.action_values - potential[:, None], other.action_values, atol=1e-4)
    bonus = jnp.zeros((4, 30)).at[2].set(3.0)
    misled = planning.policy_iteration(mdp.replace(rewards=jnp.where(mdp.terminal, 0.0, mdp.rewards + bonus)))
    assert (misled.policy != plain.policy).any()


def test_the_wrapper_pays_what_the_transform_does_in_expectation():
    mdp = sparse(SUCCESSORS, SHARES, REWARDS, 0.5, terminal=[False, False, True])
    potential = jnp.array([3.0, -2.0, 100.0])
    env = PotentialShaping(Finite(mdp), lambda obs: potential[obs], 0.5)
    start = env.env.reset(jax.random.key(0)).replace(obs=jnp.int32(1))

    def pay(key):
        return env.step(start.replace(physics=(jnp.int32(1), key)), jnp.int32(1)).reward

    paid = jax.jit(jax.vmap(pay))(jax.random.split(jax.random.key(1), 20_000)).mean()
    np.testing.assert_allclose(paid, shaped(mdp, potential).rewards[1, 1], atol=0.03)
    with pytest.raises(ValueError, match="discount must be"):
        PotentialShaping(Finite(mdp), lambda obs: jnp.zeros(()), 2.0)
