"""Every form of file, of every kind of policy, against the policy itself."""

import itertools
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.deploy import c_header, onnx_file, stablehlo
from rljax.deploy.source import Source
from rljax.types import Refused
from tests.deploy.policies import expected, observations, of_case, of_function, played

QUICK = ("ppo", "ppo of parts", "dqn", "diffusion")
"""With memory; of images and words; of values; with noise, a choice and a loop."""
SLOW = (
    "ppo of choices",
    "ppo of images",
    "a2c",
    "pqn",
    "sac",
    "sac of parts",
    "td3",
    "crossq",
    "flash_sac",
    "reppo",
    "trpo",
    "iql",
    "bc",
    "cql",
    "td3_bc",
    "rlpd of parts",
    "dqn of quantiles",
    "dqn of categories",
    "diffusion of parts",
    "flow",
    "dsrl_sac",
    "dsrl_na",
    "grrl_steer",
    "residual",
)
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]
needs_compiler = pytest.mark.skipif(c_header.compiler() is None, reason="there is no C compiler")


def runners(source):
    """What runs the policy, by the form of the file."""
    made = {"stablehlo": stablehlo.reader(stablehlo.write(source), source)}
    pytest.importorskip("onnx")
    made["onnx"], _ = onnx_file.reader(onnx_file.write(source, {}), source)
    if c_header.compiler() is not None:
        made["c"], _ = c_header.reader(c_header.write(source, "policy", ["a test"]), source, "policy")
    return made


@pytest.mark.parametrize("case", CASES)
def test_every_form_acts_as_the_policy_does(case):
    policy, env = of_case(case)
    source = Source(policy, env)
    obs = observations(env, 1000)
    wanted = expected(policy, obs)
    assert len(np.unique(wanted, axis=0)) > 1
    for form, run in runners(source).items():
        found = played(source, run, obs)
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        largest = np.abs(np.float64(found) - wanted).max()
        assert largest <= 1e-5 * max(1.0, np.abs(wanted).max()), (form, largest)


def test_noise_is_an_input_and_gives_what_the_key_would():
    policy, env = of_case("sac")
    source = Source(policy, env, deterministic=False)
    [noise] = source.group("noise")
    assert (noise.name, noise.kind) == ("noise", "normal")
    key, obs = jax.random.key(3), observations(env, 1)[0]
    given = {"obs": obs, "noise": np.asarray(jax.random.normal(key, noise.shape))}
    wanted = policy(key, obs, deterministic=False)
    assert np.abs(np.asarray(wanted) - np.asarray(policy(key, obs))).max() > 1e-3
    for run in runners(source).values():
        np.testing.assert_allclose(run(given)["action"], wanted, atol=1e-5)


def test_a_batch_of_any_size_is_as_many_observations():
    policy, env = of_case("dqn")
    source = Source(policy, env)
    call = jax.export.deserialize(bytearray(stablehlo.write(source))).call
    obs = observations(env, 5)[:, 0]
    np.testing.assert_array_equal(call(obs), policy(jax.random.key(0), obs))


def test_what_the_policy_does_not_see_is_no_input_and_is_not_remembered():
    policy, env = of_case("rlpd of parts")
    assert "privileged_state" in env.observation_space.spaces
    names = [port.name for port in Source(policy, env).inputs]
    assert names == ["camera", "memory/chunk", "memory/obs/camera", "memory/step"]


def many(x):
    """Most primitives that the writers know, each with a result that depends on x [n, 8]."""
    image = jnp.tile(x.reshape(-1, 2, 4, 1), (1, 2, 1, 2))
    kernel = jnp.arange(36, dtype=jnp.float32).reshape(3, 3, 2, 2) / 36
    conv = jax.lax.conv_general_dilated(image, kernel, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    index = jnp.argmin(x, -1) + 5
    table = jnp.arange(16, dtype=jnp.float32).reshape(8, 2)
    flags = x > 0
    matrix = x.reshape(-1, 4, 2)
    whole = jnp.floor(4 * x).astype(jnp.int32)
    found = [
        jax.nn.elu(x),
        jax.nn.softplus(x),
        jax.nn.gelu(x, approximate=False),
        jax.nn.gelu(x),
        jax.nn.softmax(x),
        jnp.log1p(jnp.abs(x)) + jnp.cos(x) + jnp.sin(x) + jnp.exp(-x) + jnp.sqrt(jnp.abs(x)),
        jax.lax.rsqrt(1 + x**2) + jnp.sign(x) + jnp.ceil(x) + jnp.abs(x) ** 1.5 + x**3 + x**-2,
        jnp.pad(x, ((0, 0), (1, 2)), constant_values=3.0)[:, ::2],
        x[:, ::-1],
        jnp.moveaxis(matrix, 1, 2).reshape(x.shape[0], -1) - x.min(-1, keepdims=True),
        (matrix @ jnp.moveaxis(matrix, 1, 2)).reshape(x.shape[0], -1),
        conv.reshape(x.shape[0], -1),
        jnp.take(table, jnp.clip(index, 0, 7), axis=0),
        jnp.stack([flags.any(-1), flags.all(-1), (flags ^ flags[:, ::-1]).any(-1)], -1).astype(jnp.float32),
        (whole % 3 + jax.lax.rem(whole, 2)).astype(jnp.float32) + jnp.where(whole != 1, x, -x),
        jax.lax.cond(x[0, 0] > 0, lambda: jnp.tanh(x), lambda: 2 * x),
        jax.lax.fori_loop(0, 3, lambda i, y: y * 0.5 + i, x),
        jnp.split(x, 2, axis=-1)[1] / jnp.clip(x[:, :4], 0.5, 2.0),
        jnp.isfinite(x).astype(jnp.float32) * jax.lax.logistic(x),
    ]
    return jnp.concatenate(found, axis=-1)


def test_each_primitive_is_translated():
    size = jax.eval_shape(many, jax.ShapeDtypeStruct((1, 8), jnp.float32)).shape[1]
    policy, env = of_function(many, 8, size)
    source = Source(policy, env)
    obs = observations(env, 40)
    wanted = expected(policy, obs)
    for form, run in runners(source).items():
        np.testing.assert_allclose(played(source, run, obs), wanted, rtol=2e-5, atol=2e-5, err_msg=form)


@needs_compiler
def test_a_header_hands_on_what_is_not_a_number_as_jax_does():
    def function(x):
        first = jnp.argmax(x, -1, keepdims=True)
        return jnp.concatenate([jax.nn.relu(x), -jax.nn.relu(-x), jnp.sign(x), x.max(-1, keepdims=True), first], -1)

    policy, env = of_function(function, 3, 11)
    source = Source(policy, env)
    run, _ = c_header.reader(c_header.write(source, "policy", []), source, "policy")
    odd = (np.nan, np.inf, -np.inf, 3e38, -0.5)
    obs = np.array(list(itertools.product(odd, repeat=3)), np.float32)
    np.testing.assert_array_equal(played(source, run, obs).reshape(len(obs), -1), expected(policy, obs))


@pytest.mark.parametrize("name", ["while", "a-b", "1st", ""])
def test_a_name_that_c_does_not_take_is_refused(name):
    source = Source(*of_function(jnp.tanh, 3, 3))
    with pytest.raises(Refused, match="cannot be the name of a function in C"):
        c_header.write(source, name, [])


@pytest.mark.parametrize(("form", "language"), [("onnx", "ONNX"), ("c", "C")])
def test_a_primitive_without_translation_is_refused_by_name(form, language):
    source = Source(*of_function(lambda x: jnp.sort(x), 3, 3))
    with pytest.raises(Refused, match=f"the primitive sort has no translation to {language}"):
        onnx_file.write(source, {}) if form == "onnx" else c_header.write(source, "policy", [])


def test_loops_of_unknown_length_draws_of_unknown_kind_and_constant_actions_are_refused():
    def shuffled(variables, key, obs, memory, deterministic):
        return jax.random.bits(key, obs.shape).astype(jnp.float32) + obs, memory, ()

    loop = lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x)  # noqa: E731
    with pytest.raises(Refused, match="while"):
        Source(*of_function(loop, 3, 3))
    policy, env = of_function(lambda x: x, 3, 3)
    with pytest.raises(Refused, match="draws random numbers"):
        Source(policy.replace(function=shuffled), env)
    with pytest.raises(Refused, match="depends on nothing"):
        Source(*of_function(jnp.zeros_like, 3, 3))


@needs_compiler
def test_a_header_resets_a_memory_that_is_not_zero(tmp_path):
    policy, env = of_case("diffusion")
    source = Source(policy, env)
    text = c_header.write(source, "arm", ["a comment */ that ends early"]).decode()
    assert "static inline void arm_reset(float *memory_chunk, float *memory_obs, int32_t *memory_step)" in text
    (tmp_path / "arm.h").write_text(text)
    (tmp_path / "main.c").write_text(
        """#include <stdio.h>
#include "arm.h"
int main(void) {
    float chunk[ARM_MEMORY_CHUNK_SIZE], past[ARM_MEMORY_OBS_SIZE], action[ARM_ACTION_SIZE];
    const float obs[ARM_OBS_SIZE] = {0.5f, -1.0f};
    int32_t step[ARM_MEMORY_STEP_SIZE];
    arm_reset(chunk, past, step);
    arm(obs, chunk, past, step, action);
    printf("%.9g %d\\n", action[0], (int)step[0]);
    return 0;
}
"""
    )
    command = [shutil.which("cc") or c_header.compiler(), *c_header.FLAGS, "main.c", "-o", "main", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    action, step = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout.split()
    wanted = expected(policy, np.float32([[[0.5, -1.0]]]))
    np.testing.assert_allclose(float(action), wanted.item(), atol=1e-5)
    assert step == "1"
