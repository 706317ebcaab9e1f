"""Learning online beside a dataset: what a batch holds, in which units; RLPD; going on from offline learning."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import bc, iql, rlpd, sac, td3_bc
from rljax.algorithms.core import experience
from rljax.algorithms.core.contract import continuous
from rljax.algorithms.core.offline import continued
from rljax.data import OfflineBatch
from rljax.data.prepared import prepare
from rljax.ops import running_statistics
from rljax.training.devices import make_mesh, shard_environments
from tests.algorithms.test_offline import plain
from tests.datasets import dataset_of, drift_data
from tests.runs import train
from tests.toys import Drift, limited, spaces

ENV = limited(Drift(), 7)
TINY = rlpd.Config(
    hidden=(8,),
    batch_size=16,
    num_envs=2,
    rollout_length=2,
    num_updates=4,
    policy_delay=4,
    replay_size=200,
    learning_starts=8,
    num_critics=3,
)
DATA = drift_data()


class Probe(sac.Agent):
    """Learns nothing and shows what it is given."""

    def learn(self, learner, batches, key, hyper):
        # As floats, for metrics are numbers.
        return learner, {name: getattr(batches, name).astype(float) for name in batches.__dataclass_fields__}, ()


def batches_of(config, data, iterations=6):
    """What RLPD of this config learns from, in its last iteration; and its last state."""
    prepared = prepare(data, ENV.observation_space, ENV.action_space, config)
    acts_in = continuous(ENV, "probe")
    agent = Probe(config, acts_in.observation_space, acts_in.action_space)
    loop = experience.Loop("probe", acts_in, agent, prepared)
    state, step = jax.jit(loop.init)(jax.random.key(0)), jax.jit(loop.step)
    for _ in range(iterations):
        state, metrics = step(state, prepared.dataset)
    shown = {name: metrics[name].total for name in OfflineBatch.__dataclass_fields__ if name in metrics}
    return plain(shown), plain(state)


def marked(size, reward):
    """Data with rewards of their own, observations far from those of Drift, and a deviation of 2 and 20."""
    sign = np.where(np.arange(size) % 2, 1.0, -1.0)
    obs = np.stack([50.0 + 2.0 * sign, 300.0 + 20.0 * sign], axis=1)
    return dataset_of(obs, np.full((size, 1), 4.0), reward + np.arange(size), truncated=np.arange(size) % 7 == 6)


@pytest.mark.parametrize(("share", "count"), [(0.5, 8), (0.25, 4), (0.0, 0)])
def test_this_share_of_each_batch_is_the_datasets(share, count):
    config = dataclasses.replace(TINY, offline_share=share)
    batches, _ = batches_of(config, marked(70, 1000.0))
    assert batches["reward"].shape == (4, 16)
    np.testing.assert_array_equal((batches["reward"] >= 1000.0).sum(1), [count] * 4)
    # Each row is whole: the dataset's observations, actions and rewards belong together.
    of_data = batches["reward"] >= 1000.0
    index = (batches["reward"][of_data] - 1000).astype(int)
    np.testing.assert_allclose(batches["obs"][of_data, 0], np.where(index % 2, 52.0, 48.0))
    np.testing.assert_array_equal(batches["action"][of_data], 1.0)  # 4 of [-2, 4]
    assert (batches["obs"][~of_data, 0] > 80.0).all()
    np.testing.assert_allclose(
        batches["reward"][~of_data], -np.abs(batches["next_obs"][~of_data, 0] - 100.0), atol=1e-3
    )
    if count:
        assert len(np.unique(index)) > count  # the batches differ


def test_experience_is_in_the_datasets_units():
    """Observations by the dataset's statistics, which stay as they are, and rewards by its scale and bias."""
    config = dataclasses.replace(TINY, normalize_observation=True, reward_scale="returns", reward_bias=-1.0)
    data = marked(70, 1000.0)
    batches, state = batches_of(config, data)
    scale = 1000.0 / np.ptp(data.returns)
    offline = batches["action"][..., 0] == 1.0
    np.testing.assert_array_equal(offline.sum(1), 8)
    np.testing.assert_allclose(batches["obs"][offline], np.sign(batches["obs"][offline]), rtol=1e-4)
    # Drift is around 100 and 700: (100 - 50) / 2 and (700 - 300) / 20 are beyond the 10 deviations that count.
    np.testing.assert_array_equal(batches["obs"][~offline], 10.0)
    assert (batches["reward"][offline] > 1000.0 * scale - 1.1).all()
    raw = state.experience.replay.data.reward
    assert set((raw.ravel() * np.float32(scale) - 1.0).round(3)) >= set(batches["reward"][~offline].round(3))
    np.testing.assert_allclose(state.experience.obs_statistics.mean, [50.0, 300.0])
    np.testing.assert_allclose(state.experience.obs_statistics.count, 70.0)


def test_the_dataset_is_drawn_from_independently_of_the_replay():
    """With as many rows in both, draws by one key would be the same rows."""
    config = dataclasses.replace(TINY, num_envs=1, rollout_length=8, num_updates=1, policy_delay=1, batch_size=64)
    batches, state = batches_of(config, marked(8, 1000.0), iterations=1)
    assert state.experience.replay.count == 8
    online, offline = batches["index"][0, :32], batches["index"][0, 32:]
    same = (online == offline).mean()
    assert same < 0.5
    assert abs(np.corrcoef(online, offline)[0, 1]) < 0.6


def test_a_share_that_rounds_to_the_whole_batch_leaves_its_size():
    config = dataclasses.replace(TINY, offline_share=0.99)
    batches, _ = batches_of(config, marked(70, 1000.0), iterations=2)
    np.testing.assert_array_equal((batches["reward"] >= 1000.0).sum(1), [16] * 4)


def test_rlpd_starts_at_random_and_trains():
    algorithm = rlpd.make(ENV, TINY, DATA)
    assert algorithm.per_iteration == 4
    state, step = jax.jit(algorithm.init)(jax.random.key(0)), jax.jit(algorithm.step)
    metrics = []
    for _ in range(4):
        state, of_step = step(state, algorithm.data)
        metrics.append(plain(of_step))
    np.testing.assert_array_equal([m["updates"] for m in metrics], [0, 4, 4, 4])
    assert metrics[0]["loss/critic"].count == 0
    assert all(np.isfinite(m["loss/critic"].value) for m in metrics[1:])
    # Eight random steps are four columns in each of the two environments.
    actions = plain(state.experience.replay.data.action)[:, :4, 0]
    assert np.ptp(actions) > 1.0
    assert len(np.unique(actions)) == 8
    assert state.params["critic"]["params"]["MLP_0"]["output"]["kernel"].shape[0] == 3


def test_it_learns_and_acts_in_chunks_within_what_was_shown():
    """Two observations and three actions at once, of what the demonstrations use; its policy does them one by one."""
    config = dataclasses.replace(TINY, history=2, executed=3, action_normalization="minmax", normalize_observation=True)
    shown = DATA.replace(action=np.clip(DATA.action, 0.0, 1.0))
    kept = np.arange(DATA.size) % 3 > 0
    algorithm = rlpd.make(ENV, config, shown, kept=kept)
    data = algorithm.data
    assert (data.obs.shape[1], data.action.shape[1], data.size) == (4, 3, kept.sum())
    assert (data.action.min(), data.action.max()) == (-1.0, 1.0)
    assert (algorithm.env, algorithm.per_iteration) == (ENV, 4 * 3)
    state, _ = jax.jit(algorithm.step)(jax.jit(algorithm.init)(jax.random.key(0)), data)
    # The newest observation has moved by three actions of what was shown, each of 0 to 1.
    replay = plain(state.experience.replay.data)
    moved = (replay.next_obs - replay.obs)[:, :2, 2]
    assert ((moved > -1e-3) & (moved < 3.0 + 1e-3)).all()

    policy = algorithm.policy(state)
    agent, memory, obs = sac.Agent(config, *spaces(4, 3)), policy.initial_memory, jnp.array([100.0, 700.0])
    apply = jax.jit(policy.apply, static_argnums=3)
    acted = []
    for _ in range(3):
        action, memory, _ = apply(jax.random.key(1), obs, memory, True)
        acted.append(float(action[0]))
    seen = running_statistics.normalize(state.experience.obs_statistics, jnp.tile(obs, 2))
    expected, _, _ = agent.act({"params": state.params["policy"]}, seen, (), jax.random.key(1), True)
    np.testing.assert_allclose(acted, (1.0 + np.asarray(expected)) / 2, atol=1e-5)
    variables = jax.eval_shape(lambda key: (a := rlpd.make(ENV, config)).policy(a.init(key)), jax.random.key(0))
    assert jax.tree.structure(variables.variables) == jax.tree.structure(policy.variables)  # as rljax.load needs it
    with pytest.raises(ValueError, match=r"reward_bias = 1\.0 is not allowed; it must be 0 where executed is not 1"):
        dataclasses.replace(config, reward_bias=1.0)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
def test_over_devices_environments_and_data_are_split_and_all_learn_the_same():
    algorithm = rlpd.make(ENV, TINY, DATA)
    sharded = shard_environments(algorithm, make_mesh(jax.devices()[:2]))
    state, step = jax.jit(sharded.init)(jax.random.key(0)), jax.jit(sharded.step)
    for _ in range(3):
        state, metrics = step(state, algorithm.data)
    assert np.isfinite(metrics["loss/critic"].value)
    assert [shard.data.shape for shard in state.experience.replay.data.reward.addressable_shards] == [(1, 100)] * 2
    for leaf in jax.tree.leaves(state.learner):
        first, second = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        np.testing.assert_array_equal(first, second)


CONTINUED: dict[str, tuple[Any, Any]] = {
    "iql": (iql, iql.Config(hidden=(8,), batch_size=16, deterministic_policy=True)),
    "td3_bc": (td3_bc, td3_bc.Config(hidden=(8,), batch_size=16, exploration_noise=0.0)),
}


@pytest.mark.parametrize("name", CONTINUED)
def test_online_it_goes_on_with_its_learner_and_acts_by_its_policy_from_the_start(name):
    module, config = CONTINUED[name]
    config = dataclasses.replace(config, learning_starts=10, replay_size=200, num_envs=2, rollout_length=1)
    algorithm, online = module.make(ENV, config, DATA), module.make(ENV, config, DATA, online=True)
    assert online.per_iteration == 2
    before = jax.jit(algorithm.init)(jax.random.key(5))
    policy = jax.tree.map(lambda x: 30.0 * x, plain(before.params["policy"]))  # far from 0
    before = before.replace(learner=before.learner.replace(params=before.params | {"policy": policy}))
    state, step = continued(before)(jax.jit(online.init)(jax.random.key(0))), jax.jit(online.step)
    for _ in range(4):
        state, metrics = step(state, online.data)
    # Eight steps are too few to learn from: the learner is still the offline one, and the first actions are its own.
    assert metrics["updates"] == 0
    chex.assert_trees_all_equal(plain(state.learner), plain(before.learner))
    chex.assert_trees_all_equal(plain(online.policy(state).variables), plain(algorithm.policy(before).variables))
    replay = plain(state.experience.replay.data)
    expected = algorithm.policy(before)(jax.random.key(0), replay.obs[:, :4])
    np.testing.assert_allclose(1.0 + 3.0 * replay.action[:, :4], expected, atol=1e-3)
    assert np.ptp(expected) > 0.1
    state, metrics = step(state, online.data)
    assert np.isfinite(metrics["loss/critic"].value)
    assert int(state.learner.optimizer_state["critic"][0].count) == config.num_updates


def test_a_run_that_begins_with_a_learner_resumes_and_is_not_given_it_again(tmp_path):
    algorithm = bc.make(ENV, bc.Config(hidden=(8,), batch_size=16), DATA)
    init = jax.jit(algorithm.init)
    start, other = init(jax.random.key(9)), init(jax.random.key(10))
    whole = train(algorithm, 12, initialize=continued(start))
    train(algorithm, 6, folder=tmp_path / "run", initialize=continued(start))
    resumed = train(algorithm, 12, folder=tmp_path / "run", resume=True, initialize=continued(other))
    chex.assert_trees_all_equal(plain(resumed.state), plain(whole.state))
    # What it began with is still there, and is where it began.
    far = jax.tree.map(lambda x, y: np.abs(x - y).max(), plain(start.params), plain(whole.state.params))
    assert 1e-4 < max(jax.tree.leaves(far)) < 12 * 3e-4 + 1e-3


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
def test_members_over_devices_go_on_each_with_its_own_learner():
    algorithm = bc.make(ENV, bc.Config(hidden=(8,), batch_size=16), DATA)
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    before = train(algorithm, 4, keys, devices=2)
    after = train(algorithm, 1, keys, devices=2, initialize=continued(before.state))
    first, second = plain((before.state.params, after.state.params))
    far = jax.tree.map(lambda x, y: np.abs(x - y).max(), first, second)
    assert max(jax.tree.leaves(far)) < 1e-3
    apart = jax.tree.map(lambda x: np.abs(x[0] - x[1]).max(), second)
    assert max(jax.tree.leaves(apart)) > 1e-2


def test_rlpd_has_the_settings_of_its_paper():
    defaults = rlpd.Config()
    assert (defaults.num_updates, defaults.policy_delay, defaults.num_critics, defaults.num_target_critics) == (
        20,
        20,
        10,
        2,
    )
    assert (defaults.layer_norm, defaults.offline_share, defaults.policy_value) == (True, 0.5, "mean")
