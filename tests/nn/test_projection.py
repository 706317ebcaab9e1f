"""Parameters on spheres."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.nn.projection import unit_norms


def test_outputs_have_unit_weights_and_normalisations_the_root_of_their_width():
    draw = jax.random.normal
    params: dict[str, Any] = {
        "Dense_0": {"kernel": draw(jax.random.key(0), (3, 4)), "bias": jnp.arange(4.0)},
        "norm": {"scale": draw(jax.random.key(1), (2, 4)), "bias": draw(jax.random.key(2), (2, 4))},
        "rms": {"scale": draw(jax.random.key(3), (9,))},
        "encoder": {"Dense_0": {"kernel": draw(jax.random.key(4), (3, 4))}},
        "log_std": jnp.ones(3),
    }
    after = unit_norms(params, skip=("encoder",))
    np.testing.assert_allclose(np.linalg.norm(after["Dense_0"]["kernel"], axis=0), 1.0, rtol=1e-6)
    together = np.concatenate([after["norm"]["scale"], after["norm"]["bias"]], axis=-1)  # of each of two members
    np.testing.assert_allclose(np.linalg.norm(together, axis=-1), 2.0, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(after["rms"]["scale"]), 3.0, rtol=1e-6)
    np.testing.assert_array_equal(after["Dense_0"]["bias"], params["Dense_0"]["bias"])
    np.testing.assert_array_equal(after["encoder"]["Dense_0"]["kernel"], params["encoder"]["Dense_0"]["kernel"])
    np.testing.assert_array_equal(after["log_std"], params["log_std"])
    # Directions stay, and a second projection changes nothing.
    ratio = after["Dense_0"]["kernel"] / params["Dense_0"]["kernel"]
    np.testing.assert_allclose(ratio, ratio[:1].repeat(3, 0), rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), unit_norms(after, ("encoder",)), after)


def test_an_output_of_zeros_stays_finite():
    assert np.isfinite(unit_norms({"kernel": jnp.zeros((2, 2))})["kernel"]).all()
