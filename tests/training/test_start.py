"""A run that begins from another run's checkpoint."""

import dataclasses
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import iql, sac
from rljax.training import StartFrom
from rljax.training.start import Source
from rljax.types import Refused
from tests.datasets import drift_data
from tests.runs import train
from tests.toys import Drift, counter, limited


def begun(algorithm, start, key=None, **how):
    """The first state of a run that starts there."""
    first = []

    def initialize(state):
        first.append(jax.tree.map(jnp.copy, state))
        return state

    train(algorithm, algorithm.per_iteration, key, start_from=start, initialize=initialize, **how)
    return first[0]


def changed(algorithm, **settings):
    return algorithm.remake(dataclasses.replace(algorithm.config, **settings))


@pytest.fixture(scope="module")
def before(tiny, tmp_path_factory):
    """A run of one member, and its last state; tests copy its folder."""
    folder = tmp_path_factory.mktemp("runs") / "before"
    return train(tiny, 128, folder=folder, log_every=64, checkpoint_every=64)


@pytest.fixture
def copy(before, tmp_path):
    return shutil.copytree(before.folder, tmp_path / "before")


@pytest.fixture(scope="module")
def agent():
    """SAC, with normalised observations."""
    config = sac.Config(
        num_envs=4,
        rollout_length=8,
        batch_size=16,
        replay_size=400,
        learning_starts=32,
        hidden=(8,),
        normalize_observation=True,
    )
    return sac.make(rljax.make("pendulum"), config)


def test_a_whole_learner_goes_on_with_its_statistics_and_other_settings(tiny, before):
    other = changed(tiny, learning_rate=1e-4)
    state = begun(other, StartFrom(before.folder))
    chex.assert_trees_all_equal(state.learner, before.state.learner)
    chex.assert_trees_all_equal(state.obs_statistics, before.state.obs_statistics)
    chex.assert_trees_all_equal(state.return_statistics, before.state.return_statistics)
    assert state.hyper.learning_rate == np.float32(1e-4)
    assert state.iteration == 0
    fresh = jax.jit(other.init)(jax.random.key(0))
    chex.assert_trees_all_equal(state.env_state, fresh.env_state)


def test_a_part_goes_on_with_the_statistics_of_observations_alone(tiny, before):
    state, fresh = begun(tiny, StartFrom(before.folder, ("policy",))), jax.jit(tiny.init)(jax.random.key(0))
    chex.assert_trees_all_equal(state.params, before.state.params)
    chex.assert_trees_all_equal(state.obs_statistics, before.state.obs_statistics)
    for name in ("optimizer_state", "extras"):
        chex.assert_trees_all_equal(getattr(state.learner, name), getattr(fresh.learner, name))
    chex.assert_trees_all_equal(state.return_statistics, fresh.return_statistics)


def test_parts_of_sac_bring_their_targets_and_no_replay(agent, tmp_path):
    old = train(agent, 128, folder=tmp_path / "old").state
    fresh = jax.jit(agent.init)(jax.random.key(1))
    state = begun(agent, StartFrom(tmp_path / "old", ("critic",)), jax.random.key(1))
    chex.assert_trees_all_equal(state.params["critic"], old.params["critic"])
    chex.assert_trees_all_equal(state.params["policy"], fresh.params["policy"])
    chex.assert_trees_all_equal(state.learner.targets, old.learner.targets)
    chex.assert_trees_all_equal(state.learner.optimizer_state, fresh.learner.optimizer_state)
    chex.assert_trees_all_equal(state.obs_statistics, old.obs_statistics)
    assert state.experience.replay.count == 0
    state = begun(agent, StartFrom(tmp_path / "old", ("policy",)), jax.random.key(1))  # which has no target
    chex.assert_trees_all_equal(state.params, fresh.params | {"policy": old.params["policy"]})
    chex.assert_trees_all_equal(state.learner.targets, fresh.learner.targets)
    whole = begun(agent, StartFrom(tmp_path / "old"), jax.random.key(1))
    chex.assert_trees_all_equal(whole.learner, old.learner)
    other = changed(agent, normalize_observation=False)
    with pytest.raises(Refused, match="was trained with normalize_observation = True; give this run the same"):
        begun(other, StartFrom(tmp_path / "old"))


def test_a_target_that_there_was_none_of_begins_as_the_part(agent):
    fresh = jax.jit(agent.init)(jax.random.key(1))
    given = jax.tree.map(lambda x: np.full(x.shape, 2.0, x.dtype), fresh.params["critic"])
    state = Source({}, ("critic",), {"params": {"critic": given}}).put_into(fresh)
    chex.assert_trees_all_equal(state.learner.targets["critic"], given)
    chex.assert_trees_all_equal(state.params["policy"], fresh.params["policy"])


def test_one_member_goes_to_all_and_several_to_as_many(tiny, before, tmp_path):
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    for key in (keys[:2], keys[:1]):
        state = begun(tiny, StartFrom(before.folder), key, devices=len(key))
        for member in range(len(key)):
            chex.assert_trees_all_equal(jax.tree.map(lambda x, m=member: x[m], state.learner), before.state.learner)
    two = train(tiny, 128, keys[:2], folder=tmp_path / "two")
    chex.assert_trees_all_equal(begun(tiny, StartFrom(tmp_path / "two"), keys[1:]).learner, two.state.learner)
    with pytest.raises(Refused, match="two has 2 members, and this run 3; only one goes to all"):
        begun(tiny, StartFrom(tmp_path / "two"), keys)
    with pytest.raises(Refused, match="two has 2 members, and this run 1; only one goes to all"):
        begun(tiny, StartFrom(tmp_path / "two"))
    alone = train(tiny, 64, keys[:1], folder=tmp_path / "alone")
    of_one = jax.tree.map(lambda x: x[0], alone.state.learner)
    chex.assert_trees_all_equal(begun(tiny, StartFrom(tmp_path / "alone")).learner, of_one)


def test_what_does_not_fit_is_refused_before_anything_is_written(tiny, before, copy, tmp_path):
    def refused(message, algorithm=tiny, start=StartFrom(before.folder)):  # noqa: B008
        with pytest.raises(Refused, match=message) as error:
            train(algorithm, 64, folder=tmp_path / "new", start_from=start)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "new").exists()

    refused("ppo does not train critic, polic; it trains policy", start=StartFrom(before.folder, ("polic", "critic")))
    wider = changed(tiny, hidden=(16,))
    refused(r"does not fit this run: .*params/policy/.* is float32 \[8\] there, and here float32 \[16\]", wider)
    refused(r"does not fit this run: .* is .* there, and here", wider, StartFrom(before.folder, ("policy",)))
    deeper = changed(tiny, hidden=(8, 8))
    refused(r"does not fit this run: .*Dense_1/bias is nothing there, and here float32 \[8\]", deeper)
    refused("start_from must be a rljax.training.StartFrom", start=before.folder)
    with pytest.raises(Refused, match=r"options must be a rljax.training.Options, got \{'log_every': 1\}"):
        rljax.training.train(tiny, jax.random.key(0), 64, {"log_every": 1})  # type: ignore[arg-type]
    for folder in (3, ""):
        with pytest.raises(Refused, match=r"folder = .* is not allowed; it must be the path of a run folder"):
            StartFrom(folder)  # type: ignore[arg-type]
    refused("start_from is not possible for counter: its state has no learner", counter())
    critic = sac.make(rljax.make("pendulum"), sac.Config(hidden=(8,), replay_size=400, learning_starts=32))
    refused("was trained with normalize_observation = True", critic, StartFrom(before.folder, ("critic",)))
    seeing = changed(critic, normalize_observation=True)
    refused("has no part critic; it has policy", seeing, StartFrom(before.folder, ("critic",)))
    refused("is not a run folder: it has no config.json", start=StartFrom(tmp_path / "nowhere"))
    other = changed(critic, normalize_observation=True)
    refused("is nothing there, and here .*, for it was trained by ppo", other, StartFrom(before.folder, ("policy",)))
    for manifest in copy.glob("checkpoints/*/MANIFEST.json"):
        manifest.write_text("{}")
    with pytest.warns(UserWarning, match="is damaged"):
        refused("every checkpoint in .* is damaged", start=StartFrom(copy))
    assert not (copy / "checkpoints" / "damaged").exists()


def test_a_resumed_run_must_have_begun_there_and_needs_it_no_more(tiny, copy, tmp_path):
    run, start = tmp_path / "run", StartFrom(copy)
    whole = train(tiny, 192, start_from=start).state
    train(tiny, 64, folder=run, start_from=start)
    recorded = json.loads((run / "config.json").read_text())["settings"]["start_from"]
    assert recorded.pop("manifest_sha256")
    assert recorded == {"folder": str(copy), "parts": [], "iteration": 2}
    with pytest.raises(Refused, match=r"holds another run: settings\.start_from was \{.*\} and is now None"):
        train(tiny, 192, folder=run, resume=True)
    with pytest.raises(Refused, match=r"holds another run: settings\.start_from\.parts"):
        train(tiny, 192, folder=run, resume=True, start_from=StartFrom(copy, ("policy",)))
    train(tiny, 256, folder=copy, resume=True, log_every=64, checkpoint_every=64)  # it deletes what was the newest
    assert not (copy / "checkpoints" / "2").exists()
    train(tiny, 128, folder=run, resume=True, start_from=start)
    other = train(tiny, 64, jax.random.key(1), folder=tmp_path / "other").folder
    with pytest.raises(Refused, match=r"holds another run: settings\.start_from\."):
        train(tiny, 192, folder=run, resume=True, start_from=StartFrom(other))
    shutil.rmtree(copy)
    resumed = train(tiny, 192, folder=run, resume=True, start_from=start)
    chex.assert_trees_all_equal(resumed.state.params, whole.params)


def test_another_run_that_was_moved_is_the_same(tiny, copy, tmp_path):
    train(tiny, 64, folder=tmp_path / "run", start_from=StartFrom(copy))
    copy.rename(tmp_path / "moved")
    assert train(tiny, 128, folder=tmp_path / "run", resume=True, start_from=StartFrom(tmp_path / "moved")).steps == 128


def test_parts_are_a_tuple_of_names(before):
    with pytest.raises(Refused, match="parts = 'policy' is not allowed; it must be a tuple of names"):
        StartFrom(before.folder, "policy")


def test_statistics_of_other_data_are_refused(tmp_path):
    config = iql.Config(hidden=(4,), batch_size=8)
    one, other = (iql.make(limited(Drift(), 7), config, drift_data(seed=seed)) for seed in (0, 1))
    old = train(one, 2, folder=tmp_path / "old").state
    chex.assert_trees_all_equal(begun(one, StartFrom(tmp_path / "old"), jax.random.key(1)).learner, old.learner)
    with pytest.raises(Refused, match="old normalised observations by the statistics of other data"):
        begun(other, StartFrom(tmp_path / "old"))
