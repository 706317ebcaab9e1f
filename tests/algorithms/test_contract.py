"""What every algorithm must do, by its name. A new one is tested by being among the cases, which another test demands.

Offline algorithms are split over devices, resumed and swept in test_offline.py, by the programs of the runner.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import NAMES
from rljax.training.checkpoint import Checkpointer
from rljax.training.devices import make_mesh, shard_environments
from tests.algorithms.cases import CASES, PIXELS, made

ITERATIONS = 4
# Of each online algorithm a case, and a hyperparameter that can be swept, with a value for it.
ONLINE = {
    "a2c": ("a2c", ("learning_rate", 0.05)),
    "impala": ("impala", ("learning_rate", 0.05)),
    "ppo": ("ppo", ("learning_rate", 0.05)),
    "pqn": ("pqn", ("learning_rate", 0.05)),
    "reppo": ("reppo", ("learning_rate", 0.05)),
    "trpo": ("trpo", ("max_kl", 0.05)),
    "dqn": ("dqn", ("learning_rate", 0.05)),
    "sac": ("sac", ("learning_rate", 0.05)),
    "td3": ("fast td3", ("learning_rate", 0.05)),
    "crossq": ("crossq", ("learning_rate", 0.05)),
    "flash_sac": ("flash_sac", ("initial_temperature", 3.0)),
    "observations with parts": ("sac of parts", ("learning_rate", 0.05)),
}


def test_every_algorithm_is_tested():
    assert {name for name, *_ in CASES.values()} >= set(NAMES)
    # Steering needs a base, and is split, swept and resumed in test_steering.py.
    assert {name for name, *_, data, _ in CASES.values() if data is None} - {"steering"} == {
        CASES[case][0] for case, _ in ONLINE.values()
    }


@pytest.mark.parametrize("case", [case for case, (_, _, env, *_) in CASES.items() if env is not PIXELS])
def test_no_random_key_is_used_twice(case):
    """By JAX's own checker, over initialisation, a training step and acting.

    It takes a key that a reset chooses with `where` for one that is used twice; test_auto_reset.py looks at all keys
    that an environment with noise of its own goes through.
    """
    algorithm = made(case)

    def program(key, *data):
        train_key, act_key = jax.random.split(key)
        state, _ = algorithm.step(algorithm.init(train_key), *data)
        policy, obs = algorithm.policy(state), algorithm.env.reset(jax.random.key(0)).obs
        return policy.apply(act_key, obs, policy.initial_memory, deterministic=False)

    with jax.debug_key_reuse(True):
        jax.jit(program).trace(jax.random.key(0), *(() if algorithm.data is None else (algorithm.data,)))


def plain(tree):
    """NumPy's arrays, keys as integers, which can be compared."""

    def of(x):
        return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    return jax.tree.map(of, tree)


def training(algorithm):
    return lambda state: jax.lax.scan(lambda s, _: algorithm.step(s), state, None, ITERATIONS)


PARAMS = [pytest.param(name, marks=[pytest.mark.slow] if "parts" in name else []) for name in ONLINE]


@pytest.fixture(scope="module", params=PARAMS)
def online(request):
    """A name, its algorithm, `init`, and `run` for a few iterations: compiled once for the tests below."""
    algorithm = made(ONLINE[request.param][0])
    return request.param, algorithm, jax.jit(algorithm.init), jax.jit(training(algorithm))


def test_members_by_vmap_equal_single_runs_and_sweep_their_hyperparameters(online):
    name, algorithm, init, run = online
    field, value = ONLINE[name][1]
    states = [init(jax.random.key(seed)) for seed in (0, 1, 1)]
    assert float(getattr(states[0].hyper, field)) != value
    states[2] = states[2].replace(hyper=states[2].hyper.replace(**{field: jnp.float32(value)}))
    together = jax.tree.map(lambda *x: jnp.stack(x), *states)
    together, _ = jax.jit(jax.vmap(training(algorithm)))(together)
    for member, state in enumerate(states):
        alone, _ = run(state)
        # Sums associate otherwise. Behind a normalisation of batches a gradient may be rounding errors alone, of which
        # Adam makes whole steps.
        atol, rtol = (2e-3, 2e-3) if name == "flash_sac" else (1e-4, 1e-6)
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, m=member: x[m], together.params), alone.params, atol=atol, rtol=rtol
        )
    apart = jax.tree.map(lambda x: jnp.abs(x[1] - x[2]).max(), together.params)
    assert max(jax.tree.leaves(apart)) > 1e-3


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_over_devices_each_has_its_own_experience_and_all_learn_the_same(online, count):
    if jax.device_count() < count:
        pytest.skip(f"needs {count} devices")
    algorithm = online[1].remake(dataclasses.replace(online[1].config, num_envs=count))
    sharded = shard_environments(algorithm, make_mesh(jax.devices()[:count]))
    first = jax.jit(sharded.init)(jax.random.key(0))
    state, metrics = jax.jit(training(sharded))(first)
    for leaf in jax.tree.leaves(state.params):
        one, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        assert len(others) == count - 1
        for other in others:
            np.testing.assert_array_equal(one, other)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), plain(first.params), plain(state.params))
    assert max(jax.tree.leaves(moved)) > 1e-4
    assert all(np.isfinite(x[-1]).all() for x in jax.tree.leaves(metrics))
    split = [x for x in jax.tree.leaves(state) if not x.sharding.is_fully_replicated]
    shares = [x for x in split if x.dtype == jnp.float32]
    assert any(len(np.unique([np.asarray(s.data) for s in x.addressable_shards], axis=0)) == count for x in shares)


def test_a_state_that_was_saved_goes_on_bit_for_bit(online, tmp_path):
    _, algorithm, init, run = online
    state, _ = run(init(jax.random.key(3)))
    checkpoints = Checkpointer(tmp_path / "checkpoints")
    checkpoints.save(ITERATIONS, state, algorithm.policy(state), {"seconds": 0.0, "steps": 0})
    checkpoints.wait()
    restored = checkpoints.restore("state", jax.eval_shape(algorithm.init, jax.random.key(0)))
    checkpoints.close()
    assert restored is not None
    chex.assert_trees_all_equal(plain(run(restored.item)), plain(run(state)))
