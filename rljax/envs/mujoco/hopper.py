"""Hopper-v5: a planar one-legged robot hops forward without falling."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from rljax.envs.mujoco.engine import Physics, gymnasium_model
from rljax.envs.mujoco.task import MujocoTask, Score
from rljax.types import Key


class Hopper(MujocoTask):
    """Gymnasium's Hopper-v5: observation [11], action [3]; it terminates outside the healthy ranges."""

    camera: ClassVar[dict[str, Any]] = {
        "trackbodyid": 2,
        "distance": 3.0,
        "lookat": (0.0, 0.0, 1.15),
        "elevation": -20.0,
    }
    file = "hopper.xml"

    def __init__(
        self,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-3,
        healthy_reward: float = 1.0,
        terminate_when_unhealthy: bool = True,
        healthy_state_range: tuple[float, float] = (-100.0, 100.0),
        healthy_z_range: tuple[float, float] = (0.7, float("inf")),
        healthy_angle_range: tuple[float, float] = (-0.2, 0.2),
        reset_noise_scale: float = 5e-3,
        exclude_current_positions_from_observation: bool = True,
        **engine: Any,
    ):
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.healthy_reward = healthy_reward
        self.terminate_when_unhealthy = terminate_when_unhealthy
        self.healthy_state_range = healthy_state_range
        self.healthy_z_range = healthy_z_range
        self.healthy_angle_range = healthy_angle_range
        self.reset_noise_scale = reset_noise_scale
        self.first_observed = 1 if exclude_current_positions_from_observation else 0
        super().__init__(gymnasium_model(self.file), 4, ("qpos_change",), **engine)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        return self._uniform_start(key, self.reset_noise_scale)

    def observe(self, physics: Physics) -> jax.Array:
        return jnp.concatenate([physics.qpos[self.first_observed :], jnp.clip(physics.qvel, -10.0, 10.0)])

    def healthy(self, physics: Physics) -> jax.Array:
        """bool []: upright, off the floor, and no joint thrown about."""
        z, angle = physics.qpos[1], physics.qpos[2]
        others = jnp.concatenate([physics.qpos[2:], physics.qvel])
        (low, high), (low_z, high_z) = self.healthy_state_range, self.healthy_z_range
        low_angle, high_angle = self.healthy_angle_range
        upright = (low_z < z) & (z < high_z) & (low_angle < angle) & (angle < high_angle)
        return upright & ((low < others) & (others < high)).all()

    def score(self, before: Physics, after: Physics, action: jax.Array) -> Score:
        x_velocity = after.qpos_change[0] / self.dt
        healthy = self.healthy(after)
        forward = self.forward_reward_weight * x_velocity
        survive = self.healthy_reward * healthy
        control = -self.ctrl_cost_weight * jnp.square(action).sum()
        metrics = {
            "x_position": after.qpos[0],
            "z_distance_from_origin": after.qpos[1] - self.initial_qpos[1],
            "x_velocity": x_velocity,
            "reward_forward": forward,
            "reward_ctrl": control,
            "reward_survive": survive,
        }
        return Score(forward + survive + control, ~healthy & self.terminate_when_unhealthy, metrics)
