"""Simulations that are stepped together: with counters that are known, and EnvPool against itself, one at a time."""

import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs import AutoReset, check_env, make
from rljax.envs.adapters.vector import VectorEnvironment, make_envpool
from rljax.policy import Policy
from rljax.training import evaluate
from rljax.types import Refused

gymnasium = pytest.importorskip("gymnasium")


class Counters:
    """Each shows its number, the episodes that it began, the steps since and the last action; ends at the third.

    It terminates where the simulation's number is even, and is truncated elsewhere.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = gymnasium.spaces.Discrete(3, start=1)
    max_episode_steps = 3

    def __init__(self, size, seed):
        self.size, self.seed = size, seed
        self.episodes, self.steps = np.zeros((2, size), int)

    def show(self, which, actions=0.0):
        action = np.broadcast_to(actions, which.shape)
        return np.stack([which, self.episodes[which], self.steps[which], action], -1).astype(np.float64)

    def reset(self, which):
        assert which.dtype == np.int32
        self.episodes[which] += 1
        self.steps[which] = 0
        return self.show(which)

    def step(self, which, actions):
        assert len(set(which.tolist())) == len(which)
        assert all(self.action_space.contains(action) for action in actions)
        assert (self.steps[which] < 3).all()
        self.steps[which] += 1
        over = self.steps[which] == 3
        return self.show(which, actions), actions.astype(np.float64), over & (which % 2 == 0), over & (which % 2 == 1)


class Made:
    """Counters, and a list of those that were made after the first, which is looked at only."""

    def __init__(self, **how):
        self.groups: list[Counters] = []
        self.env = VectorEnvironment(self.make, "counters", **how)
        self.groups.clear()
        self._reset, self._step = jax.jit(jax.vmap(self.env.reset)), jax.jit(jax.vmap(self.env.step))

    # They wait: calls of programs that do not depend on each other may reach the host in any order.
    def reset(self, key, count):
        return jax.block_until_ready(self._reset(jax.random.split(jax.random.key(key), count)))

    def step(self, state, action):
        return jax.block_until_ready(self._step(state, action))

    def make(self, size, seed):
        self.groups.append(Counters(size, seed))
        return self.groups[-1]


def test_each_state_is_stepped_in_its_own_simulation_whatever_the_order():
    made = Made()
    one, other = made.reset(0, 3), made.reset(1, 2)
    assert one.obs.tolist() == [[i, 1, 0, 0] for i in (0, 1, 2)]
    assert other.obs[:, 0].tolist() == [3, 4]
    for count in (1, 2, 3):
        other = made.step(other, jnp.array([2, 0]))
        one = made.step(jax.tree.map(lambda x: x[::-1], one), jnp.array([0, 1, 2]))
        assert one.obs[:, 2].tolist() == [count] * 3
        assert one.reward.tolist() == [1.0, 2.0, 3.0]
        assert other.obs[:, 2:].tolist() == [[count, 3], [count, 1]]
    # Reversed three times; those with even numbers terminate, and the last observation is handed out.
    assert one.obs[:, 0].tolist() == [2, 1, 0]
    assert (one.terminated.tolist(), one.truncated.tolist()) == ([True, False, True], [False, True, False])
    assert one.info["elapsed"].tolist() == [3] * 3
    assert made.reset(2, 5).obs[:, 1].tolist() == [2] * 5  # simulations are used again
    assert [group.size for group in made.groups] == [2 * 3 + 32]


def test_it_keeps_the_contract_and_auto_reset_uses_each_reset_state_once():
    made = Made()
    check_env(made.env)
    made = Made()
    env = AutoReset(made.env, 4)
    state, step = jax.jit(env.reset)(jax.random.key(0)), jax.jit(env.step)
    begun = [tuple(x) for x in np.asarray(state.obs[:, :2]).tolist()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in range(1, 10):
            state = step(state, jnp.zeros(4, jnp.int32))
            np.testing.assert_array_equal(state.info["next_obs"][:, 2], (count - 1) % 3 + 1)
            assert state.done.all() == (count % 3 == 0)
            if count % 3 == 0:
                begun += [tuple(x) for x in np.asarray(state.obs[:, :2]).tolist()]
    assert len(set(begun)) == len(begun) == 16
    assert len(made.groups) == 1  # the first group has what the pool needs


def test_a_state_whose_simulation_has_gone_on_is_truncated_with_the_observation_it_has_and_warned_of_once():
    made = Made()
    start = made.reset(0, 2)
    state = made.step(start, jnp.zeros(2, jnp.int32))
    with pytest.warns(RuntimeWarning, match="counters: a state has no simulation any more"):
        again = made.step(start, jnp.zeros(2, jnp.int32))
    assert (again.truncated.tolist(), again.terminated.tolist()) == ([True] * 2, [False] * 2)
    np.testing.assert_array_equal(again.obs, start.obs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twice = jax.tree.map(lambda x: jnp.stack([x[0], x[0], x[1]]), state)
        after = made.step(twice, jnp.zeros(3, jnp.int32))
        assert after.truncated.tolist() == [False, True, False]  # one state in two places: the first goes on
        foreign = after.replace(physics=after.physics | {"episode": after.physics["episode"] + jnp.uint32(1)})
        assert made.step(foreign, jnp.zeros(3, jnp.int32)).truncated.all()
        over = made.step(again, jnp.zeros(2, jnp.int32))
    assert (over.truncated.all(), over.info["elapsed"].tolist()) == (True, [0, 0])


def test_more_simulations_are_made_in_groups_and_beyond_the_limit_the_one_longest_unused_is_given_up():
    made = Made(max_live=60)
    states = [made.step(made.reset(key, 20), jnp.zeros(20, jnp.int32)) for key in range(4)]
    assert [group.size for group in made.groups] == [72]
    assert not made.step(states[-1], jnp.zeros(20, jnp.int32)).done.any()
    with pytest.warns(RuntimeWarning, match="max_live = 60"):
        oldest = made.step(states[0], jnp.zeros(20, jnp.int32))
    assert oldest.truncated.sum() == 8
    made = Made()
    states = [made.reset(key, 30) for key in range(5)]
    assert [group.size for group in made.groups] == [92, 92]
    assert made.groups[0].seed != made.groups[1].seed
    both = jax.tree.map(lambda *x: jnp.concatenate(x)[::-1], *states)
    after = made.step(both, jnp.ones(150, jnp.int32))
    numbers = np.concatenate([np.arange(92), np.arange(58)])[::-1]
    np.testing.assert_array_equal(after.obs, np.stack([numbers, *np.array([[1], [1], [2]]).repeat(150, 1)], -1))


def test_a_simulation_that_broke_ends_its_own_episode_with_the_last_good_observation():
    class Breaking(Counters):
        def step(self, which, actions):
            obs, *rest = super().step(which, actions)
            obs[(which == 1) & (self.steps[which] == 2), 3] = np.inf
            return obs, *rest

    env = VectorEnvironment(Breaking, "breaking")
    step = jax.jit(jax.vmap(env.step))
    first = step(jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 2)), jnp.ones(2, jnp.int32))
    after = step(first, jnp.ones(2, jnp.int32))
    assert (after.truncated.tolist(), after.metrics["unstable"].tolist()) == ([False, True], [0.0, 1.0])
    assert after.reward.tolist() == [2.0, 0.0]
    np.testing.assert_array_equal(after.obs[1], first.obs[1])
    assert after.obs[0, 2] == 2


def test_what_is_not_there_is_refused_in_one_line(monkeypatch):
    fake = types.SimpleNamespace(list_all_envs=lambda: ["Pong-v5", "CartPole-v1"])
    monkeypatch.setitem(__import__("sys").modules, "envpool", fake)
    with pytest.raises(Refused, match="gymnasium:ALE/Pung-v5: EnvPool has no such task; did you mean Pong-v5"):
        make_envpool("ALE/Pung-v5", 1024, None, {})
    with pytest.raises(Refused, match="vector = 'async' is not allowed; it must be envpool, or None"):
        make("gymnasium:CartPole-v1", vector="async")
    with pytest.raises(Refused, match='threads = 2 is not allowed without vector="envpool"'):
        make("gymnasium:CartPole-v1", threads=2)
    monkeypatch.setitem(__import__("sys").modules, "envpool", None)
    with pytest.raises(Refused, match=r"needs envpool: pip install 'rljax\[envpool\]'"):
        make("gymnasium:CartPole-v1", vector="envpool")


@pytest.mark.parametrize("name", ["CartPole-v1", pytest.param("Pendulum-v1", marks=pytest.mark.slow), "LunarLander-v3"])
def test_a_trajectory_of_envpool_is_that_of_one_simulation_alone(name):
    """The same seeds and actions, one environment at a time, which EnvPool resets by itself where it is finished."""
    envpool = pytest.importorskip("envpool")
    steps, limit = 40, 15
    env = AutoReset(make(f"gymnasium:{name}", vector="envpool", threads=1, max_episode_steps=limit), 2)
    state, step = jax.jit(env.reset)(jax.random.key(3)), jax.jit(env.step)
    assert env.max_episode_steps == limit
    group = env.unwrapped._groups[0]._pool  # type: ignore[attr-defined]
    discrete = hasattr(env.action_space, "n")
    rng = np.random.default_rng(0)
    actions = rng.integers(env.action_space.n, size=(steps, 2)) if discrete else rng.uniform(-2, 2, (steps, 2, 1))
    found = []
    for action in actions:
        simulation = np.asarray(state.physics["simulation"])
        before, state = np.asarray(state.obs), step(state, jnp.asarray(action, jnp.int32 if discrete else jnp.float32))
        after = (state.info["next_obs"], state.reward, state.terminated, state.truncated)
        found += [(int(n), before[i], action[i], *(np.asarray(x)[i] for x in after)) for i, n in enumerate(simulation)]
    ends = 0
    for number in {entry[0] for entry in found}:
        own = [entry for entry in found if entry[0] == number]
        alone = envpool.make(
            name, env_type="gymnasium", num_envs=1, seed=group.config["seed"] + number, max_episode_steps=limit
        )
        obs = alone.reset()[0]
        for _, seen, action, *expected in own:
            np.testing.assert_allclose(seen, obs[0], rtol=1e-6)
            kind = np.int32 if discrete else alone.action_space.dtype
            obs, reward, terminated, truncated, _ = alone.step(np.asarray(action, kind)[None])
            for x, y in zip(expected, (obs[0], reward[0], terminated[0], truncated[0]), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-6)
            if terminated[0] or truncated[0]:
                ends += 1
                obs = alone.step(np.asarray(action, kind)[None])[0]  # the action is ignored: this is the reset
    assert ends >= 4


def test_a_program_goes_the_same_way_with_a_new_environment_and_policies_are_evaluated():
    pytest.importorskip("envpool")
    seen = []
    for _ in range(2):
        env = AutoReset(make("gymnasium:CartPole-v1", vector="envpool", threads=1, max_episode_steps=30), 2)

        def play(key, env=env):
            def step(state, key):
                state = env.step(state, jax.random.randint(key, (2,), 0, 2))
                return state, (state.obs, state.done)

            return jax.lax.scan(step, env.reset(key), jax.random.split(jax.random.key(1), 60))[1]

        seen.append(jax.jit(play)(jax.random.key(0)))
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    assert seen[0][1].sum() > 4
    idle = Policy({}, (), lambda variables, key, obs, memory, _: (jnp.zeros(obs.shape[:-1], jnp.int32), memory, ()))
    episodes = jax.jit(lambda key: evaluate(env.unwrapped, idle, key, 5))(jax.random.key(1))
    np.testing.assert_array_equal(episodes.returns, episodes.lengths)
    assert set(episodes.lengths.tolist()) <= {8, 9, 10, 11}


def test_images_of_envpool_have_their_channels_at_the_end():
    from rljax.envs.adapters.vector import _of_rljax

    space, moved = _of_rljax(gymnasium.spaces.Box(0, 255, (4, 84, 80), np.uint8))
    image = np.arange(4 * 84 * 80).reshape(1, 4, 84, 80)
    assert space.shape == (84, 80, 4)
    assert moved(image)[0, 3, 5, 2] == image[0, 2, 3, 5]
    tiny = gymnasium.spaces.Box(np.finfo(np.float32).tiny, np.finfo(np.float32).max, (2,), np.float32)
    assert np.isinf(_of_rljax(tiny)[0].low).all()
