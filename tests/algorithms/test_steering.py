"""Steering: the sampler is frozen, noise finds what pays, and the policy that is deployed does the same."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import diffusion, sac, steering
from rljax.algorithms.steering import Base, Config, Steered
from rljax.envs import AutoReset, Environment, initial_state
from rljax.envs.wrappers import Wrapper
from rljax.ops import running_statistics
from rljax.spaces import Box
from rljax.training import program as programs
from rljax.training.evaluate import evaluate
from tests.datasets import batch_of, dataset_of, hyper_of
from tests.runs import train
from tests.toys import Drift, limited, spaces

METHODS = ("dsrl_sac", "dsrl_na", "grrl_steer")
SLOW = pytest.mark.slow
# An untrained flow policy: its network says 0, so that actions are the noise, clipped.
SAMPLER = diffusion.Config(
    objective="flow", width=8, blocks=1, history=2, horizon=3, executed=2, sampler_steps=2, normalize_observation=False
)
TINY = {
    "sampler": SAMPLER,
    "normalize_observation": False,
    "noise_steps": 0,
    "noise_bound": 1.5,
    "hidden": (32, 32),
    "num_envs": 4,
    "num_updates": 8,
    "batch_size": 64,
    "replay_size": 4000,
    "learning_starts": 80,
    "learning_rate": 3e-3,
    "critic_learning_rate": 3e-3,
    "discount": 0.5,
}
AIM = 2.5
"""Of actions in [-2, 4]; in units 0.5."""


class Aim(Environment):
    """What is done should be 2.5, whatever is seen; within `width` of that it has succeeded."""

    name = "aim"
    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Box(-2.0, 4.0, (1,))

    def __init__(self, width=0.4):
        self.width = width

    terminates_at_success = True

    def reset(self, key):
        return initial_state(jnp.zeros(()), jax.random.uniform(key, (1,), minval=-1.0), success=jnp.zeros(()))

    def step(self, state, action):
        distance = jnp.abs(action[0] - AIM)
        done = distance < self.width
        metrics = {"success": done.astype(jnp.float32)}
        return state.replace(physics=action[0], reward=-distance, terminated=done, metrics=metrics)


ENV = limited(Aim(), 8)


def config_of(method="dsrl_sac", **options):
    return Config(method=method, **TINY | options)


def base_of(scale=0.0):
    """An untrained policy; or one with random weights, which does something."""
    agent = diffusion.Agent(SAMPLER, *spaces(1, 1))
    params = agent.init(jax.random.key(0)).params["policy"]
    leaves, tree = jax.tree.flatten(params)
    noisy = [x + scale * jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(leaves)]
    return Base(jax.tree.unflatten(tree, noisy), running_statistics.init(jnp.zeros(1)))


def agent_of(method, scale=0.3, **options):
    sampler, config = diffusion.Agent(SAMPLER, *spaces(1, 1)), config_of(method, **options)
    size = config.own_noise + SAMPLER.executed
    agent = steering.AGENTS[method](config, *spaces(2, size), sampler=sampler, base=base_of(scale).params)
    return agent, agent.init(jax.random.key(0))


def act(agent, learner, obs, key, deterministic=False):
    return agent.act(agent.acting(learner, agent.hyper()), obs, (), key, deterministic)[0]


def start(agent, learner, obs, key):
    """What it does before it has learned."""
    return agent.start(agent.acting(learner, agent.hyper()), obs, (), key, agent.hyper())[0]


@pytest.fixture(scope="module", params=["dsrl_sac", *(pytest.param(m, marks=SLOW) for m in METHODS if m != "dsrl_sac")])
def made(request):
    """An algorithm, and the runner's program of it: compiled once for all tests of this file."""
    algorithm = steering.make(ENV, config_of(request.param), base_of())
    return algorithm, programs.build(algorithm, None, 1, "threefry2x32")


def test_noise_finds_what_pays_and_the_policy_is_loaded_with_what_it_steers(made, tmp_path, monkeypatch):
    algorithm, program = made
    monkeypatch.setattr(programs, "build", lambda *_: program)
    assert algorithm.per_iteration == 4 * 2  # of single actions
    result = train(algorithm, 2400, folder=tmp_path / "run", final_episodes=16)
    assert result.evaluation["members"][0]["deterministic"]["mean"] > -1.0  # of noise 0, -1.5 * 8
    loaded = rljax.load(tmp_path / "run", env=ENV)
    obs = jnp.linspace(-1, 1, 5)[:, None]
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (5, *x.shape)), loaded.initial_memory)
    for deterministic in (True, False):
        actions = [p.apply(jax.random.key(1), obs, memory, deterministic)[0] for p in (loaded, result.policy)]
        np.testing.assert_array_equal(*actions)
    np.testing.assert_allclose(actions[0], AIM, atol=2.0)


def test_a_run_resumes_bit_for_bit(made, tmp_path, monkeypatch):
    algorithm, program = made
    monkeypatch.setattr(programs, "build", lambda *_: program)
    whole = train(algorithm, 240, folder=tmp_path / "whole")
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["settings"] == {"base_sha256": steering.identity(base_of())}  # which is compared
    train(algorithm, 160, folder=tmp_path / "part")
    resumed = train(algorithm, 240, folder=tmp_path / "part", resume=True)
    chex.assert_trees_all_equal(resumed.state.learner, whole.state.learner)


@pytest.mark.parametrize("method", ["dsrl_na", "grrl_steer"])
def test_half_of_each_batch_may_be_of_demonstrations(method):
    """Their actions are in units beside a noise of 0, their rewards those of a chunk."""
    action = np.array([[1.0], [-2.0], [4.0], [2.5], [1.0], [1.0]], np.float32)
    last = np.array([0, 0, 0, 1, 0, 0], bool)
    obs = np.linspace(-1, 1, 6, dtype=np.float32)[:, None]
    demos = dataset_of(obs, action, -np.abs(action[:, 0] - AIM), terminated=last)
    algorithm = steering.make(ENV, config_of(method, offline_share=0.5), base_of(), demos)
    data = algorithm.data
    assert data.size == 6
    assert data.action.shape == (6, 3 + 2)
    np.testing.assert_array_equal(data.action[:2], [[0, 0, 0, 0, -1], [0, 0, 0, 1, 0.5]])
    rewards = [0.0, 0.5] if method == "grrl_steer" else [-(1.5 + 4.5) / 2, -1.5 / 2]
    np.testing.assert_allclose(data.reward[:2], rewards)
    assert data.terminated[:2].tolist() == [False, True]
    program = programs.build(algorithm, None, 1, "threefry2x32")
    key = np.asarray(jax.random.key_data(jax.random.key(0)))
    state, totals = program.init(key, {})
    *_, finite = program.run(state, totals, np.int32(0), np.int32(15), program.place(data))
    assert finite
    alone = steering.make(ENV, algorithm.config, base_of())
    with pytest.raises(ValueError, match="learns from a dataset as well"):
        jax.eval_shape(lambda key: alone.step(alone.init(key)), jax.random.key(0))
    with pytest.raises(ValueError, match=r"offline_share = 0\.5 is not allowed; it must be 0 with dsrl_sac"):
        config_of(offline_share=0.5)


@pytest.mark.parametrize("method", METHODS)
def test_no_gradient_goes_into_the_sampler(method):
    """Exactly none: into its weights, or through it into the noise."""
    agent, learner = agent_of(method)
    obs, noise = jax.random.normal(jax.random.key(2), (6, 2)), jax.random.normal(jax.random.key(3), (6, 3))
    chunk = agent.decode(agent.base, obs, noise)
    assert np.abs(np.diff(chunk, axis=0)).max() > 0.05
    gradients = jax.grad(lambda base, noise: jnp.square(agent.decode(base, obs, noise)).sum(), (0, 1))(
        agent.base, noise
    )
    for leaf in jax.tree.leaves(gradients):
        np.testing.assert_array_equal(leaf, 0.0)
    assert not any("base" in name for name in learner.params)


@pytest.mark.parametrize("method", METHODS)
def test_an_action_is_noise_and_the_chunk_that_it_makes(method):
    agent, learner = agent_of(method)
    obs = jax.random.normal(jax.random.key(2), (2000, 2))
    acted, started = act(agent, learner, obs, jax.random.key(3)), start(agent, learner, obs, jax.random.key(4))
    for action, most in ((acted, np.inf if method == "grrl_steer" else 1.0), (started, np.inf)):
        noise, chunk = 1.5 * action[:, :3], action[:, 3:]
        assert np.abs(action[:, :3]).max() <= most
        made = agent.sampler.sample_chunk(agent.base, obs, noise[..., None])[:, :2, 0]
        np.testing.assert_allclose(chunk, made, atol=1e-5)
        assert np.abs(chunk).max() <= 1.0
    # It starts as the frozen policy does by itself: noise N(0, I).
    np.testing.assert_allclose(1.5 * started[:, :3].std(0), 1.0, atol=0.06)
    np.testing.assert_allclose(1.5 * started[:, :3].mean(0), 0.0, atol=0.08)


def test_the_policy_off_is_the_frozen_policy():
    """Chunks of noise N(0, I) by `start` in the chunked task, and by the policy as it was trained: equal returns."""
    base = base_of(0.3)
    env = limited(Aim(0.0), 8)
    steered = Steered(env, config_of())
    agent, learner = agent_of("dsrl_sac")
    envs = AutoReset(steered, 400)

    @jax.jit
    def play(key):
        def step(state, key):
            after = envs.step(state, start(agent, learner, state.obs, key))
            return after, after.reward

        return jax.lax.scan(step, envs.reset(key), jax.random.split(key, 4))[1].sum(0)

    units = (np.float32([-2.0]), np.float32([4.0]))
    policy = diffusion.chunked_policy(agent.sampler, env, {"params": base.params, "action_range": units})
    episodes = jax.jit(lambda key: evaluate(env, policy, key, 400, False))(jax.random.key(1))
    ours = play(jax.random.key(0))
    error = np.hypot(ours.std(), episodes.returns.std()) / 20
    assert abs(ours.mean() - episodes.returns.mean()) < 3 * error


def test_steps_of_a_chunk_may_share_their_noise():
    agent, learner = agent_of("dsrl_sac", noise_steps=1)
    assert agent.noise_size == 1
    np.testing.assert_array_equal(agent.spread(jnp.array([[0.5], [-1.0]]))[..., 0], [[0.5] * 3, [-1.0] * 3])
    drawn = agent.draw(jax.random.key(0), (4000,))
    # As DSRL has it, of any size that the policy of noise may ask for.
    np.testing.assert_allclose(drawn.std(), 1.0, rtol=0.05)
    action = act(agent, learner, jnp.zeros((5, 2)), jax.random.key(1))
    assert action.shape == (5, 1 + 2)
    with pytest.raises(ValueError, match="noise_steps = 2 is not allowed; it must be 0, or divide"):
        config_of(noise_steps=2)


def test_a_residual_is_added_to_a_chunk_that_is_sampled_and_seen():
    agent, learner = agent_of("residual", noise_bound=0.25)
    obs = jax.random.normal(jax.random.key(2), (500, 2))
    for action in (act(agent, learner, obs, jax.random.key(3)), start(agent, learner, obs, jax.random.key(4))):
        added, chunk, executed = jnp.split(action, 3, axis=-1)
        assert 0.9 < np.abs(added).max() <= 1.0
        np.testing.assert_allclose(executed, np.clip(chunk + 0.25 * added, -1, 1), atol=1e-5)
        assert chunk[:, 0].std() > 0.3  # of noise, as the policy itself has it
    certain = act(agent, learner, obs, jax.random.key(3), True)
    mode = agent.sampler.sample_chunk(agent.base, obs, jnp.zeros((500, 3, 1)))[:, :2, 0]
    np.testing.assert_allclose(certain[:, 2:4], mode, atol=1e-5)

    # Critics see the sum: what leaves it as it is changes nothing.
    def values(chunk, added):
        seen = jnp.concatenate([obs, jnp.broadcast_to(chunk, (500, 2))], -1)
        added = jnp.broadcast_to(jnp.asarray(added), (500, 2))
        return agent.values(learner.params["critic"], seen, added, jax.random.key(5))

    np.testing.assert_allclose(values(0.5, 0.0), values(0.25, 1.0), atol=1e-5)
    assert np.abs(values(0.5, 0.0) - values(0.25, 0.0)).max() > 1e-3

    def total(base):
        variables = {"params": learner.params["policy"], "base": base}
        return agent.act(variables, obs, (), jax.random.key(3), False)[0].sum()

    assert all((leaf == 0).all() for leaf in jax.tree.leaves(jax.grad(total)(learner.frozen["base"])))
    with pytest.raises(ValueError, match="must be 0 with residual"):
        config_of("residual", offline_share=0.5)


@pytest.mark.slow
def test_a_residual_learns_where_the_policy_aims_beside():
    algorithm = steering.make(ENV, config_of("residual", noise_bound=1.0), base_of())
    result = train(algorithm, 400)
    returns = [
        float(evaluate(ENV, p, jax.random.key(1), 64).returns.mean())
        for p in (algorithm.policy(algorithm.init(jax.random.key(0))), result.policy)
    ]
    assert returns[1] > returns[0] + 1


def test_only_the_chunk_is_executed():
    steered = Steered(ENV, config_of())
    assert steered.action_space.shape == (3 + 2,)
    state = steered.reset(jax.random.key(0))
    after = steered.step(state, jnp.array([9.0, -9.0, 9.0, -1.0, 0.5]))
    np.testing.assert_allclose(after.physics, AIM)
    np.testing.assert_allclose(after.reward, -(AIM + 2.0))
    assert after.terminated
    assert isinstance(steered, Wrapper)
    assert (steered.steps_per_action, steered.max_episode_steps) == (2, 4)


def test_a_chunk_is_executed_in_the_units_of_the_policy_that_is_steered():
    """It was imitated from actions in [0, 3] of [-2, 4]; so are demonstrations learned from."""
    base = base_of().replace(action_range=(np.float32([0.0]), np.float32([3.0])))
    steered = Steered(ENV, config_of(), base.actions)
    after = steered.step(steered.reset(jax.random.key(0)), jnp.array([0.0, 0.0, 0.0, -1.0, 0.5]))
    np.testing.assert_allclose(after.physics, 2.25)
    np.testing.assert_allclose(after.reward, -AIM - 0.25)
    demos = dataset_of(np.zeros((2, 1)), [[0.0], [2.25]], np.zeros(2), terminated=[False, True])
    algorithm = steering.make(ENV, config_of("dsrl_na", offline_share=0.5), base, demos)
    np.testing.assert_array_equal(algorithm.data.action[0], [0, 0, 0, -1, 0.5])
    variables = jax.eval_shape(lambda key: algorithm.policy(algorithm.init(key)).variables, jax.random.key(0))
    assert variables["action_range"][0].shape == (1,)


def test_the_critic_of_noise_learns_what_the_critic_of_actions_says_of_its_chunks():
    agent, learner = agent_of("dsrl_na")
    hyper, obs = hyper_of(sac, config_of()), jax.random.normal(jax.random.key(2), (256, 2))

    @jax.jit
    def distill(learner, key):
        return jax.lax.scan(lambda l, k: agent.distill(l, obs, k, hyper), learner, jax.random.split(key, 600))

    after, distances = distill(learner, jax.random.key(3))
    assert distances[-20:].mean() < 0.1 * distances[:20].mean()
    for part in ("policy", "action_critic"):
        chex.assert_trees_all_equal(after.params[part], learner.params[part])


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_policy_that_acts_with_a_label_is_steered_with_it(guidance):
    """The frozen policy, by itself and as it is steered, makes the same chunk of the same noise."""
    labelled = dataclasses.replace(SAMPLER, labels=2, acts_with=1, guidance=guidance)
    sampler, config = diffusion.Agent(labelled, *spaces(1, 1)), config_of(sampler=labelled)
    params = sampler.init(jax.random.key(0)).params["policy"]
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    agent = steering.Agent(config, *spaces(2, 3 + 2), sampler=sampler, base=params)
    noise, obs = jax.random.normal(jax.random.key(1), (50, 3)), jnp.zeros((50, 2))
    variables = {"params": params, "action_range": (np.float32([-1.0]), np.float32([1.0]))}
    policy = diffusion.chunked_policy(sampler, ENV, variables)
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (50, *x.shape)), policy.initial_memory)
    _, memory, _ = policy.apply(jax.random.key(2), jnp.zeros((50, 1)), memory, False)
    drawn = jax.random.normal(jax.random.key(2), (50, 3, 1))[..., 0]
    np.testing.assert_allclose(agent.decode(params, obs, drawn), memory["chunk"][..., 0], atol=1e-5)
    free = sampler.sample_chunk(params, obs, noise[..., None])[:, :2, 0]
    assert np.abs(agent.decode(params, obs, noise) - free).max() > 0.05


class Cliff(Environment):
    """Ends in failure below 0 and in success above, at once; the reward says which."""

    name = "cliff"
    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Box(-1.0, 1.0, (1,))

    def reset(self, key):
        return initial_state(jnp.zeros(()), jnp.zeros(1), success=jnp.zeros(()))

    def step(self, state, action):
        success = (action[0] > 0).astype(jnp.float32)
        return state.replace(reward=3.0 * success - 4.0, terminated=jnp.array(True), metrics={"success": success})


def test_success_is_what_the_task_calls_so_and_not_every_end():
    """Of three chunks one succeeds, one fails and ends, and one goes on."""
    algorithm = steering.make(limited(Cliff(), 8), config_of("grrl_steer"), base_of())
    state, _ = jax.jit(algorithm.step)(jax.jit(algorithm.init)(jax.random.key(0)))
    replay = state.experience.replay.data
    written = replay.terminated[:, : int(state.experience.replay.count)]
    rewards = np.asarray(replay.reward[:, : written.shape[1]])
    executed = np.asarray(replay.action[:, : written.shape[1], 3])
    assert written.all()
    np.testing.assert_array_equal(rewards, executed > 0)
    agent, learner = agent_of("grrl_steer")
    batch = batch_of(3, 2, 5).replace(reward=jnp.array([1.0, 0.0, 0.0]), discount=jnp.array([0.0, 0.0, 0.9]))
    target = agent.action_target(learner, batch, jax.random.key(0))
    np.testing.assert_allclose((target @ agent.support)[:2], [1.0, 0.0], atol=1e-6)
    with pytest.raises(ValueError, match=r"grrl_steer learns from success, and .* has no metrics\['success'\]"):
        steering.make(limited(Drift(), 8), config_of("grrl_steer"), None)
    demos = dataset_of(np.zeros((2, 1)), np.zeros((2, 1)), np.zeros(2))
    with pytest.raises(ValueError, match=r"an episode of .*cliff.* that terminates may have failed"):
        steering.make(limited(Cliff(), 8), config_of("grrl_steer", offline_share=0.5), base_of(), demos)


def test_noise_that_is_asked_for_is_taught():
    """By each method's settings: the critic of noise is taught N(0, I), whose 1.5 deviations reach what is asked."""
    for method, c in steering.DEFAULTS.items():
        if method in ("dsrl_na", "grrl_steer"):
            small = dataclasses.replace(c, sampler=SAMPLER, normalize_observation=False, hidden=(8,))
            agent = steering.AGENTS[method](
                small,
                *spaces(2, small.own_noise + 2),
                sampler=diffusion.Agent(SAMPLER, *spaces(1, 1)),
                base=base_of().params,
            )
            # grrl_steer is taught its own noise besides, which has no bound.
            taught = steering.AliasedAgent.distilled_noise(agent, None, jnp.zeros((2000, 2)), jax.random.key(2))
            assert 1.5 * taught.std() > 0.95 * small.noise_bound


def test_dsrl_na_has_the_settings_of_its_authors():
    c = steering.DEFAULTS["dsrl_na"]
    assert (c.noise_bound, c.num_updates, c.distillation_steps, c.hidden) == (1.5, 20, 10, (2048, 2048, 2048))
    assert (c.target_entropy_per_dim, c.sampler.sampler_steps, c.noise_steps) == (0.0, 8, 0)


def test_two_policies_are_told_apart_by_their_content():
    first, again, other = (steering.identity(base_of(scale)) for scale in (0.1, 0.1, 0.2))
    assert first == again != other
    ranges = [base_of().replace(action_range=(np.float32([-x]), np.float32([x]))) for x in (1.0, 2.0)]
    assert steering.identity(ranges[0]) != steering.identity(ranges[1])


def test_at_first_success_is_expected_nowhere():
    agent, learner = agent_of("grrl_steer")
    obs, noise, chunk = (jax.random.normal(jax.random.key(i), (500, n)) for i, n in enumerate((2, 3, 2)))
    for critic, action in (("critic", noise), ("action_critic", chunk)):
        values = agent.expected(agent.values(learner.params[critic], obs, action, jax.random.key(3)))
        assert values.max() < 0.2
        assert values.mean() < 0.06


def test_bad_settings_are_refused():
    for options, message in (
        ({"num_atoms": 1}, "num_atoms = 1 is not allowed; it must be at least 2"),
        ({"method": "dppo"}, "method = 'dppo' is not allowed; it must be one of dsrl_sac, dsrl_na, grrl_steer"),
        ({"noise_bound": 0.0}, "noise_bound = 0.0 is not allowed; it must be positive"),
        ({"newest_size": 4000}, "newest_size = 4000 is not allowed; it must be below replay_size = 4000"),
        ({"distillation_steps": 0}, "distillation_steps = 0 is not allowed; it must be at least 1"),
        ({"normalize_observation": True}, "it must be as the steered policy has it"),
    ):
        with pytest.raises(ValueError, match=message):
            config_of(**options)
    with pytest.raises(ValueError, match="steering needs a one-dimensional Box of actions with bounds"):
        steering.make(rljax.make("cartpole"))
    assert dataclasses.replace(config_of(), sampler={"width": 16, "normalize_observation": False}).sampler.width == 16
