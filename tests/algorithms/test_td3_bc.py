"""TD3+BC's and ReBRAC's terms by hand; what they share with TD3 is in test_td3.py."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import td3, td3_bc
from tests.datasets import batch_of, first_gradient, hyper_of
from tests.toys import Drift, limited, spaces

TINY = td3_bc.Config(hidden=(8,), batch_size=16)


def agent_of(**settings):
    """An agent, its learner with targets other than its networks, and its hyperparameters."""
    config = dataclasses.replace(TINY, **settings)
    agent = td3_bc.Agent(config, *spaces(3, 2))
    init = jax.jit(agent.init)
    learner = init(jax.random.key(8))
    params = learner.params | {"policy": jax.tree.map(lambda x: 3.0 * x, learner.params["policy"])}
    targets = init(jax.random.key(3)).targets
    return agent, learner.replace(params=params, targets=targets), hyper_of(td3_bc, config)


@pytest.mark.parametrize(("value_weight", "value"), [(2.5, "first"), (40.0, "min"), (0.0, "first")])
def test_the_policys_loss_weighs_q_by_its_mean_size(value_weight, value):
    """λ = α / mean |Q(s, π(s))| over the batch, a constant to the gradient; with α = 0 it is behaviour cloning."""
    agent, learner, hyper = agent_of(value_weight=value_weight, policy_value=value)
    batch = batch_of()
    after, metrics = jax.jit(agent.update_policy)(learner, batch, jax.random.key(0), hyper)

    def values(params):
        action = agent.actor.apply(params, batch.obs)
        each = [jax.tree.map(lambda x: x[i], learner.params["critic"]) for i in (0, 1)]  # noqa: B023
        first, second = (agent.critic.apply(p, batch.obs, action) for p in each)
        return action, first if value == "first" else jnp.minimum(first, second)

    action, q = map(np.asarray, jax.jit(values)(learner.params["policy"]))
    assert (q > 0).any()
    assert (q < 0).any()
    weight = value_weight / np.abs(q).mean()
    distance = np.square(action - np.asarray(batch.action)).mean()
    np.testing.assert_allclose(metrics["policy/squared_distance"], distance, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/policy"], distance - weight * q.mean(), rtol=1e-4, atol=1e-5)

    @jax.jit
    @jax.grad
    def gradient(params):
        action, q = values(params)
        cloning = jnp.square(action - batch.action).sum() / batch.action.size
        return cloning - (weight * q.mean() if value_weight else 0.0)

    expected = gradient(learner.params["policy"])
    chex.assert_trees_all_close(first_gradient(after, "policy"), expected, rtol=1e-3, atol=1e-6)
    for part in ("policy", "critic"):
        expected = jax.tree.map(lambda t, x: 0.995 * t + 0.005 * x, learner.targets[part], after.params[part])
        chex.assert_trees_all_close(after.targets[part], expected, atol=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_the_target_is_penalised_by_the_distance_from_the_datas_next_action(penalty):
    """r + γ (min Q'(s', ã) - β₂ ‖ã - a'‖²), with ReBRAC's sum over dimensions; nothing follows a termination."""
    agent, learner, hyper = agent_of(target_penalty=penalty, target_noise=0.3)
    batch, key = batch_of(), jax.random.key(7)
    target = jax.jit(agent.target)(learner, batch, key, hyper)
    action = np.asarray(agent.actor.apply(learner.targets["policy"], batch.next_obs))
    noise = np.clip(0.3 * np.asarray(jax.random.normal(key, (16, 2))), -0.5, 0.5)
    action = np.clip(action + noise, -1.0, 1.0)
    values = np.asarray(jax.jit(agent.critics)(learner.targets["critic"], batch.next_obs, action)).min(0)
    distance = np.square(action - np.asarray(batch.next_action)).sum(-1)
    going = np.where(np.arange(16) % 3 == 0, 0.0, 0.9)
    np.testing.assert_allclose(target, batch.reward + going * (values - penalty * distance), rtol=1e-4, atol=1e-5)


def test_a_swept_penalty_counts_though_the_config_has_none():
    agent, learner, hyper = agent_of()
    batch, key = batch_of(), jax.random.key(7)
    target = jax.jit(agent.target)
    swept = target(learner, batch, key, hyper.replace(target_penalty=jnp.float32(0.7)))
    configured, _, own = agent_of(target_penalty=0.7)
    np.testing.assert_array_equal(swept, jax.jit(configured.target)(learner, batch, key, own))
    assert np.abs(swept - target(learner, batch, key, hyper)).max() > 0.1


def test_without_a_penalty_the_critics_learn_as_td3s_do():
    agent, learner, hyper = agent_of()
    batch, key = batch_of(), jax.random.key(5)
    plain = td3.Agent(td3.Config(hidden=(8,), batch_size=16), *spaces(3, 2))
    after, metrics = jax.jit(agent.update_critic)(learner, batch, key, hyper)
    expected, expected_metrics = jax.jit(plain.update_critic)(learner, batch, key, hyper)
    chex.assert_trees_all_close(after.params, expected.params, atol=1e-6)
    np.testing.assert_allclose(metrics["loss/critic"], expected_metrics["loss/critic"], rtol=1e-5)


def test_online_there_is_no_next_action_to_be_near():
    with pytest.raises(ValueError, match="td3_bc: online, target_penalty must be 0"):
        td3_bc.make(limited(Drift(), 7), td3_bc.REBRAC, online=True)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("value_weight", -1.0, "0 or more"),
        ("target_penalty", -0.1, "0 or more"),
        ("num_atoms", 1, "0, or at least 2"),
        ("policy_delay", 3, "a divisor of num_updates = 2"),
        ("offline_share", -0.5, r"in \[0, 1\)"),
    ],
)
def test_bad_settings_are_refused(field, value, allowed):
    with pytest.raises(ValueError, match=rf"^td3_bc\.Config: {field} = .* is not allowed; it must be {allowed}"):
        dataclasses.replace(TINY, **{field: value})


def test_online_the_noise_is_the_one_that_is_swept():
    """It is read from the state, when acting and in the policy."""
    agent, learner, hyper = agent_of()
    obs, key = batch_of().obs, jax.random.key(0)
    without = hyper.replace(exploration_noise=jnp.float32(0.0))
    quiet, noisy = (agent.explore(agent.acting(learner, h), obs, (), key, h)[0] for h in (without, hyper))
    np.testing.assert_array_equal(quiet, agent.policy(learner.params["policy"], obs))
    assert jnp.abs(noisy - quiet).max() > 0.01
    for own, expected in ((without, quiet), (hyper, noisy)):
        np.testing.assert_array_equal(agent.act(agent.acting(learner, own), obs, (), key, False)[0], expected)
    algorithm = td3_bc.make(limited(Drift(), 7), TINY, online=True)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    assert jax.eval_shape(algorithm.policy, state).variables["noise"].shape == ()


def test_online_each_environment_may_have_noise_of_its_own():
    """Its level is that of the episode: remembered where one is under way, drawn where it begins."""
    agent, learner, hyper = agent_of(noise_min=0.1, noise_max=0.4)
    assert agent.exploring_memory == -1.0
    still = jax.tree.map(jnp.zeros_like, learner.params["policy"])
    learner = learner.replace(params=learner.params | {"policy": still})
    level = jnp.array([-1.0, 0.0, 1.0, -1.0])
    explore = jax.jit(lambda key: agent.explore(agent.acting(learner, hyper), jnp.zeros((4, 3)), level, key, hyper)[:2])
    action, memory = jax.vmap(explore)(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_array_equal(memory[:, 1:3], np.broadcast_to([0.0, 1.0], (2000, 2)))
    for drawn in (memory[:, 0], memory[:, 3]):
        np.testing.assert_allclose([drawn.min(), drawn.mean(), drawn.max()], [0.0, 0.5, 1.0], atol=0.03)
    assert (memory[:, 0] != memory[:, 3]).all()
    np.testing.assert_allclose(action[:, 1].std(), 0.1, rtol=0.05)
    np.testing.assert_allclose((action[:, [0, 3]] / (0.1 + 0.3 * memory[:, [0, 3], None])).std(), 1.0, atol=0.05)
    algorithm = td3_bc.make(limited(Drift(), 7), dataclasses.replace(TINY, num_envs=4, noise_max=0.4), online=True)
    assert jax.eval_shape(algorithm.init, jax.random.key(0)).experience.memory.shape == (4,)
