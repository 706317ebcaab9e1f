"""Observations with parts, and networks of one's own: who sees what, and that all of it is saved and found again."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import dqn, ppo, pqn, sac, td3
from rljax.nn.encoder import encode
from rljax.spaces import Box, Dict, Discrete
from rljax.types import Refused
from tests.algorithms.cases import LOOKING, PARTS, PIXELS, ROLLOUT, SMALL
from tests.runs import train

BLIND = rljax.make("pendulum", blind=True, max_episode_steps=5)
PRIVILEGED = {"value_obs": ("privileged_state",)}


class Flat(nn.Module):
    """A network of one's own: the brightness of an image, and of its halves."""

    width: int = 3

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        pixels = obs.reshape(*obs.shape[:-3], -1) / 255.0
        return nn.relu(nn.Dense(self.width)(pixels))


def kernels(params):
    """The shapes of all kernels of the first layers, by path."""
    return {
        jax.tree_util.keystr(path): x.shape
        for path, x in jax.tree.leaves_with_path(params)
        if "kernel" in str(path[-1])
    }


def test_features_are_the_parts_side_by_side():
    space = Dict(
        {"words": Discrete(3), "state": Box(-1.0, 1.0, (2,)), "table": Box(0.0, 1.0, (2, 2)), "one": Box(0.0, 1.0, ())}
    )
    obs = {
        "words": jnp.array([1, 2]), "state": jnp.array([[0.1, 0.2], [0.3, 0.4]]),
        "table": jnp.arange(8.0).reshape(2, 2, 2), "one": jnp.array([7.0, 8.0]),
    }  # fmt: skip
    expected = [[7, 0.1, 0.2, 0, 1, 2, 3, 0, 1, 0], [8, 0.3, 0.4, 4, 5, 6, 7, 0, 0, 1]]
    np.testing.assert_allclose(encode(space, obs, None), expected, rtol=1e-6)


@pytest.mark.parametrize(("module", "config"), [(sac, SMALL), (td3, SMALL), (ppo, ROLLOUT)])
def test_values_see_what_the_policy_does_not(module, config):
    """The policy's first layer has the width of the cosine and sine, the critics' that of the velocity too."""
    agent = module.make(BLIND, module.Config(**config, **PRIVILEGED)).agent
    params = jax.eval_shape(agent.init, jax.random.key(0)).params
    if module is ppo:
        shapes = kernels(params["policy"])
        assert {2} == {shape[0] for path, shape in shapes.items() if "'actor'" in path and "Dense_0" in path}
        assert {3} == {shape[0] for path, shape in shapes.items() if "'critic'" in path and "Dense_0" in path}
        return
    first = {
        part: {shape[-2] for path, shape in kernels(params[part]).items() if "Dense_0" in path}
        for part in ("policy", "critic")
    }
    assert first == {"policy": {2}, "critic": {3 + 1}}


def test_the_policy_does_not_depend_on_what_it_does_not_see():
    algorithm = sac.make(LOOKING, sac.Config(**SMALL | PARTS | {"hidden": (32,)}))
    policy = algorithm.policy(jax.jit(algorithm.init)(jax.random.key(0)))
    obs = LOOKING.reset(jax.random.key(1)).obs
    other = obs | {"privileged_state": obs["privileged_state"] + 50.0}
    brighter = obs | {"camera": obs["camera"] + 100}
    act = jax.jit(lambda obs: policy(jax.random.key(2), obs))
    np.testing.assert_array_equal(act(obs), act(other))
    assert jnp.abs(act(obs) - act(brighter)).max() > 0


def test_what_there_is_not_to_see_is_refused():
    with pytest.raises(
        Refused, match="there is no part camera to see: the observation has the parts privileged_state, state"
    ):
        ppo.make(BLIND, ppo.Config(policy_obs=("camera",)))
    with pytest.raises(Refused, match="shared_torso = True is not allowed where policy_obs and value_obs differ"):
        ppo.make(BLIND, ppo.Config(**PRIVILEGED, shared_torso=True))
    with pytest.raises(Refused, match="crossq needs observations"):
        rljax.algorithms.get("crossq").make(BLIND)


@pytest.mark.parametrize("module", [ppo, pqn, dqn])
def test_a_network_of_ones_own_takes_the_place_of_convolutions(module, tmp_path):
    config = module.Config(**(SMALL if module is dqn else ROLLOUT))
    algorithm = module.make(PIXELS, config, Flat(5))
    shapes = kernels(jax.eval_shape(algorithm.agent.init, jax.random.key(0)).params)
    own = [shape for path, shape in shapes.items() if "encoder" in path]
    assert own == [(36, 5)] * (2 if module is ppo else 1)
    assert not any("CNN" in path for path in shapes)
    if module is not ppo:
        return
    folder = tmp_path / "run"
    result = train(algorithm, 16, folder=folder)
    with pytest.raises(Refused, match=r"a network that is not rljax's: pass network=Flat\( # attributes width = 5"):
        rljax.load(folder, env=PIXELS)
    with pytest.raises(Refused, match=r"was trained with network=Flat\(.* 5.*, and this is Flat\(.* 6"):
        rljax.load(folder, env=PIXELS, network=Flat(6))
    obs = jnp.zeros((6, 6, 1), jnp.uint8)
    loaded = rljax.load(folder, env=PIXELS, network=Flat(5))
    assert loaded(jax.random.key(1), obs) == result.policy(jax.random.key(1), obs)
    with pytest.raises(Refused, match=r"holds another run: settings\.network was 'Flat"):
        train(module.make(PIXELS, config, Flat(6)), 32, folder=folder, resume=True)


@pytest.mark.parametrize("module", [sac, td3])
def test_policy_and_critics_have_a_network_of_ones_own_each(module):
    env = rljax.make("catch")
    agent = module.make(env, module.Config(**SMALL), Flat(5)).agent
    params = jax.eval_shape(agent.init, jax.random.key(0)).params
    for part, members in (("policy", ()), ("critic", (2,))):
        assert kernels(params[part])["['params']['encoder']['Dense_0']['kernel']"] == (*members, 1024, 5)


class Lost(nn.Module):
    """Features without the leading axes of the observations."""

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return nn.Dense(4)(obs.reshape(-1))


class Normed(nn.Module):
    """Features that are normalised over a batch."""

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return nn.BatchNorm(use_running_average=True)(obs.reshape(*obs.shape[:-3], -1))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Normed(), "network must have parameters alone, and Normed has batch_stats as well"),
        (Flat, r"network must be a flax module, Flat\(\) and not Flat; got <class"),
        (3, r"network must be a flax module, such as MyCNN\(\); got 3"),
        (Lost(), r"network must map observations \[2, 3, …\] to features \[2, 3, d\], .* it gives \(4,\)"),
    ],
)
def test_what_is_no_network_is_refused_before_anything_is_trained(network, message):
    for module, env in ((ppo, PIXELS), (dqn, PIXELS), (sac, rljax.make("catch"))):
        with pytest.raises(Refused, match=message):
            module.make(env, None, network)
