"""Driver of pymdptoolbox and QuantEcon's DiscreteDP, on a process that benchmarks/planning.py has written.

    python benchmarks/peers/planning.py --input mdp.npz --library quantecon --method value_iteration --epsilon 1e-3

Prints one line of JSON: seconds until the problem is set up from arrays (checks, and what the solver prepares),
seconds of the solution, iterations, and the values at a few states.
"""

import argparse
import json
import time

import numpy as np
from scipy.sparse import coo_array, csr_matrix, vstack


def read(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Successors and probabilities [A, K, S], rewards [A, S], and the discount."""
    with np.load(path, allow_pickle=False) as file:
        return (
            file["successors"],
            file["probabilities"].astype(np.float64),
            file["rewards"].astype(np.float64),
            float(file["discount"]),
        )


def matrix(successors: np.ndarray, probabilities: np.ndarray) -> csr_matrix:
    """[S, S] of one action, from [K, S]; each row sums to 1 in float64 too."""
    width, states = successors.shape
    probabilities = probabilities / probabilities.sum(0)
    rows = np.broadcast_to(np.arange(states), (width, states))
    return csr_matrix(coo_array((probabilities.ravel(), (rows.ravel(), successors.ravel())), (states, states)))


def by_pymdptoolbox(path: str, method: str, epsilon: float) -> tuple[float, float, int, np.ndarray]:
    from mdptoolbox import mdp

    successors, probabilities, rewards, discount = read(path)
    transitions = [matrix(s, p) for s, p in zip(successors, probabilities, strict=True)]
    solvers = {
        "value_iteration": lambda: mdp.ValueIteration(transitions, rewards.T, discount, epsilon, max_iter=10**6),
        "modified_policy_iteration": lambda: mdp.PolicyIterationModified(
            transitions, rewards.T, discount, epsilon, max_iter=10**6
        ),
    }
    begin = time.perf_counter()
    solver = solvers[method]()
    made = time.perf_counter()
    solver.run()
    return made - begin, time.perf_counter() - made, solver.iter, np.asarray(solver.V)


def by_quantecon(path: str, method: str, epsilon: float) -> tuple[float, float, int, np.ndarray]:
    from quantecon.markov import DiscreteDP

    def arguments(successors: np.ndarray, probabilities: np.ndarray, rewards: np.ndarray, discount: float) -> tuple:
        actions, _, states = successors.shape
        # Pairs of state and action, sorted by state.
        order = np.arange(actions * states).reshape(actions, states).T.ravel()
        table = vstack([matrix(s, p) for s, p in zip(successors, probabilities, strict=True)]).tocsr()[order]
        pairs = np.repeat(np.arange(states), actions), np.tile(np.arange(actions), states)
        return rewards.T.ravel(), table, discount, *pairs

    # Its inner loops are compiled at their first use, which is not counted.
    successors, probabilities, rewards, discount = read(path)
    small = np.random.default_rng(0).integers(0, 50, (*successors.shape[:2], 50))
    DiscreteDP(*arguments(small, probabilities[:, :, :50], rewards[:, :50], discount)).solve(method, epsilon=1.0)
    whole = arguments(successors, probabilities, rewards, discount)
    begin = time.perf_counter()
    problem = DiscreteDP(*whole)
    made = time.perf_counter()
    result = problem.solve(method=method, epsilon=epsilon, max_iter=10**6)
    return made - begin, time.perf_counter() - made, int(result.num_iter), np.asarray(result.v)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", required=True)
    parser.add_argument("--library", choices=("pymdptoolbox", "quantecon"), required=True)
    parser.add_argument("--method", choices=("value_iteration", "modified_policy_iteration"), required=True)
    parser.add_argument("--epsilon", type=float, default=1e-3)
    arguments = parser.parse_args()
    solve = by_pymdptoolbox if arguments.library == "pymdptoolbox" else by_quantecon
    set_up, seconds, iterations, values = solve(arguments.input, arguments.method, arguments.epsilon)
    row = {"set_up_seconds": set_up, "seconds": seconds, "iterations": iterations, "values": values[:5].tolist()}
    print(json.dumps(row))
