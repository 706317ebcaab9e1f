"""InvertedDoublePendulum-v5: a cart balances two poles, one upon the other."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from rljax.envs.mujoco.engine import Physics, gymnasium_model
from rljax.envs.mujoco.task import MujocoTask, Score
from rljax.types import Key


class InvertedDoublePendulum(MujocoTask):
    """Gymnasium's InvertedDoublePendulum-v5: observation [9], action [1]; terminates when the tip falls below 1 m."""

    camera: ClassVar[dict[str, Any]] = {"trackbodyid": 0, "distance": 4.1225, "lookat": (0.0, 0.0, 0.1225)}

    def __init__(self, healthy_reward: float = 10.0, reset_noise_scale: float = 0.1, **engine: Any):
        self.healthy_reward = healthy_reward
        self.reset_noise_scale = reset_noise_scale
        super().__init__(gymnasium_model("inverted_double_pendulum.xml"), 5, ("site_xpos", "qfrc_constraint"), **engine)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        return self._normal_velocity_start(key, self.reset_noise_scale)

    def observe(self, physics: Physics) -> jax.Array:
        angles = physics.qpos[1:]
        velocity, force = (jnp.clip(x, -10.0, 10.0) for x in (physics.qvel, physics.qfrc_constraint[:1]))
        return jnp.concatenate([physics.qpos[:1], jnp.sin(angles), jnp.cos(angles), velocity, force])

    def score(self, before: Physics, after: Physics, action: jax.Array) -> Score:
        x, _, y = after.site_xpos[0]
        terminated = y <= 1.0
        distance = -(0.01 * x**2 + (y - 2.0) ** 2)
        velocity = -(1e-3 * after.qvel[1] ** 2 + 5e-3 * after.qvel[2] ** 2)
        survive = self.healthy_reward * (1.0 - terminated)
        metrics = {"reward_survive": survive, "distance_penalty": distance, "velocity_penalty": velocity}
        return Score(survive + distance + velocity, terminated, metrics)

    def combine_metric(self, name: str, earlier: jax.Array, later: jax.Array) -> jax.Array:
        if name in ("distance_penalty", "velocity_penalty"):  # parts of the reward, under Gymnasium's names
            return earlier + later
        return super().combine_metric(name, earlier, later)
