"""What the runner compiles: one loop of training steps, and one evaluation, on one device or many."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rljax.algorithms.core.contract import Algorithm
from rljax.data import Feed
from rljax.envs import Environment
from rljax.training.devices import AXIS, MEMBERS, make_mesh, partition_specs, shard_environments
from rljax.training.evaluate import Episodes, evaluate, score_names
from rljax.training.population import PopulationBased
from rljax.types import Key, Mean, Metrics, PyTree, Refused


@dataclasses.dataclass(frozen=True)
class Program:
    """The functions of one run. With members, arguments and results have a leading axis [members].

    Fields:
      init: `(key_data, hyper) -> (state, totals)`; key data as plain integers, which every process can hand in.
      hyper: the hyperparameters of the config, each [] or [members], for `init`: as arguments, so that another value
        compiles nothing.
      shapes: `(key_data, hyper) -> (state, totals)` as `init` would make them and lay them out, without making them.
      run: `(state, totals, iteration, count, *data) -> (state, totals, finite)`: `count` training steps, which add
        their metrics to the totals; the first two arguments are donated; `finite` tells whether all parameters are.
      place: puts a dataset where `run` wants it.
      reset: `(totals) -> totals`, empty again.
      policy: `(state) -> Policy`.
      evaluate: `(state, key_data, episodes) -> (deterministic, stochastic)`.
      exchange: `(state, totals, scores, key_data) -> (state, totals, sources, hyper)`, an exchange of the population,
        of which the first two arguments are donated; None where there is none.
      measure: `(state, key_data) -> scores` by name, in place of episodes; None where policies play episodes.
      metrics: names of the metrics of a step.
      scores: names of an evaluation's scores.
      score: the name of the one that the best has the highest of; None where there is none.
      devices: number of devices that it is split over.
      placement: the devices that it runs on, in words.
    """

    init: Callable[..., tuple[Any, PyTree]]
    hyper: dict[str, np.ndarray]
    shapes: Callable[..., tuple[Any, PyTree]]
    run: Callable[..., tuple[Any, PyTree, jax.Array]]
    place: Callable[[PyTree], PyTree]
    reset: Callable[[PyTree], PyTree]
    policy: Callable[[Any], PyTree]
    evaluate: Callable[[Any, np.ndarray, int], tuple[Episodes, Episodes]]
    exchange: Callable[..., tuple[Any, PyTree, jax.Array, Any]] | None
    measure: Callable[[Any, np.ndarray], dict[str, jax.Array]] | None
    metrics: tuple[str, ...]
    scores: tuple[str, ...]
    score: str | None
    devices: int
    placement: str


def build(
    algorithm: Algorithm,
    members: int | None,
    devices: int | None,
    key_impl: str,
    evaluate_in: Environment | None = None,
    population: PopulationBased | None = None,
) -> Program:
    """The program for one run (`members` None) or for many.

    Members are split over as many devices as their number divides by, for they exchange nothing; one run splits its
    environments, though not over a CPU's cores unless asked to. Where these do not divide, one device is used, unless
    the number of devices was asked for.

    Args:
      evaluate_in: the environment in which policies are evaluated; the algorithm's where None.
      population: how members replace each other; they do not where None.

    Raises:
      ValueError: more devices than there are, or `devices` does not divide the members or environments.
    """
    judge = algorithm.env if evaluate_in is None else evaluate_in
    available = jax.devices()
    if devices is not None and not 1 <= devices <= len(available):
        raise Refused(f"devices = {devices} is not allowed; there are {len(available)}")
    count = devices
    if devices is None and jax.process_count() == 1:
        if members is not None:
            count = max(n for n in range(1, len(available) + 1) if members % n == 0)
        elif jax.default_backend() == "cpu":
            count = 1  # a run split over a CPU's cores is no faster than on one device (benchmarks/ppo.py measures it)
    axis = AXIS if members is None else MEMBERS
    mesh = make_mesh(available[:count], axis)
    placement = f"{mesh.size} devices" if mesh.size > 1 else "1 device"
    split_members = False
    if mesh.size > 1 and members is None:
        try:
            algorithm = shard_environments(algorithm, mesh)
            placement = f"environments over {placement}"
        except Refused as error:
            if devices is not None or jax.process_count() > 1:
                raise
            mesh, placement = make_mesh(available[:1]), f"1 device ({error})"
    elif members is not None:
        split_members = mesh.size > 1 and members % mesh.size == 0
        if split_members:
            placement = f"members over {placement}"
        elif (devices is not None and devices > 1) or jax.process_count() > 1:
            raise Refused(f"{members} members do not divide over {devices or mesh.size} devices")
        elif devices is None and len(available) > 1:
            placement = f"1 device ({members} members do not divide over {len(available)})"

    split, whole = PartitionSpec(axis), PartitionSpec()
    shares = mesh.size if members is None else 1
    data = () if algorithm.data is None else (_shapes(algorithm.data, shares),)

    def over_members(function: Callable[..., Any], *mapped: bool, in_turn: bool = False) -> Callable[..., Any]:
        """Maps over the arguments marked, and splits them over the mesh where that was chosen."""
        if members is None:
            return function

        def one_by_one(*args: Any) -> Any:
            own = [arg for arg, m in zip(args, mapped, strict=True) if m]

            def call(own: list[Any]) -> Any:
                rest = iter(own)
                return function(*(next(rest) if m else arg for arg, m in zip(args, mapped, strict=True)))

            return jax.lax.map(call, own)

        together = jax.vmap(function, in_axes=tuple(0 if m else None for m in mapped))
        over = one_by_one if in_turn else together
        if not split_members:
            return over
        in_specs = tuple(split if m else whole for m in mapped)
        return jax.shard_map(over, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False)

    def wrap(key_data: jax.Array) -> Key:
        return jax.random.wrap_key_data(key_data, impl=key_impl)

    def init(key_data: jax.Array, hyper: dict[str, jax.Array]) -> tuple[Any, PyTree]:
        state = algorithm.init(wrap(key_data))
        totals = _zero_totals(jax.eval_shape(algorithm.step, state, *data)[1])
        return (state.replace(hyper=state.hyper.replace(**hyper)) if hyper else state), totals

    def run(
        state: Any, totals: PyTree, iteration: jax.Array, count: jax.Array, *data: Any
    ) -> tuple[Any, PyTree, jax.Array]:
        def body(index: jax.Array, carry: tuple[Any, PyTree]) -> tuple[Any, PyTree]:
            state, totals = carry
            state, metrics = algorithm.step(state, *data)
            return state, add(totals, metrics, iteration + index)

        state, totals = jax.lax.fori_loop(0, count, body, (state, totals))
        return state, totals, _all_finite(state.params)

    def reset(totals: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, totals) | {"bad": totals["bad"]}

    def evaluation(episodes: int) -> Callable[..., tuple[Episodes, Episodes]]:
        def play(state: Any, key_data: jax.Array) -> tuple[Episodes, Episodes]:
            policy, discount = algorithm.policy(state), getattr(state.hyper, "discount", 1.0)
            first, second = jax.random.split(wrap(key_data))
            return (
                evaluate(judge, policy, first, episodes, deterministic=True, discount=discount),
                evaluate(judge, policy, second, episodes, deterministic=False, discount=discount),
            )

        return over_members(play, True, True)

    def exchange(
        state: Any, totals: PyTree, scores: jax.Array, key_data: jax.Array
    ) -> tuple[Any, PyTree, jax.Array, Any]:
        assert population is not None
        state, source, changed = population.exchange(state, scores, wrap(key_data))
        # Whether a member has diverged is among the totals, and no longer true of what has become a copy.
        return state, jax.tree.map(lambda x: x[source], totals), source, changed

    def measure(state: Any, key_data: jax.Array) -> dict[str, jax.Array]:
        assert algorithm.evaluate is not None
        return {f"evaluation/{name}": value for name, value in algorithm.evaluate(state, wrap(key_data)).items()}

    one_key = jax.random.key(0, impl=key_impl)
    own = {} if algorithm.agent is None else {k: np.float32(v) for k, v in vars(algorithm.agent.hyper()).items()}
    one_state = jax.eval_shape(algorithm.init, one_key)
    names, score = score_names(judge), "evaluation/return"
    if algorithm.evaluate is not None:
        names = tuple(sorted(jax.eval_shape(measure, one_state, jax.random.key_data(one_key))))
        score = "evaluation/score"
    if population is not None and score not in names:
        raise Refused(f"a population needs scores, and {algorithm.name} has no {score} here")
    state_at = totals_at = here = data_at = None
    if mesh.size > 1 and (split_members or members is None):
        # Named, because a program is compiled anew when its arguments come with another placement than before.
        here = NamedSharding(mesh, whole)
        state_at = totals_at = NamedSharding(mesh, split)
        if members is None:
            state_at = jax.tree.map(lambda spec: NamedSharding(mesh, spec), partition_specs(one_state))
            totals_at = here
        data_at = NamedSharding(mesh, split) if members is None else here

    def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return jax.jit(function, **{k: v for k, v in options.items() if v is not None})

    # On a CPU a core's cache holds one member but not all, and XLA runs batches of small products one at a time: taking
    # turns is twice as fast as vmap there (benchmarks/ppo.py measures both).
    in_turn = mesh.devices.flat[0].platform == "cpu"
    both = None if here is None else (state_at, totals_at)

    def shapes(key_data: jax.Array, hyper: dict[str, jax.Array]) -> tuple[Any, PyTree]:
        abstract = jax.eval_shape(over_members(init, True, True), key_data, hyper)
        return abstract if both is None else _placed(abstract, both)

    return Program(
        init=compiled(over_members(init, True, True), out_shardings=both),
        hyper={name: np.full(() if members is None else members, value) for name, value in own.items()},
        shapes=shapes,
        run=compiled(
            over_members(run, True, True, False, False, *(False for _ in data), in_turn=in_turn),
            donate_argnums=(0, 1),
            compiler_options=_compiler_options(mesh, bool(data)),
            in_shardings=both and (*both, here, here, *(data_at for _ in data)),
            out_shardings=both and (*both, totals_at),
        ),
        # Without a device where there is but one: naming it would have `run` compiled again at its second call.
        place=lambda data: jax.device_put(_trimmed(data, shares), data_at),
        reset=compiled(reset, donate_argnums=0, in_shardings=both and (totals_at,), out_shardings=totals_at),
        policy=jax.jit(over_members(algorithm.policy, True)),
        evaluate=jax.jit(lambda state, key_data, n: evaluation(n)(state, key_data), static_argnums=2),
        exchange=None
        if population is None
        else compiled(
            exchange,
            donate_argnums=(0, 1),
            in_shardings=both and (*both, here, here),
            out_shardings=both and (*both, here, here),
        ),
        measure=None if algorithm.evaluate is None else jax.jit(over_members(measure, True, True)),
        metrics=tuple(sorted(jax.eval_shape(algorithm.step, one_state, *data)[1])),
        scores=names,
        score=score if score in names else None,
        devices=mesh.size if split_members or members is None else 1,
        placement=placement,
    )


def _compiler_options(mesh: Mesh, offline: bool) -> dict[str, str] | None:
    """Options by which XLA runs independent kernels side by side: small networks do not fill a GPU.

    Measured with updates alone, on one GPU (benchmarks/offline_speed.py); physics has kernels of its own.
    """
    if not offline or mesh.size > 1 or mesh.devices.flat[0].platform != "gpu":
        return None
    options = {"xla_gpu_command_buffer_scheduling_mode": "CONCURRENT"}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0).compile()
    except jax.errors.JaxRuntimeError:  # a version of XLA without it
        return None
    return options


def _placed(shapes: PyTree, shardings: PyTree) -> PyTree:
    """Shapes with shardings, each of which may be that of a whole subtree."""

    def place(sharding: NamedSharding, subtree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), subtree)

    return jax.tree.map(place, shardings, shapes)


def _trimmed(data: PyTree, shares: int) -> PyTree:
    """The data without the last few rows, which do not divide."""
    return jax.tree.map(lambda x: x[: x.shape[0] // shares * shares], data)


def _shapes(data: PyTree, shares: int) -> PyTree:
    return jax.eval_shape(lambda x: _trimmed(x, shares), data.example if isinstance(data, Feed) else data)


def _zero_totals(metrics: Metrics) -> PyTree:
    def fill(value: float, dtype: Any) -> dict[str, jax.Array]:
        return {name: jnp.full((), value, dtype) for name in metrics}

    return {"sum": fill(0, jnp.float32), "count": fill(0, jnp.float32), "bad": fill(-1, jnp.int32)}


def add(totals: PyTree, metrics: Metrics, iteration: jax.Array) -> PyTree:
    """Adds one step's metrics, sums and counts, and keeps the first iteration at which each was not finite.

    Summing on the device makes the cost of metrics O(logs), not O(steps).
    """
    means = {name: x if isinstance(x, Mean) else Mean.of(x) for name, x in metrics.items()}
    finite = {name: jnp.isfinite(x.total) for name, x in means.items()}
    bad = totals["bad"]
    return {
        "sum": {name: totals["sum"][name] + jnp.where(finite[name], x.total, 0.0) for name, x in means.items()},
        "count": {name: totals["count"][name] + jnp.where(finite[name], x.count, 0.0) for name, x in means.items()},
        "bad": {name: jnp.where((bad[name] < 0) & ~finite[name], iteration, bad[name]) for name in means},
    }


def means(totals: PyTree) -> dict[str, np.ndarray]:
    """Means over all that was counted in finite sums, [members]; NaN where nothing was."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {n: np.atleast_1d(np.divide(x, totals["count"][n])) for n, x in totals["sum"].items()}


def diverged(bad: dict[str, np.ndarray], finite: np.ndarray, per_iteration: int, steps: int) -> dict[int, str]:
    """The members that diverged, and why, in words.

    Args:
      bad: by metric, the first iteration at which it was not finite, or -1: [members].
      finite: whether all parameters are, [members].
      per_iteration: steps of an iteration.
      steps: steps made by now.
    """
    found: dict[int, str] = {}
    for name, iterations in bad.items():
        for member, iteration in enumerate(np.atleast_1d(iterations).tolist()):
            if iteration >= 0:
                found.setdefault(member, f"{name} is not finite at step {(iteration + 1) * per_iteration:,}")
    for member in np.flatnonzero(~finite).tolist():
        found.setdefault(member, f"a parameter is not finite at step {steps:,}")
    return found


def _all_finite(tree: PyTree) -> jax.Array:
    leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack(leaves).all()
