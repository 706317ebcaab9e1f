"""CrossQ against NumPy; and what every algorithm here must do: jit, scan, vmap, devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.algorithms import crossq
from tests.toys import ContinuousClock, Drift, limited, spaces

TINY = crossq.Config(
    num_envs=4,
    rollout_length=2,
    num_updates=2,
    policy_delay=2,
    batch_size=16,
    replay_size=400,
    learning_starts=40,
    hidden=(8,),
    critic_hidden=(16,),
    norm_warm_up=4,
)


def run(algorithm, iterations, seed=0):
    """Trains; returns the last state and the metrics of every iteration."""
    train = jax.jit(lambda key: jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, iterations))
    return train(jax.random.key(seed))


@pytest.fixture(scope="module")
def drifted():
    """An algorithm, and its state after training through the warm-up of its normalisation."""
    algorithm = crossq.make(limited(Drift(), 7), TINY)
    return algorithm, *run(algorithm, 12)


def test_statistics_follow_training_and_there_are_no_targets(drifted):
    algorithm, state, metrics = drifted
    first = jax.jit(algorithm.init)(jax.random.key(0))
    np.testing.assert_array_equal(metrics["updates"], 4 * [0] + 8 * [2])
    assert np.isfinite(metrics["loss/critic"].value[4:]).all()
    assert state.learner.targets == {}
    for part, calls, row in (("policy", 8, ()), ("critic", 16, (0,))):
        before, after = (x.params[part]["batch_stats"]["BatchRenorm_0"] for x in (first, state))
        assert int(after["calls"][row]) == calls
        # Drift's observations are near 100 and 700: 0.99 of the way is left after each call.
        np.testing.assert_allclose(after["mean"][row][:2], (1 - 0.99**calls) * np.array([100, 700]), rtol=0.1)
        assert not before["mean"].any()


def test_one_batch_normalises_what_was_done_and_what_follows(drifted):
    """The critics' loss by NumPy, of a network of one layer before its warm-up is over."""
    config = dataclasses.replace(
        TINY, num_updates=1, policy_delay=1, norm_warm_up=100, learning_starts=0, rollout_length=1
    )
    algorithm = crossq.make(limited(Drift(), 7), config)
    agent, (state, _) = crossq.Agent(config, *spaces(2, 1)), run(algorithm, 3)
    draw = np.random.default_rng(0)
    batch = rljax.data.Batch(
        obs=draw.normal(size=(16, 2)) * [1, 7] + [100, 700],
        action=draw.uniform(-1, 1, (16, 1)),
        reward=draw.normal(size=16),
        next_obs=draw.normal(size=(16, 2)) * [1, 7] + [100, 700],
        discount=np.full(16, 0.9),
        index=np.zeros(16, int),
        weight=np.ones(16),
    )
    batch = jax.tree.map(jnp.float32, batch)
    key = jax.random.key(5)
    after, metrics = agent.update_critic(state.learner, batch, key, state.hyper)

    next_action, log_prob = agent.policy(state.params["policy"], batch.next_obs).sample_and_log_prob(key)
    x = np.concatenate([np.hstack([batch.obs, batch.action]), np.hstack([batch.next_obs, next_action])])

    def normalized(x, layer):
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3) * layer["scale"] + layer["bias"]

    values = []
    for critic in range(2):
        layers = jax.tree.map(lambda x: np.asarray(x)[critic], state.params["critic"]["params"])  # noqa: B023
        hidden = normalized(x, layers["BatchRenorm_0"]) @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]
        hidden = normalized(np.maximum(hidden, 0.0), layers["BatchRenorm_1"])
        values.append((hidden @ layers["output"]["kernel"] + layers["output"]["bias"])[:, 0])
    value, next_value = np.split(np.stack(values), 2, axis=1)
    temperature = np.exp(np.float32(state.params["log_temperature"]))
    target = batch.reward + batch.discount * (next_value.min(0) - temperature * log_prob)
    np.testing.assert_allclose(metrics["loss/critic"], 0.5 * np.square(value - target).mean(1).sum(), rtol=2e-3)
    mean = after.params["critic"]["batch_stats"]["BatchRenorm_0"]["mean"]
    before = state.params["critic"]["batch_stats"]["BatchRenorm_0"]["mean"]
    np.testing.assert_allclose(mean - 0.99 * before, np.broadcast_to(0.01 * x.mean(0), (2, 3)), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.9)), (True, (1 - 0.9**5) / (1 - 0.9))])
def test_value_bootstraps_through_a_time_limit_but_not_through_termination(terminates, expected):
    """A reward of 1 for 5 steps: worth 1 / (1 - γ) where only the clock ended, the sum of 5 where the task did."""
    config = dataclasses.replace(
        TINY,
        critic_hidden=(32,),
        discount=0.9,
        learn_temperature=False,
        initial_temperature=1e-6,
        batch_size=64,
        critic_learning_rate=1e-2,
        num_updates=8,
        policy_delay=8,
        norm_warm_up=1000,
    )
    algorithm = crossq.make(limited(ContinuousClock(5, terminates), 5), config)
    state, _ = run(algorithm, 400)
    agent = crossq.Agent(config, *spaces(5, 1))
    for time, value in ((4, 1.0 if terminates else expected), (0, expected)):
        values = agent.values(state.params["critic"], jnp.eye(5)[time], jnp.zeros(1))
        np.testing.assert_allclose(values, value, rtol=0.1, atol=0.15)


def test_acts_in_the_units_of_the_environment_whatever_else_is_in_the_batch(drifted):
    algorithm, state, _ = drifted
    policy, obs = algorithm.policy(state), jnp.array([[100.0, 700.0], [90.0, 630.0]])
    actions = policy(jax.random.key(0), obs)
    assert ((actions >= -2.0) & (actions <= 4.0)).all()
    np.testing.assert_allclose(policy(jax.random.key(1), obs[0]), actions[0], rtol=1e-5)


def test_xqc_learns_from_distributions_with_weights_of_norm_1():
    """The loss of XQC's critics by NumPy; weights stay on spheres; targets move by τ."""
    names = ("norm_first", "unit_norm", "return_bound", "norm_warm_up")
    of_xqc = {name: getattr(crossq.XQC, name) for name in names}
    config = dataclasses.replace(TINY, **of_xqc, num_atoms=5, target_rate=0.25)
    agent = crossq.Agent(config, *spaces(2, 1))
    learner, other = (jax.jit(agent.init)(jax.random.key(seed)) for seed in range(2))
    learner = learner.replace(targets={"critic": other.params["critic"]})
    draw = np.random.default_rng(0)
    obs = draw.normal(size=(2, 16, 2)) * [1, 7] + [100, 700]
    batch = rljax.data.Batch(
        obs=obs[0],
        action=draw.uniform(-1, 1, (16, 1)),
        reward=draw.normal(size=16),
        next_obs=obs[1],
        discount=np.where(np.arange(16) % 4, 0.9, 0.0),
        index=np.zeros(16, int),
        weight=np.ones(16),
    )
    batch, key = jax.tree.map(jnp.float32, batch), jax.random.key(5)
    after, metrics = jax.jit(agent.update_critic)(learner, batch, key, agent.hyper())

    next_action, log_prob = jax.jit(lambda p, obs: agent.policy(p, obs).sample_and_log_prob(key))(
        learner.params["policy"], batch.next_obs
    )
    x = np.concatenate([np.hstack([batch.obs, batch.action]), np.hstack([batch.next_obs, next_action])])

    def normalized(x, layer):
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3) * layer["scale"] + layer["bias"]

    def probabilities(params):
        for critic in range(2):
            layers = jax.tree.map(lambda x: np.asarray(x)[critic], params["params"])  # noqa: B023
            hidden = normalized(x, layers["BatchRenorm_0"]) @ layers["Dense_0"]["kernel"]  # no bias before a norm
            hidden = np.maximum(normalized(hidden, layers["BatchRenorm_1"]), 0.0)
            logits = hidden @ layers["output"]["kernel"] + layers["output"]["bias"]
            yield np.split(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 2)

    atoms, temperature = np.linspace(-5.0, 5.0, 5), config.initial_temperature
    next_probs = [following for _, following in probabilities(learner.targets["critic"])]
    loss = 0.0
    for probs, _ in probabilities(learner.params["critic"]):
        for row in range(16):
            smallest = min((following[row] for following in next_probs), key=lambda probs: probs @ atoms)
            at = batch.reward[row] + batch.discount[row] * (atoms - temperature * log_prob[row])
            for place, mass in zip(np.clip(at, -5.0, 5.0), smallest, strict=True):
                shares = np.maximum(1 - np.abs(place - atoms) / 2.5, 0.0)  # split between the neighbours
                loss -= mass * shares @ np.log(probs[row]) / 16
    np.testing.assert_allclose(metrics["loss/critic"], loss, rtol=2e-3)

    params = after.params["critic"]["params"]
    for name in ("Dense_0", "output"):
        np.testing.assert_allclose(np.linalg.norm(params[name]["kernel"], axis=-2), 1.0, rtol=1e-5)
    before, moved = (x.targets["critic"]["params"]["output"]["kernel"] for x in (learner, after))
    np.testing.assert_allclose(moved, 0.75 * before + 0.25 * params["output"]["kernel"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("adam_b1", 1.0, r"in \[0, 1\)"),
        ("policy_delay", 3, "a divisor of num_updates = 2"),
        ("critic_hidden", (0,), "at least 1 in each layer"),
        ("norm_warm_up", -1, "0 or more"),
        ("num_atoms", 1, "0, or at least 2"),
    ],
)
def test_bad_settings_are_refused(field, value, allowed):
    with pytest.raises(ValueError, match=f"crossq.Config: {field} = .* is not allowed; it must be {allowed}"):
        dataclasses.replace(TINY, **{field: value})


def test_environments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="crossq needs a one-dimensional Box of actions with bounds"):
        crossq.make(rljax.make("cartpole"))


def test_atoms_need_a_bound_of_the_returns():
    with pytest.raises(ValueError, match=r"return_bound = 0\.0 is not allowed; it must be above 0 with num_atoms"):
        dataclasses.replace(TINY, num_atoms=11)
