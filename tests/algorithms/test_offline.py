"""What every offline algorithm must do: jit, scan, vmap, devices, resume, load; and how it is fed."""

import re
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import algorithms
from rljax.algorithms import bc, iql, rlpd
from rljax.algorithms.core.learner import scan_for_means
from rljax.data import Stream
from rljax.data.prepared import prepare
from rljax.training import program as programs
from rljax.training import runner
from rljax.training.devices import make_mesh, shard_environments
from tests.datasets import dataset_of, drift_data
from tests.runs import train
from tests.toys import Drift, Pixels, limited, spaces

ENV = limited(Drift(), 7)
TINY = {"hidden": (8,), "batch_size": 16}
# Of each, settings; a hyperparameter that can be swept, with a value for it; and the updates of an iteration.
SETTINGS = {
    "bc": ({"policy": "gaussian", "offline_updates": 2}, ("learning_rate", 0.05), {"policy": 2}),
    "td3_bc": ({}, ("target_penalty", 5.0), {"policy": 1, "critic": 2}),
    "iql": ({"num_updates": 2}, ("expectile", 0.95), {"policy": 2, "critic": 2, "value": 2}),
    "cql": ({"num_actions": 2}, ("penalty_weight", 50.0), {"policy": 1, "critic": 1}),
    "diffusion": (
        {"width": 8, "blocks": 1, "horizon": 3, "executed": 2, "sampler_steps": 2},
        ("learning_rate", 0.05),
        {"policy": 1},
    ),
}
DATA = drift_data(sha256="a" * 64)


def config_of(name, **options):
    config_type, tiny = algorithms.get(name).Config, TINY | SETTINGS[name][0] | options
    return config_type(**{k: v for k, v in tiny.items() if k in config_type.__dataclass_fields__})


def act(policy, key, obs, deterministic):
    """The first actions [..., d] of a policy, which may have a memory."""
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (*obs.shape[:-1], *x.shape)), policy.initial_memory)
    return policy.apply(key, obs, memory, deterministic)[0]


def plain(tree):
    """NumPy's arrays, keys as integers, which can be compared."""

    def of(x):
        return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    return jax.tree.map(of, tree)


@pytest.fixture(scope="module", params=SETTINGS)
def made(request):
    """An algorithm, and the runner's program of it: compiled once for all tests of this file."""
    algorithm = algorithms.get(request.param).make(ENV, config_of(request.param), DATA)
    return algorithm, programs.build(algorithm, None, 1, "threefry2x32")


def start(program, seed):
    """A state, and totals of metrics."""
    return program.init(np.asarray(jax.random.key_data(jax.random.key(seed))), {})


def test_members_by_vmap_equal_single_runs_and_sweep_their_hyperparameters(made):
    algorithm, program = made
    name, value = SETTINGS[algorithm.name][1]
    data = program.place(algorithm.data)
    states = [start(program, seed)[0] for seed in (0, 1, 1)]
    assert float(getattr(states[0].hyper, name)) != value
    states[2] = states[2].replace(hyper=states[2].hyper.replace(**{name: jnp.float32(value)}))
    together = jax.jit(lambda *states: jax.tree.map(lambda *x: jnp.stack(x), *states))(*states)

    def run(state, data):
        return jax.lax.scan(lambda s, _: algorithm.step(s, data), state, None, 4)

    found = plain(jax.jit(jax.vmap(run, (0, None)))(together, data))
    for member, state in enumerate(states):
        alone, totals, _ = plain(program.run(state, start(program, 0)[1], np.int32(0), np.int32(4), data))
        own, metrics = jax.tree.map(lambda x: x[member], found)  # noqa: B023
        chex.assert_trees_all_close(own.params, alone.params, atol=1e-4)
        for metric, values in metrics.items():
            np.testing.assert_allclose(values.sum(), totals["sum"][metric], rtol=1e-3, atol=1e-3)
        for part, updates in SETTINGS[algorithm.name][2].items():
            assert alone.learner.optimizer_state[part][0].count == 4 * updates
    assert algorithm.per_iteration == max(SETTINGS[algorithm.name][2].values())
    difference = jax.tree.map(lambda x: np.abs(x[1] - x[2]).max(), found[0].params)
    assert max(jax.tree.leaves(difference)) > 1e-5


def test_the_dataset_is_an_argument_and_no_constant_of_the_program(made):
    """A constant would be written out in the program, and copied into it by XLA."""
    algorithm, _ = made
    many = algorithms.get(algorithm.name).make(ENV, algorithm.config, drift_data(1000))
    state = jax.eval_shape(many.init, jax.random.key(0))
    shapes = jax.eval_shape(lambda data: data, many.data)
    text = jax.jit(many.step).lower(state, shapes).as_text()
    assert "tensor<7000x2xf32>" in text
    assert max(map(len, re.findall(r"dense<[^>]*>", text)), default=0) < 2000  # a schedule of 101 numbers has 819
    text = jax.jit(many.init).lower(jax.random.key(0)).as_text()
    assert "7000" not in text


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices")
def test_over_devices_each_draws_from_its_own_data_and_all_learn_the_same(made):
    algorithm, program = made
    sharded = shard_environments(algorithm, make_mesh(jax.devices()[:4]))
    state, step = start(program, 0)[0], jax.jit(sharded.step)
    first = plain(state.params)
    for _ in range(2):
        state, metrics = step(state, algorithm.data)
    for leaf in jax.tree.leaves(state.learner):
        replicas = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(replicas) == 4
        for replica in replicas[1:]:
            np.testing.assert_array_equal(replica, replicas[0])
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), first, plain(state.params))
    assert max(jax.tree.leaves(moved)) > 1e-4
    assert all(np.isfinite(x) for x in jax.tree.leaves(metrics))


def test_a_run_that_is_interrupted_resumes_bit_for_bit_and_loads_without_its_data(made, tmp_path, monkeypatch):
    algorithm, program = made
    monkeypatch.setattr(runner, "SLICE_SECONDS", 0.0)  # an iteration a slice
    monkeypatch.setattr(programs, "build", lambda *_: program)
    steps = 8 * algorithm.per_iteration
    options = {"log_every": algorithm.per_iteration, "checkpoint_every": 0}
    whole = train(algorithm, steps, folder=tmp_path / "whole", **options)
    original = runner._Runner.run_slice

    def run_slice(self, count):
        if self.iteration == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(self, count)

    with monkeypatch.context() as patch:
        patch.setattr(runner._Runner, "run_slice", run_slice)
        first = train(algorithm, steps, folder=tmp_path / "run", **options)
    assert first.interrupted == signal.SIGTERM
    assert first.steps == 4 * algorithm.per_iteration
    second = train(algorithm, steps, folder=tmp_path / "run", resume=True, **options)
    chex.assert_trees_all_equal(plain(second.state), plain(whole.state))
    assert int(second.state.iteration) == 8
    assert [row["step"] for row in second.rows] == [row["step"] for row in whole.rows][4:]

    # The policy from the folder: neither the dataset nor its statistics are needed.
    loaded, obs = rljax.load(tmp_path / "run", env=ENV), jnp.float32(DATA.obs[:50])
    for deterministic in (True, False):
        actions = act(loaded, jax.random.key(1), obs, deterministic)
        np.testing.assert_array_equal(actions, act(whole.policy, jax.random.key(1), obs, deterministic))
        assert -2.0 <= actions.min() < actions.max() <= 4.0
    statistics = loaded.variables["obs_statistics"]
    np.testing.assert_allclose(statistics.mean, DATA.obs.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(statistics.m2 / statistics.count, DATA.obs.var(0, dtype=np.float64), rtol=1e-5)


def mode(agent, state, obs):
    """What an agent does for sure, in its own units."""
    return agent.act({"params": state.params["policy"]}, obs, (), jax.random.key(0), True)[0]


def test_the_policy_sees_observations_as_the_dataset_had_them_when_it_learned():
    algorithm = bc.make(ENV, bc.Config(**TINY, action_normalization="bounds"), DATA)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    mean, std = DATA.obs.mean(0, dtype=np.float64), DATA.obs.std(0, dtype=np.float64)
    np.testing.assert_allclose(algorithm.data.obs, (DATA.obs - mean) / std, atol=1e-3)
    np.testing.assert_allclose(algorithm.data.next_obs, np.clip((DATA.next_obs - mean) / std, -10, 10), atol=1e-3)
    agent = bc.Agent(algorithm.config, *spaces(2, 1))
    unit = mode(agent, state, jnp.float32((DATA.obs[:20] - mean) / std))
    actions = algorithm.policy(state)(jax.random.key(0), jnp.float32(DATA.obs[:20]))
    np.testing.assert_allclose(actions, 1.0 + 3.0 * unit, atol=1e-3)  # of [-2, 4]
    # Without it, raw ones.
    raw = bc.make(ENV, bc.Config(**TINY, normalize_observation=False, action_normalization="bounds"), DATA)
    np.testing.assert_array_equal(raw.data.obs, DATA.obs)
    state = jax.jit(raw.init)(jax.random.key(0))
    unit = mode(agent, state, jnp.float32(DATA.obs[:20]))
    np.testing.assert_allclose(raw.policy(state)(jax.random.key(0), DATA.obs[:20]), 1.0 + 3.0 * unit, atol=1e-3)


def test_rewards_are_scaled_by_the_spread_of_returns_and_then_shifted():
    """Returns of 3, 13 and -7: a spread of 20, so that rewards count 50 times."""
    reward = np.array([1.0, 2.0, 13.0, -4.0, -3.0])
    last = [False, True, True, False, True]
    data = dataset_of(np.arange(10).reshape(5, 2), np.zeros((5, 1)), reward, truncated=last)
    config = iql.Config(reward_scale="returns", reward_bias=-1.0, discount=0.5)
    prepared = prepare(data, ENV.observation_space, ENV.action_space, config)
    assert (prepared.scale, prepared.bias) == (50.0, -1.0)
    np.testing.assert_allclose(prepared.dataset.reward, 50.0 * reward - 1.0)
    # Returns-to-go are those of these rewards, discounted.
    np.testing.assert_allclose(prepared.dataset.return_to_go, [49 + 99 / 2, 99, 649, -201 - 151 / 2, -151])
    np.testing.assert_array_equal(data.reward, reward)
    assert prepared.dataset.metadata.normalization == (
        "observations normalised, rewards times 50 plus -1, actions in [-1, 1] of their bounds"
    )
    plain = prepare(data, ENV.observation_space, ENV.action_space, iql.Config())
    np.testing.assert_allclose(plain.dataset.reward, reward)
    assert prepare(plain, None, None, config) is plain
    same = dataset_of(np.zeros((4, 2)), np.zeros((4, 1)), np.ones(4), name="alike")
    with pytest.raises(ValueError, match="alike: all episodes have the same return, so reward_scale = 'returns'"):
        prepare(same, ENV.observation_space, ENV.action_space, config)


def test_actions_are_learned_in_units_of_one_and_next_actions_too():
    data = dataset_of(
        np.zeros((5, 2)), [[-2.0], [4.0], [1.0], [2.5], [4.00005]], np.zeros(5), truncated=[False] * 4 + [True]
    )
    found = prepare(data, ENV.observation_space, ENV.action_space, iql.Config()).dataset
    np.testing.assert_allclose(found.action[:, 0], [-1.0, 1.0, 0.0, 0.5, 1.0])
    np.testing.assert_allclose(found.next_action[:, 0], [1.0, 0.0, 0.5, 1.0, 1.0])
    agent_env = rljax.envs.RescaleAction(ENV)
    np.testing.assert_allclose(agent_env.rescale(found.action), np.minimum(data.action, 4.0), atol=1e-6)


@pytest.mark.parametrize(
    ("obs", "action", "env", "message"),
    [
        ((4, 3), (4, 1), ENV, r"mine: observations have the shape \[3\], the environment's \[2\]"),
        ((4, 2), (4, 2), ENV, r"mine: actions have the shape \[2\], the environment's \[1\]"),
        ((4, 2), (4,), ENV, r"mine: actions have the shape \[\], the environment's \[1\]"),
        ((4, 2), (4, 1), Pixels(), "needs a one-dimensional Box of actions with bounds, .* has Discrete"),
    ],
)
@pytest.mark.parametrize("name", SETTINGS)
def test_spaces_that_do_not_fit_are_refused_in_one_line(name, obs, action, env, message):
    data = dataset_of(np.zeros(obs), np.zeros(action), np.zeros(4), name="mine")
    with pytest.raises(ValueError, match=message) as error:
        algorithms.get(name).make(env, None, data)
    assert "\n" not in str(error.value)


def test_actions_out_of_bounds_are_refused_in_one_line():
    data = dataset_of(np.zeros((2, 2)), [[-3.0], [4.0]], np.zeros(2), name="mine")
    with pytest.raises(ValueError, match=r"^mine: actions go from -3 to 4, the environment allows -2 to 4$"):
        iql.make(ENV, None, data)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("batch_size", 0, "at least 1"),
        ("reward_scale", "std", "one of none, returns"),
        ("offline_share", 1.0, r"in \[0, 1\)"),
        ("offline_updates", -2, "0 or (more|a multiple of policy_delay = 2)"),
        ("discount", 2.0, r"in \[0, 1\]"),
        ("precision", "float16", "one of"),
    ],
)
def test_bad_settings_are_refused_with_the_field_the_value_and_what_is_allowed(name, field, value, allowed):
    with pytest.raises(ValueError, match=rf"^{name}\.Config: {field} = {value!r} is not allowed; it must be {allowed}"):
        config_of(name, **{field: value})


def test_another_dataset_is_not_resumed_with(tmp_path):
    config = bc.Config(**TINY)
    train(bc.make(ENV, config, drift_data(sha256="a" * 64)), 2, folder=tmp_path / "run")
    with pytest.raises(ValueError, match=f"holds another run: data.sha256 was '{'a' * 64}' and is now 'bb") as error:
        train(bc.make(ENV, config, drift_data(sha256="b" * 64)), 4, folder=tmp_path / "run", resume=True)
    assert "\n" not in str(error.value)
    # Nor with arrays that differ in one number, whatever the file.
    other = drift_data(sha256="a" * 64)
    other.reward[3] += 1
    with pytest.raises(ValueError, match=r"holds another run: data\.content was '"):
        train(bc.make(ENV, config, other), 4, folder=tmp_path / "run", resume=True)


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices")
def test_the_runner_splits_a_run_and_its_data_or_the_members(tmp_path):
    algorithm = bc.make(ENV, config_of("bc"), drift_data(21))  # 147 transitions, of which 144 divide
    split = train(algorithm, 4, devices=4, folder=tmp_path / "run")
    assert split.placement.endswith("over 4 devices")
    assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(split.state.params))
    # It goes on, on one device.
    assert train(algorithm, 8, devices=1, folder=tmp_path / "run", resume=True).steps == 8
    with pytest.raises(ValueError, match="batch_size = 16 does not divide over 3 devices"):
        train(algorithm, 8, devices=3)
    keys = jax.vmap(jax.random.key)(jnp.array([0, 1, 2, 2]))
    together = train(algorithm, 8, keys, devices=4, hyper={"learning_rate": [3e-4, 3e-4, 3e-4, 0.05]})
    assert together.placement == "members over 4 devices"
    params = plain(together.state.params)
    alone = train(algorithm, 8, keys[2])
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[2], params), plain(alone.state.params), atol=1e-5)
    kernel = params["policy"]["params"]["MLP_0"]["output"]["kernel"]
    assert np.abs(kernel[2] - kernel[3]).max() > 0.05


def test_on_each_device_the_data_are_its_own():
    """Four shares of which each holds one action: a device that saw another's would learn something else."""
    action = np.repeat([-1.5, 0.0, 1.5, 3.5], 8)[:, None]
    data = dataset_of(np.zeros((32, 2)), action, np.zeros(32))
    algorithm = bc.make(ENV, bc.Config(hidden=(8,), batch_size=4, action_normalization="bounds"), data)
    if jax.device_count() < 4:
        pytest.skip("needs four devices")
    sharded = shard_environments(algorithm, make_mesh(jax.devices()[:4]))
    state = jax.jit(sharded.init)(jax.random.key(0))
    _, metrics = jax.jit(sharded.step)(state, algorithm.data)
    # Nothing is known yet, so that the policy does nearly 0: one of each share, whatever is drawn.
    np.testing.assert_allclose(metrics["loss/policy"], np.square((action - 1.0) / 3.0).mean(), rtol=0.05)


@pytest.fixture(scope="module")
def data():
    return drift_data(50)


class TestStream:
    def test_a_block_is_rows_of_the_dataset_with_their_own_successors(self, data):
        block = Stream(data, 100, 5, seed=3).block(2)
        assert block.size == 100
        assert block.metadata == data.metadata
        row = {x: i for i, x in enumerate(data.obs[:, 0].tolist())}
        index = np.array([row[x] for x in block.obs[:, 0].tolist()])
        assert (np.diff(index) >= 0).all()
        chex.assert_trees_all_equal(block.replace(ordered=True), jax.tree.map(lambda x: x[index], data))
        # Also where the row below is not the next: what was done next came with the row.
        following = np.where(data.truncated[index], index, np.minimum(index + 1, data.size - 1))
        np.testing.assert_array_equal(block.next_action, data.action[following])

    def test_blocks_are_uniform_and_depend_on_seed_and_number_alone(self, data):
        stream = Stream(data, 200, 5, seed=3)
        chex.assert_trees_all_equal(stream.block(7), Stream(data, 200, 1, seed=3).block(7))
        for other in (stream.block(8), Stream(data, 200, 5, seed=4).block(7)):
            assert (np.asarray(other.obs) != np.asarray(stream.block(7).obs)).any()
        drawn = np.concatenate([stream.block(number).action[:, 0] for number in range(50)])
        count = np.array([(drawn == a).sum() for a in data.action[:, 0]])
        assert count.sum() == 10_000
        np.testing.assert_allclose(np.square(count - count.mean()).mean() / count.mean(), 1.0, atol=0.25)  # Poisson

    def test_the_next_block_is_on_its_way_while_one_is_in_use(self, data):
        stream, placed = Stream(data, 10, 3), []

        def place(block):
            placed.append(block)
            return block

        first = stream.at(0, place)
        assert stream.at(1, place) is stream.at(2, place) is first
        assert [stream.left(i) for i in range(5)] == [3, 2, 1, 3, 2]
        stream._coming[1].result(10)
        assert len(placed) == 2  # without having been asked for
        second = stream.at(3, place)
        assert second is placed[1]
        chex.assert_trees_all_equal(second, stream.block(1))
        chex.assert_trees_all_equal(stream.at(30, place), stream.block(10))  # where a run is resumed

    def test_a_run_from_a_stream_resumes_bit_for_bit(self, data, tmp_path, monkeypatch):
        def streamed():
            algorithm = bc.make(ENV, bc.Config(**TINY), data)
            return algorithm._replace(data=Stream(algorithm.data, 32, 3))

        whole = train(streamed(), 14)
        train(streamed(), 7, folder=tmp_path / "run")
        resumed = train(streamed(), 14, folder=tmp_path / "run", resume=True)
        chex.assert_trees_all_equal(plain(resumed.state), plain(whole.state))
        # Slices do not run over the end of a block, however long they are.
        monkeypatch.setattr(runner, "SLICE_SECONDS", 0.0)
        chex.assert_trees_all_equal(plain(train(streamed(), 14).state), plain(whole.state))

    @pytest.mark.parametrize(("block_size", "iterations", "name"), [(0, 1, "block_size"), (1, 0, "iterations")])
    def test_nothing_is_refused(self, data, block_size, iterations, name):
        with pytest.raises(ValueError, match=f"Stream: {name} = 0 is not allowed; it must be at least 1"):
            Stream(data, block_size, iterations)


def test_without_a_simulator_it_learns_and_is_not_evaluated(tmp_path):
    sizes = {"observation_size": 2, "action_low": [-2.0], "action_high": [4.0]}
    env = rljax.make("spaces_only", **sizes)
    data = DATA.replace(action=np.full_like(DATA.action, 3.0))
    algorithm = bc.make(env, bc.Config(**TINY, learning_rate=1e-2), data)
    result = train(algorithm, 40, folder=tmp_path / "run", log_every=10)
    assert result.evaluation is None
    assert result.rows[-1]["loss/policy"] < result.rows[0]["loss/policy"]
    policy = rljax.load(tmp_path / "run")
    np.testing.assert_allclose(policy(jax.random.key(0), DATA.obs), 3.0, atol=1.0)
    with pytest.raises(ValueError, match="has no time limit: set one, or evaluate_every=0 and final_episodes=0"):
        train(algorithm, 40, final_episodes=5)
    with pytest.raises(ValueError, match="there is no simulator here, only a dataset"):
        env.reset(jax.random.key(0))


def test_the_means_of_a_scan_are_those_of_what_its_steps_give():
    def step(carry, x):
        return carry * 0.9 + x, {"carry": carry, "square": jnp.square(x)}

    xs = jax.random.normal(jax.random.key(0), (7,))
    carry, means = scan_for_means(step, jnp.float32(1.0), xs)
    expected, all_of = jax.lax.scan(step, jnp.float32(1.0), xs)
    chex.assert_trees_all_close((carry, means), (expected, jax.tree.map(jnp.mean, all_of)), rtol=1e-6)


def test_without_a_dataset_a_policy_can_be_loaded_but_nothing_learned():
    env = limited(Drift(), 7)
    for module, extra in ((iql, {}), (rlpd, {"policy_delay": 1, "num_updates": 1})):
        algorithm = module.make(env, module.Config(hidden=(4,), batch_size=8, **extra))
        state = algorithm.init(jax.random.key(0))
        assert algorithm.policy(state)(jax.random.key(0), jnp.zeros((3, 2))).shape == (3, 1)
        with pytest.raises(ValueError, match=rf"{algorithm.name} learns from a dataset.*make\(env, config, dataset\)"):
            algorithm.step(state)


def test_windows_of_several_steps_are_refused():
    with pytest.raises(ValueError, match=r"n_step = 3 is not allowed; it must be 1"):
        iql.Config(n_step=3)


def test_a_run_on_a_stream_is_not_resumed_on_other_blocks(tmp_path):
    algorithm = iql.make(limited(Drift(), 7), iql.Config(hidden=(4,), batch_size=8), drift_data())
    streamed = algorithm._replace(data=Stream(algorithm.data, 32, 4))
    train(streamed, 4, folder=tmp_path / "run")
    other = algorithm._replace(data=Stream(algorithm.data, 16, 4))
    with pytest.raises(ValueError, match=r"data\.stream\.block_size was 32 and is now 16"):
        train(other, 8, folder=tmp_path / "run", resume=True)
