"""Whether an exported policy does what the policy does: on observations of its task, one after the other."""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.deploy.source import Arrays, Port, Run, Source
from rljax.envs import AutoReset, Guard
from rljax.envs.rollout import advance, begin
from rljax.ops.running_statistics import Statistics, variance
from rljax.spaces import Box, Discrete, parts
from rljax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Observations:
    """A sequence of observations, leaves [n, 1, …]; where an episode ended after one, bool [n]; and whence they are."""

    obs: PyTree
    done: np.ndarray
    origin: str


def observe(source: Source, count: int, seed: int = 0) -> Observations:
    """Observations of the task under the policy where it is quick to step, else drawn from the space.

    Physics on an accelerator and other people's tasks, which take long to compile or to start, are not stepped.
    """
    env = source.env
    engine = getattr(env.unwrapped, "engine", None)
    if (engine is None or engine.name == "native") and ":" not in str(env.spec.get("name", ":")):
        envs = AutoReset(Guard.around(env), 1, "full")

        def play(key: jax.Array) -> tuple[PyTree, jax.Array]:
            def step(acting: Any, key: jax.Array) -> tuple[Any, Any]:
                after, _, _ = advance(envs, source.policy, acting, key, source.deterministic)
                return after, (acting.state.obs, after.state.done[0])

            first = begin(envs, source.policy, key, 1)
            return jax.lax.scan(step, first, jax.random.split(key, count))[1]

        obs, done = jax.device_get(jax.jit(play)(jax.random.key(seed)))
        return Observations(obs, done, "of its task under the policy")
    return Observations(_drawn(source, count, seed), np.arange(1, count + 1) % 100 == 0, "drawn from its space")


def _drawn(source: Source, count: int, seed: int) -> PyTree:
    """Observations [count, 1, …]: uniform within bounds, else around the mean of those that the policy has seen."""
    random, spaces = np.random.default_rng(seed), parts(source.env.observation_space)
    known = source.policy.variables.get("obs_statistics") if isinstance(source.policy.variables, dict) else None
    drawn = {}
    for name, space in spaces.items():
        shape = (count, 1, *space.shape)
        if not isinstance(space, Box):
            most = space.n if isinstance(space, Discrete) else np.asarray(space.n)
            drawn[name] = random.integers(0, most, shape).astype(space.dtype)
        elif np.issubdtype(space.dtype, np.integer):
            drawn[name] = random.integers(space.low, space.high, shape, endpoint=True).astype(space.dtype)
        elif space.bounded:
            drawn[name] = random.uniform(space.low, space.high, shape).astype(np.float32)
        else:
            drawn[name] = random.normal(size=shape).astype(np.float32)
            if isinstance(known, Statistics):
                tree = jax.tree.map(lambda m, v: (m, np.sqrt(v)), known.mean, variance(known))
                for part in filter(None, name.split("/")):
                    tree = tree[part]
                drawn[name] = np.float32(drawn[name] * tree[1] + tree[0])
    return _nested(drawn)


def _nested(arrays: dict[str, Any]) -> PyTree:
    if set(arrays) == {""}:
        return arrays[""]
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *above, last = name.split("/")
        place = tree
        for part in above:
            place = place.setdefault(part, {})
        place[last] = array
    return tree


def compare(source: Source, run: Run, seen: Observations, progress: bool = False) -> tuple[float, float, Arrays]:
    """Compares the actions of an exported policy with the policy's own. Each has a memory of its own.

    Returns:
      The largest difference, of whole numbers the share of actions that differ; the largest action in size, or 1; and
      the inputs of the last step, noise included, which is drawn anew for each, but with the initial memory.
    """
    reference = _reference(source)
    random = np.random.default_rng(0)
    choices = source.outputs[0].dtype.kind in "iub"
    begin_own = {port.name: np.asarray(port.initial, port.dtype).reshape(port.shape) for port in source.group("memory")}
    whole = jax.tree.map(lambda x: jnp.asarray(x)[None], source.policy.initial_memory)
    begin_true = begin_own if source.group("noise") else whole
    own, true, worst, largest = begin_own, begin_true, 0.0, 1.0 if choices else 0.0
    inputs: dict[str, Any] = {}
    leaves, differing, said = jax.tree.leaves(seen.obs), 0, time.perf_counter()
    for i, done in enumerate(seen.done):
        given = {port.name: np.asarray(leaves[port.place][i], port.dtype) for port in source.group("obs")}
        noise = {port.name: _noise(port, random) for port in source.group("noise")}
        inputs = {**given, **own, **noise}
        found = run(inputs)
        action, true = reference(jax.tree.map(lambda x, i=i: x[i], seen.obs), true, inputs)
        action, got = np.asarray(action), found["action"]
        if choices:
            differing += bool((got != action).any())
        else:
            gap = np.abs(np.float64(got) - action).max(initial=0.0)
            worst = max(worst, gap if np.isfinite(gap) else np.inf)
            largest = max(largest, float(np.abs(action).max(initial=0.0)))
        own = {port.name: found[f"next_{port.name}"] for port in source.group("memory")}
        if done:
            own, true = begin_own, begin_true
        if progress and time.perf_counter() - said > 2:
            said = time.perf_counter()
            print(f"compared {i + 1:,} of {len(seen.done):,} actions", file=sys.stderr, flush=True)
    return (differing / len(seen.done) if choices else worst), largest, {**inputs, **begin_own}


def _reference(source: Source) -> Callable[[PyTree, PyTree, Arrays], tuple[Any, PyTree]]:
    """The policy itself, with all that it is given; where it has noise as an input, its function of it."""
    if not source.group("noise"):
        act = jax.jit(lambda obs, memory: source.policy.apply(jax.random.key(0), obs, memory, source.deterministic)[:2])
        return lambda obs, memory, inputs: act(obs, memory)
    function = jax.jit(source.function(1))

    def of_noise(obs: PyTree, memory: dict[str, Any], inputs: Arrays) -> tuple[Any, PyTree]:
        named = source.outputs_of(function(*source.arguments_of({**inputs, **memory})))
        return named["action"], {port.name: named[f"next_{port.name}"] for port in source.group("memory")}

    return of_noise


def _noise(port: Port, random: np.random.Generator) -> np.ndarray:
    drawn = random.normal(size=port.shape) if port.kind == "normal" else random.random(port.shape)
    return drawn.astype(np.float32)


def latency(call: Callable[[], Any], count: int = 1, seconds: float = 0.3) -> float:
    """Microseconds of one call: the median of the quietest of five stretches of time; a `call` makes `count`.

    A busy machine makes all calls of a stretch slow, and none fast.
    """
    call()
    medians = []
    for _ in range(5):
        times: list[float] = []
        begin = time.perf_counter()
        while not times or (time.perf_counter() - begin < seconds / 5 and len(times) < 2_000):
            before = time.perf_counter()
            call()
            times.append((time.perf_counter() - before) / count * 1e6)
        medians.append(statistics.median(times))
    return min(medians)
