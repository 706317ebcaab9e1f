"""Pusher-v5: a seven-jointed arm pushes a cylinder to a goal."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from rljax.envs.mujoco.engine import Physics, gymnasium_model
from rljax.envs.mujoco.task import MujocoTask, Score
from rljax.types import Key


class Pusher(MujocoTask):
    """Gymnasium's Pusher-v5: observation [23], action [7]; it never terminates."""

    camera: ClassVar[dict[str, Any]] = {"trackbodyid": -1, "distance": 4.0}

    def __init__(
        self,
        reward_near_weight: float = 0.5,
        reward_dist_weight: float = 1.0,
        reward_control_weight: float = 0.1,
        **engine: Any,
    ):
        self.reward_near_weight = reward_near_weight
        self.reward_dist_weight = reward_dist_weight
        self.reward_control_weight = reward_control_weight
        model = gymnasium_model("pusher_v5.xml")
        self.arm, self.object, self.goal = (model.body(name).id for name in ("tips_arm", "object", "goal"))
        super().__init__(model, 5, ("xpos",), **engine)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        key, velocity_key = jax.random.split(key)
        low, high = jnp.array([-0.3, -0.2]), jnp.array([0.0, 0.2])

        def draw(carry: tuple[Key, jax.Array]) -> tuple[Key, jax.Array]:
            key, draw_key = jax.random.split(carry[0])
            return key, jax.random.uniform(draw_key, (2,), minval=low, maxval=high)

        # Not too near the goal, which is the origin.
        _, cylinder = jax.lax.while_loop(lambda c: jnp.linalg.norm(c[1]) <= 0.17, draw, (key, jnp.zeros(2)))
        qpos = jnp.asarray(self.initial_qpos).at[-4:-2].set(cylinder).at[-2:].set(0.0)
        qvel = self.initial_qvel + jax.random.uniform(velocity_key, (11,), minval=-0.005, maxval=0.005)
        return qpos, qvel.at[-4:].set(0.0)

    def observe(self, physics: Physics) -> jax.Array:
        places = physics.xpos[jnp.array([self.arm, self.object, self.goal])].ravel()
        return jnp.concatenate([physics.qpos[:7], physics.qvel[:7], places])

    def score(self, before: Physics, after: Physics, action: jax.Array) -> Score:
        xpos = after.xpos
        near = -self.reward_near_weight * jnp.linalg.norm(xpos[self.object] - xpos[self.arm])
        distance = -self.reward_dist_weight * jnp.linalg.norm(xpos[self.object] - xpos[self.goal])
        control = -self.reward_control_weight * jnp.square(action).sum()
        metrics = {"reward_near": near, "reward_dist": distance, "reward_ctrl": control}
        return Score(near + distance + control, jnp.zeros((), bool), metrics)
