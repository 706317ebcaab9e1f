"""The adapter of Gymnasium, against Gymnasium itself."""

import copy
import dataclasses
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import ppo
from rljax.envs import AutoReset, check_env, make
from rljax.envs.adapters.gymnasium import GymnasiumEnvironment
from rljax.spaces import MultiDiscrete, parts
from rljax.types import Refused

pytest.importorskip("gymnasium")
import gymnasium


class Count(gymnasium.Env):
    """Observes a number drawn by the seed and the actions so far; terminates at `goal` steps."""

    observation_space = gymnasium.spaces.Box(0.0, 1e9, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(3, start=1)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    made = 0

    def __init__(self, goal=3, render_mode=None):
        type(self).made += 1
        self.goal = goal
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = np.array([self.np_random.integers(1, 1000), 0.0])
        self.steps = 0
        return self.seen, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        self.seen[1] = 10 * self.seen[1] + action  # the same array again and again: nobody may keep it
        return self.seen, float(action), self.steps == self.goal, False, {}

    def render(self):
        return np.full((2, 2, 3), self.steps, np.uint8)


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    monkeypatch.setattr(Count, "made", 0)


def batch_of(env):
    """`reset` and `step` of a batch, compiled."""
    reset = jax.jit(jax.vmap(env.reset))
    return lambda key, count: reset(jax.random.split(jax.random.key(key), count)), jax.jit(jax.vmap(env.step))


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_trajectory_is_that_of_gymnasium_with_the_same_seed(name):
    env, raw = make(f"gymnasium:{name}"), gymnasium.make(name)
    reset, step = batch_of(env)
    state = reset(0, 2)
    assert state.physics["seed"][0] != state.physics["seed"][1]
    obs, _ = raw.reset(seed=int(state.physics["seed"][1]))
    generator = np.random.default_rng(0)
    for _ in range(5):
        np.testing.assert_allclose(state.obs[1], obs, rtol=1e-6)
        action = generator.integers(2) if name == "CartPole-v1" else generator.uniform(-2, 2, 1).astype(np.float32)
        state = step(state, jnp.stack([action, action]))
        obs, reward, terminated, truncated, _ = raw.step(action)
        np.testing.assert_allclose(state.reward[1], reward, rtol=1e-6)
        assert (bool(state.terminated[1]), bool(state.truncated[1])) == (terminated, truncated)
    assert state.info["elapsed"].tolist() == [5, 5]
    assert env.max_episode_steps == raw.spec.max_episode_steps
    assert env.observation_space.shape == raw.observation_space.shape
    assert state.obs.dtype == jnp.float32


def test_the_time_limit_truncates_and_the_last_observation_survives_auto_reset():
    env = AutoReset(make("gymnasium:CartPole-v1", max_episode_steps=3), 2)
    assert env.max_episode_steps == 3
    state, step = jax.jit(env.reset)(jax.random.key(0)), jax.jit(env.step)
    for _ in range(3):
        assert not state.done.any()
        before, state = state, step(state, jnp.zeros(2, jnp.int32))
    assert state.truncated.all()
    assert not state.terminated.any()
    raw = gymnasium.make("CartPole-v1")
    raw.reset(seed=int(before.physics["seed"][1]))
    for _ in range(3):
        obs = raw.step(0)[0]
    np.testing.assert_allclose(state.info["next_obs"][1], obs, rtol=1e-6)
    assert not np.array_equal(state.obs[0], state.obs[1])  # each goes on with a state of its own
    assert not step(state, jnp.array([0, 1])).done.any()


def test_it_keeps_the_contract_but_for_being_pure():
    check_env(make("gymnasium:CartPole-v1"))


def test_an_environment_that_nobody_registered_is_refused_with_a_hint():
    with pytest.raises(Refused, match="A module that registers it is imported by gymnasium:module:Id"):
        make("gymnasium:NoSuchThing-v0")


def test_without_a_time_limit():
    assert make("gymnasium:CartPole-v1", max_episode_steps=None).max_episode_steps is None


def test_training_and_evaluation_interleave_and_environments_are_used_again():
    reset, step = batch_of(GymnasiumEnvironment(Count, "count"))
    one, other = reset(0, 3), reset(1, 2)
    one_first, other_first = one.obs[:, 0], other.obs[:, 0]
    for count in (1, 11):
        one, other = step(one, jnp.zeros(3, jnp.int32)), step(other, jnp.ones(2, jnp.int32))
        np.testing.assert_array_equal(one.obs, jnp.stack([one_first, jnp.full(3, count)], -1))
        np.testing.assert_array_equal(other.obs, jnp.stack([other_first, jnp.full(2, 2 * count)], -1))
    one = step(one, jnp.zeros(3, jnp.int32))
    assert one.terminated.all()
    assert one.reward.tolist() == [1.0, 1.0, 1.0]
    for key in range(3):
        state = reset(key, 3)
        for _ in range(3):
            state = step(state, jnp.zeros(3, jnp.int32))
    assert Count.made == 5


def test_a_finished_episode_may_be_stepped_on_without_a_warning():
    reset, step = batch_of(GymnasiumEnvironment(lambda: Count(goal=1)))
    state = step(reset(0, 1), jnp.zeros(1, jnp.int32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = step(state, jnp.zeros(1, jnp.int32))
    np.testing.assert_array_equal(after.obs, state.obs)
    assert after.truncated.all()
    assert after.reward.tolist() == [0.0]


def test_a_state_without_a_simulation_is_truncated_with_the_observation_it_has_and_warned_of_once():
    reset, step = batch_of(GymnasiumEnvironment(Count, "count"))
    state = step(reset(0, 2), jnp.zeros(2, jnp.int32))
    step(state, jnp.zeros(2, jnp.int32))
    with pytest.warns(RuntimeWarning, match="count: a state has no simulation any more"):
        again = jax.block_until_ready(step(state, jnp.ones(2, jnp.int32)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.block_until_ready(step(state, jnp.ones(2, jnp.int32)))
    assert again.truncated.all()
    assert not again.terminated.any()
    np.testing.assert_array_equal(again.obs, state.obs)


def test_an_episode_played_otherwise_from_the_same_seed_is_another_simulation():
    reset, step = batch_of(GymnasiumEnvironment(Count))
    start = reset(0, 1)
    one, other = step(start, jnp.zeros(1, jnp.int32)), step(start, jnp.ones(1, jnp.int32))
    assert step(one, jnp.zeros(1, jnp.int32)).obs[0, 1] == 11
    assert step(other, jnp.zeros(1, jnp.int32)).obs[0, 1] == 21


def test_members_that_share_a_seed_and_their_actions_are_simulations_of_their_own():
    """As those of a sweep, which take turns or run on devices of their own, beside an evaluation."""
    env = GymnasiumEnvironment(Count)
    reset, step = batch_of(env)
    members = [reset(0, 2) for _ in range(3)]
    copied = members[0]
    for count in (1, 11, 111):
        members = [step(member, jnp.zeros(2, jnp.int32)) for member in members]
        copied = step(copied, jnp.zeros(2, jnp.int32))
        for member in (*members, copied):
            assert member.obs[:, 1].tolist() == [count] * 2
            assert not member.truncated.any()


class Unseeded(Count):
    """Draws what it observes, for the whole of an episode, from what no seed reaches."""

    observation_space = gymnasium.spaces.Box(0.0, np.inf, (1,), np.float32)
    drawn = 0

    def reset(self, *, seed=None, options=None):
        Unseeded.drawn += 1
        self.seen, self.steps = np.array([Unseeded.drawn], np.float32), 0
        return self.seen, {}

    def step(self, action):
        self.steps += 1
        return self.seen, 1.0, self.steps == self.goal, False, {}


def test_where_a_reset_does_not_follow_its_seed_its_simulation_is_kept_for_one_episode():
    with pytest.warns(
        RuntimeWarning, match=r"unseeded: two resets with one seed differ.*super\(\)\.reset\(seed=seed\)"
    ):
        env = GymnasiumEnvironment(Unseeded, "unseeded")
    reset, step = batch_of(env)
    first, other = reset(0, 2), reset(0, 2)
    state = first
    for _ in range(3):
        state = step(state, jnp.zeros(2, jnp.int32))
        np.testing.assert_array_equal(state.obs, first.obs)
    assert state.terminated.all()
    np.testing.assert_array_equal(step(other, jnp.zeros(2, jnp.int32)).obs, other.obs)
    with pytest.warns(RuntimeWarning, match="a state has no simulation any more"):
        again = jax.block_until_ready(step(first, jnp.zeros(2, jnp.int32)))
    assert again.truncated.all()
    np.testing.assert_array_equal(again.obs, first.obs)


class Noisy(Count):
    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, self.np_random.normal(), terminated, truncated, info


def test_a_reset_state_that_begins_several_episodes_can_be_given_other_noise():
    env = GymnasiumEnvironment(Noisy)
    reset, step = batch_of(env)
    start = reset(0, 1)

    def rewards(state):
        noise = []
        for _ in range(2):
            state = step(state, jnp.zeros(1, jnp.int32))
            noise.append(state.reward.item())
        return noise

    rekeyed = [jax.vmap(env.rekey)(start, jax.random.split(jax.random.key(key), 1)) for key in (1, 2, 1)]
    assert all(np.array_equal(state.obs, start.obs) for state in rekeyed)
    own, one, other, one_again = (rewards(state) for state in (start, *rekeyed))
    assert own == rewards(start)
    assert one == one_again
    assert len({*own, *one, *other}) == 6


class Breaking(Count):
    def step(self, action):
        _, _, terminated, truncated, info = super().step(action)
        seen = np.array([0.0, np.inf if self.steps == 2 else 1.0])
        return seen, np.array([1.5]), terminated, truncated, info


def test_a_simulation_that_broke_ends_its_own_episode_with_the_last_good_observation():
    reset, step = batch_of(GymnasiumEnvironment(Breaking))
    first = step(reset(0, 2), jnp.zeros(2, jnp.int32))
    after = step(first, jnp.zeros(2, jnp.int32))
    assert (first.reward.tolist(), first.metrics["unstable"].tolist()) == ([1.5, 1.5], [0.0, 0.0])
    assert (after.reward.tolist(), after.metrics["unstable"].tolist()) == ([0.0, 0.0], [1.0, 1.0])
    assert (after.terminated.tolist(), after.truncated.tolist()) == ([False, False], [True, True])
    np.testing.assert_array_equal(after.obs, first.obs)
    assert after.info["elapsed"].tolist() == [2, 2]


def test_the_number_of_live_environments_is_bounded_and_the_one_longest_unused_goes_first():
    env = GymnasiumEnvironment(Count, max_live=4)
    reset, step = batch_of(env)
    states = [step(reset(key, 2), jnp.zeros(2, jnp.int32)) for key in range(4)]
    jax.block_until_ready(states)
    assert len(env._live) == 4
    assert Count.made <= 5
    assert not step(states[-1], jnp.zeros(2, jnp.int32)).done.any()
    with pytest.warns(RuntimeWarning, match="max_live = 4"):
        assert jax.block_until_ready(step(states[0], jnp.zeros(2, jnp.int32))).truncated.all()


class Pixels(Count):
    observation_space = gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full((4, 4, 3), 7, np.uint8), {}

    def step(self, action):
        assert action.dtype == np.float64
        self.steps += 1
        return np.full((4, 4, 3), 8, np.uint8), 0.0, False, self.steps == 1, {}


class Place(Count):
    observation_space = gymnasium.spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        return 6, {}


class Whole(Count):
    """Integers without bounds as observations, integers with bounds as actions."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.int64)
    action_space = gymnasium.spaces.Box(0, 3, (1,), np.int64)

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(2, np.int64), action.item(), False, False, {}


class Misshapen(Count):
    observation_space = gymnasium.spaces.Box(0.0, 1.0, (3,), np.float32)


class Nowhere(Count):
    action_space = gymnasium.spaces.Box(np.inf, np.inf, (1,), np.float32)


def test_spaces():
    env = GymnasiumEnvironment(Pixels)
    state = env.step(env.reset(jax.random.key(0)), jnp.zeros(1))
    assert state.obs.dtype == env.observation_space.dtype == jnp.uint8
    assert state.obs.ravel()[0] == 8
    assert env.action_space.high == 2.0
    assert env.max_episode_steps is None
    env = GymnasiumEnvironment(Place)
    assert env.reset(jax.random.key(0)).obs.tolist() == [0.0, 1.0, 0.0]
    assert env.action_space.n == 3


def test_the_spaces_of_a_library_are_looked_at_before_they_are_believed():
    env = GymnasiumEnvironment(Whole)
    assert env.observation_space.unbounded
    assert env.action_space.bounded
    # An integer action is the nearest, not the one below.
    assert env.step(env.reset(jax.random.key(0)), jnp.array([1.8])).reward == 2.0
    for wrong, words in (
        (Misshapen, r"wrong: a reset shows \[2\], but the observation space is \[3\]; they must agree"),
        (
            Nowhere,
            r"wrong: action_space: Box: low must not be above high, nor NaN; element \[0\] has low=inf, high=inf",
        ),
    ):
        with pytest.raises(Refused, match=words) as error:
            GymnasiumEnvironment(wrong, "wrong")
        assert "\n" not in str(error.value)


spaces = gymnasium.spaces


class Drawn(gymnasium.Env):
    """Observes draws of its own space, pays by what is done, and ends at the fourth step."""

    def __init__(self, observation_space, action_space):
        # A space draws by a generator of its own.
        self.observation_space, self.action_space = copy.deepcopy((observation_space, action_space))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        weights = 1.0 + np.arange(np.size(action)).reshape(np.shape(action))
        return self.observation_space.sample(), float((weights * action).sum()), self.steps == 4, False, {}


SEEN = {
    "dict": spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (4, 4, 3), np.uint8),
            "arm": spaces.Dict({"state": spaces.Box(-1.0, 1.0, (2,), np.float64), "grip": spaces.MultiBinary(3)}),
            "word": spaces.Discrete(5, start=-2),
            "board": spaces.MultiDiscrete([3, 2], start=[1, -1]),
        }
    ),
    "tuple": spaces.Tuple(
        [spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,), np.float32), *[spaces.MultiBinary([2, 2])] * 9]
    ),
    "choices": spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 1], [2, 3]])),
    "bits": spaces.MultiBinary(4),
    "place": spaces.Discrete(4, start=7),
}
DONE = {
    "dict": spaces.MultiDiscrete([3, 4], start=[5, -1]),
    "tuple": spaces.MultiBinary(3),
    "choices": spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
    "bits": spaces.MultiBinary([2, 2]),
    "place": spaces.Discrete(3, start=-4),
}
for kind in SEEN:
    gymnasium.register(f"Drawn-{kind}-v0", lambda kind=kind: Drawn(SEEN[kind], DONE[kind]), disable_env_checker=False)


def ours(space, value):
    """A value of a Gymnasium space as the adapter should hand it out, without its code."""
    if isinstance(space, spaces.Dict):
        return {name: ours(space[name], value[name]) for name in space}
    if isinstance(space, spaces.Tuple):
        return {str(i): ours(inner, x) for i, (inner, x) in enumerate(zip(space, value, strict=True))}
    if isinstance(space, spaces.MultiDiscrete):
        return (value - space.start).ravel()
    return value - space.start if isinstance(space, spaces.Discrete) else value


@pytest.mark.parametrize("kind", SEEN)
def test_every_kind_of_space_side_by_side_with_gymnasium(kind):
    env, raw = make(f"gymnasium:Drawn-{kind}-v0"), gymnasium.make(f"Drawn-{kind}-v0")
    space, start = raw.action_space, getattr(raw.action_space, "start", 0)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state = reset(jax.random.key(0))
    obs, _ = raw.reset(seed=int(state.physics["seed"]))
    for count in range(5):
        expected = ours(raw.observation_space, obs)
        expected = np.eye(4)[expected] if kind == "place" else expected
        assert env.observation_space.contains(jax.device_get(state.obs))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), state.obs, expected)
        if count == 4:
            break
        action = env.action_space.sample(jax.random.key(count))
        state = step(state, action)
        made = np.asarray(action, space.dtype).reshape(space.shape) + start
        obs, reward, terminated, truncated, _ = raw.step(made if space.shape else made[()])
        assert (state.reward, state.terminated, state.truncated) == (reward, terminated, truncated)
        assert bool(state.terminated) == (count == 3)


def test_the_spaces_that_an_adapter_makes_of_gymnasiums():
    found = {kind: make(f"gymnasium:Drawn-{kind}-v0") for kind in SEEN}
    shapes = {name: (type(part).__name__, part.shape) for name, part in parts(found["dict"].observation_space).items()}
    assert shapes == {
        "arm/grip": ("Box", (3,)),
        "arm/state": ("Box", (2,)),
        "board": ("MultiDiscrete", (2,)),
        "camera": ("Box", (4, 4, 3)),
        "word": ("Discrete", ()),
    }
    assert found["dict"].reset(jax.random.key(0)).obs["camera"].dtype == jnp.uint8
    assert set(found["tuple"].observation_space.spaces) == {str(i) for i in range(11)}
    assert found["choices"].observation_space == found["choices"].action_space == MultiDiscrete((2, 3, 4, 5))
    assert found["dict"].action_space == MultiDiscrete((3, 4))
    assert found["tuple"].action_space == MultiDiscrete((2, 2, 2))
    assert found["bits"].action_space == MultiDiscrete((2, 2, 2, 2))
    assert found["bits"].observation_space.high.tolist() == [1.0] * 4


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_ppo_trains_on_parts_and_several_choices_of_gymnasiums(kind):
    config = ppo.Config(num_envs=2, rollout_length=8, num_epochs=1, num_minibatches=1, hidden=(8,), cnn_channels=(2,))
    algorithm = ppo.make(make(f"gymnasium:Drawn-{kind}-v0"), dataclasses.replace(config, normalize_observation=True))
    state, step = jax.jit(algorithm.init)(jax.random.key(0)), jax.jit(algorithm.step)
    for _ in range(2):
        state, metrics = step(state)
    assert all(jnp.isfinite(value) for value in jax.tree.leaves(metrics))
    assert metrics["episode/length"].value == 4.0


class Torn(Drawn):
    """Its second step breaks one part of its observation, among others that are whole."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs | {"state": obs["state"] * (np.nan if self.steps == 2 else 1.0)}, reward, *rest


def test_a_part_that_is_not_finite_ends_the_episode_with_all_parts_of_the_last_observation():
    space = spaces.Dict({"word": spaces.Discrete(50), "state": spaces.Box(-1.0, 1.0, (2,))})
    reset, step = batch_of(GymnasiumEnvironment(lambda: Torn(space, spaces.Discrete(2))))
    first = step(reset(0, 2), jnp.zeros(2, jnp.int32))
    after = step(first, jnp.zeros(2, jnp.int32))
    assert (after.truncated.tolist(), after.metrics["unstable"].tolist()) == ([True, True], [1.0, 1.0])
    jax.tree.map(np.testing.assert_array_equal, after.obs, first.obs)


ANY = spaces.Discrete(2)
REFUSED = [
    (spaces.Text(3), ANY, "observation_space: it must be .* or a Dict or Tuple of them, and is a Text"),
    (spaces.Dict({"a": spaces.Tuple([spaces.Graph(ANY, None)])}), ANY, "observation_space: a: 0: .* is a Graph"),
    (spaces.Sequence(ANY), ANY, "observation_space: .* is a Sequence"),
    (spaces.Dict({"a/b": ANY}), ANY, "observation_space: Dict: parts are spaces by name .without /., got 'a/b'"),
    (ANY, spaces.Text(3), "action_space: it must be a Box, Discrete, MultiDiscrete or MultiBinary, and is a Text"),
    (ANY, spaces.Dict({"a": ANY}), "action_space: .* is a Dict"),
    (ANY, spaces.Tuple([ANY]), "action_space: .* is a Tuple"),
]


@pytest.mark.parametrize(("seen", "done", "words"), REFUSED)
def test_spaces_that_are_not_known_are_refused_in_one_line_that_says_what_is_allowed(seen, done, words):
    with pytest.raises(Refused, match=f"^wrong: {words}") as error:
        GymnasiumEnvironment(lambda: Drawn(seen, done), "wrong")
    assert "\n" not in str(error.value)


class Lying(Drawn):
    def __init__(self, shown):
        super().__init__(spaces.Dict({"a": ANY, "b": spaces.Box(0.0, 1.0, (2,))}), ANY)
        self.shown = shown

    def reset(self, *, seed=None, options=None):
        return self.shown, {}


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ({"a": 0}, "observation_space: it has the parts a, b, and an observation has a$"),
        (
            {"a": 0, "b": np.zeros(2), "c": 1},
            "observation_space: it has the parts a, b, and an observation has a, b, c",
        ),
        (np.zeros(3), "observation_space: it has the parts a, b, and an observation has ndarray"),
        ({"a": 0, "b": np.zeros(3)}, r"b: a reset shows \[3\], but the observation space is \[2\]; they must agree"),
    ],
)
def test_parts_that_are_not_those_of_the_space_are_refused(shown, words):
    with pytest.raises(Refused, match=f"^lying: {words}"):
        GymnasiumEnvironment(lambda: Lying(shown), "lying")


def test_it_draws_if_asked_to():
    env = GymnasiumEnvironment(lambda: Count(render_mode="rgb_array"))
    state = env.step(env.reset(jax.random.key(0)), 0)
    assert env.render(state).tolist() == np.ones((2, 2, 3)).tolist()
    with pytest.raises(NotImplementedError, match='render_mode="rgb_array"'):
        GymnasiumEnvironment(Count).render(state)


def test_ppo_learns_from_it_without_nan():
    config = ppo.Config(num_envs=2, rollout_length=16, num_epochs=1, num_minibatches=1, hidden=(8,))
    algorithm = ppo.make(make("gymnasium:CartPole-v1"), config)
    init, step = jax.jit(algorithm.init), jax.jit(algorithm.step)
    ends = []
    for _ in range(2):  # with the same seed, the same run
        state = init(jax.random.key(0))
        for _ in range(2):
            state, metrics = step(state)
        ends.append(jax.tree.leaves(state.params))
    assert jnp.isfinite(metrics["episode/return"].value)
    assert all(jnp.isfinite(value) for value in jax.tree.leaves(metrics))
    assert all(np.array_equal(one, other) for one, other in zip(*ends, strict=True))


def test_wrong_names_and_arguments_are_refused_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"gymnasium:CartPol-v1: .*Did you mean: `CartPole`") as error:
        make("gymnasium:CartPol-v1")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"gymnasium:CartPole-v1: .*'mass'") as error:
        make("gymnasium:CartPole-v1", mass=1.0)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"gymnasium:nowhere:Task-v0: .*nowhere"):
        make("gymnasium:nowhere:Task-v0")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ValueError, match=r"gymnasium: needs gymnasium: pip install gymnasium"):
        make("gymnasium:CartPole-v1")
