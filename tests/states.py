"""What every algorithm comes to from the same keys, to be compared over a change that must not alter the mathematics.

    python -m tests.states record before.json       # in the tree before the change
    python -m tests.states compare before.json      # in the tree after it: says what differs, and by how much

The cases are those of tests/algorithms/cases.py. Recorded are the bits of every array of the state after a few
iterations, the metrics, and the actions of the policy. An array is found again wherever the new state keeps it.
"""

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.types import Mean
from tests.algorithms.cases import CASES, made

ITERATIONS = 5


def bits(leaf: Any) -> str:
    """Of one array: its type, shape and content, 16 characters."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:16]


def outcome(case: str) -> dict[str, Any]:
    """What a case comes to."""
    algorithm = made(case)
    data = () if algorithm.data is None else (jax.device_put(algorithm.data),)

    def train(key: jax.Array) -> tuple[Any, Any]:
        return jax.lax.scan(lambda s, _: algorithm.step(s, *data), algorithm.init(key), None, ITERATIONS)

    state, metrics = jax.jit(train)(jax.random.key(0))
    values = {name: x.value if isinstance(x, Mean) else x for name, x in metrics.items()}
    policy, obs = algorithm.policy(state), algorithm.env.reset(jax.random.key(1)).obs
    acted = [
        np.asarray(jax.jit(policy.apply, static_argnums=3)(jax.random.key(2), obs, policy.initial_memory, sure)[0])
        for sure in (True, False)
    ]
    return {
        "arrays": sorted(bits(leaf) for leaf in jax.tree.leaves(state)),
        "metrics": {name: np.asarray(x, float).tolist() for name, x in sorted(values.items())},
        "actions": [np.asarray(x, float).ravel().tolist() for x in acted],
    }


def distance(before: Any, now: Any) -> float:
    """The largest difference of two lists of numbers; NaN equals NaN."""
    return float(np.nanmax(np.abs(np.subtract(before, now)), initial=0.0))


def compare(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, in words; an empty text where nothing does."""
    gone = Counter(before["arrays"]) - Counter(now["arrays"])
    parts = [f"{gone.total()} of {len(before['arrays'])} arrays are not found again"] if gone else []
    for name, values in before["metrics"].items():
        if name not in now["metrics"]:
            parts.append(f"{name} is gone")
        elif not np.array_equal(values, now["metrics"][name], equal_nan=True):
            parts.append(f"{name} differs by {distance(values, now['metrics'][name]):.1e}")
    if new := sorted(set(now["metrics"]) - set(before["metrics"])):
        parts.append(f"{', '.join(new)} is new")
    if before["actions"] != now["actions"]:
        parts.append(f"actions differ by {max(map(distance, before['actions'], now['actions'])):.1e}")
    return "; ".join(parts)


def main(command: str, file: str, *cases: str) -> None:
    chosen = cases or tuple(CASES)
    outcomes = {}
    for case in chosen:
        outcomes[case] = outcome(case)
        if command == "record":
            print(case, flush=True)
    if command == "record":
        Path(file).write_text(json.dumps(outcomes, indent=1) + "\n")
        return
    before = json.loads(Path(file).read_text())
    differences = {case: compare(before[case], outcomes[case]) for case in chosen if case in before}
    for case, text in differences.items():
        print(f"{case}: {text or 'equal, bit for bit'}")
    sys.exit(any(differences.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
