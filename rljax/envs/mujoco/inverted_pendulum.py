"""InvertedPendulum-v5: a cart balances a pole."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from rljax.envs.mujoco.engine import Physics, gymnasium_model
from rljax.envs.mujoco.task import MujocoTask, Score
from rljax.types import Key


class InvertedPendulum(MujocoTask):
    """Gymnasium's InvertedPendulum-v5: observation [4], action [1]; terminates when the pole leans by 0.2 rad."""

    camera: ClassVar[dict[str, Any]] = {"trackbodyid": 0, "distance": 2.04}

    def __init__(self, reset_noise_scale: float = 0.01, **engine: Any):
        self.reset_noise_scale = reset_noise_scale
        super().__init__(gymnasium_model("inverted_pendulum.xml"), 2, **engine)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        return self._uniform_start(key, self.reset_noise_scale)

    def observe(self, physics: Physics) -> jax.Array:
        return jnp.concatenate([physics.qpos, physics.qvel])

    def score(self, before: Physics, after: Physics, action: jax.Array) -> Score:
        obs = self.observe(after)
        terminated = ~jnp.isfinite(obs).all() | (jnp.abs(obs[1]) > 0.2)
        survive = 1.0 - terminated
        return Score(survive, terminated, {"reward_survive": survive})
