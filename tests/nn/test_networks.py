"""Networks: shapes, initial scales, leading axes, resets of the recurrent unit, and errors that say what to do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.nn.networks import ACTIVATIONS, CNN, MLP, activation, product_of_patches

KEY = jax.random.key(0)


def _init_with_output(model, x):
    return jax.jit(model.init_with_output)(KEY, x)


SMALL = {"channels": (16,), "kernels": (3,), "strides": (1,), "dense": 32}
MINATAR = CNN(**SMALL)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_mlp_maps_the_last_axis_whatever_leads(leading):
    x = jnp.ones((*leading, 5))
    assert jax.eval_shape(MLP((8, 7), output=3).init_with_output, KEY, x)[0].shape == (*leading, 3)
    assert jax.eval_shape(MLP((8, 7)).init_with_output, KEY, x)[0].shape == (*leading, 7)


def test_mlp_by_hand():
    model = MLP((2,), activation="relu", output=1)
    params = {
        "Dense_0": {"kernel": jnp.array([[1.0, -1.0]]), "bias": jnp.array([0.5, 0.0])},
        "output": {"kernel": jnp.array([[2.0], [3.0]]), "bias": jnp.array([-1.0])},
    }
    # x = 2: relu(2.5, -2) = (2.5, 0) and 2 * 2.5 - 1 = 4.  x = -2: relu(-1.5, 2) = (0, 2) and 3 * 2 - 1 = 5.
    np.testing.assert_allclose(model.apply({"params": params}, jnp.array([[2.0], [-2.0]])), [[4.0], [5.0]])


def test_mlp_kernels_are_orthogonal_at_their_scales_and_biases_are_zero():
    model = MLP((16, 16), output=2, output_scale=0.01)
    params = _init_with_output(model, jnp.ones(4))[1]["params"]
    for name, scale in (("Dense_0", 2.0), ("Dense_1", 2.0), ("output", 1e-4)):
        kernel = np.asarray(params[name]["kernel"])
        gram = kernel @ kernel.T if kernel.shape[0] < kernel.shape[1] else kernel.T @ kernel
        np.testing.assert_allclose(gram / scale, np.eye(len(gram)), atol=1e-5)
        np.testing.assert_array_equal(params[name]["bias"], 0.0)


def test_mlp_can_start_as_pytorch_does():
    """U(±1/√inputs) in kernels and biases: torch.nn.Linear's default; the output's scale has no part in it."""
    params = _init_with_output(MLP((400,), output=300, output_scale=0.01, initialization="uniform"), jnp.ones(9))[1]
    for name, inputs in (("Dense_0", 9), ("output", 400)):
        for part in ("kernel", "bias"):
            x = np.asarray(params["params"][name][part]) * np.sqrt(inputs)
            assert np.abs(x).max() <= 1 + 1e-6
            np.testing.assert_allclose([x.mean(), x.std(), np.abs(x).max()], [0, 1 / np.sqrt(3), 1], atol=0.1)


def test_mlp_normalises_before_the_activation():
    model = MLP((6,), activation="identity", layer_norm=True)
    y, variables = _init_with_output(model, 100 * jax.random.normal(KEY, (4, 3)))
    np.testing.assert_allclose(y.mean(-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.std(-1), 1.0, atol=1e-3)
    assert "LayerNorm_0" in variables["params"]


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_found_by_name(name):
    y = activation(name)(jnp.array([-1.0, 0.0, 2.0]))
    assert y.shape == (3,)
    assert bool(jnp.all(jnp.isfinite(y)))


def test_an_unknown_activation_is_refused_with_the_allowed_names():
    with pytest.raises(ValueError, match=r"relu.*tanh.*'swosh'"):
        activation("swosh")
    with pytest.raises(ValueError, match="must be one of"):
        MLP((4,), activation="swosh").init(KEY, jnp.ones(2))


def test_cnn_features_are_the_same_whatever_leads():
    images = jax.random.uniform(KEY, (2, 3, 10, 10, 4))
    y, variables = _init_with_output(MINATAR, images)
    assert y.shape == (2, 3, 32)
    np.testing.assert_allclose(MINATAR.apply(variables, images[1]), y[1], atol=1e-5)
    np.testing.assert_allclose(MINATAR.apply(variables, images[1, 2]), y[1, 2], atol=1e-5)


def test_cnn_scales_bytes_and_takes_floats_and_booleans_as_they_are():
    bits = jax.random.bernoulli(KEY, 0.5, (2, 10, 10, 4))
    variables = jax.jit(MINATAR.init)(KEY, bits)
    apply = jax.jit(MINATAR.apply)
    expected = apply(variables, bits.astype(jnp.float32))
    np.testing.assert_allclose(apply(variables, (255 * bits).astype(jnp.uint8)), expected, atol=1e-5)
    np.testing.assert_allclose(apply(variables, bits), expected, atol=1e-5)
    assert float(jnp.abs(apply(variables, 255.0 * bits) - expected).max()) > 1


@pytest.mark.parametrize(
    ("size", "kernel", "strides"), [((5, 7), (3, 2), (1, 1)), ((9, 8), (4, 3), (2, 3)), ((6, 6), (6, 6), (1, 1))]
)
def test_product_of_patches_is_the_convolution_of_lax_with_its_gradients(size, kernel, strides):
    images = jax.random.normal(KEY, (2, *size, 3))
    weights = jax.random.normal(jax.random.key(1), (*kernel, 3, 4))

    def of_lax(images, weights):
        return jax.lax.conv_general_dilated(
            images, weights, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def of_patches(images, weights):
        return product_of_patches(images, weights, strides)

    ours, theirs = (
        jax.jit(lambda x, w, f=f: (f(x, w), *jax.grad(lambda x, w: jnp.sin(f(x, w)).sum(), (0, 1))(x, w)))(
            images, weights
        )
        for f in (of_patches, of_lax)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_cnn_defaults_are_the_nature_network_on_84_by_84():
    shapes = jax.eval_shape(CNN().init, KEY, jnp.zeros((84, 84, 4), jnp.uint8))["params"]
    assert shapes["Conv_0"]["kernel"].shape == (8, 8, 4, 32)
    assert shapes["Conv_2"]["kernel"].shape == (3, 3, 64, 64)
    assert shapes["Dense_0"]["kernel"].shape == (7 * 7 * 64, 512)


def test_cnn_refuses_an_image_that_is_too_small_and_says_what_to_use():
    with pytest.raises(ValueError, match=r"10 x 10 is too small .*kernels=\(3,\), strides=\(1,\)"):
        CNN().init(KEY, jnp.ones((10, 10, 4)))
    with pytest.raises(ValueError, match="height, width, channels"):
        MINATAR.init(KEY, jnp.ones((10, 10)))
    with pytest.raises(ValueError, match="one length"):
        CNN(channels=(16,)).init(KEY, jnp.ones((84, 84, 4)))


def test_trap_no_network_calls_qr_when_initialised_under_vmap():
    class All(nn.Module):
        @nn.compact
        def __call__(self, image):
            x = CNN(**SMALL)(image)
            return MLP((7, 5), output=2)(x)

    keys = jax.random.split(KEY, 2)
    lowered = jax.jit(jax.vmap(All().init, (0, None))).lower(keys, jnp.ones((10, 10, 4))).as_text().lower()
    for name in ("geqrf", "orgqr", "householder", "lapack"):
        assert name not in lowered, name


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    model = MLP((4000,), activation="identity", dropout=0.25)
    x = jnp.ones((1, 3))
    params = model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)
    full = MLP((4000,), activation="identity").apply(params, x)
    first, second = (model.apply(params, x, rngs={"dropout": jax.random.key(seed)}) for seed in (2, 3))
    dropped = np.asarray(first == 0)
    assert abs(dropped.mean() - 0.25) < 0.03
    np.testing.assert_allclose(first[~dropped], full[~dropped] / 0.75, rtol=1e-5)
    assert (np.asarray(second == 0) != dropped).any()
