"""Observations with parts, and networks of one's own: who sees what, and that all of it is saved and found again."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import a2c, bc, diffusion, dqn, dsrl, ppo, pqn, rlpd, sac, steering, td3
from rljax.nn.encoder import Encoder, encode
from rljax.ops import running_statistics
from rljax.spaces import Box, Dict, Discrete, MultiDiscrete
from rljax.types import Refused
from tests.algorithms.cases import LOOKING, PARTS, PIXELS, ROLLOUT, SMALL
from tests.datasets import dataset_of, looking_data
from tests.runs import train
from tests.toys import Drift, Repeat, limited

BLIND = rljax.make("pendulum", blind=True, max_episode_steps=5)
PRIVILEGED = {"value_obs": ("privileged_state",)}


class Flat(nn.Module):
    """A network of one's own: the brightness of an image, and of its halves."""

    width: int = 3

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        pixels = obs.reshape(*obs.shape[:-3], -1) / 255.0
        return nn.relu(nn.Dense(self.width)(pixels))


class Camera(nn.Module):
    """The same of a part."""

    @nn.compact
    def __call__(self, obs: dict[str, jax.Array]) -> jax.Array:
        return Flat()(obs["camera"])


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
        "words": jnp.array([1, 2]),
        "state": jnp.array([[0.1, 0.2], [0.3, 0.4]]),
        "table": jnp.arange(8.0).reshape(2, 2, 2),
        "one": jnp.array([7.0, 8.0]),
    }
    expected = [[7, 0.1, 0.2, 0, 1, 2, 3, 0, 1, 0], [8, 0.3, 0.4, 4, 5, 6, 7, 0, 0, 1]]
    np.testing.assert_allclose(encode(space, obs, ppo.Config()), expected, rtol=1e-6)


def test_choices_are_one_hot_each_side_by_side_for_any_leading_axes():
    space, obs = MultiDiscrete((3, 2)), jnp.array([[[0, 1], [2, 0]]])
    np.testing.assert_array_equal(encode(space, obs, ppo.Config()), [[[1, 0, 0, 0, 1], [0, 0, 1, 1, 0]]])


def test_choices_are_categories_to_normalisation_and_a_vector_of_whole_numbers_is_not():
    space = Dict({"board": MultiDiscrete((3, 2)), "counts": Box(0, 9, (2,), np.int32)})
    obs = {"board": jnp.array([2, 1]), "counts": jnp.array([4, 8])}
    statistics = running_statistics.update(running_statistics.init(obs, space), jax.tree.map(lambda x: x[None], obs))
    normalized = running_statistics.normalize(statistics, obs)
    assert normalized["board"] is obs["board"]
    np.testing.assert_array_equal(normalized["counts"], [0.0, 0.0])
    alone = running_statistics.init(obs["board"], space["board"])
    assert running_statistics.normalize(alone, obs["board"]) is obs["board"]


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (ppo, {"num_envs": 16, "rollout_length": 16, "normalize_observation": True}),
        (a2c, {"num_envs": 32, "discount": 0.5}),
    ],
)
def test_every_choice_learns_its_right_answer(module, settings):
    """An action at random repeats (1/3 + 1/2 + 1/4) / 3 = 0.36 of what is shown."""
    algorithm = module.make(limited(Repeat(), 8), module.Config(hidden=(32,), learning_rate=5e-3, **settings))
    train = jax.jit(lambda key: jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), length=100))
    state, _ = train(jax.random.key(0))
    policy, space = algorithm.policy(state), algorithm.env.observation_space
    shown = jax.vmap(space.sample)(jax.random.split(jax.random.key(1), 50))
    chosen, *_ = policy.apply(jax.random.key(2), shown, (), True)
    assert chosen.dtype == jnp.int32
    np.testing.assert_array_equal(chosen, shown)
    drawn, *_ = policy.apply(jax.random.key(3), shown, (), False)
    assert (drawn == shown).mean() > 0.8
    assert all(space.contains(action) for action in drawn)


def test_who_cannot_choose_several_things_at_once_says_so_in_one_line():
    env = limited(Repeat(), 8)
    for module, needs in ((dqn, "a Discrete action space"), (pqn, "a Discrete action space"), (sac, "a one-dim.* Box")):
        with pytest.raises(Refused, match=rf"needs {needs}.*, .* has MultiDiscrete\(\(3, 2, 4\)\)$") as error:
            module.make(env)
        assert "\n" not in str(error.value)


def test_any_agent_can_act_at_random_in_several_choices():
    agent = ppo.make(limited(Repeat(), 8), ppo.Config(**ROLLOUT)).agent
    drawn = jax.jit(agent.any_action, static_argnums=1)(jax.random.key(0), (200, 2))
    assert drawn.shape == (200, 2, 3)
    assert drawn.dtype == agent.example_action.dtype == jnp.int32
    assert [set(choice) for choice in np.asarray(drawn).reshape(-1, 3).T.tolist()] == [{0, 1, 2}, {0, 1}, {0, 1, 2, 3}]


def test_words_share_a_table_and_other_choices_have_their_own():
    """Three places of one vocabulary; and choices of 2 and of 3, whose rows are 0, 1 and 2, 3, 4."""
    for space, rows in ((MultiDiscrete((4, 4, 4)), 4), (MultiDiscrete((2, 3)), 5), (Discrete(3), 3)):
        encoder = Encoder(space, ppo.Config(embedding_size=2))
        obs = jnp.zeros((1, *space.shape), jnp.int32) + 1
        features, variables = encoder.init_with_output(jax.random.key(0), obs)
        table = variables["params"]["Embed_0"]["embedding"]
        assert table.shape == (rows, 2)
        places = [1] * 3 if rows == 4 else [1, 3] if rows == 5 else [1]
        np.testing.assert_array_equal(features[0], np.concatenate([table[place] for place in places]))


def test_late_fusion_gives_each_part_a_normalised_layer_of_its_own():
    space = Dict({"far": Box(-1e6, 1e6, (2,)), "near": Box(-1.0, 1.0, (3,))})
    encoder = Encoder(space, ppo.Config(hidden=(8, 4), fusion="late"))
    obs = {"far": jnp.full((5, 2), 1e5), "near": jnp.ones((5, 3))}
    features, variables = encoder.init_with_output(jax.random.key(0), obs)
    assert features.shape == (5, 16)
    assert {name: x["kernel"].shape for name, x in variables["params"].items() if "Dense" in name} == {
        "Dense_0": (2, 8),
        "Dense_1": (3, 8),
    }
    sizes = [float(jnp.abs(part).max()) for part in jnp.split(features, 2, axis=-1)]
    assert max(sizes) < 4 * min(sizes)


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
    with pytest.raises(Refused, match="recap needs observations"):
        rljax.algorithms.get("recap").make(BLIND)
    for field in ("policy_obs", "value_obs"):
        with pytest.raises(Refused, match="there is no part camera to see: the observation has no parts"):
            steering.make(limited(Drift(), 5), dsrl.Config(**{field: ("camera",)}))


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


def test_what_learned_from_data_with_a_network_of_ones_own_is_loaded_with_it(tmp_path):
    data, env = looking_data(), LOOKING
    algorithm = bc.make(env, bc.Config(policy_obs=("camera",), batch_size=4), data, network=Camera())
    result = train(algorithm, 2, folder=tmp_path / "run")
    loaded = rljax.load(tmp_path / "run", env=env, network=Camera())
    obs = env.reset(jax.random.key(1)).obs
    np.testing.assert_array_equal(loaded(jax.random.key(2), obs), result.policy(jax.random.key(2), obs))


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


def bright_data(size=512, seed=0):
    """Single steps whose action is the brightness of what a camera shows, which varies, less that of a number."""
    rng = np.random.default_rng(seed)
    light, number = rng.uniform(0, 255, size), rng.uniform(-1, 1, size)
    noise = rng.normal(0, 10, (size, 6, 6, 1))
    camera = np.clip(light[:, None, None, None] + noise, 0, 255).astype(np.uint8)
    action = np.clip(light / 255 - number / 2, -1, 1)[:, None].astype(np.float32)
    obs = {"camera": camera, "state": np.stack([number, 0 * number], 1).astype(np.float32)}
    return dataset_of(np.zeros((size, 1)), action, np.zeros(size)).replace(obs=obs, next_obs=obs)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bc", {"image_shift": 1}),
        ("diffusion", {"history": 2, "horizon": 1, "executed": 1, "average_rate": 0.05}),
    ],
)
def test_a_dataset_with_images_is_learned_from(name, settings):
    """What is imitated depends on the image and on the numbers beside it, and none of both is enough."""
    data = bright_data()
    env = rljax.make(
        "spaces_only", observation_size={"camera": [6, 6, 1], "state": 2}, action_low=[-1], action_high=[1]
    )
    module = rljax.algorithms.get(name)
    layers = {"width": 32, "blocks": 2} if name == "diffusion" else {"hidden": (32,)}
    config = module.Config(batch_size=64, learning_rate=1e-2, cnn_channels=(4,), **layers, **settings)
    algorithm = module.make(env, config, data)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    state, _ = jax.jit(lambda s, d: jax.lax.scan(lambda s, _: algorithm.step(s, d), s, None, 250))(
        state, jax.tree.map(jnp.asarray, algorithm.data)
    )
    new, policy = bright_data(64, seed=1), algorithm.policy(state)
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (64, *x.shape)), policy.initial_memory)
    action, _, _ = jax.jit(policy.apply)(jax.random.key(1), new.obs, memory)
    error = np.abs(np.asarray(action) - new.action).mean()
    assert error < 0.4 * np.abs(new.action - new.action.mean()).mean()


class Wide(Drift):
    """Seen as an image that is four times as wide as its channels are many."""

    observation_space = Box(0, 255, (4, 16, 2), np.uint8)

    def reset(self, key):
        return super().reset(key).replace(obs=jnp.zeros((4, 16, 2), jnp.uint8))

    def step(self, state, action):
        return super().step(state.replace(obs=jnp.zeros(2)), action).replace(obs=jnp.zeros((4, 16, 2), jnp.uint8))


def test_the_channels_of_a_history_are_not_taken_for_rows():
    config = rlpd.Config(**SMALL | {"history": 4, "num_updates": 2, "policy_delay": 2})
    assert rlpd.make(limited(Wide(), 5), config).agent.observation_space.shape == (4, 16, 8)


def test_observations_with_nothing_in_them_are_refused():
    class Nothing(Drift):
        observation_space = Dict({"state": Drift.observation_space, "nothing": Box(-1.0, 1.0, (0,))})

    with pytest.raises(Refused, match=r"sac needs observations with something in them, .* has .0. nothing"):
        sac.make(limited(Nothing(), 5), sac.Config(**SMALL))


@pytest.mark.parametrize("history", [1, 3])
def test_a_policy_of_chunks_sees_what_training_saw(history):
    """The windows of a dataset with parts, and the policy's memory at the same steps of an episode."""
    data = looking_data(episodes=1)
    config = diffusion.Config(
        batch_size=4, width=4, blocks=1, cnn_channels=(2,), history=history, executed=1, horizon=2
    )
    algorithm = diffusion.make(LOOKING, config, data)
    policy = algorithm.policy(jax.jit(algorithm.init)(jax.random.key(0)))
    chunks, memory = algorithm.data, policy.initial_memory
    batch = chunks.sample(jax.random.key(1), 64)
    for step in range(data.size):
        obs = jax.tree.map(lambda x, step=step: x[step], data.obs)
        _, memory, _ = jax.jit(policy.apply)(jax.random.key(2), obs, memory)
        seen = [i for i in range(64) if np.allclose(batch.obs["camera"][i], memory["obs"]["camera"])]
        assert any(
            all(np.allclose(batch.obs[name][i], memory["obs"][name], atol=1e-5) for name in memory["obs"]) for i in seen
        )
