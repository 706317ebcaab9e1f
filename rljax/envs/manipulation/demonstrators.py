"""Scripted demonstrators with human faults: they slip, hesitate, miss, go back and try again, and sometimes give up.

A demonstrator is a policy with memory, which can be evaluated as any other; deterministic, it has neither noise nor
faults. Each task's script says what to do next, from an observation and its memory; how hands move, and faults, are the
same for all.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.environment import Environment
from rljax.envs.episodes import play
from rljax.envs.manipulation.scripts import SCRIPTS, Memory, Script
from rljax.policy import Policy
from rljax.types import Key, Refused

NONE, SLIP, HESITATION, WRONG_APPROACH = range(4)
"""Labels of steps."""
_SLIP_STEPS = 6
_JITTER = 0.002


@dataclasses.dataclass(frozen=True)
class Manner:
    """How a demonstrator moves, and how often each fault occurs.

    Raises:
      ValueError: a value that is not allowed.
    """

    speed: float = 1.0  # of the hands, as a multiple of the script's
    slip: float = 0.0  # how often per step a hand that holds something opens
    hesitation: float = 0.0  # how often per step it stands still, or jitters, for half a second to a second and a half
    wrong_approach: float = 0.0  # share of approaches that go to a wrong place
    give_up: float = 0.0  # share of faults after which it does not go on
    noise: float = 0.0  # deviation of the places that hands are sent to, metres

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            most = 1.0 if name not in ("speed", "noise") else np.inf
            if not 0 <= value <= most or (name == "speed" and value == 0):
                allowed = "above 0" if name == "speed" else "0 or more" if most > 1 else "between 0 and 1"
                raise Refused(f"Manner: {name} must be {allowed}, got {value}")


class Demonstrations(NamedTuple):
    """Steps of whole episodes, one after the other, as NumPy arrays [N, …]; `ends` [episodes] says where each ends.

    `fault` is the label of each step (0 none, 1 slip, 2 hesitation, 3 a wrong approach and the way back), and `phase`
    the script's.
    """

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: np.ndarray
    fault: np.ndarray
    phase: np.ndarray
    ends: np.ndarray


def make(env: Environment, manner: Manner = Manner()) -> Policy:
    """The demonstrator of a task.

    Raises:
      ValueError: the task has none.
    """
    kind: Any = next((kind for kind in SCRIPTS if isinstance(env.unwrapped, kind)), None)
    if kind is None:
        known = ", ".join(kind.__name__ for kind in SCRIPTS)
        raise Refused(f"{env!r} has no demonstrator; there is one for {known}")
    space: Any = env.action_space
    hands = space.shape[0] // 4
    nothing = Memory(
        fresh=jnp.ones((), bool),
        phase=jnp.int32(-1),
        since=jnp.int32(0),
        place=jnp.zeros((hands, 3)),
        opening=jnp.zeros(hands),
        offset=jnp.zeros(3),
        wrong=jnp.zeros(3),
        fault=jnp.int32(NONE),
        left=jnp.int32(0),
        gives_up=jnp.zeros((), bool),
    )
    numbers = {name: jnp.float32(value) for name, value in dataclasses.asdict(manner).items()}
    variables = {"manner": numbers, "low": jnp.asarray(space.low), "high": jnp.asarray(space.high)}
    return Policy(variables, nothing, _function(kind))


@functools.cache
def _function(kind: Any) -> Callable:
    """The function of the policy; one and the same for all of a task, so that what uses it is compiled once."""
    script = SCRIPTS[kind]

    def act(
        variables: dict[str, Any], key: Key, obs: jax.Array, memory: Memory, deterministic: bool = True
    ) -> tuple[jax.Array, Memory, tuple[()]]:
        manner = variables["manner"]
        if deterministic:
            manner = {name: jnp.zeros(()) for name in manner} | {"speed": manner["speed"]}
        one = functools.partial(_act, script, manner)
        for _ in obs.shape[:-1]:
            one = jax.vmap(one)
        action, memory = one(jax.random.split(key, obs.shape[:-1]), obs, memory)
        return jnp.clip(action, variables["low"], variables["high"]), memory, ()

    return act


def _act(
    script: Script, manner: dict[str, jax.Array], key: Key, obs: jax.Array, memory: Memory
) -> tuple[jax.Array, Memory]:
    """One step of one environment."""
    places, openings = script.hands(obs)
    # Drawn all at once: each draw by itself takes longer to compile than all the rest.
    numbers = jax.random.normal(key, (9 + places.size,))
    chances, directed, noise = jax.scipy.stats.norm.cdf(numbers[:6]), numbers[6:9], numbers[9:].reshape(-1, 3)
    slip, hesitation, wrong_approach, give_up, duration, far = chances
    memory = memory.replace(
        place=jnp.where(memory.fresh, places, memory.place), opening=jnp.where(memory.fresh, openings, memory.opening)
    )
    plan = script.plan(obs, memory)
    changed = plan.phase != memory.phase

    # An approach is decided upon when it begins, and a wrong one lasts until the next begins.
    begins = changed & (plan.phase == script.approach)
    errs = begins & ~memory.gives_up & (wrong_approach < manner["wrong_approach"])
    least, most, directions = script.wrong
    way = directed * directions
    way *= (least + far * (most - least)) / (jnp.linalg.norm(way) + 1e-6)
    approaching = (plan.phase == jnp.asarray(script.approaching)).any()
    wrong = jnp.where(errs, way, jnp.where(begins | ~approaching, 0.0, memory.wrong))
    erring = (wrong != 0).any()

    idle = (memory.left == 0) & ~erring & ~memory.gives_up
    slips = idle & plan.slippery.any() & (slip < manner["slip"])
    hesitates = idle & ~slips & (hesitation < manner["hesitation"])
    pause = 10 + (20 * duration).astype(jnp.int32)
    left = jnp.where(slips, _SLIP_STEPS, jnp.where(hesitates, pause, jnp.maximum(memory.left - 1, 0)))
    begun = slips | hesitates | errs
    gives_up = memory.gives_up | (begun & (give_up < manner["give_up"]))
    stopped = gives_up & (left == 0) & ~erring
    lasting = jnp.where(slips, SLIP, jnp.where(hesitates, HESITATION, memory.fault))
    fault = jnp.where(left > 0, lasting, jnp.where(erring, WRONG_APPROACH, jnp.where(stopped, HESITATION, NONE)))

    slipping, still = fault == SLIP, fault == HESITATION
    # Which hand slips shows at the first step only: later it holds nothing.
    opened = jnp.where(slips, plan.slippery, slipping & (memory.opening > 0.99 * script.open))
    way = plan.goal - memory.place
    distance = jnp.linalg.norm(way, axis=-1, keepdims=True)
    speed = script.speed * manner["speed"]
    moved = memory.place + way * jnp.minimum(1.0, speed / (distance + 1e-6))
    place = jnp.where(slipping | still, memory.place, moved)
    opening = jnp.where(opened, script.open, jnp.where(slipping | still, memory.opening, plan.opening))
    shaken = place + noise * (manner["noise"] + _JITTER * still)
    action = jnp.concatenate([shaken, opening[:, None]], 1).reshape(-1)
    return action, memory.replace(
        fresh=jnp.zeros((), bool),
        phase=plan.phase,
        since=jnp.where(changed, 0, memory.since + ~(slipping | still)),
        place=place,
        opening=opening,
        offset=plan.offset,
        wrong=wrong,
        fault=fault,
        left=left,
        gives_up=gives_up,
    )


def demonstrate(env: Environment, demonstrator: Policy, key: Key, episodes: int) -> Demonstrations:
    """Whole episodes, side by side, each cut at its end.

    Raises:
      ValueError: `env` has no time limit.
    """
    s, (fault, phase), ends = play(env, demonstrator, key, episodes, _noted)
    rows: Any = (s.obs, s.action, s.reward, s.terminated, s.truncated, s.next_obs, fault, phase, ends)
    return Demonstrations(*rows)


def _noted(memory: Memory) -> tuple[jax.Array, jax.Array]:
    return memory.fault, memory.phase
