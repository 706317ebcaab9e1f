"""Playing: an actor and a robot, step after step."""

import dataclasses
import math
import time
from typing import Any, Protocol

import numpy as np

from rljax.remote.actor import Actor


class Robot(Protocol):
    """What an actor acts in: an object with Gymnasium's `reset` and `step`."""

    def reset(self) -> tuple[Any, dict]:
        """The first observation of an episode, and a dict that is not used."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """The next observation, the reward, whether the task ended, whether time is up, and a dict.

        Where the dict has `intervene_action`, that was the action, and a human's.
        """


class Clock:
    """Ticks of a control rate. A tick that comes late is counted by the actor, and the next one has its whole time.

    Args:
      rate: ticks per second.
    """

    def __init__(self, rate: float, actor: Actor):
        self.period, self.actor = 1.0 / rate, actor
        self._due = -math.inf

    def begin(self) -> None:
        """Begins an episode: the first tick is a period from now."""
        self._due = time.perf_counter() + self.period

    def wait(self) -> None:
        """Waits for the next tick."""
        left = self._due - time.perf_counter()
        if left > 0:
            time.sleep(left)
            self._due += self.period
        else:
            self.actor.overruns += left > -math.inf
            self.begin()


@dataclasses.dataclass
class Played:
    """What an actor did: steps, episodes and the mean of their returns, and steps that came late."""

    steps: int = 0
    episodes: int = 0
    mean_return: float = math.nan
    overruns: int = 0


def play(
    actor: Actor,
    robot: Robot,
    steps: int | None = None,
    rate: float | None = None,
) -> Played:
    """Acts until the learner has learned enough, for a number of steps, or until `actor.stop` says so.

    Args:
      robot: what it acts in.
      rate: steps per second of a simulator, which is as fast as it can be where None. The step of a real robot waits
        by itself, between the command and the next observation, as with a `Clock` of its own.

    Raises:
      Refused: the learner refused the actor, or the robot's values do not fit the learner's task.
    """
    actor.wait_for_policy()
    clock = None if rate is None else Clock(rate, actor)
    played, returns, total, obs = Played(), [], 0.0, None
    while actor.over is None and (steps is None or played.steps < steps) and not actor.stop():
        if obs is None:
            obs, _ = robot.reset()
            actor.begin()
            total = 0.0
            if clock is not None:
                clock.begin()
        action = actor.act(obs)
        next_obs, reward, terminated, truncated, info = robot.step(action)
        human = info.get("intervene_action")
        executed = action if human is None else human
        actor.record(obs, executed, reward, terminated, truncated, next_obs, intervened=human is not None)
        if clock is not None:
            clock.wait()
        played.steps, total = played.steps + 1, total + float(reward)
        obs = next_obs
        if terminated or truncated:
            returns.append(total)
            obs = None
    played.episodes, played.overruns = len(returns), actor.overruns
    played.mean_return = float(np.mean(returns)) if returns else math.nan
    return played
