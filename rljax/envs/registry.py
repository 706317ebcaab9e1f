"""Environments by name: `make("cartpole")`, `make("Pendulum-v1")`, `make("brax:ant")`, `make("my_module:MyTask")`."""

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rljax.envs.check import check_env
from rljax.envs.environment import Environment
from rljax.envs.wrappers import ActionRepeat, ExecutionMismatch, TimeLimit
from rljax.types import Refused

Factory = Callable[..., Environment]


class Task(NamedTuple):
    """An entry of the registry."""

    name: str
    factory: Factory | str
    max_episode_steps: int | None


_tasks: dict[str, Task] = {}
_simplified: dict[str, str] = {}  # every name and alias, without case, hyphens and underscores, to the task's name
_adapters: dict[str, Factory | str] = {}


def register(
    name: str, factory: Factory | str, aliases: Sequence[str] = (), max_episode_steps: int | None = None
) -> None:
    """Makes a task known under `name` and `aliases`; a second call for the same `name` replaces the first.

    Args:
      factory: makes the environment, without a time limit; `make` hands it its keyword arguments. As a string
        "package.module:Name" it is imported when first used.
      max_episode_steps: the task's time limit; None for none.
    """
    if ":" in name:
        raise Refused(f"register: a name has no colon, got {name!r}; register_adapter takes prefixes")
    keys = [_simplify(key) for key in (name, *aliases)]
    for key in keys:
        owner = _simplified.get(key, name)
        if owner != name:
            raise Refused(f"register: {name!r} (or an alias) is a name of {owner!r} already")
    for key in [key for key, owner in _simplified.items() if owner == name]:
        del _simplified[key]
    _tasks[name] = Task(name, factory, max_episode_steps)
    _simplified.update(dict.fromkeys(keys, name))


def register_adapter(prefix: str, factory: Factory | str) -> None:
    """Hands every name "prefix:rest" to `factory(rest, **kwargs)`, which applies its library's own time limit.

    It gets all of the caller's keyword arguments, `max_episode_steps` too.
    """
    _adapters[prefix.lower()] = factory


def registered() -> list[str]:
    """The names of all tasks, sorted, without aliases and without those behind adapters."""
    return sorted(_tasks)


def canonical(name: str) -> str:
    """The name that a task is registered under, from any of its names; an unknown name as it is."""
    return _simplified.get(_simplify(name), name)


def time_limit(name: str) -> int | None:
    """The time limit of a registered task, from any of its names; None where it has none, or is unknown."""
    task = _tasks.get(canonical(name))
    return None if task is None else task.max_episode_steps


def make(
    name: str,
    *,
    action_repeat: int = 1,
    mismatch: Mapping[str, float] | None = None,
    check: bool = False,
    **kwargs: Any,
) -> Environment:
    """Makes the environment called `name` (or by an alias; case, hyphens and underscores do not matter).

    A name "module:Class" is an environment of your own, which need not be registered: a module that Python can import,
    or one of the current folder, and a subclass of `Environment`. Its class may have a `max_episode_steps`.

    Args:
      action_repeat: number of steps for which each action is held (see `ActionRepeat`).
      mismatch: arguments of an `ExecutionMismatch` between the actions and the task.
      check: whether to play a few steps and to say in words what is wrong with the task (see `check_env`).
      max_episode_steps: replaces the task's own time limit; None or 0 for no limit.
      **kwargs: further arguments of the task.

    Raises:
      ValueError: an unknown name, an argument that the task does not take, or what `check` found.
    """
    how = ({"action_repeat": action_repeat} if action_repeat != 1 else {}) | (
        {"mismatch": dict(mismatch)} if mismatch else {}
    )
    spec = {"name": name, **how, **kwargs}
    env = _make_adapted(name, kwargs) if ":" in name else _make_own(name, kwargs)
    if mismatch:
        _check_arguments(f"{name}: mismatch", ExecutionMismatch, (env,), dict(mismatch))
        env = ExecutionMismatch(env, **mismatch)  # type: ignore[arg-type]
    if action_repeat != 1:
        env = ActionRepeat(env, action_repeat)
    if check:
        check_env(env)
    env.spec = spec
    return env


def _make_own(name: str, kwargs: dict[str, Any]) -> Environment:
    task = _tasks.get(canonical(name))
    if task is None:
        raise Refused(f"unknown environment {name!r}; {_suggest(name)}known: {', '.join(registered())}")
    limit = kwargs.pop("max_episode_steps", task.max_episode_steps)
    env = _build(task.name, task.factory, (), kwargs)
    env.name = task.name
    return TimeLimit(env, limit) if limit else env


def _make_adapted(name: str, kwargs: dict[str, Any]) -> Environment:
    prefix, rest = name.split(":", 1)
    factory = _adapters.get(prefix.lower())
    if factory is None:
        return _make_of_module(name, prefix, rest, kwargs)
    env = _build(name, factory, (rest,), kwargs)
    env.name = f"{prefix.lower()}:{rest}"
    return env


def make_recorded(spec: Mapping[str, Any]) -> Environment:
    """`make` for the spec in a run folder or a dataset. It imports no module: a file must not choose which code runs.

    Raises:
      Refused: as `make`; or an environment of a module.
    """
    if not isinstance(spec.get("name"), str):
        raise Refused(f"an environment needs a name, and {dict(spec)!r} has none")
    check_recorded(spec["name"])
    return make(**spec)


def check_recorded(name: str) -> None:
    """Refuses a name from a file for which `make` would import a module."""
    if is_module(name) or name.count(":") > 1:  # "gymnasium:module:Task-v0" imports the module as well
        raise Refused(
            f"{name!r} is code of a module, which a file may not choose: pass env=rljax.make({name!r}), "
            f"or say --env {name}"
        )


def is_module(name: str) -> bool:
    """Whether a name is that of an environment in a module of the user's, "module:Class"."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix.lower() not in _adapters


def _make_of_module(name: str, module: str, rest: str, kwargs: dict[str, Any]) -> Environment:
    """An environment that is not registered, by its module and its class."""
    here = os.getcwd()
    if module not in sys.modules and here not in sys.path:
        sys.path.append(here)  # as `python -m` has it
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        known = ", ".join(f"{prefix}:" for prefix in sorted(_adapters)) or "none"
        raise Refused(
            f"unknown prefix {module + ':'!r} in environment {name!r}: it is no module, and known prefixes are {known}"
        )
    kind = getattr(importlib.import_module(module), rest, None)
    if not isinstance(kind, type) or not issubclass(kind, Environment):
        hint = f"one that it registers with Gymnasium is gymnasium:{module}:{rest}"
        raise Refused(
            f"environment {name!r}: {module} has no subclass of rljax.envs.Environment called {rest!r}; {hint}"
        )
    limit = kwargs.pop("max_episode_steps", kind.max_episode_steps)
    env = _build(name, kind, (), kwargs)
    env.name, env.max_episode_steps = name, None
    return TimeLimit(env, limit) if limit else env


def _build(name: str, factory: Factory | str, args: tuple[str, ...], kwargs: dict[str, Any]) -> Environment:
    function = _load(factory) if isinstance(factory, str) else factory
    # Checked beforehand, so that a TypeError from inside the task is not taken for a wrong argument.
    _check_arguments(name, function, args, kwargs, ("max_episode_steps", "action_repeat", "mismatch", "check"))
    return function(*args, **kwargs)


def _check_arguments(
    name: str, function: Factory, args: tuple[Any, ...], kwargs: dict[str, Any], others: Sequence[str] = ()
) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        taken = dict.fromkeys([*list(signature.parameters)[len(args) :], *others])
        raise Refused(f"{name}: {error}; it takes: {', '.join(taken)}") from None


def _load(path: str) -> Factory:
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)


def _simplify(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _suggest(name: str) -> str:
    near = difflib.get_close_matches(_simplify(name), _simplified, n=6)
    names = dict.fromkeys(_simplified[key] for key in near)
    return f"did you mean {' or '.join(names)}? " if names else ""


for _name, _factory, _alias, _limit in (
    ("cartpole", "classic.cartpole:CartPole", "CartPole-v1", 500),
    ("mountain_car", "classic.mountain_car:MountainCar", "MountainCar-v0", 200),
    (
        "mountain_car_continuous",
        "classic.mountain_car_continuous:MountainCarContinuous",
        "MountainCarContinuous-v0",
        999,
    ),
    ("acrobot", "classic.acrobot:Acrobot", "Acrobot-v1", 500),
    ("pendulum", "classic.pendulum:Pendulum", "Pendulum-v1", 200),
    ("catch", "classic.catch:Catch", "Catch-v0", 20),
    ("t_maze", "grid.t_maze:TMaze", "T-Maze", 50),
    ("half_cheetah", "mujoco.half_cheetah:HalfCheetah", "HalfCheetah-v5", 1000),
    ("hopper", "mujoco.hopper:Hopper", "Hopper-v5", 1000),
    ("walker2d", "mujoco.walker2d:Walker2d", "Walker2d-v5", 1000),
    ("ant", "mujoco.ant:Ant", "Ant-v5", 1000),
    ("humanoid", "mujoco.humanoid:Humanoid", "Humanoid-v5", 1000),
    ("swimmer", "mujoco.swimmer:Swimmer", "Swimmer-v5", 1000),
    ("reacher", "mujoco.reacher:Reacher", "Reacher-v5", 50),
    ("pusher", "mujoco.pusher:Pusher", "Pusher-v5", 100),
    ("inverted_pendulum", "mujoco.inverted_pendulum:InvertedPendulum", "InvertedPendulum-v5", 1000),
    (
        "inverted_double_pendulum",
        "mujoco.inverted_double_pendulum:InvertedDoublePendulum",
        "InvertedDoublePendulum-v5",
        1000,
    ),
    ("push_t", "manipulation.push_t:PushT", "PushT-v0", 300),
    ("pick_and_place", "manipulation.pick_and_place:PickAndPlace", "PickAndPlace-v0", 150),
    ("lace", "manipulation.lace:Lace", "Lace-v0", 300),
):
    register(_name, f"rljax.envs.{_factory}", (_alias,), _limit)

register("spaces_only", "rljax.envs.spaces_only:SpacesOnly")
for _prefix in ("brax", "playground", "gymnax", "gymnasium"):
    register_adapter(_prefix, f"rljax.envs.adapters.{_prefix}:make")
register_adapter("finite", "rljax.envs.finite.environment:make")
