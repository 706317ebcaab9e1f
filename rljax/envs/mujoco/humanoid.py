"""Humanoid-v5: a humanoid walks forward without falling."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.mujoco.engine import Physics, gymnasium_model
from rljax.envs.mujoco.task import MujocoTask, Score
from rljax.types import Key


class Humanoid(MujocoTask):
    """Gymnasium's Humanoid-v5: observation [348], action [17]; it terminates when it falls."""

    camera: ClassVar[dict[str, Any]] = {
        "trackbodyid": 1,
        "distance": 4.0,
        "lookat": (0.0, 0.0, 2.0),
        "elevation": -20.0,
    }

    def __init__(
        self,
        forward_reward_weight: float = 1.25,
        ctrl_cost_weight: float = 0.1,
        contact_cost_weight: float = 5e-7,
        contact_cost_range: tuple[float, float] = (-float("inf"), 10.0),
        healthy_reward: float = 5.0,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: tuple[float, float] = (1.0, 2.0),
        reset_noise_scale: float = 1e-2,
        exclude_current_positions_from_observation: bool = True,
        include_cinert_in_observation: bool = True,
        include_cvel_in_observation: bool = True,
        include_qfrc_actuator_in_observation: bool = True,
        include_cfrc_ext_in_observation: bool = True,
        **engine: Any,
    ):
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.contact_cost_weight = contact_cost_weight
        self.contact_cost_range = contact_cost_range
        self.healthy_reward = healthy_reward
        self.terminate_when_unhealthy = terminate_when_unhealthy
        self.healthy_z_range = healthy_z_range
        self.reset_noise_scale = reset_noise_scale
        self.first_observed = 2 if exclude_current_positions_from_observation else 0
        # Of the bodies the first is the world; of the degrees of freedom the first six are the free root's.
        observed = {
            "cinert": (include_cinert_in_observation, 1),
            "cvel": (include_cvel_in_observation, 1),
            "qfrc_actuator": (include_qfrc_actuator_in_observation, 6),
            "cfrc_ext": (include_cfrc_ext_in_observation, 1),
        }
        self.observed = {name: first for name, (included, first) in observed.items() if included}
        model = gymnasium_model("humanoid.xml")
        self.mass_share = np.asarray(model.body_mass / model.body_mass.sum(), np.float32)
        super().__init__(model, 5, tuple(dict.fromkeys((*self.observed, "xipos", "cfrc_ext"))), **engine)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        return self._uniform_start(key, self.reset_noise_scale)

    def observe(self, physics: Physics) -> jax.Array:
        derived = [getattr(physics, name)[first:].ravel() for name, first in self.observed.items()]
        return jnp.concatenate([physics.qpos[self.first_observed :], physics.qvel, *derived])

    def score(self, before: Physics, after: Physics, action: jax.Array) -> Score:
        # The centre of mass moved by the mean of what the bodies moved: less rounding than from two centres.
        x_velocity, y_velocity = self.mass_share @ (after.xipos[:, :2] - before.xipos[:, :2]) / self.dt
        low, high = self.healthy_z_range
        healthy = (low < after.qpos[2]) & (after.qpos[2] < high)
        forward = self.forward_reward_weight * x_velocity
        survive = self.healthy_reward * healthy
        control = -self.ctrl_cost_weight * jnp.square(action).sum()
        contact = -jnp.clip(self.contact_cost_weight * jnp.square(after.cfrc_ext).sum(), *self.contact_cost_range)
        metrics = {
            "x_position": after.qpos[0],
            "y_position": after.qpos[1],
            "x_velocity": x_velocity,
            "y_velocity": y_velocity,
            "reward_survive": survive,
            "reward_forward": forward,
            "reward_ctrl": control,
            "reward_contact": contact,
        }
        return Score(forward + survive + control + contact, ~healthy & self.terminate_when_unhealthy, metrics)
