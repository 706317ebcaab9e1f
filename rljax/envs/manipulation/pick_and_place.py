"""PickAndPlace: a gripper takes a block on a table to a place that is drawn anew for each episode."""

from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import State
from rljax.envs.manipulation.grip import grip
from rljax.envs.manipulation.task import ManipulationTask, Progress
from rljax.envs.mujoco.engine import Physics, load_model
from rljax.envs.symmetry import Image, Symmetry, affine, blocks_of
from rljax.types import Key

BLOCK = 0.04
"""Side of the block; all lengths here are in metres, x is forwards, y to the left, z upwards."""
OPENING = 0.08
"""Opening of open jaws."""
NEAR = 0.05
"""Largest distance of the block from its place at success."""
_MIRROR = np.array([1.0, -1.0, 1.0])
_OBSERVATION = blocks_of(hand=7, opening=1, block=6, angle=3, target=2)


class PickAndPlace(ManipulationTask):
    """Observation [19]: hand (position, velocity), opening, block (position, velocity), its angle, and the target.

    Action [4]: the hand's target position, and the opening. 20 control steps a second. It is done when the block lies
    within 5 cm of the target, at rest and let go. The stages: reached, grasped, carried, placed.
    """

    observation_blocks = _OBSERVATION
    action_blocks = blocks_of(hand=3, opening=1)
    symmetry = Symmetry(
        affine(
            _OBSERVATION,
            {
                "hand": Image("hand", np.concatenate([_MIRROR, _MIRROR, [1.0]])),
                "opening": Image("opening"),
                "block": Image("block", np.tile(_MIRROR, 2)),
                "angle": Image("angle", np.array([1.0, -1.0, -1.0])),
                "target": Image("target", _MIRROR[:2]),
            },
        ),
        affine(action_blocks, {"hand": Image("hand", _MIRROR), "opening": Image("opening")}),
        affine(
            blocks_of(target=2, block=3, angle=1, hand=3, left=1, right=1),
            {
                "hand": Image("hand", _MIRROR),
                "left": Image("right"),
                "right": Image("left"),
                "block": Image("block", _MIRROR),
                "angle": Image("angle", -1.0),
                "target": Image("target", _MIRROR[:2]),
            },
        ),
    )
    camera: ClassVar[dict[str, Any]] = {"name": "front"}

    def __init__(self, **task: Any):
        super().__init__(load_model(Path(__file__).with_suffix(".xml")), 10, **task)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        block_key, angle_key, way_key, distance_key, hand_key = jax.random.split(key, 5)
        corner = jnp.array([0.08, 0.12])
        block = jax.random.uniform(block_key, (2,), minval=-corner, maxval=corner)
        angle = jax.random.uniform(angle_key, (1,), minval=-0.6, maxval=0.6)
        way = jax.random.uniform(way_key, (), maxval=2 * jnp.pi)
        distance = jax.random.uniform(distance_key, (), minval=0.12, maxval=0.2)
        target = block + distance * jnp.array([jnp.cos(way), jnp.sin(way)])
        low, high = jnp.array([-0.2, -0.25, 0.12]), jnp.array([0.2, 0.25, 0.25])
        hand = jax.random.uniform(hand_key, (3,), minval=low, maxval=high)
        return jnp.concatenate([target, block, jnp.zeros(1), angle, hand, jnp.full(2, OPENING / 2)]), jnp.zeros(11)

    def step(self, state: State, action: jax.Array) -> State:
        action = jnp.asarray(action, jnp.float32)
        holds, opening = self.grips(state.physics, action[3])
        physics = state.physics.replace(eq_active=holds[None].astype(state.physics.eq_active.dtype))
        return super().step(state.replace(physics=physics), action.at[3].set(opening))

    def grips(self, physics: Physics, command: Any = 0.0) -> tuple[jax.Array, jax.Array]:
        """Whether the hand holds the block, and where its jaws go when told `command`; see `grip`."""
        distance = jnp.linalg.norm(physics.qpos[6:9] - self.block(physics))
        return grip(distance, physics.qpos[9:].sum(), jnp.asarray(command), BLOCK)

    def block(self, physics: Physics) -> jax.Array:
        """The middle [3] of the block."""
        return physics.qpos[2:5] + jnp.array([0.0, 0.0, BLOCK / 2])

    def observe(self, physics: Physics) -> jax.Array:
        qpos, qvel = physics.qpos, physics.qvel
        holds = self.grips(physics)[0]
        angle = jnp.stack([jnp.cos(qpos[5]), jnp.sin(qpos[5]), qvel[5]])
        hand = [qpos[6:9], qvel[6:9], holds[None], qpos[9:].sum()[None]]
        return jnp.concatenate([*hand, self.block(physics), qvel[2:5], angle, qpos[:2]])

    def progress(self, physics: Physics) -> Progress:
        block = self.block(physics)
        holds = self.grips(physics)[0]
        apart = jnp.linalg.norm(physics.qpos[6:9] - block)
        distance = jnp.linalg.norm(block[:2] - physics.qpos[:2])
        there = distance < NEAR
        at_rest = (physics.qpos[4] < 0.005) & (jnp.linalg.norm(physics.qvel[2:5]) < 0.05)
        success = there & at_rest & ~holds & (physics.qpos[9:].sum() > 1.25 * BLOCK)
        reached = jnp.stack([apart < 0.03, holds, there, success])
        carried = 0.3 + 0.5 * jnp.exp(-distance / 0.1) + 0.1 * there * jnp.exp(-physics.qpos[4] / 0.05)
        quality = jnp.where(holds | there, carried, 0.3 * jnp.exp(-apart / 0.1))
        stages = jnp.max(reached * jnp.arange(1, 5)) / 4
        metrics = {"distance": distance, "grasped": holds}
        return Progress(jnp.where(success, 1.0, quality), stages, success, metrics)
