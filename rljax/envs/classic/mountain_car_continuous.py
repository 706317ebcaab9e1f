"""MountainCarContinuous: the mountain car with a graded push. Same task as Gymnasium's MountainCarContinuous-v0."""

import jax
import jax.numpy as jnp

from rljax.envs.classic.mountain_car import Valley
from rljax.envs.environment import State
from rljax.spaces import Box


class MountainCarContinuous(Valley):
    """The action f32 [1] in [−1, 1] is the push. The reward is 100 at the flag, less 0.1 action² for every step."""

    name = "mountain_car_continuous"
    goal_position = 0.45
    power = 0.0015

    def __init__(self) -> None:
        super().__init__()
        self.action_space = Box(-1.0, 1.0, (1,))

    def step(self, state: State, action: jax.Array) -> State:
        action = jnp.asarray(action, jnp.float32)[0]
        physics, terminated = self.drive(state.physics, jnp.clip(action, -1.0, 1.0) * self.power)
        return state.replace(
            physics=physics,
            obs=self.observe(physics),
            # As in Gymnasium, the cost is that of the action asked for, not of the clipped one.
            reward=jnp.where(terminated, 100.0, 0.0) - 0.1 * action**2,
            terminated=terminated,
            truncated=jnp.zeros((), bool),
        )
