"""DQN against rlax and hand-computed cases; and what every algorithm here must do: jit, scan, vmap."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

import rljax
from rljax.algorithms import dqn
from rljax.nn.noisy import NoisyDense
from rljax.ops import categorical
from rljax.ops.quantiles import quantile_loss
from rljax.spaces import vector
from rljax.training import evaluate
from tests.toys import Clock, Drift, Pixels, limited

TINY = dqn.Config(
    num_envs=2, rollout_length=2, num_updates=2, batch_size=8, replay_size=64, learning_starts=8, hidden=(8,)
)


def run(algorithm, iterations, seed=0):
    """Trains; returns the last state and the metrics of every iteration."""

    def body(state, _):
        return algorithm.step(state)

    train = jax.jit(lambda key: jax.lax.scan(body, algorithm.init(key), None, iterations))
    return train(jax.random.key(seed))


def values_of(algorithm, state, obs):
    c = algorithm.config
    return dqn.action_values(c, algorithm.agent.network.apply(state.params["value"], obs))


def random_batch(atoms, actions=3, size=16):
    """Outputs [batch, actions, atoms] of the network now, next, and next by the other network; the rest [batch]."""
    keys = jax.random.split(jax.random.key(0), 6)
    outputs = [2.0 * jax.random.normal(key, (size, actions, atoms)) for key in keys[:3]]
    action = jax.random.randint(keys[3], (size,), 0, actions)
    return *outputs, action, jax.random.normal(keys[4], (size,)), 0.9 * jax.random.bernoulli(keys[5], 0.7, (size,))


def loss_of(config, output, next_output, choice, action, reward, discount):
    """As `update` puts it together: the next action is chosen by `choice`, and valued by `next_output`."""
    next_action = jnp.argmax(dqn.action_values(config, choice), -1)
    rows = jnp.arange(len(action))
    return dqn.td_loss(config, output[rows, action], next_output[rows, next_action], reward, discount)


@pytest.mark.parametrize("double", [False, True])
def test_scalar_loss_agrees_with_rlax(double):
    output, next_output, other, action, reward, discount = random_batch(1)
    choice = other if double else next_output
    error = jax.vmap(rlax.double_q_learning)(
        output[..., 0], action, reward, discount, next_output[..., 0], choice[..., 0]
    )
    for loss, expected in (("squared", rlax.l2_loss(error)), ("huber", rlax.huber_loss(error))):
        config = dqn.Config(loss=loss)
        ours, size = loss_of(config, output, next_output, choice, action, reward, discount)
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
        np.testing.assert_allclose(size, jnp.abs(error), rtol=1e-5)


def test_categorical_loss_agrees_with_rlax():
    config = dqn.Config(head="categorical", num_atoms=7, value_min=-2.0, value_max=4.0)
    output, next_output, other, action, reward, discount = random_batch(7)
    atoms = jnp.broadcast_to(categorical.support(-2.0, 4.0, 7), (16, 7))
    expected = jax.vmap(rlax.categorical_double_q_learning)(
        atoms, output, action, reward, discount, atoms, next_output, dqn.action_values(config, other)
    )
    ours, divergence = loss_of(config, output, next_output, other, action, reward, discount)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert (divergence < ours).all()


def test_a_right_prediction_has_no_priority():
    """KL divergence, and not cross-entropy, which is large where the return is truly uncertain."""
    config = dqn.Config(head="categorical", num_atoms=7)
    logits = jax.random.normal(jax.random.key(0), (1, 7))
    loss, size = dqn.td_loss(config, logits, logits, jnp.zeros(1), jnp.ones(1))
    assert loss > 1.0
    np.testing.assert_allclose(size, 0.0, atol=1e-6)


def test_quantile_loss_agrees_with_rlax():
    config = dqn.Config(head="quantile", num_atoms=5)
    output, next_output, other, action, reward, discount = random_batch(5)
    probability = jnp.broadcast_to((jnp.arange(5) + 0.5) / 5, (16, 5))
    quantiles = [x.swapaxes(1, 2) for x in (output, other, next_output)]
    expected = jax.vmap(lambda *x: rlax.quantile_q_learning(*x, huber_param=1.0))(
        quantiles[0], probability, action, reward, discount, *quantiles[1:]
    )
    ours, _ = loss_of(config, output, next_output, other, action, reward, discount)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_the_quantile_loss_is_least_at_the_quantiles():
    samples = jnp.linspace(0.0, 100.0, 1001)
    descend = jax.jit(lambda _, x: x - 4.0 * jax.grad(quantile_loss)(x, samples))
    quantiles = jax.lax.fori_loop(0, 300, descend, jnp.array([10.0, 20.0]))
    np.testing.assert_allclose(quantiles, [25.0, 75.0], atol=1.0)


def test_no_gradient_flows_into_the_target():
    output, next_output, _, _, reward, discount = (x[:, 0] if x.ndim == 3 else x for x in random_batch(5))
    for head in ("categorical", "quantile"):
        config = dqn.Config(head=head, num_atoms=5)
        gradient = jax.grad(lambda x, config=config: dqn.td_loss(config, output, x, reward, discount)[0].sum())
        np.testing.assert_array_equal(gradient(next_output), 0.0)


@pytest.mark.parametrize("head", ["scalar", "categorical"])
def test_dueling_streams_are_identified(head):
    """A constant on all advantages changes nothing (Wang et al. 2016, eq. 9); one on the value all values."""
    config = dqn.Config(dueling=True, head=head, num_atoms=5, hidden=(8, 8))
    network = dqn.Network(config, 3, vector(2))
    obs = jax.random.normal(jax.random.key(0), (4, 2))
    params = network.init(jax.random.key(1), obs)

    def shifted(stream):
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x + 3.0 if f"'{stream}'" in str(path) and "output" in str(path) and x.ndim == 1 else x,
            params,
        )

    output = network.apply(params, obs)
    np.testing.assert_allclose(network.apply(shifted("advantage"), obs), output, atol=1e-5)
    np.testing.assert_allclose(network.apply(shifted("value"), obs), output + 3.0, atol=1e-5)


def test_targets_are_counted_in_gradient_updates():
    """3 updates an iteration and a copy at every 4th: after 4 iterations of learning, 12 updates, it is the network."""
    config = dataclasses.replace(TINY, num_updates=3, target_period=4, learning_starts=0)
    algorithm = dqn.make(rljax.make("cartpole"), config)
    state, step = algorithm.init(jax.random.key(0)), jax.jit(algorithm.step)
    equal, first = [], state.learner.targets
    for iteration in range(8):
        before = state.learner
        state, _ = step(state)
        equal.append(bool(_same(state.learner.targets, state.params)))
        moved = not _same(before.targets, state.learner.targets)
        assert moved == ((iteration + 1) * 3 // 4 > iteration * 3 // 4)
    assert equal == [False, False, False, True] * 2
    assert not _same(first, state.learner.targets)


def _same(a, b):
    return all((x == y).all() for x, y in zip(jax.tree.leaves(a["value"]), jax.tree.leaves(b["value"]), strict=True))


def test_the_target_moves_part_of_the_way_at_every_update_where_asked():
    config = dataclasses.replace(TINY, num_updates=1, target_period=1, target_rate=0.25, learning_starts=0)
    algorithm = dqn.make(rljax.make("cartpole"), config)
    first = algorithm.init(jax.random.key(0))
    state, _ = jax.jit(algorithm.step)(first)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, first.learner.targets, state.params)
    chex.assert_trees_all_close(state.learner.targets, expected, atol=1e-6)


def test_exploration_is_random_before_learning_and_then_falls_linearly_as_does_the_learning_rate():
    config = dataclasses.replace(
        TINY, exploration_start=0.9, exploration_end=0.1, exploration_steps=32, anneal_steps=20, learning_rate=0.1
    )
    algorithm = dqn.make(rljax.make("cartpole"), config)
    train = jax.jit(lambda state: jax.lax.scan(lambda s, _: algorithm.step(s), state, None, 10))
    first = jax.jit(algorithm.init)(jax.random.key(0))
    _, metrics = train(first)
    # 4 steps an iteration; learning starts at the end of the second, and both are measured from there.
    np.testing.assert_array_equal(metrics["updates"], [0] + 9 * [2])
    np.testing.assert_array_equal(metrics["policy/exploration"].count, [0] + 9 * [1])
    np.testing.assert_array_equal(metrics["learning_rate"].count, [0] + 9 * [1])
    expected = [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1]
    np.testing.assert_allclose(metrics["policy/exploration"].value[1:], expected, atol=1e-6)
    np.testing.assert_allclose(metrics["learning_rate"].value[1:6], [0.08, 0.06, 0.04, 0.02, 0.0], atol=1e-7)
    # Where nothing is explored and nothing learned, every action is the first, but for those of before learning.
    params = jax.tree.map(jnp.zeros_like, first.params)
    never = {name: jnp.float32(0.0) for name in ("exploration_start", "exploration_end", "learning_rate")}
    state, _ = train(first.replace(learner=first.learner.replace(params=params), hyper=first.hyper.replace(**never)))
    actions = np.asarray(state.experience.replay.data.action[:, :20])
    assert 1 < actions[:, :4].sum() < 7
    np.testing.assert_array_equal(actions[:, 4:], 0)


@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.9)), (True, (1 - 0.9**5) / (1 - 0.9))])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_step": 3, "double": True, "prioritized": True},
        {"head": "categorical", "value_min": 0.0, "value_max": 12.0, "num_atoms": 13},
        {"head": "quantile", "num_atoms": 5, "dueling": True, "learning_rate": 3e-3},
    ],
    ids=["plain", "3-step", "categorical", "quantile"],
)
def test_value_bootstraps_through_a_time_limit_but_not_through_termination(changes, terminates, expected):
    """A reward of 1 for 5 steps: worth 1 / (1 - γ) where only the clock ended, the sum of 5 where the task did."""
    common = {"replay_size": 400, "num_updates": 8, "batch_size": 32, "discount": 0.9, "target_period": 4}
    config = dataclasses.replace(TINY, **{**common, "learning_rate": 1e-2, **changes})
    algorithm = dqn.make(limited(Clock(5, terminates), 5), config)
    state, _ = run(algorithm, 250)
    np.testing.assert_allclose(values_of(algorithm, state, jnp.eye(5)[0]), expected, rtol=0.05)


def test_priorities_are_the_sizes_of_the_errors():
    """Of a network that does not learn, so that they can be computed afterwards."""
    config = dataclasses.replace(TINY, prioritized=True, priority_exponent=0.5, learning_rate=1e-9, num_updates=32)
    algorithm = dqn.make(limited(Clock(5, True), 5), config)
    state, _ = run(algorithm, 12)
    data, priorities = state.experience.replay.data, state.experience.replay.priorities[0].ravel()[:64]
    written = jnp.arange(64) % 32 < 24  # 2 environments, 24 of 32 columns each
    data = jax.tree.map(lambda x: x.reshape(64, *x.shape[2:]), data)
    value = jnp.take_along_axis(values_of(algorithm, state, data.obs), data.action[:, None], 1)[:, 0]
    next_value = values_of(algorithm, state, data.next_obs).max(-1)
    error = jnp.abs(data.reward + 0.99 * jnp.where(data.terminated, 0.0, next_value) - value)
    # All but the newest have been drawn by now: 256 draws an iteration from 48 at most.
    np.testing.assert_array_equal(priorities > 0, written)
    seen = written & (jnp.arange(64) % 32 < 20)
    np.testing.assert_allclose(priorities[seen], jnp.sqrt(error + 1e-6)[seen], rtol=1e-3)


def test_importance_weights_enter_the_loss_and_their_exponent_rises_to_one():
    """β = 1 from the start and β that has risen to 1 are the same; another β is not."""

    def program(**changes):
        config = dataclasses.replace(TINY, prioritized=True, learning_starts=16, **changes)
        algorithm = dqn.make(rljax.make("cartpole"), config)

        def train(importance_exponent):
            state = algorithm.init(jax.random.key(0))
            state = state.replace(hyper=state.hyper.replace(importance_exponent=importance_exponent))
            return jax.lax.scan(lambda state, _: algorithm.step(state), state, None, 6)[0].params

        return jax.jit(train)

    risen, constant = program(importance_anneal_steps=4)(0.3), program()
    chex.assert_trees_all_close(constant(1.0), risen, atol=1e-6)
    assert not _same(constant(0.3), risen)


def test_noise_is_fresh_and_absent_where_the_policy_is_deterministic():
    config = dataclasses.replace(TINY, exploration="noisy", noisy_std=3.0)
    algorithm = dqn.make(rljax.make("cartpole"), config)
    policy = algorithm.policy(algorithm.init(jax.random.key(0)))
    obs = jnp.full((200, 4), 0.1)
    keys = jax.random.split(jax.random.key(1), 2)
    first, second = (policy(key, obs, deterministic=False) for key in keys)
    # Each observation has noise of its own: the same one gets different actions.
    assert 10 < first.sum() < 190
    assert (first != second).any()
    assert len(np.unique([policy(key, obs) for key in keys])) == 1


def test_noisy_layers_by_hand():
    """Weights are μ + σ f(ε_in) f(ε_out): zero mean, and the deviation that σ0 says, for rows of one noise."""
    layer = NoisyDense(3, 0.5)
    x = jnp.array([[1.0, -2.0], [0.5, 4.0]])
    params = layer.init(jax.random.key(0), x)
    np.testing.assert_allclose(params["params"]["kernel_std"], 0.5 / np.sqrt(2), rtol=1e-6)
    assert (jnp.abs(params["params"]["kernel"]) <= 1 / np.sqrt(2)).all()
    mean = layer.apply(params, x)
    np.testing.assert_allclose(mean, x @ params["params"]["kernel"] + params["params"]["bias"], rtol=1e-5)
    keys = jax.random.split(jax.random.key(1), 20_000)
    outputs = jax.vmap(lambda key: layer.apply(params, x, rngs={"noise": key}))(keys)
    np.testing.assert_allclose(outputs.mean(0), mean, atol=0.1)
    # E f(ε)² = E|ε| = √(2/π), so the variance of output j is σ² E f² (Σ x² E f² + 1).
    second = np.sqrt(2 / np.pi)
    variance = 0.5**2 / 2 * second * ((x**2).sum(-1) * second + 1)
    np.testing.assert_allclose(outputs.var(0), jnp.broadcast_to(variance[:, None], (2, 3)), rtol=0.1)


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        ("cartpole", {"normalize_observation": True, "loss": "squared", "max_grad_norm": 1.0}),
        ("cartpole", {"storage": "bfloat16", "double": True, "exploration": "noisy", "head": "quantile"}),
        ("pixels", {"cnn_channels": (4,), "storage": "uint8", "dueling": True, "hidden": (8, 8)}),
        ("cartpole", "rainbow"),
    ],
)
def test_every_option_trains_and_acts(env, changes):
    if changes == "rainbow":
        components = ("double", "dueling", "n_step", "prioritized", "priority_exponent", "exploration", "head")
        changes = {name: getattr(dqn.RAINBOW, name) for name in components}
    env = limited(Pixels(), 6) if env == "pixels" else rljax.make(env)
    algorithm = dqn.make(env, dataclasses.replace(TINY, **changes))
    state, metrics = run(algorithm, 4)
    chex.assert_tree_all_finite((state.params, metrics))
    before = algorithm.init(jax.random.key(0)).params
    assert not _same(before, state.params)
    policy = algorithm.policy(state)
    obs = env.reset(jax.random.key(3)).obs
    for deterministic in (True, False):
        assert env.action_space.contains(policy(jax.random.key(0), obs, deterministic))
        assert policy(jax.random.key(0), obs[None, None], deterministic).shape == (1, 1)


def test_gradients_are_clipped_by_their_global_norm():
    config = dataclasses.replace(TINY, num_updates=1, learning_starts=4, max_grad_norm=1e-3)
    state, metrics = run(dqn.make(rljax.make("cartpole"), config), 1)
    norm = jnp.sqrt(sum(jnp.square(x).sum() for x in jax.tree.leaves(state.learner.optimizer_state["value"][1][0].mu)))
    assert metrics["gradient_norm"].value[0] > 1e-2
    np.testing.assert_allclose(norm, 0.1 * 1e-3, rtol=1e-4)


def test_learns_from_images():
    config = dqn.Config(
        num_envs=8,
        rollout_length=8,
        num_updates=8,
        replay_size=2_000,
        learning_starts=200,
        storage="uint8",
        learning_rate=1e-2,
        discount=0.0,
        cnn_channels=(4,),
        hidden=(16,),
        exploration_steps=1,
    )
    env = limited(Pixels(), 10)
    algorithm = dqn.make(env, config)
    state, _ = run(algorithm, 50)
    assert state.experience.replay.data.obs.dtype == jnp.uint8
    assert evaluate(env, algorithm.policy(state), jax.random.key(9), 20).returns.mean() > 9.5


def test_evaluation_is_greedy_or_as_random_as_training_ends():
    config = dataclasses.replace(TINY, exploration_end=0.5)
    algorithm = dqn.make(rljax.make("cartpole"), config)
    policy = algorithm.policy(algorithm.init(jax.random.key(0)))
    obs = jnp.full((4000, 4), 0.1)
    greedy = policy(jax.random.key(0), obs)
    assert len(np.unique(greedy)) == 1
    np.testing.assert_allclose((policy(jax.random.key(0), obs, deterministic=False) != greedy).mean(), 0.25, atol=0.03)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("discount", -0.1, r"in \[0, 1\]"),
        ("learning_rate", 0.0, "positive"),
        ("target_period", 0, "at least 1"),
        ("target_rate", 1.5, r"in \(0, 1\]"),
        ("exploration", "boltzmann", "one of .*noisy"),
        ("exploration_end", 1.5, r"in \[0, 1\]"),
        ("head", "expectile", "one of .*quantile"),
        ("loss", "absolute", "one of huber, squared"),
        ("value_max", -20.0, "above value_min = -10"),
        ("num_atoms", 1, "at least 2"),
        ("max_grad_norm", 0.0, "positive, or None"),
        ("hidden", (64, 0), "at least 1 in each layer"),
        ("cnn_kernels", (3, 3), "of one length with cnn_channels, 1"),
        ("activation", "sine", "one of .*tanh"),
        ("n_step", 0, "at least 1"),
    ],
)
def test_bad_settings_are_refused_with_field_value_and_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError, match=rf"^dqn\.Config: {field} = .*{allowed}"):
        dqn.Config(**{field: value})


def test_environments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"dqn needs a Discrete action space"):
        dqn.make(limited(Drift(), 5))
    with pytest.raises(ValueError, match=r"hidden = \(\) is not allowed for images"):
        dqn.make(limited(Pixels(), 5), dataclasses.replace(TINY, hidden=()))
    with pytest.raises(ValueError, match=r"normalize_observation = True is not allowed for images"):
        dqn.make(limited(Pixels(), 5), dataclasses.replace(TINY, normalize_observation=True))
