"""What the algorithms with replay share: halves of batches, weights over devices, targets by choice, storage."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax.algorithms import cql, dqn, sac, td3
from rljax.algorithms.core.experience import Loop
from rljax.algorithms.core.learner import Learner
from rljax.envs import RescaleAction
from rljax.spaces import Discrete
from tests.algorithms.test_steering import agent_of
from tests.datasets import batch_of, hyper_of
from tests.toys import Drift, Pixels, limited, spaces


@pytest.mark.parametrize("num_updates", [1, 2, 3, 32])
def test_half_of_each_batch_is_of_the_newest(num_updates):
    """A full buffer of steps numbered by their reward, of which 20 of 4,000 are new."""
    config = sac.Config(num_updates=num_updates, batch_size=256, replay_size=4_000, newest_size=20)
    agent = sac.Agent(config, *spaces(2, 1))
    loop = Loop("sac", RescaleAction(limited(Drift(), 7)), agent)
    state = jax.eval_shape(loop.init, jax.random.key(0))
    experience = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state.experience)
    data = experience.replay.data.replace(reward=jnp.arange(4_000.0)[None])
    experience = experience.replace(replay=experience.replay.replace(count=jnp.int32(4_000), data=data))
    batch = jax.jit(lambda key: loop.draw(None, experience, key, agent.hyper()).reward)(jax.random.key(1))
    new = np.asarray(batch >= 3_980)
    assert new.shape == (num_updates, 256)
    np.testing.assert_allclose(new.mean(1), 0.5, atol=0.07)


def test_the_noise_that_grrl_distils_does_not_go_by_place():
    """Which rows have the predictor's noise: half of them, and half of any pattern, such as every other place."""
    agent, learner = agent_of("grrl_steer")
    obs, params = jnp.ones((512, 2)), learner.params["policy"]
    noise = jax.jit(agent.distilled_noise)(params, obs, jax.random.key(0))
    own = np.isclose(noise, agent.actor.apply(params, obs), atol=1e-6).all(-1)
    assert own.mean() == pytest.approx(0.5, abs=0.1)
    assert own[::2].mean() == pytest.approx(0.5, abs=0.13)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"newest_size": 3}, "newest_size = 3 is not allowed; it must be 0, or at least num_envs = 4"),
        ({"newest_size": 40, "prioritized": True}, "newest_size = 40 is not allowed; it must be 0 where prioritized"),
    ],
)
def test_newest_transitions_that_could_not_be_drawn_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dqn.Config(num_envs=4, **settings)


def test_bytes_keep_only_what_fits_into_them():
    config = dqn.Config(storage="uint8", replay_size=100)
    loop = lambda env: Loop("dqn", env, dqn.Agent(config, env.observation_space, Discrete(2)))  # noqa: E731
    loop(limited(Pixels(), 6))
    with pytest.raises(ValueError, match="keeps whole numbers from 0 to 255; observations are from -inf to inf"):
        loop(limited(Drift(), 7))


# A terminal observation may be anything: the state of a simulator that broke, or one that no network has seen.
BATCH = batch_of(discount=0.9)
POISONED = BATCH.replace(next_obs=jnp.where((BATCH.discount == 0)[:, None], jnp.nan, BATCH.next_obs))
AGENTS = {
    "sac": (sac, {}),
    "td3": (td3, {}),
    "td3 of distributions": (td3, {"num_atoms": 5}),
    "cql": (cql, {"num_actions": 2}),
}


@pytest.mark.parametrize("case", AGENTS)
def test_no_target_depends_on_what_comes_after_a_termination(case):
    module, settings = AGENTS[case]
    config = module.Config(hidden=(4,), **settings)
    agent, hyper = module.Agent(config, *spaces(3, 2)), hyper_of(module, config)
    learner = agent.init(jax.random.key(0))
    key = jax.random.key(2) if module is td3 else jax.random.split(jax.random.key(2), 3)
    target = jax.jit(agent.target)
    found, expected = target(learner, POISONED, key, hyper), target(learner, BATCH, key, hyper)
    np.testing.assert_array_equal(found, expected)
    if not settings.get("num_atoms"):
        over = np.asarray(BATCH.discount == 0)
        np.testing.assert_array_equal(found[over], BATCH.reward[over])


@pytest.mark.parametrize("head", ["scalar", "categorical", "quantile"])
def test_no_td_error_depends_on_what_comes_after_a_termination(head):
    config = dqn.Config(head=head, num_atoms=3)
    atoms = 1 if head == "scalar" else 3
    output, reward = jnp.linspace(0.0, 1.0, 4 * atoms).reshape(4, atoms), jnp.arange(4.0)
    discount = jnp.array([0.0, 0.9, 0.0, 0.9])
    poisoned = jnp.where((discount == 0)[:, None], jnp.inf, output)
    found, expected = (dqn.td_loss(config, output, following, reward, discount) for following in (poisoned, output))
    np.testing.assert_array_equal(found, expected)


def test_weights_decay_as_adamw_has_it():
    params, gradient = {"kernel": jnp.array([1.0, -2.0])}, {"kernel": jnp.array([0.3, -0.1])}
    config = td3.Config(weight_decay=0.5, learning_rate=0.1, critic_learning_rate=0.1)
    optimizers = td3.Agent(config, *spaces(3, 2)).optimizers(hyper_of(td3, config))
    adamw = optax.adamw(0.1, weight_decay=0.5)
    updates, _ = adamw.update(gradient, adamw.init(params), params)
    for part in ("policy", "critic"):
        learner = Learner.init({part: params}, optimizers).descend(part, gradient, optimizers[part])
        np.testing.assert_allclose(learner.params[part]["kernel"], params["kernel"] + updates["kernel"], 1e-6)
        # Adam's first step is as long as the learning rate; a twentieth of the weight goes as well.
        np.testing.assert_allclose(learner.params[part]["kernel"], [1.0 - 0.1 - 0.05, -2.0 + 0.1 + 0.1], 1e-6)


def test_published_settings_are_those_of_the_publications():
    """Hessel et al. 2018, table 1, in steps of four frames; and FastTD3's hyperparams.py for MuJoCo Playground."""
    rainbow = {
        "learning_starts": 80_000 // 4,
        "learning_rate": 0.0000625,
        "adam_epsilon": 1.5e-4,
        "noisy_std": 0.5,
        "target_period": 32_000 // 16,
        "priority_exponent": 0.5,
        "importance_exponent": 0.4,
        "n_step": 3,
        "num_atoms": 51,
        "value_min": -10.0,
        "value_max": 10.0,
        "rollout_length": 4,
        "num_updates": 1,
        "num_envs": 1,
        "importance_anneal_steps": 200_000_000 // 4,
        "batch_size": 32,
        "replay_size": 1_000_000,
        "discount": 0.99,
        "double": True,
        "dueling": True,
        "prioritized": True,
        "head": "categorical",
        "exploration": "noisy",
    }
    fast_td3 = {
        "num_envs": 1024,
        "num_updates": 2,
        "batch_size": 32_768,
        "replay_size": 1024 * 10_240,
        "discount": 0.97,
        "target_rate": 0.1,
        "policy_delay": 2,
        "target_noise": 0.001,
        "target_noise_clip": 0.5,
        "noise_min": 0.001,
        "noise_max": 0.4,
        "num_atoms": 101,
        "value_min": -10.0,
        "value_max": 10.0,
        "weight_decay": 0.1,
        "learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
        "learning_starts": 10 * 1024,
        "n_step": 1,
        "hidden": (512, 256, 128),
        "critic_hidden": (1024, 512, 256),
        "normalize_observation": True,
        "policy_value": "min",
        "target_policy": False,
        "delay_targets": False,
    }
    for published, config in ((rainbow, dqn.RAINBOW), (fast_td3, td3.FAST_TD3)):
        assert {name: getattr(config, name) for name in published} == published


@pytest.mark.parametrize("delay_targets", [True, False])
def test_targets_move_when_the_policy_does_or_after_each_update(delay_targets):
    """From 0, with critics that hardly learn, 1 - 0.9^k of the way in k moves; FastTD3 has no target policy."""
    config = td3.Config(
        hidden=(4,),
        num_updates=4,
        policy_delay=2,
        critic_learning_rate=1e-12,
        target_rate=0.1,
        target_policy=delay_targets,
        delay_targets=delay_targets,
    )
    agent = td3.Agent(config, *spaces(3, 2))
    learner = agent.init(jax.random.key(0))
    learner = learner.replace(targets=jax.tree.map(jnp.zeros_like, learner.targets))
    batches = jax.tree.map(lambda x: jnp.stack([x] * 4), BATCH)
    after, _, _ = jax.jit(agent.learn)(learner, batches, jax.random.key(2), hyper_of(td3, config))
    kernel = lambda tree: tree["params"]["MLP_0"]["output"]["kernel"]  # noqa: E731
    moves = 2 if delay_targets else 4
    share = kernel(after.targets["critic"]) / kernel(after.params["critic"])
    np.testing.assert_allclose(share, 1 - 0.9**moves, rtol=1e-4)
    assert ("policy" in after.targets) == delay_targets
    if not delay_targets:
        slow = dataclasses.replace(config, target_policy=True)
        both = learner.replace(
            targets=learner.targets | {"policy": jax.tree.map(jnp.zeros_like, learner.params["policy"])}
        )
        key, hyper = jax.random.key(3), hyper_of(td3, config).replace(target_noise=jnp.float32(0.0))
        own, target = (a.next_action(both, BATCH.obs, key, hyper) for a in (agent, td3.Agent(slow, *spaces(3, 2))))
        np.testing.assert_allclose(own, agent.policy(learner.params["policy"], BATCH.obs), rtol=1e-6)
        np.testing.assert_array_equal(target, 0.0)
