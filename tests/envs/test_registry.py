"""The registry: names, aliases, time limits, and errors that say what to do."""

import functools
import json
import subprocess
import sys
import types
from typing import Any

import jax
import numpy as np
import pytest

from rljax.envs import Environment, RescaleAction, TimeLimit, Wrapper, make, register, registered, registry
from rljax.envs.classic import CartPole
from rljax.envs.finite import Finite, worlds
from rljax.envs.identity import describe
from rljax.envs.wrappers import PotentialShaping

LIMITS = {
    "CartPole-v1": 500,
    "MountainCar-v0": 200,
    "MountainCarContinuous-v0": 999,
    "Acrobot-v1": 500,
    "Pendulum-v1": 200,
}


class Slippery(Environment):
    """A task with an argument."""

    def __init__(self, friction=1.0):
        self.friction = friction
        self.observation_space = self.action_space = None


@pytest.fixture
def clean(monkeypatch):
    """What a test registers is forgotten after it."""
    for table in ("_tasks", "_simplified", "_adapters"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


def one_line(error):
    return "\n" not in str(error.value)


def test_the_classic_tasks_are_registered():
    assert {"acrobot", "cartpole", "mountain_car", "mountain_car_continuous", "pendulum"} <= set(registered())


@pytest.mark.parametrize(("alias", "limit"), LIMITS.items())
def test_gymnasium_ids_are_aliases_with_gymnasiums_time_limit(alias, limit):
    import gymnasium

    env = make(alias)
    assert isinstance(env, TimeLimit)
    assert env.max_episode_steps == limit
    assert gymnasium.spec(alias).max_episode_steps == limit
    assert env.name in registered()
    assert env.unwrapped.name == env.name


@pytest.mark.parametrize("name", ["cartpole", "CARTPOLE", "CartPole-V1", "cart_pole", "cart-pole-v1"])
def test_case_hyphens_and_underscores_do_not_matter(name):
    assert make(name).name == "cartpole"


def test_the_time_limit_can_be_replaced_or_taken_away():
    assert make("pendulum", max_episode_steps=7).max_episode_steps == 7
    for none in (None, 0):
        env = make("pendulum", max_episode_steps=none)
        assert env.max_episode_steps is None
        assert env is env.unwrapped


def test_actions_can_be_repeated_inside_the_time_limit_of_the_task():
    env = make("mountain_car", action_repeat=4)
    assert env.steps_per_action == 4
    assert env.max_episode_steps == 50


@pytest.mark.parametrize("arguments", [{}, {"max_episode_steps": None}, {"action_repeat": 2, "max_episode_steps": 9}])
def test_the_spec_of_an_environment_makes_it_again(arguments):
    env = make("Pendulum-v1", **arguments)
    again = make(**env.spec)
    assert again.spec == env.spec
    assert repr(again) == repr(env)
    assert again.max_episode_steps == env.max_episode_steps


def test_an_unknown_name_names_the_near_ones_and_all_known_ones_in_one_line():
    with pytest.raises(ValueError, match=r"'cartpol'; did you mean cartpole\?.*known: acrobot, ant, cartpole") as error:
        make("cartpol")
    assert one_line(error)
    with pytest.raises(ValueError, match="did you mean mountain_car"):
        make("MountainCar-v9")
    with pytest.raises(ValueError, match="unknown environment 'zzz'; known:"):
        make("zzz")


def test_an_argument_the_task_does_not_take_is_refused_in_one_line(clean):
    register("slippery", Slippery)
    env = make("slippery", friction=0.5)
    assert isinstance(env, Slippery)
    assert env.friction == 0.5
    with pytest.raises(ValueError, match=r"slippery: .*'mass'; it takes: friction, max_episode_steps") as error:
        make("slippery", mass=1.0)
    assert one_line(error)
    with pytest.raises(ValueError, match=r"cartpole: .*'gravity'"):
        make("cartpole", gravity=1.0)


def test_a_type_error_inside_the_task_is_not_hidden(clean):
    def broken():
        raise TypeError("inside")

    register("broken", broken)
    with pytest.raises(TypeError, match="inside"):
        make("broken")


def test_registering_a_name_again_replaces_it_but_another_tasks_name_is_refused(clean):
    register("slippery", Slippery, aliases=("ice",), max_episode_steps=5)
    register("slippery", CartPole)
    assert isinstance(make("slippery"), CartPole)
    with pytest.raises(ValueError, match="unknown environment 'ice'"):
        make("ice")
    with pytest.raises(ValueError, match="'cartpole'"):
        register("mine", Slippery, aliases=("CartPole-v1",))
    assert "mine" not in registered()
    with pytest.raises(ValueError, match="colon"):
        register("brax:ant", Slippery)


def test_a_prefix_goes_to_its_adapter_with_the_rest_verbatim(clean):
    seen: dict[str, Any] = {}

    def adapter(rest, max_episode_steps=1000):
        seen.update(rest=rest, limit=max_episode_steps)
        return Slippery()

    registry.register_adapter("other", adapter)
    assert make("Other:Ant-v5", max_episode_steps=3).name == "other:Ant-v5"
    assert seen == {"rest": "Ant-v5", "limit": 3}
    with pytest.raises(ValueError, match="'mass'; it takes: max_episode_steps"):
        make("other:ant", mass=1.0)


def test_an_unknown_prefix_is_refused_in_one_line(clean):
    with pytest.raises(ValueError, match="unknown prefix 'nowhere:' in environment 'nowhere:ant'") as error:
        make("nowhere:ant")
    assert one_line(error)


MODULE = """
from rljax.envs.classic.pendulum import Pendulum

class Short(Pendulum):
    max_episode_steps = 7

    def __init__(self, gravity=10.0):
        super().__init__()

class Other:
    pass
"""


def test_an_environment_of_ones_own_is_found_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    env = make("my_tasks:Short", gravity=9.0)
    assert (env.name, env.max_episode_steps, type(env).__name__) == ("my_tasks:Short", 7, "TimeLimit")
    assert env.spec == {"name": "my_tasks:Short", "gravity": 9.0}
    assert make("my_tasks:Short", max_episode_steps=None).max_episode_steps is None
    for module, name in (("my_tasks", "Other"), ("my_tasks", "Missing"), ("os", "system")):
        with pytest.raises(ValueError, match=f"has no subclass of rljax.envs.Environment called '{name}'"):
            make(f"{module}:{name}")
    with pytest.raises(ValueError, match="it takes: gravity, max_episode_steps"):
        make("my_tasks:Short", mass=1.0)


def test_a_file_does_not_choose_which_module_is_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_tasks.py").write_text("raise AssertionError('this was imported')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="'evil_tasks:Task' is code of a module, which a file may not choose") as error:
        registry.make_recorded({"name": "evil_tasks:Task"})
    assert one_line(error)
    with pytest.raises(ValueError, match="'gymnasium:evil_tasks:Task-v0' is code of a module"):
        registry.make_recorded({"name": "gymnasium:evil_tasks:Task-v0"})
    with pytest.raises(ValueError, match="an environment needs a name"):
        registry.make_recorded({})
    assert registry.make_recorded({"name": "cartpole"}).name == "cartpole"


def test_importing_the_package_imports_no_task():
    code = "import sys, rljax.envs; print([m for m in sys.modules if 'classic' in m or m in ('PIL', 'brax', 'mujoco')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


class Scaled(Wrapper):
    def __init__(self, env, scale, potential=None):
        super().__init__(env)
        self.scale, self.potential = scale, potential


def high(obs):
    return obs[0]


def low(obs):
    return -obs[0]


def test_the_spec_of_what_was_made_otherwise_tells_differently_wrapped_tasks_apart():
    """A run folder compares them when a run is resumed."""
    task = make("pendulum")
    environments = [
        Scaled(task, 2.0),
        Scaled(task, 3.0),
        Scaled(make("pendulum", max_episode_steps=7), 2.0),
        Scaled(TimeLimit(task, 100), 2.0),
        Scaled(Scaled(task, 2.0), 2.0),
        Scaled(task, 2.0, high),
        Scaled(task, 2.0, low),
        Scaled(task, 2.0, lambda obs: obs[1]),
        Scaled(task, 2.0, lambda obs: obs[2]),
        Scaled(task, np.arange(20.0)),
        Scaled(task, np.arange(20.0) + 1),
        RescaleAction(task),
        CartPole(),
        Finite(worlds.frozen_lake(slip=0.5)),
        Finite(worlds.frozen_lake(slip=0.6)),
    ]
    specs = [json.dumps(env.spec) for env in environments]
    assert len(set(specs)) == len(specs)
    assert json.loads(specs[0]) == Scaled(make("pendulum"), 2.0).spec
    assert environments[0].spec == {
        "name": "pendulum",
        "class": "tests.envs.test_registry:Scaled",
        "constants": {"env": {"name": "pendulum"}, "potential": None, "scale": 2.0},
    }


def weighted(weight, obs):
    return weight * obs[0]


class Weighted:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, obs):
        return self.weight * obs[0]

    def plus(self, obs):
        return self.weight + obs[0]


def capturing(weight):
    def potential(obs):
        return weight * obs[0]

    return potential


def defaulting(weight):
    def potential(obs, weight=weight, *, offset=2 * weight):
        return weight * obs[0] + offset

    return potential


@pytest.mark.parametrize(
    "made",
    [
        lambda weight: functools.partial(weighted, weight),
        lambda weight: functools.partial(weighted, weight=weight),
        capturing,
        defaulting,
        lambda weight: jax.jit(capturing(weight)),
        lambda weight: functools.partial(capturing(weight)),
        lambda weight: lambda obs: weight * obs[0],
        lambda weight: capturing(types.SimpleNamespace(weight=weight)),
        lambda weight: capturing(capturing(weight)),
        Weighted,
        lambda weight: Weighted(weight).plus,
    ],
)
def test_what_a_function_holds_is_part_of_the_spec(made):
    """Two shapings that differ in a scale passed for one, and a run was resumed with the other."""
    task = make("pendulum")
    for one, other in ((1.0, 2.0), (np.arange(20.0), np.arange(20.0) + 1)):
        first, again, second = (json.dumps(PotentialShaping(task, made(x), 0.9).spec) for x in (one, one, other))
        assert first == again != second
        assert "0x" not in first  # an address, which another process does not find again


def test_a_function_is_told_by_its_name_where_it_holds_nothing():
    assert describe(high) == "tests.envs.test_registry:high"
    assert describe(functools.partial(weighted, 2.0)) == {
        "partial": "tests.envs.test_registry:weighted",
        "arguments": [2.0],
        "keywords": {},
    }
    assert describe(capturing(2.0)) == {
        "function": "tests.envs.test_registry:capturing.<locals>.potential",
        "captured": {"weight": 2.0},
    }


def test_an_environment_may_hold_a_function_that_holds_it():
    env = Scaled(make("pendulum"), 2.0)
    env.potential = lambda obs: env.scale * obs[0]
    assert env.spec["constants"]["potential"]["captured"] == {"env": "itself"}
