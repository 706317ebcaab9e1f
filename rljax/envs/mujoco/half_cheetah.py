"""HalfCheetah-v5: a planar two-legged robot runs as fast as it can."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from rljax.envs.mujoco.engine import Physics, gymnasium_model
from rljax.envs.mujoco.task import MujocoTask, Score
from rljax.types import Key


class HalfCheetah(MujocoTask):
    """Gymnasium's HalfCheetah-v5: observation [17], action [6]; it never terminates."""

    camera: ClassVar[dict[str, Any]] = {"trackbodyid": 1, "distance": 4.0}

    def __init__(
        self,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 0.1,
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
        **engine: Any,
    ):
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.reset_noise_scale = reset_noise_scale
        self.first_observed = 1 if exclude_current_positions_from_observation else 0
        super().__init__(gymnasium_model("half_cheetah.xml"), 5, ("qpos_change",), **engine)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        return self._normal_velocity_start(key, self.reset_noise_scale)

    def observe(self, physics: Physics) -> jax.Array:
        return jnp.concatenate([physics.qpos[self.first_observed :], physics.qvel])

    def score(self, before: Physics, after: Physics, action: jax.Array) -> Score:
        x_velocity = after.qpos_change[0] / self.dt
        forward = self.forward_reward_weight * x_velocity
        control = -self.ctrl_cost_weight * jnp.square(action).sum()
        metrics = {
            "x_position": after.qpos[0],
            "x_velocity": x_velocity,
            "reward_forward": forward,
            "reward_ctrl": control,
        }
        return Score(forward + control, jnp.zeros((), bool), metrics)
