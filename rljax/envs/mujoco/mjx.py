"""The engines for accelerators: MuJoCo XLA (pure JAX, differentiable) and MuJoCo Warp (NVIDIA GPUs)."""

import copy
import importlib.util
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import mjx

from rljax.envs.mujoco.engine import STATE_FIELDS, Engine, Physics
from rljax.types import Refused


class MjxEngine(Engine):
    """Steps a model by MuJoCo XLA.

    Args:
      iterations, ls_iterations: limits of the constraint solver and of its line search. In single precision it rarely
        meets the model's tolerance, and every environment of a batch waits for the slowest: with the model's own
        limits (100 and 50) a HalfCheetah is about four times slower, and no nearer to Gymnasium's.
    """

    name = "mjx"
    implementation = "jax"

    def __init__(
        self,
        model: mujoco.MjModel,
        substeps: int,
        outputs: Sequence[str] = (),
        iterations: int = 8,
        ls_iterations: int = 10,
    ):
        if iterations < 1 or ls_iterations < 1:
            raise Refused(f"engine {self.name}: iterations and ls_iterations must be at least 1")
        super().__init__(copy.copy(model), substeps, outputs)
        options = self.model.opt
        if options.solver == mujoco.mjtSolver.mjSOL_PGS:
            options.solver = mujoco.mjtSolver.mjSOL_NEWTON  # MJX has no PGS; both solve the same problem
        options.iterations, options.ls_iterations = iterations, ls_iterations
        try:
            self.mjx_model = mjx.put_model(self.model, impl=self.implementation)
        except NotImplementedError as error:
            raise Refused(f"engine {self.name} cannot run this model: {error}") from None

    def reset(self, qpos: jax.Array, qvel: jax.Array) -> Physics:
        data = mjx.forward(self.mjx_model, self._make_data().replace(qpos=qpos, qvel=qvel))
        return self._view(data, qpos)

    def step(self, physics: Physics, ctrl: jax.Array) -> Physics:
        fields = {name: getattr(physics, name) for name in STATE_FIELDS} | {"ctrl": ctrl}
        data = self._make_data()
        data = data.replace(**{name: value.astype(getattr(data, name).dtype) for name, value in fields.items()})
        data = jax.lax.fori_loop(0, self.substeps, lambda _, data: mjx.step(self.mjx_model, data), data)
        if "cfrc_ext" in self.outputs:
            data = mjx.rne_postconstraint(self.mjx_model, data)
        return self._view(data, physics.qpos)

    def _make_data(self) -> mjx.Data:
        return mjx.make_data(self.model, impl=self.implementation)

    def _view(self, data: mjx.Data, qpos_before: jax.Array) -> Physics:
        state = {name: getattr(data, name).astype(jnp.float32) for name in STATE_FIELDS}
        derived = {name: _field(data, name) for name in self.outputs if name != "qpos_change"}
        if "qpos_change" in self.outputs:
            derived["qpos_change"] = data.qpos - qpos_before
        return Physics(**state, derived=derived)


class WarpEngine(MjxEngine):
    """Steps a model by MuJoCo Warp, through MJX.

    Memory for contacts and constraints is fixed beforehand. The defaults are twice the most that occurred while the
    model was thrown about on the CPU, and `overflow` in the task's metrics says where that was too little.

    Args:
      contacts: most contacts of one environment.
      constraints: most rows of constraints of one environment.
      worlds: most environments stepped together.
      solver: `iterations` and `ls_iterations`, as of MJX.
    """

    name = "warp"
    implementation = "warp"

    def __init__(
        self,
        model: mujoco.MjModel,
        substeps: int,
        outputs: Sequence[str] = (),
        contacts: int | None = None,
        constraints: int | None = None,
        worlds: int = 8192,
        **solver: int,
    ):
        if importlib.util.find_spec("warp") is None:
            raise Refused('engine warp needs MuJoCo Warp, which is not installed: pip install "rljax[warp]"')
        if "cfrc_ext" in outputs:
            raise Refused("engine warp: MJX does not hand out Warp's contact forces (cfrc_ext); use mjx or native")
        most_contacts, most_constraints = most_used(model)
        self.contacts = contacts or 2 * most_contacts + 4
        self.constraints = constraints or 2 * most_constraints + 8
        self.worlds = worlds
        super().__init__(model, substeps, outputs, **solver)

    def _make_data(self) -> mjx.Data:
        return mjx.make_data(
            self.model, impl=self.implementation, naconmax=self.contacts * self.worlds, njmax=self.constraints
        )

    def _view(self, data: mjx.Data, qpos_before: jax.Array) -> Physics:
        physics = super()._view(data, qpos_before)
        implementation: Any = data._impl
        overflow = (implementation.nefc > self.constraints) | (implementation.nacon > self.contacts * self.worlds)
        return physics.replace(derived=physics.derived | {"overflow": jnp.max(overflow)})


def most_used(model: mujoco.MjModel, steps: int = 1000) -> tuple[int, int]:
    """The most contacts and rows of constraints that occur under random controls, on the CPU."""
    data = mujoco.MjData(model)
    generator = np.random.default_rng(0)
    low, high = np.where(model.actuator_ctrllimited, model.actuator_ctrlrange.T, [[-1.0], [1.0]])
    contacts = constraints = 0
    for step in range(steps):
        if step % 250 == 0:
            mujoco.mj_resetData(model, data)
            data.qvel[:] = generator.normal(size=model.nv)
        if step % 10 == 0:
            data.ctrl[:] = generator.uniform(low, high)
        mujoco.mj_step(model, data)
        contacts, constraints = max(contacts, data.ncon), max(constraints, data.nefc)
    return contacts, constraints


def _field(data: mjx.Data, name: str) -> jax.Array:
    """A derived field; those that MJX keeps to itself too."""
    return getattr(data if name in mjx.Data.__dataclass_fields__ else data._impl, name)
