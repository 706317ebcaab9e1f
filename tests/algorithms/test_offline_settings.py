"""The settings of the offline algorithms: by family of tasks, and on accelerators."""

import dataclasses

import pytest

from rljax import algorithms
from rljax.algorithms import offline_settings
from tests.algorithms.test_offline import DATA, ENV


@pytest.mark.parametrize(
    ("task", "family"),
    [
        ("hopper", "locomotion"),
        ("half_cheetah", "locomotion"),
        ("ant", "locomotion"),
        ("antmaze-umaze-v2", "antmaze"),
        ("pen-human-v1", "adroit"),
        ("door-cloned-v1", "adroit"),
        ("pendulum", None),
        ("humanoidmaze-medium-v0", None),
        ("halfcheetah-medium-v2", "locomotion"),
        ("HalfCheetah-v5", "locomotion"),
        ("half_cheetah-medium-replay-v0", "locomotion"),
        ("halfcheetah_medium-v2", "locomotion"),
        ("Walker2d-v5", "locomotion"),
        ("mujoco/halfcheetah/medium-v0", "locomotion"),
        ("D4RL/antmaze/umaze-v1", "antmaze"),
        ("Ant_maze_u-maze_noisy_multistart_True_multigoal_False_sparse", "antmaze"),
        ("D4RL/door/human-v2", "adroit"),
        ("antmaze", "antmaze"),
        ("adroit", "adroit"),
        ("locomotion", "locomotion"),
        ("none", None),
        ("HumanoidStandup-v5", None),
        ("antsoccer-arena-navigate-v0", None),
        ("gymnasium:Hopper-v5", None),
        ("brax:ant", None),
        (None, None),
    ],
)
def test_settings_are_those_of_the_tasks_family(task, family):
    assert offline_settings.family(task) == family
    for name in offline_settings.FAMILIES["antmaze"]:
        config, default = offline_settings.config(name, task), algorithms.get(name).Config()
        table = offline_settings.FAMILIES.get(family, {}).get(name, {})
        assert config == dataclasses.replace(default, **table)


@pytest.mark.parametrize("name", ["bc", "td3_bc", "cql", "iql"])
def test_on_accelerators_a_hundred_updates_are_one_iteration_though_not_online(name):
    config = offline_settings.config(name, "hopper", accelerated=True)
    assert (config.precision, config.offline_updates) == ("float32", 100)
    assert dataclasses.replace(config, precision="bfloat16", offline_updates=0) == offline_settings.config(
        name, "hopper"
    )
    assert algorithms.get(name).make(ENV, config, DATA).steps_per_iteration == 100
    if name != "bc":  # which does not act and learn
        assert algorithms.get(name).make(ENV, config, DATA, online=True).steps_per_iteration < 3
