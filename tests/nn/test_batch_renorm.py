"""Batch renormalisation against flax's batch normalisation, and by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rljax.devices import AXIS
from rljax.nn.batch_renorm import BatchRenorm

X = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (64, 5))


def trained(layer, calls, x=X):
    """The variables after some training calls on x."""
    variables = layer.init(jax.random.key(1), x, True)
    for _ in range(calls):
        _, changed = layer.apply(variables, x, True, mutable=["batch_stats"])
        variables = variables | changed
    return variables


def test_is_batch_normalisation_until_the_warm_up_is_over():
    layer, reference = BatchRenorm(momentum=0.9, warm_up=10), nn.BatchNorm(momentum=0.9, epsilon=1e-3)
    variables, expected = trained(layer, 3), reference.init(jax.random.key(1), X, use_running_average=False)
    for _ in range(3):
        y, changed = reference.apply(expected, X, use_running_average=False, mutable=["batch_stats"])
        expected = expected | changed
    for name in ("mean", "var"):
        np.testing.assert_allclose(variables["batch_stats"][name], expected["batch_stats"][name], rtol=1e-4)
    ours, _ = layer.apply(variables, X, True, mutable=["batch_stats"])
    np.testing.assert_allclose(ours, y, atol=1e-4)
    acting = reference.apply(expected, X[:1], use_running_average=True)
    np.testing.assert_allclose(layer.apply(variables, X[:1], False), acting, atol=1e-4)


def test_afterwards_it_follows_the_running_statistics_within_its_bounds():
    layer = BatchRenorm(momentum=0.5, warm_up=20)
    variables = trained(layer, 20)  # the running statistics are those of X by now
    # Within the bounds training and acting are the same, whatever else is in the batch ...
    near = 1.1 * X + 0.5
    y, _ = layer.apply(variables, near, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, layer.apply(variables, near, False), atol=1e-3)
    # ... and far from them the batch is shifted by 5 running deviations, and scaled by 3.
    far = 100.0 + 40.0 * X
    y, _ = layer.apply(variables, far, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean(0), 5.0, rtol=1e-3)
    np.testing.assert_allclose(y.std(0), 3.0, rtol=1e-3)


def test_gradients_are_those_of_the_batch_and_statistics_have_none():
    layer = BatchRenorm(warm_up=0)
    variables = trained(layer, 5)
    weights = jax.random.normal(jax.random.key(2), X.shape)

    def loss(variables, x):
        return (weights * layer.apply(variables, x, True, mutable=["batch_stats"])[0]).sum()

    of_variables, of_x = jax.grad(loss, (0, 1))(variables, X)
    assert all(not leaf.any() for leaf in jax.tree.leaves(of_variables["batch_stats"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(of_variables["params"]))
    # What shifts the whole batch changes nothing that is differentiated.
    np.testing.assert_allclose(of_x.sum(0), 0.0, atol=1e-4)


def test_devices_with_parts_of_a_batch_share_its_statistics():
    layer = BatchRenorm(warm_up=2)
    alone = trained(BatchRenorm(warm_up=2), 3)
    parts = X.reshape(4, 16, 5)
    variables = BatchRenorm().init(jax.random.key(1), X, True)

    def train(part):
        own = variables
        for _ in range(3):
            _, changed = layer.apply(own, part, True, mutable=["batch_stats"])
            own = own | changed
        return own

    together = jax.vmap(train, axis_name=AXIS)(parts)
    for ours, expected in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, jnp.broadcast_to(expected, ours.shape), rtol=1e-4)
