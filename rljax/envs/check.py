"""Checks of custom environments, which report problems in words."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import Environment, State
from rljax.envs.wrappers import Wrapper
from rljax.spaces import ArraySpace, Box, Dict, Space, parts
from rljax.types import Key, PyTree, Refused

_STEPS = 64
_right: weakref.WeakSet[Environment] = weakref.WeakSet()


def check_env(env: Environment, key: Key | None = None) -> None:
    """Checks that an environment keeps the contract, by its types and by what 64 random steps give.

    Checked are shapes and types, that reset and step agree in them, values that are finite and in their space, that
    the same key gives the same results, jit and vmap, and that random keys in the state can be drawn anew (`rekey`).

    Args:
      key: of the episode that is played; `jax.random.key(0)` where None.

    Raises:
      ValueError: something is wrong; the message has a line for each problem.
    """
    if not isinstance(env, Environment):
        raise Refused(f"{type(env).__name__} must be a subclass of rljax.envs.Environment")
    found = _of_types(env) or _of_values(env, jax.random.key(0) if key is None else key)
    if found:
        raise Refused("\n".join(f"{_name(env)}: {problem}" for problem in found))


def check_types(env: Environment) -> None:
    """The part of `check_env` that computes nothing: it traces a reset and a step, once for each environment.

    rljax's own environments are not traced: its tests check them, and a trace of MJX takes seconds.

    Raises:
      ValueError: something is wrong; the message has a line for each problem.
    """
    if env in _right or _own(env):
        return
    if found := _of_types(env):
        raise Refused("\n".join(f"{_name(env)}: {problem}" for problem in found))
    _right.add(env)


def _own(env: Environment) -> bool:
    return type(env).__module__.startswith("rljax.") and (not isinstance(env, Wrapper) or _own(env.env))


def _name(env: Environment) -> str:
    return env.name or type(env.unwrapped).__name__


def _of_types(env: Environment) -> list[str]:
    """The problems of the innermost environment that has any: wrappers only pass them on."""
    try:
        if not (found := _of_layer(env)):
            return []
    except Refused:
        raise
    except Exception:
        if not isinstance(env, Wrapper):
            raise
        found = None
    inner = _of_types(env.env) if isinstance(env, Wrapper) else []
    if not inner and found is None:
        _of_layer(env)  # raises again: an error that is none of the known problems
    return inner or found or []


def _of_layer(env: Environment) -> list[str]:
    for field in ("observation_space", "action_space"):
        space = getattr(env, field, None)
        if not isinstance(space, Space):
            return [f"{field} is {'missing' if space is None else type(space).__name__}, it must be of rljax.spaces"]
        if field == "action_space" and isinstance(space, Dict):
            return ["action_space is a Dict, it must be a Box, Discrete or MultiDiscrete"]
    for name in ("reset", "step"):
        if getattr(type(env), name) is getattr(Environment, name):
            return [f"{name} is missing"]
    try:
        return _of_traces(env)
    except jax.errors.ConcretizationTypeError as error:
        where = str(error).strip().splitlines()[0]
        return [f"reset or step cannot be compiled: Python must not choose by the value of an array ({where})"]


def _of_traces(env: Environment) -> list[str]:
    first = jax.eval_shape(env.reset, jax.random.key(0))
    if not isinstance(first, State):
        return [f"reset gives a {type(first).__name__}, it must give a State (see initial_state)"]
    # Wrappers keep their own in `info`: a step must hand it on.
    probe = {"check_env": jax.ShapeDtypeStruct((), jnp.float32)}
    space = env.action_space
    action = jax.ShapeDtypeStruct(space.shape, space.dtype)
    after = jax.eval_shape(env.step, first.replace(info=first.info | probe), action)
    if not isinstance(after, State):
        return [f"step gives a {type(after).__name__}, it must give a State (see State.replace)"]
    found = list(_of_state(env, "reset", first))
    found += [problem for problem in _of_state(env, "step", after) if problem.replace("step", "reset", 1) not in found]
    if "check_env" not in after.info:
        found.append("info: step must hand on what is in it: state.replace(…), or info=state.info | {…}")
    info = {name: value for name, value in after.info.items() if name != "check_env"}
    for field, old, new in (
        ("physics", first.physics, after.physics),
        ("obs", first.obs, after.obs),
        ("metrics", first.metrics, after.metrics),
        ("info", first.info, info),
        ("context", first.context, after.context),
    ):
        found += _differences(field, old, new)
    return found


def _of_state(env: Environment, where: str, state: State) -> Iterator[str]:
    reward = state.reward
    if reward.shape != () or not jnp.issubdtype(reward.dtype, jnp.floating):
        yield f"reward: {where} gives {_type(reward)}, it must be float32 []"
    for field in ("terminated", "truncated"):
        flag = getattr(state, field)
        if flag.shape != () or flag.dtype != bool:
            yield f"{field}: {where} gives {_type(flag)}, it must be bool []"
    yield from _of_obs("obs", where, state.obs, env.observation_space)
    for name, value in state.metrics.items():
        if value.shape != ():
            yield f"metrics: {where} gives {_type(value)} as {name!r}, it must be a single number []"


def _of_obs(name: str, where: str, obs: PyTree, space: Space) -> Iterator[str]:
    """The misfits of an observation, part by part."""
    if isinstance(space, Dict):
        if not isinstance(obs, dict) or set(obs) != set(space.spaces):
            has = ", ".join(obs) if isinstance(obs, dict) else type(obs).__name__
            yield f"{name}: {where} gives {has}, but observation_space has the parts {', '.join(space.spaces)}"
            return
        for part, inner in space.spaces.items():
            yield from _of_obs(f"{name}.{part}", where, obs[part], inner)
    elif not hasattr(obs, "dtype"):
        yield f"{name}: {where} gives a {type(obs).__name__}, but observation_space is {_space(space)}"
    elif obs.shape != space.shape or _kind(obs.dtype) != _kind(space.dtype):
        yield f"{name}: {where} gives {_type(obs)}, but observation_space is {_space(space)}"


def _differences(field: str, first: PyTree, after: PyTree) -> Iterator[str]:
    old, new = (
        {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (first, after)
    )
    for name in old | new:
        what = f"{field}.{name}" if name else field
        if name not in new:
            yield f"{what}: reset gives it and step does not"
        elif name not in old:
            yield f"{what}: step gives it and reset does not, which must give it too"
        elif (old[name].shape, old[name].dtype) != (new[name].shape, new[name].dtype):
            yield f"{what}: reset gives {_type(old[name])} and step {_type(new[name])}, they must be alike"


def _type(x: Any) -> str:
    return f"{x.dtype} [{', '.join(map(str, x.shape))}]"


def _space(space: ArraySpace) -> str:
    return f"{type(space).__name__} {np.dtype(space.dtype)} [{', '.join(map(str, space.shape))}]"


def _kind(dtype: Any) -> Any:
    """The kind of a type: bytes are images, and numbers of any precision are numbers."""
    return dtype if dtype == np.uint8 else np.dtype(dtype).kind


def _of_values(env: Environment, key: Key) -> list[str]:
    """The problems of one episode of random actions, and of the same once more, traced anew."""
    try:
        jax.eval_shape(jax.vmap(env.reset), jax.eval_shape(lambda key: jax.random.split(key, 2), key))
    except Exception as error:
        return [f"reset fails under vmap: {str(error).splitlines()[0]}"]
    reset_key, action_key, new_key = jax.random.split(key, 3)
    once, again = (jax.tree.map(_plain, jax.jit(_episode(env))(reset_key, action_key)) for _ in range(2))
    first, states = once
    found = []
    same = jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=x.dtype.kind == "f"), once, again)
    if env.unwrapped.pure and not jax.tree.all(same):
        found.append("the same key and actions give other results the next time: it draws by something but its key")
    for field, value in (("reward", first.reward), ("terminated", first.terminated), ("truncated", first.truncated)):
        if value:
            found.append(f"{field}: it is {value} after a reset, it must be {0.0 if field == 'reward' else False}")
    done = states.terminated | states.truncated
    made = int(done.argmax()) + 1 if done.any() else _STEPS
    for field in ("obs", "reward", "metrics"):
        reset, steps = getattr(first, field), getattr(states, field)
        for (path, x), y in zip(jax.tree.leaves_with_path(reset), jax.tree.leaves(steps), strict=True):
            values = np.concatenate([x[None], y[:made]])
            bad = ~np.isfinite(values).reshape(made + 1, -1).all(1) if values.dtype.kind == "f" else np.zeros(1, bool)
            if bad.any():
                where = jax.tree_util.keystr(path, simple=True, separator=".")
                when = f"step {bad.argmax()}" if bad.argmax() else "the reset"
                found.append(f"{field}{where and '.' + where}: it is not finite at {when}")
    for name, space in parts(env.observation_space).items():
        begun, made_of = first.obs, states.obs
        for part in name.split("/") if name else ():
            begun, made_of = begun[part], made_of[part]
        low, high = (space.low, space.high) if isinstance(space, Box) else (0, np.asarray(space.n) - 1)
        values = np.concatenate([begun[None], made_of[:made]]).astype(np.float64)
        slack = 1e-5 * np.maximum(1.0, np.abs(values))
        outside = (values < low - slack) | (values > high + slack)
        if outside.any():
            where = f"obs.{name}" if name else "obs"
            found.append(f"{where}: {values[outside][0]:g} lies outside the bounds of observation_space")
    return [*found, *(_of_keys(env, reset_key, new_key) if env.unwrapped.pure else [])]


def _episode(env: Environment) -> Callable[[Key, Key], tuple[State, State]]:
    space: Any = env.action_space
    bounded = not isinstance(space, Box) or space.bounded

    def draw(key: Key) -> jax.Array:
        return space.sample(key) if bounded else jax.random.normal(key, space.shape, space.dtype)

    def play(reset_key: Key, action_key: Key) -> tuple[State, State]:
        def step(state: State, key: Key) -> tuple[State, State]:
            after = env.step(state, draw(key))
            return after, after

        first = env.reset(reset_key)
        return first, jax.lax.scan(step, first, jax.random.split(action_key, _STEPS))[1]

    return play


def _of_keys(env: Environment, reset_key: Key, new_key: Key) -> Iterator[str]:
    """Random keys in the state which `rekey` leaves as they are; keys of the old kind are uint32 [2]."""

    def both(reset_key: Key, new_key: Key) -> tuple[PyTree, PyTree]:
        state = env.reset(reset_key)
        after = env.rekey(state, new_key)
        return (state.physics, state.info), (after.physics, after.info)

    before, after = jax.jit(both)(reset_key, new_key)
    for (path, old), new in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True):
        typed = jnp.issubdtype(old.dtype, jax.dtypes.prng_key)
        if (typed or (old.dtype == jnp.uint32 and old.shape == (2,))) and np.array_equal(_plain(old), _plain(new)):
            where = jax.tree_util.keystr(path[1:], simple=True, separator=".")
            field = f"physics{where and '.' + where}" if path[0].idx == 0 else f"info.{where}"
            yield f"{field}: it is a random key that rekey leaves as it is; a state used twice would repeat its noise"


def _plain(x: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
