"""What is exported: a policy as a function of named arrays, in the environment's own units."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.deploy import program as programs
from rljax.deploy.program import Program, Value
from rljax.envs import Environment
from rljax.nn.networks import as_convolutions
from rljax.policy import Policy
from rljax.spaces import example
from rljax.types import PyTree, Refused


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or an output.

    Fields:
      name: of the whole file's inputs and outputs, such as "obs", "camera", "memory/chunk" and "next_memory/chunk".
      group: "obs", "memory", "noise", "action" or "next_memory".
      key: place within its group; "" where the group is one array.
      shape: with the axis of the batch, of one observation.
      initial: of a memory, the value before the first step.
      kind: of noise, its distribution: "normal" for N(0, 1), "uniform" for [0, 1).
      place: among the leaves of its group.
      value: in the program.
    """

    name: str
    group: str
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    place: int
    value: Value
    initial: np.ndarray | None = None
    kind: str = ""


GROUPS = ("obs", "memory", "noise")
"""The groups of inputs, in the order of the arguments."""
Arrays = Mapping[str, Any]
"""Arrays by the names of ports."""
Run = Callable[[Arrays], dict[str, np.ndarray]]
"""A function of all inputs to all outputs, whatever runs it."""


class Source:
    """A policy as `(obs[, memory][, noise]) -> action[, memory]`, of the inputs that its action depends on alone.

    What it does not see, such as a privileged part of the observation, is no input, and what it does not need to
    remember no memory.

    Args:
      policy: what acts.
      env: its environment, of which only the spaces are used.
      deterministic: whether it acts without noise; else its random draws are inputs.

    Attributes:
      program: its equations, for a batch of one.
      inputs, outputs: what it is given, and gives: first the action.
    """

    def __init__(self, policy: Policy, env: Environment, deterministic: bool = True):
        self.policy, self.env, self.deterministic = policy, env, deterministic
        self.program = self.trace(1)
        obs = _named(self._example((1,))[0])
        memory = _named(policy.initial_memory)
        given, (action, *after) = self.program.inputs, self.program.outputs
        seen = self._needed([action], given[len(obs) :], after)
        ports = []
        for group, leaves, values in (("obs", obs, given), ("memory", memory, given[len(obs) :])):
            for place, ((key, leaf), value) in enumerate(zip(leaves.items(), values, strict=False)):
                name = f"memory/{key}" if group == "memory" else key or group
                initial = np.asarray(leaf) if group == "memory" else None
                if value in seen:
                    dtype = np.dtype(value.dtype)
                    ports.append(Port(name, group, key, value.shape, dtype, place, value, initial))
        if len(alone := [port for port in ports if port.group == "memory"]) == 1:
            ports[-1] = dataclasses.replace(alone[0], name="memory", key="")
        draws = [(place, draw) for place, draw in enumerate(self.program.draws) if draw.value in seen]
        for number, (place, draw) in enumerate(draws):
            key = str(number) if len(draws) > 1 else ""
            name, shape = f"noise/{key}".rstrip("/"), draw.value.shape
            ports.append(Port(name, "noise", key, shape, np.dtype(np.float32), place, draw.value, kind=draw.kind))
        if not any(port.group == "obs" for port in ports):
            raise Refused("the policy's action depends on nothing that it observes, so there is nothing to export")
        self.inputs: list[Port] = ports
        self.outputs = [Port("action", "action", "", action.shape, np.dtype(action.dtype), 0, action)]
        for port in self.group("memory"):
            value, name = after[port.place], f"next_{port.name}"
            self.outputs.append(
                Port(name, "next_memory", port.key, value.shape, np.dtype(value.dtype), port.place, value)
            )
        names = [port.name for port in (*self.inputs, *self.outputs)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Refused(
                f"a part of the observation is called {', '.join(twice)}, which is the name of something else"
            )
        self.program.outputs = [port.value for port in self.outputs]
        programs.remove_dead(self.program)

    def group(self, name: str) -> list[Port]:
        """The inputs of a group."""
        return [port for port in self.inputs if port.group == name]

    def trace(self, batch: Any, simple: bool = True) -> Program:
        """The policy's program, for a batch of this size, which may be a symbol where it is not `simple`."""
        obs, memory = self._example((batch,))

        def act(key: jax.Array, obs: PyTree, memory: PyTree) -> tuple[jax.Array, PyTree]:
            return self.policy.apply(key, obs, memory, self.deterministic)[:2]

        with convolutions():
            return programs.trace(act, obs, memory, simple=simple)

    def arguments_of(self, inputs: Arrays) -> list[Any]:
        """The arguments of `function`, from the inputs."""
        groups = filter(None, map(self.group, GROUPS))
        return [_as_group({port.key: inputs[port.name] for port in group}) for group in groups]

    def outputs_of(self, results: Any) -> dict[str, Any]:
        """The outputs, from the results of `function`."""
        action, memory = results if self.group("memory") else (results, None)
        after = {port.name: _entry(memory, port) for port in self.outputs[1:]}
        return {"action": action} | after

    def _example(self, batch: tuple[Any, ...]) -> tuple[PyTree, PyTree]:
        """Shapes of observations and of memory."""
        obs = example(self.env.observation_space)
        of = lambda x: jax.ShapeDtypeStruct((*batch, *jnp.shape(x)), jnp.result_type(x))  # noqa: E731
        return jax.tree.map(of, obs), jax.tree.map(of, self.policy.initial_memory)

    def _needed(self, outputs: Sequence[Value], before: Sequence[Value], after: Sequence[Value]) -> set[Value]:
        """What the outputs depend on, in this step or, through the memory, in an earlier one."""
        outputs = list(outputs)
        while True:
            found = programs.needed(self.program, outputs)
            more = [y for x, y in zip(before, after, strict=False) if x in found and y not in outputs]
            if not more:
                return found
            outputs += more

    def function(self, batch: Any) -> Any:
        """The function `(obs[, memory][, noise]) -> action`, or `-> (action, memory)`, for batches of this size.

        Each argument is an array, or a dict of arrays by `Port.key`.
        """
        groups = [name for name in GROUPS if self.group(name)]
        program = self.trace(batch, simple=False) if "noise" in groups else None
        example_obs, example_memory = self._example((batch,))

        def leaves(group: str, like: PyTree, given: Any) -> list[Any]:
            """All leaves of a group; those that nothing depends on are zeros."""
            ports = {port.place: port for port in self.group(group)}
            return [
                _entry(given, ports[i]) if i in ports else jnp.zeros(x.shape, x.dtype)
                for i, x in enumerate(jax.tree.leaves(like))
            ]

        def act(*arguments: Any) -> Any:
            given = dict(zip(groups, arguments, strict=True))
            obs = leaves("obs", example_obs, given.get("obs"))
            memory = leaves("memory", example_memory, given.get("memory"))
            if program is None:
                trees = (
                    jax.tree.unflatten(jax.tree.structure(example_obs), obs),
                    jax.tree.unflatten(jax.tree.structure(example_memory), memory),
                )
                action, after, _ = self.policy.apply(jax.random.key(0), *trees, deterministic=self.deterministic)
                after = jax.tree.leaves(after)
            else:
                noise = [jnp.zeros(draw.value.shape, jnp.float32) for draw in program.draws]
                for port in self.group("noise"):
                    noise[port.place] = _entry(given["noise"], port)
                action, *after = programs.evaluate(program, [*obs, *memory], noise)
            if "memory" not in groups:
                return action
            return action, _as_group({port.key: after[port.place] for port in self.group("memory")})

        return act

    def arguments(self, batch: Any) -> list[Any]:
        """Shapes of the arguments of `function`."""
        traced = self.trace(batch, simple=False) if self.group("noise") else None
        made = []
        for name in GROUPS:
            ports = self.group(name)
            shapes = {}
            for port in ports:
                noise = traced is not None and port.group == "noise"
                shape = traced.draws[port.place].value.shape if noise else (batch, *port.shape[1:])  # type: ignore[union-attr]
                shapes[port.key] = jax.ShapeDtypeStruct(shape, port.dtype)
            if ports:
                made.append(_as_group(shapes))
        return made


@contextmanager
def convolutions() -> Iterator[None]:
    """While it lasts, convolutions are traced as such on every device."""
    token = as_convolutions.set(True)
    try:
        yield
    finally:
        as_convolutions.reset(token)


def _named(tree: PyTree) -> dict[str, Any]:
    """The leaves by their place, "" for a single array."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _entry(given: Any, port: Port) -> Any:
    return given[port.key] if port.key else given


def _as_group(arrays: dict[str, Any]) -> Any:
    return arrays[""] if set(arrays) == {""} else arrays
