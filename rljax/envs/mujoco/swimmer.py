"""Swimmer-v5: a chain of three links swims forward."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from rljax.envs.mujoco.engine import Physics, gymnasium_model
from rljax.envs.mujoco.task import MujocoTask, Score
from rljax.types import Key


class Swimmer(MujocoTask):
    """Gymnasium's Swimmer-v5: observation [8], action [2]; it never terminates."""

    camera: ClassVar[dict[str, Any]] = {"trackbodyid": 1, "distance": 4.0}

    def __init__(
        self,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-4,
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
        **engine: Any,
    ):
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.reset_noise_scale = reset_noise_scale
        self.first_observed = 2 if exclude_current_positions_from_observation else 0
        super().__init__(gymnasium_model("swimmer.xml"), 4, ("qpos_change",), **engine)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        return self._uniform_start(key, self.reset_noise_scale)

    def observe(self, physics: Physics) -> jax.Array:
        return jnp.concatenate([physics.qpos[self.first_observed :], physics.qvel])

    def score(self, before: Physics, after: Physics, action: jax.Array) -> Score:
        x_velocity, y_velocity = after.qpos_change[:2] / self.dt
        forward = self.forward_reward_weight * x_velocity
        control = -self.ctrl_cost_weight * jnp.square(action).sum()
        metrics = {
            "x_position": after.qpos[0],
            "y_position": after.qpos[1],
            "x_velocity": x_velocity,
            "y_velocity": y_velocity,
            "reward_forward": forward,
            "reward_ctrl": control,
        }
        return Score(forward + control, jnp.zeros((), bool), metrics)
