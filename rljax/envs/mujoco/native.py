"""The engine for CPUs: MuJoCo's C library, stepped on a thread pool from inside the compiled program.

The state is arrays, so it is copied, batched, reset and saved like any other; the simulators on the host keep nothing
between calls. Under vmap all environments reach the host in one call. `mujoco.batch` steps them: unlike
`mujoco.rollout` it hands back the solver's warm start and the derived quantities that a task asks for.
"""

import contextlib
import copy
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError

from rljax.envs.host_call import host_call
from rljax.envs.mujoco.engine import STATE_FIELDS, Engine, Physics
from rljax.types import Refused

_STATE = mujoco.mjtState
_COMPONENTS = {
    "time": _STATE.mjSTATE_TIME,
    "qpos": _STATE.mjSTATE_QPOS,
    "qvel": _STATE.mjSTATE_QVEL,
    "act": _STATE.mjSTATE_ACT,
    "qacc_warmstart": _STATE.mjSTATE_WARMSTART,
    "ctrl": _STATE.mjSTATE_CTRL,
    "eq_active": _STATE.mjSTATE_EQ_ACTIVE,
    "mocap_pos": _STATE.mjSTATE_MOCAP_POS,
    "mocap_quat": _STATE.mjSTATE_MOCAP_QUAT,
}
_SIGNATURE = _STATE.mjSTATE_INTEGRATION.value
_NONE = np.zeros(0, int)
_REFUSED = {"plugins": _STATE.mjSTATE_PLUGIN, "delayed controls or sensors": _STATE.mjSTATE_HISTORY}


class NativeEngine(Engine):
    """Steps a model by the C library, on `threads` threads (default: as many as there are cores)."""

    name = "native"

    def __init__(self, model: mujoco.MjModel, substeps: int, outputs: Sequence[str] = (), threads: int | None = None):
        super().__init__(copy.copy(model), substeps, outputs)
        for feature, component in _REFUSED.items():
            if mujoco.mj_stateSize(model, component):
                raise Refused(f"engine native: the model has {feature}, which it does not carry from step to step")
        if threads is not None and threads < 1:
            raise Refused(f"engine native: threads must be at least 1, got {threads}")
        # An unstable simulation stays NaN, so that the task sees it, instead of going on from a reset by itself.
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        self.threads = threads or _available_cores()
        self._carried = tuple(name for name, value in self.initial.items() if value.size)
        self._results = {name: self.initial[name].shape for name in self._carried} | self.output_shapes
        self._simulators = _Pool(self._make_simulator)
        weakref.finalize(self, self._simulators.close)

    def reset(self, qpos: jax.Array, qvel: jax.Array) -> Physics:
        fields = {name: jnp.asarray(value) for name, value in self.initial.items()}
        return self._call(self._forward, fields | {"qpos": qpos, "qvel": qvel})

    def step(self, physics: Physics, ctrl: jax.Array) -> Physics:
        fields = {name: getattr(physics, name) for name in STATE_FIELDS}
        return self._call(self._advance, fields | {"ctrl": ctrl})

    def close(self) -> None:
        self._simulators.close()

    def _call(self, function: Callable, fields: dict[str, jax.Array]) -> Physics:
        operands = [fields[name].astype(jnp.float32) for name in self._carried]
        results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self._results.values()]
        values = dict(zip(self._results, host_call(function, operands, results), strict=True))
        derived = {name: values.pop(name) for name in self.outputs}
        return Physics(**{name: values.get(name, fields[name]) for name in STATE_FIELDS}, derived=derived)

    def _forward(self, *rows: np.ndarray) -> list[np.ndarray]:
        return self._run(rows, 0)

    def _advance(self, *rows: np.ndarray) -> list[np.ndarray]:
        return self._run(rows, self.substeps)

    def _run(self, rows: Sequence[np.ndarray], substeps: int) -> list[np.ndarray]:
        fields = dict(zip(self._carried, rows, strict=True))
        # Unstable simulations are over: they cost nothing until they are reset.
        going = np.isfinite(fields["qpos"]).all(axis=1) & np.isfinite(fields["qvel"]).all(axis=1)
        with self._simulators.borrow(len(going)) as simulator:
            ids = None if simulator.capacity == len(going) and going.all() else np.flatnonzero(going)
            failed = simulator.run(fields, ids, len(going), substeps)
            values = simulator.values
            with np.errstate(over="ignore"):  # beyond single precision: unstable, and infinite from here on
                results = {n: values[n][: len(going)].astype(np.float32) for n in self._results if n != "qpos_change"}
            if "qpos_change" in self.outputs:
                results["qpos_change"] = (values["qpos"][: len(going)] - fields["qpos"]).astype(np.float32)
        results["qpos"][failed] = np.nan
        return [results[name] for name in self._results]

    def _make_simulator(self, capacity: int) -> "_Simulator":
        names = [name for name in self._results if name != "qpos_change"]
        kind = _Looped if "cfrc_ext" in self.outputs else _Batched
        return kind(self.model, capacity, names, self.threads)


class _Simulator(Protocol):
    """Simulations in rows, up to `capacity`; `values` holds the named fields [capacity, …] in double precision."""

    capacity: int
    values: dict[str, np.ndarray]

    def run(self, fields: dict[str, np.ndarray], ids: np.ndarray | None, count: int, substeps: int) -> np.ndarray:
        """Loads `count` rows, steps those of `ids` (forward only for 0 substeps), and says which rows failed."""

    def close(self) -> None: ...


class _Batched:
    """`mujoco.batch`: one call into C++ for all simulations."""

    def __init__(self, model: mujoco.MjModel, capacity: int, names: Sequence[str], threads: int):
        self.capacity = capacity
        self.batch = Batch(model, capacity, threads)
        # Only a first warning is printed, and what goes unstable is counted in the task's metrics.
        self.batch.warning[...] = 1
        self.values = {name: self.batch.bind(name) for name in names}

    def run(self, fields: dict[str, np.ndarray], ids: np.ndarray | None, count: int, substeps: int) -> np.ndarray:
        for name, rows in fields.items():
            self.values[name][:count] = rows
        try:
            if substeps:
                self.batch.step(ids, nstep=substeps)
            else:
                self.batch.forward(ids)
        except SimulationError as error:
            return error.ids
        return _NONE

    def close(self) -> None:
        self.values.clear()
        del self.batch


class _Looped:
    """One simulation after another on Python threads, for contact forces as `mj_rnePostConstraint` gives them.

    `mujoco.batch` computes them only for sensors, before the stages of RK4, whereas Gymnasium reads them after.
    """

    def __init__(self, model: mujoco.MjModel, capacity: int, names: Sequence[str], threads: int):
        self.capacity, self.model = capacity, model
        self.datas = [mujoco.MjData(model) for _ in range(threads)]
        for data in self.datas:
            data.warning.number[:] = 1  # as in _Batched
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="rljax-mujoco")
        bits = [1 << i for i in range(_STATE.mjNSTATE.value) if _SIGNATURE & (1 << i)]
        ends = np.cumsum([0, *(mujoco.mj_stateSize(model, bit) for bit in bits)])
        columns = dict(zip(bits, itertools.pairwise(ends), strict=True))
        self.state = np.zeros((capacity, ends[-1]))
        template = self.datas[0]
        self.values: dict[str, np.ndarray] = {}
        self.derived: list[str] = []
        for name in names:
            shape = (capacity, *np.shape(getattr(template, name)))
            if name in _COMPONENTS:
                self.values[name] = self.state[:, slice(*columns[_COMPONENTS[name].value])].reshape(shape, copy=False)
            else:
                self.values[name] = np.zeros(shape)
                self.derived.append(name)

    def run(self, fields: dict[str, np.ndarray], ids: np.ndarray | None, count: int, substeps: int) -> np.ndarray:
        for name, rows in fields.items():
            self.values[name][:count] = rows
        parts = np.array_split(np.arange(count) if ids is None else ids, len(self.datas))
        list(self.threads.map(lambda data, part: self._run_part(data, part, substeps), self.datas, parts))
        return _NONE

    def _run_part(self, data: Any, ids: np.ndarray, substeps: int) -> None:
        model, state = self.model, self.state
        derived = [(self.values[name], getattr(data, name)) for name in self.derived]
        for i in ids:
            if not substeps:
                data.cfrc_ext[:] = 0.0  # there are none yet after a reset, in Gymnasium too
            mujoco.mj_setState(model, data, state[i], _SIGNATURE)
            if substeps:
                mujoco.mj_step(model, data, substeps)
                mujoco.mj_rnePostConstraint(model, data)
            else:
                mujoco.mj_forward(model, data)
            mujoco.mj_getState(model, data, state[i], _SIGNATURE)
            for rows, value in derived:
                rows[i] = value

    def close(self) -> None:
        self.threads.shutdown()


class _Pool:
    """Simulators for calls that come at once: from several devices, or from programs that run side by side."""

    def __init__(self, make: Callable[[int], _Simulator]):
        self._make = _weak(make)
        self._lock = threading.Lock()
        self._free: list[_Simulator] = []

    @contextlib.contextmanager
    def borrow(self, count: int) -> Iterator[_Simulator]:
        """Lends a simulator with room for `count`; a smaller one is replaced."""
        with self._lock:
            fitting = [s for s in self._free if s.capacity >= count]
            chosen = min(fitting, key=lambda s: s.capacity, default=None) or (self._free[-1] if self._free else None)
            if chosen is not None:
                self._free.remove(chosen)
        if chosen is None or chosen.capacity < count:
            if chosen is not None:
                chosen.close()
            chosen = self._make(count)
        try:
            yield chosen
        finally:
            with self._lock:
                self._free.append(chosen)

    def close(self) -> None:
        with self._lock:
            free, self._free = self._free, []
        for simulator in free:
            simulator.close()


def _weak(method: Callable) -> Callable:
    """A bound method that does not keep its object alive, which owns the pool."""
    reference = weakref.WeakMethod(method)  # type: ignore[arg-type]
    return lambda *args: reference()(*args)  # type: ignore[misc]


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
