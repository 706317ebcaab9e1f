"""Lace: one hand puts the soft end of a lace through an eyelet, the other takes it there and pulls it through."""

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import State
from rljax.envs.manipulation.grip import grip
from rljax.envs.manipulation.task import ManipulationTask, Progress
from rljax.envs.mujoco.engine import Physics, load_model
from rljax.envs.symmetry import Image, Symmetry, affine, blocks_of
from rljax.types import Key, Refused

THICKNESS = 0.008
"""Thickness of the lace; all lengths here are in metres, x is forwards, y to the left, z upwards."""
HOLE = 0.012
"""Radius of the eyelet's hole: between its middle and the lace's is room for 8 mm."""
OPENING = 0.04
"""Opening of open jaws."""
THROUGH = 0.12
"""Distance beyond the eyelet to which the tip must be pulled; 2.5 cm of the lace are left before it."""
FRONT, SEGMENT, TAIL, TIP = 0.02, 0.025, 0.05, 0.02
"""Distance from the lace's middle to its soft part; length of a soft segment; distance to the rear; last one's hold."""
SAG = np.array([0.109, 0.048, 0.012])
"""Angles of the soft segments' joints at rest, when the middle is held."""
_MIRROR = np.array([1.0, -1.0, 1.0])
_OBSERVATION = blocks_of(left_hand=8, right_hand=8, tip=6, lace=18, eyelet=2, direction=1)
_HAND = Image("", np.concatenate([_MIRROR, _MIRROR, [1.0, 1.0]]))


class Threading(NamedTuple):
    """Where the tip is relative to the eyelet, and whether the lace goes through it.

    Fields:
      passed: f32 [], how far the tip is beyond the eyelet's plane, in the lace's direction; negative before it.
      aside: f32 [2], from the hole's middle to the tip, in x and z.
      threaded: bool [], the lace passes the plane inside the hole.
    """

    passed: jax.Array
    aside: jax.Array
    threaded: jax.Array


class Lace(ManipulationTask):
    """Observation [43], action [8]; 20 control steps a second. Mirrored exactly by y → -y, which swaps the hands.

    Observation: both hands' position, velocity, opening and hold; position and velocity of the lace's tip,
    its middle and two points between; x and z of the eyelet (y is 0); and the side to which the lace points. Action:
    each hand's target position and opening.

    One hand, left or right, starts with the lace, which points away from it and keeps its heading. The stages: the tip
    is straight before the hole; through it; held by the other hand; and pulled `THROUGH`, which the first hand has let
    go of. Which stage it is shows in the present state alone.

    Args:
      left_first: probability that the left hand starts with the lace.
    """

    observation_blocks = _OBSERVATION
    action_blocks = blocks_of(left_hand=4, right_hand=4)
    symmetry = Symmetry(
        affine(
            _OBSERVATION,
            {
                "left_hand": _HAND._replace(of="right_hand"),
                "right_hand": _HAND._replace(of="left_hand"),
                "tip": Image("tip", np.tile(_MIRROR, 2)),
                "lace": Image("lace", np.tile(_MIRROR, 6)),
                "eyelet": Image("eyelet"),
                "direction": Image("direction", -1.0),
            },
        ),
        affine(
            action_blocks,
            {
                "left_hand": Image("right_hand", np.append(_MIRROR, 1.0)),
                "right_hand": Image("left_hand", np.append(_MIRROR, 1.0)),
            },
        ),
        affine(
            blocks_of(left_hand=4, right_hand=4, eyelet=2, lace=3, heading=1, segments=6),
            {
                "left_hand": Image("right_hand", np.append(_MIRROR, 1.0)),
                "right_hand": Image("left_hand", np.append(_MIRROR, 1.0)),
                "eyelet": Image("eyelet"),
                "lace": Image("lace", _MIRROR),
                "heading": Image("heading", -1.0),
                "segments": Image("segments", np.tile([-1.0, 1.0], 3)),
            },
        ),
    )
    camera: ClassVar[dict[str, Any]] = {"name": "front"}

    def __init__(self, left_first: float = 0.5, **task: Any):
        if not 0 <= left_first <= 1:
            raise Refused(f"Lace: left_first must be between 0 and 1, got {left_first}")
        self.left_first = left_first
        super().__init__(load_model(Path(__file__).with_suffix(".xml")), 10, **task)

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        first_key, other_key, eyelet_key, side_key = jax.random.split(key, 4)
        # As if the left hand were the first; else mirrored.
        first = jax.random.uniform(
            first_key, (3,), minval=jnp.array([-0.12, 0.2, 0.1]), maxval=jnp.array([0.12, 0.3, 0.3])
        )
        other = jax.random.uniform(
            other_key, (3,), minval=jnp.array([-0.12, -0.3, 0.1]), maxval=jnp.array([0.12, -0.15, 0.3])
        )
        eyelet = jax.random.uniform(eyelet_key, (2,), minval=jnp.array([-0.05, 0.15]), maxval=jnp.array([0.05, 0.25]))
        hands = jnp.concatenate([first, jnp.array([THICKNESS]), other, jnp.array([OPENING])])
        segments = jnp.stack([jnp.zeros(3), jnp.asarray(SAG)], 1).reshape(-1)
        qpos = jnp.concatenate([hands, eyelet, first, jnp.array([-np.pi / 2]), segments])
        mirrored = self.symmetry.position(qpos)
        return jnp.where(jax.random.bernoulli(side_key, self.left_first), qpos, mirrored), jnp.zeros(20)

    def step(self, state: State, action: jax.Array) -> State:
        physics = state.physics
        action = jnp.asarray(action, jnp.float32)
        holds, openings = self.grips(physics, action[jnp.array([3, 7])])
        # A hand holds the middle or the tip, in the order of the model's equalities.
        physics = physics.replace(eq_active=holds.reshape(-1).astype(physics.eq_active.dtype))
        return super().step(state.replace(physics=physics), action.at[jnp.array([3, 7])].set(openings))

    def grips(self, physics: Physics, command: Any = 0.0) -> tuple[jax.Array, jax.Array]:
        """bool [2, 2], whether the left and the right hand hold the middle and the tip; and where the jaws go, [2].

        Args:
          command: openings [2] that the hands are told.
        """
        hands = physics.qpos[:8].reshape(2, 4)
        places = held_points(physics.qpos)
        distance = jnp.linalg.norm(hands[:, None, :3] - places, axis=-1)
        command = jnp.broadcast_to(command, (2,))
        holds, opening = grip(distance.min(1), hands[:, 3], command, THICKNESS)
        nearest = distance == distance.min(1, keepdims=True)
        return holds[:, None] & nearest, opening

    def observe(self, physics: Physics) -> jax.Array:
        points, velocities = jax.jvp(lace_points, (physics.qpos,), (physics.qvel,))
        holds = self.grips(physics)[0].any(1)
        hands = [
            jnp.concatenate([physics.qpos[i : i + 3], physics.qvel[i : i + 3], physics.qpos[i + 3, None], held[None]])
            for i, held in zip((0, 4), holds)
        ]
        shape = points[jnp.array([1, 3, 4])], velocities[jnp.array([1, 3, 4])]
        direction = jnp.sin(physics.qpos[13:14])
        parts = [*hands, points[-1], velocities[-1], *(x.reshape(-1) for x in shape), physics.qpos[8:10], direction]
        return jnp.concatenate(parts)

    def progress(self, physics: Physics) -> Progress:
        passed, aside, threaded = threading(lace_points(physics.qpos), physics.qpos[8:10], jnp.sin(physics.qpos[13]))
        holds = self.grips(physics)[0]
        leftwards = physics.qpos[13] > 0
        other, first = (jnp.where(leftwards, holds[i], holds[1 - i]) for i in (0, 1))
        hand = jnp.where(leftwards, physics.qpos[:3], physics.qpos[4:7])
        tip = held_points(physics.qpos)[1]
        sideways = jnp.linalg.norm(aside)

        aligned = threaded | ((sideways < HOLE - THICKNESS / 2) & (jnp.abs(passed + 0.025) < 0.03))
        through = threaded & (passed > 0.02)
        grasped = through & other[1]
        success = grasped & (passed > THROUGH) & ~first.any()
        reached = jnp.stack([aligned, through, grasped, success])

        distance = jnp.hypot(sideways, jnp.maximum(-passed, 0.0))
        within = jnp.clip(passed / 0.06, 0.0, 1.0)
        pulled = jnp.clip((passed - 0.06) / (THROUGH - 0.06), 0.0, 1.0)
        beyond = 0.3 + 0.2 * within + 0.1 * jnp.exp(-jnp.linalg.norm(hand - tip) / 0.1)
        beyond += other[1] * (0.1 + 0.1 * ~first.any() + 0.2 * pulled)
        quality = jnp.where(threaded, beyond, 0.3 * jnp.exp(-distance / 0.1))
        stages = jnp.max(reached * jnp.arange(1, 5)) / 4
        metrics = {"passed": passed, "threaded": threaded, "grasped": grasped}
        return Progress(jnp.where(success, 1.0, quality), stages, success, metrics)


def threading(points: jax.Array, eyelet: jax.Array, direction: jax.Array) -> Threading:
    """How a lace lies in the eyelet: from its `lace_points` [6, 3], the eyelet's x and z, its direction (-1 or 1)."""
    along = direction * points[:, 1]
    aside = points[:, jnp.array([0, 2])] - eyelet
    before, after = along[:-1], along[1:]
    share = -before / jnp.where(jnp.abs(after - before) < 1e-6, 1e-6, after - before)
    crossing = aside[:-1] + share[:, None] * (aside[1:] - aside[:-1])
    inside = jnp.linalg.norm(crossing, axis=-1) < HOLE
    return Threading(along[-1], aside[-1], ((before < 0) & (after >= 0) & inside).any())


def lace_points(qpos: jax.Array) -> jax.Array:
    """[6, 3]: the lace's rear, middle, where its soft part begins, its two joints beyond, and its tip."""
    c, s, one = jnp.cos(qpos[13]), jnp.sin(qpos[13]), jnp.ones_like(qpos[13])
    ahead, left, up = (jnp.stack(axis) for axis in ((c, s, 0 * one), (-s, c, 0 * one), (0 * one, 0 * one, one)))
    middle = qpos[10:13]
    points = [middle - TAIL * ahead, middle, middle + FRONT * ahead]
    for i in (14, 16, 18):
        # Turned about `up`, and then about `left`.
        (c, pitch_c), (s, pitch_s) = jnp.cos(qpos[i : i + 2]), jnp.sin(qpos[i : i + 2])
        ahead, left = c * ahead + s * left, c * left - s * ahead
        ahead, up = pitch_c * ahead - pitch_s * up, pitch_c * up + pitch_s * ahead
        points.append(points[-1] + SEGMENT * ahead)
    return jnp.stack(points)


def held_points(qpos: jax.Array) -> jax.Array:
    """[2, 3]: where a lace can be held, at its middle and just behind its tip."""
    points = lace_points(qpos)
    share = TIP / SEGMENT
    return jnp.stack([points[1], (1 - share) * points[4] + share * points[5]])
