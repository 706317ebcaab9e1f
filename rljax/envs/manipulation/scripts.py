"""Scripts of the tasks' demonstrators: phases, and where the hands go in each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.envs.manipulation import lace, pick_and_place
from rljax.envs.manipulation.task import ManipulationTask


class Memory(struct.PyTreeNode):
    """The memory of a demonstrator.

    Fields:
      fresh: bool [], nothing yet.
      phase: i32 [], of the script; -1 before the first step.
      since: i32 [], steps in this phase.
      place, opening: f32 [hands, 3] and [hands], where it has sent the hands.
      offset: f32 [3], the script's memory of a thing in its hand.
      wrong: f32 [3], offset of the present approach towards a wrong place.
      fault: i32 [], the label of the last step.
      left: i32 [], steps that a slip or a hesitation still takes.
      gives_up: bool [], whether it gives up after the present fault.
    """

    fresh: jax.Array
    phase: jax.Array
    since: jax.Array
    place: jax.Array
    opening: jax.Array
    offset: jax.Array
    wrong: jax.Array
    fault: jax.Array
    left: jax.Array
    gives_up: jax.Array


class Plan(NamedTuple):
    """The next thing to do.

    Fields:
      phase: i32 [].
      goal, opening: f32 [hands, 3] and [hands], where hands go.
      slippery: bool [hands], whether a hand holds something that it may let slip.
      offset: f32 [3], to remember.
    """

    phase: jax.Array
    goal: jax.Array
    opening: jax.Array
    slippery: jax.Array
    offset: jax.Array


class Script(NamedTuple):
    """The differences between tasks.

    Fields:
      phases: their names, in order.
      approach: the phase that begins an approach, which may go to a wrong place.
      approaching: phases that belong to an approach.
      wrong: least and largest distance of a wrong place, and its directions, [3].
      open: opening of a hand that slips.
      speed: of the hands, metres per step.
      hands: function of an observation to the hands' positions [hands, 3] and openings [hands].
      plan: `(obs, memory) -> Plan`.
    """

    phases: tuple[str, ...]
    approach: int
    approaching: tuple[int, ...]
    wrong: tuple[float, float, np.ndarray]
    open: float
    speed: float
    hands: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    plan: Callable[[jax.Array, Memory], Plan]


def _near(place: jax.Array, goal: jax.Array, distance: float) -> jax.Array:
    return jnp.linalg.norm(place - goal) < distance


def _choose(phase: jax.Array, values: list[Any]) -> jax.Array:
    """The value of the phase."""
    return jnp.stack([jnp.asarray(value) for value in values])[phase]


# ---------------------------------------------------------------------------------------------------------------------
# PickAndPlace
# ---------------------------------------------------------------------------------------------------------------------


def _pick_hands(obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    return obs[None, :3], obs[7:8]


def _pick_plan(obs: jax.Array, memory: Memory) -> Plan:
    hand, holds, opening, block, target = obs[:3], obs[6] > 0.5, obs[7], obs[8:11], obs[17:19]
    above = block + memory.wrong + jnp.array([0.0, 0.0, 0.08])
    at = block + memory.wrong
    over = jnp.append(target, 0.1)
    down = jnp.append(target, pick_and_place.BLOCK / 2)
    reach, grasp, carry, place, leave, retreat = range(6)

    lost = jnp.where(jnp.linalg.norm(block[:2] - target) < pick_and_place.NEAR, leave, retreat)
    empty = opening < 0.75 * pick_and_place.BLOCK
    phase = jnp.maximum(memory.phase, reach)
    phase = _choose(
        phase,
        [
            jnp.where(_near(hand, above, 0.012), grasp, reach),
            jnp.where(holds, carry, jnp.where(empty | (memory.since > 30), retreat, grasp)),
            jnp.where(~holds, lost, jnp.where(_near(hand, over, 0.02), place, carry)),
            jnp.where(~holds, lost, jnp.where(block[2] < pick_and_place.BLOCK / 2 + 0.004, leave, place)),
            jnp.where(hand[2] > 0.08, retreat, leave),
            jnp.where(hand[2] > 0.08, reach, retreat),
        ],
    )
    up = jnp.concatenate([hand[:2], jnp.array([0.1])])
    high = jnp.where(hand[2] < 0.05, jnp.append(hand[:2], 0.1), over)
    goal = _choose(phase, [above, at, high, down, up, up])
    closed = (phase == carry) | (phase == place) | ((phase == grasp) & _near(hand, at, 0.008))
    return Plan(
        phase,
        goal[None],
        jnp.where(closed, 0.0, pick_and_place.OPENING)[None],
        (holds & ((phase == carry) | (phase == place)))[None],
        memory.offset,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Lace
# ---------------------------------------------------------------------------------------------------------------------

_BEFORE = 0.03
"""How far before the eyelet the tip is aligned."""


def _lace_hands(obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    hands = obs[:16].reshape(2, 8)
    return hands[:, :3], hands[:, 6]


def _lace_plan(obs: jax.Array, memory: Memory) -> Plan:
    # As if the lace pointed to the left: y is how far along it something is, and the right hand is the first.
    direction = jnp.sign(obs[42])
    mirror = jnp.array([1.0, direction, 1.0])
    hands = obs[:16].reshape(2, 8)
    hands = jnp.where(direction > 0, hands, hands[::-1])
    other, first = hands[0, :3] * mirror, hands[1, :3] * mirror
    tip, velocity = obs[16:19] * mirror, obs[19:22] * mirror
    middle, *between = obs[22:31].reshape(3, 3) * mirror
    eyelet = jnp.stack([obs[40], 0.0 * obs[40], obs[41]])
    along = jnp.array([0.0, 1.0, 0.0])
    points = jnp.stack([middle - lace.TAIL * along, middle, middle + lace.FRONT * along, *between, tip])
    passed, _, threaded = lace.threading(points, eyelet[jnp.array([0, 2])], jnp.float32(1.0))
    share = lace.TIP / lace.SEGMENT
    end = (1 - share) * points[4] + share * tip
    first_holds = (hands[1, 7] > 0.5) & _near(first, middle, 0.02)
    other_holds = (hands[0, 7] > 0.5) & _near(other, end, 0.02)
    fetch, align, insert, grasp, pull, retreat = range(6)

    # How the tip hangs from the hand; it swings, and inside the eyelet it is bent.
    hangs = first - tip
    steady = jnp.where(memory.phase == align, 0.7 * memory.offset + 0.3 * hangs, memory.offset)
    offset = jnp.where(memory.phase < insert, jnp.where(memory.phase == align, steady, hangs), memory.offset)
    aim = eyelet + memory.wrong
    before = aim - _BEFORE * along

    held = jnp.where(threaded, insert, jnp.where(passed > -0.02, retreat, align))
    aligned = _near(tip, before, 0.004) & (jnp.linalg.norm(velocity) < 0.05)
    lost = jnp.where(threaded & (passed > 0.02), grasp, fetch)
    # Beside the hole, or against its rim, where the lace bends.
    bent = first[1] + 0.075 > passed
    missed = ((passed > 0.015) & ~threaded) | (bent & (passed < 0.015)) | (memory.since > 60)
    start = jnp.where(first_holds, align, fetch)
    phase = _choose(
        jnp.where(memory.phase < 0, start, memory.phase),
        [
            jnp.where(first_holds, held, fetch),
            jnp.where(~first_holds, fetch, jnp.where(aligned, insert, align)),
            jnp.where(
                threaded & (passed > 0.055),
                grasp,
                jnp.where(~first_holds, lost, jnp.where(missed, retreat, insert)),
            ),
            jnp.where(other_holds, pull, jnp.where(threaded, grasp, jnp.where(first_holds, retreat, fetch))),
            jnp.where(other_holds, pull, jnp.where(threaded, grasp, fetch)),
            jnp.where(~first_holds, fetch, jnp.where(passed < -_BEFORE, align, retreat)),
        ],
    )
    phase = jnp.where(memory.phase < 0, start, phase)

    beside = jnp.linalg.norm((first - middle)[:2]) > 0.015
    to_middle = middle + jnp.array([0.0, 0.0, 0.04]) * beside
    inside = (aim + offset) * (1 - along) + (first[1] - passed + 0.07) * along
    back = memory.place[jnp.where(direction > 0, 1, 0)] * mirror * (1 - along) + (first[1] - passed - 0.045) * along
    kept = memory.place[jnp.where(direction > 0, 1, 0)] * mirror
    first_goal = _choose(phase, [to_middle, before + offset, inside, kept, kept, back])
    waits = eyelet + jnp.array([0.0, 0.13, 0.0])
    free = hands[1, 6] > 0.4 * lace.OPENING
    pulls = jnp.where(free, eyelet + 0.17 * along, memory.place[jnp.where(direction > 0, 0, 1)] * mirror)
    other_goal = _choose(phase, [waits, waits, waits, end, pulls, waits])

    # Jaws that have closed on nothing must open before they can hold.
    close_first = first_holds | (_near(first, middle, 0.008) & (hands[1, 6] > 0.75 * lace.THICKNESS))
    close_other = other_holds | (_near(other, end, 0.008) & (hands[0, 6] > 0.75 * lace.THICKNESS))
    first_opening = jnp.where(close_first & (phase != pull), 0.0, lace.OPENING)
    other_opening = jnp.where(close_other & ((phase == grasp) | (phase == pull)), 0.0, lace.OPENING)
    slippery = (
        (phase == pull) & other_holds,
        ((phase == align) | (phase == insert) | (phase == retreat)) & first_holds,
    )

    def sides(other: Any, first: Any) -> jax.Array:
        """Values in the action's order: left, right."""
        both = jnp.stack([jnp.asarray(other), jnp.asarray(first)])
        return jnp.where(direction > 0, both, both[::-1])

    return Plan(
        phase,
        sides(other_goal, first_goal) * mirror,
        sides(other_opening, first_opening),
        sides(*slippery),
        offset,
    )


SCRIPTS: dict[type[ManipulationTask], Script] = {
    pick_and_place.PickAndPlace: Script(
        phases=("reach", "grasp", "carry", "place", "leave", "retreat"),
        approach=0,
        approaching=(0, 1, 5),
        wrong=(0.035, 0.06, np.array([1.0, 1.0, 0.0])),
        open=pick_and_place.OPENING,
        speed=0.012,
        hands=_pick_hands,
        plan=_pick_plan,
    ),
    lace.Lace: Script(
        phases=("fetch", "align", "insert", "grasp", "pull", "retreat"),
        approach=1,
        approaching=(1, 2, 5),
        wrong=(0.018, 0.035, np.array([1.0, 0.0, 1.0])),
        open=lace.OPENING,
        speed=0.006,
        hands=_lace_hands,
        plan=_lace_plan,
    ),
}
