"""Ant-v5: a four-legged robot runs forward in three dimensions."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from rljax.envs.mujoco.engine import Physics, gymnasium_model
from rljax.envs.mujoco.task import MujocoTask, Score
from rljax.types import Key


class Ant(MujocoTask):
    """Gymnasium's Ant-v5: observation [105], contact forces included, action [8]; terminates when it flips or jumps."""

    camera: ClassVar[dict[str, Any]] = {"trackbodyid": 1, "distance": 4.0}

    def __init__(
        self,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 0.5,
        contact_cost_weight: float = 5e-4,
        healthy_reward: float = 1.0,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: tuple[float, float] = (0.2, 1.0),
        contact_force_range: tuple[float, float] = (-1.0, 1.0),
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
        include_cfrc_ext_in_observation: bool = True,
        **engine: Any,
    ):
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.contact_cost_weight = contact_cost_weight
        self.healthy_reward = healthy_reward
        self.terminate_when_unhealthy = terminate_when_unhealthy
        self.healthy_z_range = healthy_z_range
        self.contact_force_range = contact_force_range
        self.reset_noise_scale = reset_noise_scale
        self.first_observed = 2 if exclude_current_positions_from_observation else 0
        self.observe_contact = include_cfrc_ext_in_observation
        super().__init__(gymnasium_model("ant.xml"), 5, ("xpos", "cfrc_ext"), **engine)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        return self._normal_velocity_start(key, self.reset_noise_scale)

    def contact_forces(self, physics: Physics) -> jax.Array:
        """External forces and torques on each body [bodies, 6], clipped."""
        return jnp.clip(physics.cfrc_ext, *self.contact_force_range)

    def observe(self, physics: Physics) -> jax.Array:
        parts = [physics.qpos[self.first_observed :], physics.qvel]
        if self.observe_contact:
            parts.append(self.contact_forces(physics)[1:].ravel())
        return jnp.concatenate(parts)

    def score(self, before: Physics, after: Physics, action: jax.Array) -> Score:
        x_velocity, y_velocity = (after.xpos[1, :2] - before.xpos[1, :2]) / self.dt
        low, high = self.healthy_z_range
        finite = jnp.isfinite(after.qpos).all() & jnp.isfinite(after.qvel).all()
        healthy = finite & (low <= after.qpos[2]) & (after.qpos[2] <= high)
        forward = self.forward_reward_weight * x_velocity
        survive = self.healthy_reward * healthy
        control = -self.ctrl_cost_weight * jnp.square(action).sum()
        contact = -self.contact_cost_weight * jnp.square(self.contact_forces(after)).sum()
        metrics = {
            "x_position": after.qpos[0],
            "y_position": after.qpos[1],
            "x_velocity": x_velocity,
            "y_velocity": y_velocity,
            "reward_forward": forward,
            "reward_ctrl": control,
            "reward_contact": contact,
            "reward_survive": survive,
        }
        return Score(forward + survive + control + contact, ~healthy & self.terminate_when_unhealthy, metrics)
