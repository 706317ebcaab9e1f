"""Offline datasets: episodes worked by hand, returns against plain Python, sampling as part of a compiled program."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.algorithms import bc, diffusion, iql
from rljax.data import Dataset, Metadata, concatenate, normalized_score
from rljax.data.chunks import in_chunks
from rljax.data.dataset import fingerprint
from rljax.data.prepared import prepare
from rljax.envs.spaces_only import SpacesOnly
from rljax.ops import running_statistics
from rljax.types import Transition


def transitions(rewards, terminated=(), truncated=()):
    """Steps numbered from 0: the observation is the number, and the action ten times it."""
    number = np.arange(len(rewards), dtype=np.float32)
    over, cut = (np.isin(np.arange(len(rewards)), list(at)) for at in (terminated, truncated))
    obs = np.stack([number, -number], 1)
    return Transition(
        obs, 10 * number[:, None], np.asarray(rewards, np.float32), over, cut, obs + np.array([1, -1], "f4")
    )


# Three episodes: terminated at 2, truncated at 3, and cut by the end of the data at 5.
REWARDS = [1, 2, 4, 8, 16, 32]


@pytest.fixture(scope="module")
def data():
    return Dataset.of(transitions(REWARDS, [2], [3]), Metadata("three episodes"))


def test_three_episodes_by_hand(data):
    assert (data.size, data.metadata.name) == (6, "three episodes")
    np.testing.assert_array_equal(data.ends, [3, 4, 6])
    np.testing.assert_array_equal(data.starts, [0, 3, 4])
    np.testing.assert_array_equal(data.returns, [7, 8, 48])
    np.testing.assert_array_equal(data.return_to_go, [7, 6, 4, 8, 48, 32])
    np.testing.assert_array_equal(data.discounted(0.5).return_to_go, [3, 4, 4, 8, 32, 32])
    np.testing.assert_array_equal(data.terminated, [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(data.truncated, [0, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(data.next_action[:, 0], [10, 20, 20, 30, 50, 50])  # its own where nothing follows


def test_a_terminated_step_is_not_truncated_too():
    data = Dataset.of(transitions([1, 1], [0, 1], [0, 1]))
    np.testing.assert_array_equal(data.terminated, True)
    np.testing.assert_array_equal(data.truncated, False)


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.tuples(st.floats(-10, 10, width=32), st.booleans(), st.booleans()), min_size=1, max_size=20),
    discount=st.floats(0, 1),
)
def test_returns_are_those_of_plain_python(steps, discount):
    rewards, terminated, truncated = zip(*steps)
    data = Dataset.of(transitions(rewards, np.flatnonzero(terminated), np.flatnonzero(truncated)))
    ends = [i for i in range(len(steps)) if terminated[i] or truncated[i] or i == len(steps) - 1]
    expected, following = [], 0.0
    for i in reversed(range(len(steps))):
        following = rewards[i] + (0.0 if i in ends else discount * following)
        expected.append(following)
    np.testing.assert_allclose(data.discounted(discount).return_to_go, expected[::-1], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(data.next_action[:, 0], [10 * (i if i in ends else i + 1) for i in range(len(steps))])
    # Every step is in one episode, and none is both kinds of end.
    np.testing.assert_array_equal(data.ends, np.array(ends) + 1)
    assert (data.ends - data.starts).sum() == data.size
    assert (data.ends > data.starts).all()
    assert not (data.terminated & data.truncated).any()
    np.testing.assert_allclose(data.returns, data.return_to_go[data.starts], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(data.returns.sum(), np.sum(rewards, dtype=np.float64), atol=1e-6)


def test_the_best_episodes_stay_in_order(data):
    np.testing.assert_array_equal(data.best(0.01).reward, [16, 32])  # rounded up
    np.testing.assert_array_equal(data.best(2 / 3).reward, [8, 16, 32])
    chex.assert_trees_all_equal(data.best(1.0), data)
    many = Dataset.of(transitions(np.arange(100), truncated=range(100)))
    assert len(many.best(0.07).ends) == 7  # 0.07 × 100 is above 7 in floating point
    for share in (0.0, 1.1, -1, float("nan")):
        with pytest.raises(ValueError, match=r"three episodes: a share of episodes lies in \(0, 1\]"):
            data.best(share)


@jax.jit
def sample(data, key, discount):
    return data.sample(key, 256, discount)


def test_samples_are_rows_and_only_a_termination_ends_the_value(data):
    batch = sample(data.discounted(0.5), jax.random.key(0), 0.9)
    index = np.asarray(batch.index)
    np.testing.assert_array_equal(np.unique(index), np.arange(6))
    for field in ("obs", "action", "reward", "next_obs", "next_action"):
        np.testing.assert_array_equal(getattr(batch, field), getattr(data, field)[index])
    np.testing.assert_array_equal(batch.return_to_go, data.discounted(0.5).return_to_go[index])
    np.testing.assert_allclose(batch.discount, np.where(index == 2, 0.0, 0.9), rtol=1e-6)
    np.testing.assert_array_equal(batch.weight, 1.0)


def test_samples_are_uniform(data):
    index = np.concatenate([sample(data, jax.random.key(i), 0.9).index for i in range(100)])
    np.testing.assert_allclose(np.bincount(index) / len(index), 1 / 6, atol=0.01)


def test_the_arrays_are_arguments_of_the_program(data):
    """Other data of the same shape run the same program, which holds none of them."""
    text = str(jax.make_jaxpr(lambda d, k: d.sample(k, 4, 0.9))(data, jax.random.key(0)).consts)
    assert text == "[]"
    other = data.replace(reward=data.reward + 100)
    program: Any = sample
    before = program._cache_size()
    drawn = [sample(d, jax.random.key(1), 0.9).reward for d in (data, other)]
    np.testing.assert_array_equal(drawn[0] + 100, drawn[1])
    assert program._cache_size() <= before + 1


def test_observations_may_be_a_tree_and_numbers_are_narrowed():
    steps = transitions([1.0, 2.0]).replace(action=np.array([0, 3], np.int64), reward=np.array([1, 2], np.int64))
    obs = {"position": np.zeros((2, 3), np.float64), "image": np.ones((2, 4, 4), np.uint8)}
    data = Dataset.of(steps.replace(obs=obs, next_obs=jax.tree.map(np.float32, obs) | {"image": obs["image"]}))
    assert data.obs["position"].dtype == data.reward.dtype == np.float32
    assert (data.obs["image"].dtype, data.action.dtype) == (np.uint8, np.int64)
    assert sample(data, jax.random.key(0), 0.9).obs["image"].shape == (256, 4, 4)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(data))


def test_statistics_normalize_to_mean_0_and_variance_1():
    obs = np.random.default_rng(0).normal(1000, 3, (500, 2)).astype(np.float32)
    tree = {"x": obs, "category": np.arange(500)}
    data = Dataset.of(transitions(np.zeros(500)).replace(obs=tree, next_obs=tree))
    statistics = data.statistics()
    chex.assert_trees_all_equal_shapes_and_dtypes(
        statistics, running_statistics.init(jax.tree.map(lambda x: x[0], tree))
    )
    scaled = running_statistics.normalize(statistics, tree)
    np.testing.assert_allclose(scaled["x"].mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(scaled["x"].std(0), 1, atol=1e-3)
    np.testing.assert_array_equal(scaled["category"], tree["category"])


def test_whole_numbers_are_observed_as_numbers_and_what_hardly_varies_is_not_scaled_up():
    rng = np.random.default_rng(0)
    obs = np.stack([rng.integers(0, 100, 500), np.full(500, 7), 1000 + rng.integers(0, 2, 500)], 1)
    data = Dataset.of(transitions(np.zeros(500)).replace(obs=obs, next_obs=obs))
    env = SpacesOnly(3, [0.0], [5000.0])
    prepared = prepare(data, env.observation_space, env.action_space, bc.Config())
    floats = Dataset.of(transitions(np.zeros(500)).replace(obs=np.float32(obs), next_obs=np.float32(obs)))
    found = prepared.dataset.obs
    assert found.dtype == np.float32
    same = prepare(floats, env.observation_space, env.action_space, bc.Config())
    np.testing.assert_array_equal(found, same.dataset.obs)
    np.testing.assert_allclose(found.std(0), [1.0, 0.0, obs[:, 2].std()], rtol=1e-3)
    # As the policy sees them when it acts.
    for seen in (obs, np.float32(obs)):
        np.testing.assert_allclose(running_statistics.normalize(prepared.statistics, seen), found, atol=1e-5)
    off = obs[:1] + np.array([0.0, 0.001, 0.0])  # a millimetre
    assert abs(running_statistics.normalize(prepared.statistics, off)[0, 1]) < 0.0011


def test_the_fingerprint_is_of_every_array_and_of_what_was_read(data):
    prints = {data.identified().metadata.content}
    for name in ("obs", "action", "reward", "next_obs", "next_action", "return_to_go"):
        x = np.array(getattr(data, name))
        x.flat[-1] += 1
        prints.add(data.replace(**{name: x}).spec["content"])
    for name in ("terminated", "truncated"):
        prints.add(data.replace(**{name: ~getattr(data, name)}).spec["content"])
    assert len(prints) == 9
    assert all(len(x) == 64 for x in prints)
    on_device = jax.tree.map(jnp.asarray, data).replace(metadata=Metadata("by another name"))
    assert fingerprint(on_device.replace(metadata=Metadata())) == data.spec["content"]
    # In parts, too.
    large = np.arange(2**23, dtype=np.float32).reshape(-1, 2)
    assert fingerprint({"x": large}) == fingerprint({"x": large.copy()}) != fingerprint({"x": large[::-1]})
    # Settings change what is computed, and not what was read.
    env = SpacesOnly(2, [0.0], [50.0])
    for config in (bc.Config(), bc.Config(normalize_observation=False, reward_bias=1.0)):
        ready = prepare(data, env.observation_space, env.action_space, config).dataset
        assert ready.spec["content"] == data.spec["content"]
    assert concatenate([data.identified(), data]).metadata.content is None


def test_without_rewards_it_is_imitated_and_nothing_else(data):
    bare = data.replace(reward=np.zeros(6, np.float32), metadata=Metadata("bare", rewards=False))
    env = SpacesOnly(2, [0.0], [50.0])
    assert bc.make(env, bc.Config(), bare).data.size == 6
    assert diffusion.make(env, diffusion.Config(), bare).data.size == 6
    for use in (
        lambda: iql.make(env, iql.Config(), bare),
        lambda: bc.make(env, bc.Config(top=0.5), bare),
        lambda: in_chunks(bare, 1, 2),
    ):
        with pytest.raises(ValueError, match=r"^bare: no rewards, which this learns from; bc and"):
            use()


def test_choices_are_not_taken_for_continuous_actions(data):
    chosen = data.replace(action=np.zeros((6, 1), np.int64), metadata=Metadata("choices"))
    with pytest.raises(ValueError, match=r"^choices: actions are of type int64, as choices are; they must be floating"):
        bc.make(SpacesOnly(2, [0.0], [50.0]), bc.Config(), chosen)


def test_concatenated_in_order(data):
    other = Dataset.of(transitions([5, 6], [0]), Metadata("other"))
    both = concatenate([data, other])
    np.testing.assert_array_equal(both.reward, [*REWARDS, 5, 6])
    np.testing.assert_array_equal(both.ends, [3, 4, 6, 7, 8])
    np.testing.assert_array_equal(both.returns, [7, 8, 48, 5, 6])
    np.testing.assert_array_equal(both.return_to_go, [*data.return_to_go, 5, 6])
    assert both.metadata == data.metadata
    assert concatenate([data, other], Metadata("both")).metadata.name == "both"


def test_scores_of_random_and_expert():
    assert normalized_score("hopper", -20.272305) == 0
    assert normalized_score("hopper", 3234.3) == 100
    np.testing.assert_allclose(normalized_score("walker2d", [1.629008, 4592.3]), [0, 100])
    assert normalized_score("cartpole", 3) is None
    assert normalized_score(None, 3) is None


STEPS = transitions([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (jax.tree.map(lambda x: x[:0], STEPS), "no transitions"),
        (STEPS.replace(reward=np.float32(1)), "no transitions"),
        (STEPS.replace(action=STEPS.action[:2]), r"action has the shape \(2, 1\), and there are 3 rewards"),
        (STEPS.replace(terminated=np.zeros(4, bool)), r"terminated has the shape \(4,\), and there are 3 rewards"),
        (STEPS.replace(obs={"x": STEPS.obs[:1]}), r"obs\['x'\] has the shape \(1, 2\), and there are 3 rewards"),
        (STEPS.replace(reward=np.ones((3, 1))), r"reward must have one axis, and has the shape \(3, 1\)"),
        (STEPS.replace(truncated=np.ones((3, 1), bool)), "truncated must have one axis"),
        (STEPS.replace(reward=np.array([1, np.nan, 2])), "reward is not finite at transition 1"),
        (STEPS.replace(next_obs=np.full((3, 2), np.inf)), "next_obs is not finite at transition 0"),
        (STEPS.replace(action=np.array([0, 0, 1e300])), "action is not finite at transition 2"),  # in float32
        (STEPS.replace(action=jnp.array([0, 0, jnp.nan], jnp.bfloat16)), "action is not finite at transition 2"),
        (STEPS.replace(terminated=np.zeros(3)), "terminated must be boolean, and is float32"),
        (STEPS.replace(truncated=np.zeros(3, int)), "truncated must be boolean, and is int64"),
        (STEPS.replace(next_obs=np.zeros((3, 5))), "obs and next_obs differ in shape or type"),
        (STEPS.replace(next_obs=np.zeros((3, 2), int)), "obs and next_obs differ in shape or type"),
        (STEPS.replace(next_obs={"x": STEPS.obs}), "obs and next_obs differ in shape or type"),
    ],
)
def test_refusals_are_one_line_that_begins_with_the_name(steps, message):
    with pytest.raises(ValueError, match=f"^hops: {message}") as error:
        Dataset.of(steps, Metadata("hops"))
    assert "\n" not in str(error.value)
