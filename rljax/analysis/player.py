"""Policies that act in real time, one step at a time, and can be pushed: what the viewer shows."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from numpy.typing import ArrayLike

from rljax.envs.environment import Environment, State
from rljax.envs.mujoco.engine import Physics
from rljax.envs.mujoco.task import MujocoTask
from rljax.envs.rollout import Acting, advance, begin
from rljax.envs.wrappers import Guard
from rljax.ops.trees import chosen
from rljax.policy import Policy
from rljax.types import Refused

_DATA = ("qpos", "qvel", "act", "ctrl", "mocap_pos", "mocap_quat", "eq_active")


class Player:
    """Several policies side by side, each in an environment of its own; an episode that ends begins anew.

    Fields:
      states: the states of all, as arrays of NumPy [members, …].
      returns, lengths: the reward and the steps of the running episodes, [members].
      finished: the return of the last episode that ended, [members]; NaN before the first.
      rate: steps per second in real time.
    """

    def __init__(self, env: Environment, policies: Sequence[Policy], seed: int = 0, deterministic: bool = True):
        if not policies:
            raise Refused("there must be one policy at least")
        self.env, self.deterministic = Guard.around(env), deterministic
        self.members = len(policies)
        task = env.unwrapped
        self.task: MujocoTask | None = task if isinstance(task, MujocoTask) else None
        self.rate = (getattr(task, "control_rate", None) or 30.0) / env.steps_per_action
        # Each was loaded with a function of its own, which are all the same.
        alike = [policy.replace(function=policies[0].function) for policy in policies]
        self._policies = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alike)
        self._key = jax.random.key(seed)
        self._begin = jax.jit(jax.vmap(lambda policy, key: begin(self.env, policy, key, 1)))
        self._advance = jax.jit(self._advanced, static_argnums=3)
        self.reset()

    def reset(self) -> None:
        """Begins a new episode with all policies."""
        self._key, key = jax.random.split(self._key)
        self._acting = self._begin(self._policies, jax.random.split(key, self.members))
        self.returns, self.lengths = np.zeros(self.members), np.zeros(self.members, int)
        self.finished = np.full(self.members, np.nan)
        self._read()

    def step(self) -> None:
        """Makes one step with all policies; where the episode was over, the next one begins instead."""
        over = np.asarray(self.states.terminated | self.states.truncated)
        self._key, key = jax.random.split(self._key)
        keys = jax.random.split(key, self.members)
        self._acting = self._advance(self._policies, self._acting, keys, self.deterministic)
        if over.any():
            fresh = self._begin(self._policies, jax.random.split(jax.random.fold_in(key, 1), self.members))
            self._acting = chosen(jnp.asarray(over), fresh, self._acting)
        self._read()
        self.returns = np.where(over, 0.0, self.returns + self.states.reward)
        self.lengths = np.where(over, 0, self.lengths + 1)
        ended = np.asarray(self.states.terminated | self.states.truncated)
        self.finished = np.where(ended, self.returns, self.finished)

    def push(self, body: int, impulse: ArrayLike) -> None:
        """Hits a body of each robot with an impulse [3] in N·s, at its centre of mass."""
        assert self.task is not None
        physics = self._acting.state.physics
        rows = [pushed(self.task.model, self._row(i).physics, body, impulse) for i in range(self.members)]
        velocities = jnp.asarray(np.stack(rows), physics.qvel.dtype)[:, None]
        self._acting = self._acting.replace(
            state=self._acting.state.replace(physics=physics.replace(qvel=velocities)),
        )
        self._read()

    def state(self, member: int) -> State:
        """The state of one, for `Environment.render`."""
        return self._row(member)

    def metrics(self, member: int) -> dict[str, float]:
        """What the task measured in the last step of one."""
        return {name: float(value[member]) for name, value in sorted(self.states.metrics.items()) if value.ndim == 1}

    def bodies(self) -> dict[str, int]:
        """The bodies that can be pushed, by name."""
        assert self.task is not None
        model = self.task.model
        moves = [body for body in range(1, model.nbody) if model.body_weldid[body] != 0 and model.body_mass[body] > 0]
        return {model.body(body).name or f"body {body}": body for body in moves}

    def poses(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Positions [members, bodies, 3] and rotations [members, bodies, 3, 3]; of mocap bodies, with quaternions."""
        assert self.task is not None
        found = [_data_of(self.task.model, self._row(i).physics) for i in range(self.members)]
        positions = np.stack([data.xpos for data in found])
        rotations = np.stack([data.xmat.reshape(-1, 3, 3) for data in found])
        return positions, rotations, np.stack([d.mocap_pos for d in found]), np.stack([d.mocap_quat for d in found])

    def _advanced(self, policies: Policy, acting: Acting, keys: jax.Array, deterministic: bool) -> Acting:
        def one(policy: Policy, acting: Acting, key: jax.Array) -> Acting:
            return advance(self.env, policy, acting, key, deterministic)[0]

        return jax.vmap(one)(policies, acting, keys)

    def _read(self) -> None:
        """Fetches the states at once, each without its batch of one."""
        self.states: Any = jax.tree.map(lambda x: x[:, 0], jax.device_get(self._acting.state))

    def _row(self, member: int) -> State:
        return jax.tree.map(lambda x: x[member], self.states)


def pushed(model: mujoco.MjModel, physics: Physics, body: int, impulse: ArrayLike) -> np.ndarray:
    """The velocities [nv] right after an impulse [3] in N·s at a body's centre of mass: M⁻¹ Jᵀ p is added to them."""
    data = _data_of(model, physics)
    force, change = np.zeros(model.nv), np.zeros(model.nv)
    mujoco.mj_applyFT(model, data, np.asarray(impulse, float), np.zeros(3), data.xipos[body], body, force)
    mujoco.mj_solveM(model, data, change[None], force[None])
    return np.asarray(physics.qvel, float) + change


def _data_of(model: mujoco.MjModel, physics: Physics) -> mujoco.MjData:
    data = mujoco.MjData(model)
    for name in _DATA:
        getattr(data, name)[...] = getattr(physics, name)
    mujoco.mj_forward(model, data)
    return data
