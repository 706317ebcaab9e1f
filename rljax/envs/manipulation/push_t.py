"""PushT: a disc pushes a T-shaped block onto its place (Chi et al. 2023, "Diffusion policy", arXiv 2303.04137)."""

from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import State
from rljax.envs.manipulation.task import ManipulationTask, Progress
from rljax.envs.mujoco.engine import Physics, load_model
from rljax.envs.symmetry import Image, Symmetry, affine, blocks_of
from rljax.types import Key

BOARD = 512.0
"""Side of the board; all lengths here are in pixels, x is to the right, y downwards."""
RADIUS = 15.0
"""Radius of the agent."""
GOAL = (256.0, 256.0, np.pi / 4)
"""Goal of the block: x, y and angle."""
LOW, HIGH = np.array([[-60.0, 0.0], [-15.0, 30.0]]), np.array([[60.0, 30.0], [15.0, 120.0]])
"""Corners [2, 2] of the block's bar and stem, in its own frame: its origin is the middle of the bar's outer side."""
CENTRE = np.array([0.0, 45.0])
"""Centre of mass of the block, in its own frame."""
AREA = float((HIGH - LOW).prod(1).sum())
SUCCESS = 0.95
"""Least coverage at success."""
STAGES = (0.25, 0.5, 0.75)

# (x, y) → (512 - y, 512 - x), θ → π/2 - θ: over the diagonal, which the goal lies on.
_FLIP = np.array([[0.0, -1.0], [-1.0, 0.0]])
_OBSERVATION = blocks_of(agent=2, block=2, angle=2)


class PushT(ManipulationTask):
    """gym-pusht's PushT: observation [6] (agent, block, cos and sin of its angle), action [2] (the agent's target).

    10 control steps a second; the physics, and where it starts, are those of gym-pusht 0.1.8 (its `_set_state`, by
    which the block starts up to 90 pixels off the place that was drawn).
    """

    observation_blocks = _OBSERVATION
    action_blocks = blocks_of(agent=2)
    symmetry = Symmetry(
        affine(
            _OBSERVATION,
            {
                "agent": Image("agent", _FLIP, BOARD),
                "block": Image("block", _FLIP, BOARD),
                "angle": Image("angle", np.eye(2)[::-1]),
            },
        ),
        affine(action_blocks, {"agent": Image("agent", _FLIP, BOARD)}),
        affine(
            blocks_of(agent=2, block=2, angle=1),
            {
                "agent": Image("agent", _FLIP, BOARD),
                "block": Image("block", _FLIP, BOARD),
                "angle": Image("angle", -1.0, np.pi / 2),
            },
        ),
    )
    camera: ClassVar[dict[str, Any]] = {"name": "above"}

    def __init__(self, **task: Any):
        super().__init__(load_model(Path(__file__).with_suffix(".xml")), 10, **task)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        agent_key, block_key, angle_key = jax.random.split(key, 3)
        agent = jax.random.uniform(agent_key, (2,), minval=50.0, maxval=450.0)
        # Placed upright, then turned about its centre of mass.
        centre = jax.random.uniform(block_key, (2,), minval=100.0, maxval=400.0) + CENTRE
        angle = jax.random.uniform(angle_key, (1,), minval=-np.pi, maxval=np.pi)
        return jnp.concatenate([agent, centre, angle]), jnp.zeros(5)

    def place(self, pose: jax.Array) -> State:
        """A state at rest in a pose [5] of gym-pusht's: agent x, y, block x, y, angle."""
        centre = pose[2:4] + _rotation(pose[4]) @ CENTRE
        physics = self.engine.reset(jnp.concatenate([pose[:2], centre, pose[4:5]]), jnp.zeros(5))
        fresh = self.reset(jax.random.key(0))
        return fresh.replace(physics=physics, obs=self.observe(physics))

    def pose(self, physics: Physics) -> jax.Array:
        """The pose [5] in gym-pusht's form; the angle in [0, 2π)."""
        angle = physics.qpos[4]
        block = physics.qpos[2:4] - _rotation(angle) @ CENTRE
        return jnp.concatenate([physics.qpos[:2], block, jnp.mod(angle, 2 * np.pi)[None]])

    def observe(self, physics: Physics) -> jax.Array:
        return observation_of(self.pose(physics))

    def progress(self, physics: Physics) -> Progress:
        return progress_of(self.pose(physics))

    def render(self, state: State) -> np.ndarray:
        from rljax.envs.classic.drawing import ACCENT, GREY, WARM, Canvas
        from rljax.envs.classic.drawing import GOAL as GOAL_COLOUR

        canvas = Canvas((BOARD / 2, -BOARD / 2), 0.75, 384, 384)  # its y is upwards
        pose = np.asarray(self.pose(state.physics))
        for place, colour in ((np.array(GOAL), GOAL_COLOUR), (pose[2:], GREY)):
            for rectangle in np.asarray(rectangles(jnp.asarray(place, jnp.float32))):
                canvas.polygon([(x, -y) for x, y in rectangle], colour)
        canvas.circle((pose[0], -pose[1]), RADIUS, ACCENT)
        target = np.asarray(state.physics.ctrl)
        if target.any():
            canvas.circle((target[0], -target[1]), RADIUS / 3, WARM)
        return canvas.frame()


def progress_of(pose: jax.Array) -> Progress:
    """The progress of the task in a pose [5]."""
    covered = coverage(pose[2:])
    stages = (covered > jnp.array([*STAGES, SUCCESS])).mean()
    return Progress(covered / SUCCESS, stages, covered > SUCCESS, {"coverage": covered})


def observation_of(pose: jax.Array) -> jax.Array:
    """Observations [..., 6] of poses [..., 5]."""
    angle = pose[..., 4:]
    return jnp.concatenate([pose[..., :4], jnp.cos(angle), jnp.sin(angle)], axis=-1)


def rectangles(block: jax.Array) -> Any:
    """Corners [2, 4, 2] of the bar and the stem, counterclockwise, of a block at [3] (x, y, angle)."""
    (x0, y0), (x1, y1) = LOW.T, HIGH.T
    corners = np.stack([np.stack(c, -1) for c in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 1)
    return corners @ _rotation(block[2]).T + block[:2]


def coverage(block: jax.Array) -> jax.Array:
    """The share f32 [] of the goal's area that a block at [3] (x, y, angle) covers."""
    # In the goal's frame its rectangles are upright.
    corners = (rectangles(block) - jnp.array(GOAL[:2])) @ _rotation(jnp.float32(GOAL[2]))
    areas = jax.vmap(jax.vmap(overlap, (None, 0, 0)), (0, None, None))(corners, jnp.asarray(LOW), jnp.asarray(HIGH))
    return areas.sum() / AREA


def overlap(polygon: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Area f32 [] of a convex polygon [n, 2], counterclockwise, within the upright rectangle from low [2] to high [2].

    By Green's theorem: minus the integral of y dx along the polygon, with y clipped to the rectangle, and x between its
    sides. It has no cases, and so no places where rounding decides.
    """
    x, y = (polygon - low).T
    dx, dy = jnp.roll(x, -1) - x, jnp.roll(y, -1) - y
    width, height = high - low

    def within(start: jax.Array, change: jax.Array, limit: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Between which shares of an edge 0 ≤ start + share × change ≤ limit; unclipped."""
        change = jnp.where(jnp.abs(change) < 1e-6, 1e-6, change)
        first, second = -start / change, (limit - start) / change
        return jnp.minimum(first, second), jnp.maximum(first, second)

    begin, end = (jnp.clip(share, 0.0, 1.0) for share in within(x, dx, width))
    lower, upper = (jnp.clip(share, begin, end) for share in within(y, dy, height))
    above = jnp.where(dy > -1e-6, end - upper, lower - begin)
    integral = (upper - lower) * (y + dy * (lower + upper) / 2) + height * above
    return -(dx * integral).sum()


def _rotation(angle: jax.Array) -> jax.Array:
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[c, -s], [s, c]])
