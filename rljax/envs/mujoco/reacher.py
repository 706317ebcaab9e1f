"""Reacher-v5: a two-jointed arm brings its fingertip to a target."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from rljax.envs.mujoco.engine import Physics, gymnasium_model
from rljax.envs.mujoco.task import MujocoTask, Score
from rljax.types import Key


class Reacher(MujocoTask):
    """Gymnasium's Reacher-v5: observation [10], action [2]; it never terminates."""

    camera: ClassVar[dict[str, Any]] = {"trackbodyid": 0, "distance": 0.9, "elevation": -60.0}

    def __init__(self, reward_dist_weight: float = 1.0, reward_control_weight: float = 1.0, **engine: Any):
        self.reward_dist_weight = reward_dist_weight
        self.reward_control_weight = reward_control_weight
        model = gymnasium_model("reacher.xml")
        self.fingertip, self.target = model.body("fingertip").id, model.body("target").id
        super().__init__(model, 2, ("xpos",), **engine)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        position_key, velocity_key, radius_key, angle_key = jax.random.split(key, 4)
        qpos = self.initial_qpos + jax.random.uniform(position_key, (4,), minval=-0.1, maxval=0.1)
        qvel = self.initial_qvel + jax.random.uniform(velocity_key, (4,), minval=-0.005, maxval=0.005)
        # The target lies uniformly in a disc of radius 0.2.
        radius = 0.2 * jnp.sqrt(jax.random.uniform(radius_key))
        angle = jax.random.uniform(angle_key, maxval=2 * jnp.pi)
        target = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return qpos.at[2:].set(target), qvel.at[2:].set(0.0)

    def observe(self, physics: Physics) -> jax.Array:
        theta = physics.qpos[:2]
        to_target = self._to_target(physics)[:2]
        return jnp.concatenate([jnp.cos(theta), jnp.sin(theta), physics.qpos[2:], physics.qvel[:2], to_target])

    def score(self, before: Physics, after: Physics, action: jax.Array) -> Score:
        distance = -self.reward_dist_weight * jnp.linalg.norm(self._to_target(after))
        control = -self.reward_control_weight * jnp.square(action).sum()
        metrics = {"reward_dist": distance, "reward_ctrl": control}
        return Score(distance + control, jnp.zeros((), bool), metrics)

    def _to_target(self, physics: Physics) -> jax.Array:
        return physics.xpos[self.fingertip] - physics.xpos[self.target]
