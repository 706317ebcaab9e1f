"""Base of the manipulation tasks: named parts, three kinds of reward, success."""

from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import mujoco

from rljax.envs.mujoco.engine import Physics
from rljax.envs.mujoco.task import MujocoTask, Score
from rljax.envs.symmetry import Blocks, Symmetry
from rljax.types import Refused

Reward = Literal["dense", "staged", "sparse"]


class Progress(NamedTuple):
    """Progress of a task: `quality` and `stages`, f32 [] in [0, 1] and 1 at success; success bool []; metrics."""

    quality: jax.Array
    stages: jax.Array
    success: jax.Array
    metrics: dict[str, jax.Array]


class ManipulationTask(MujocoTask):
    """A task that is done or not. Subclasses say how it starts, what is observed and how far it is (`progress`).

    A reward lies between -1 and 0: quality - 1 (dense), stages - 1 (staged), or -1 until success (sparse). So an agent
    gains by ending, and with the sparse reward the return without a discount is minus the number of steps. Success
    terminates, and is `metrics["success"]`.

    Args:
      reward: kind of the reward.
      terminate_on_success: whether success ends the episode; else it goes on to its time limit.
    """

    observation_blocks: ClassVar[Blocks] = {}
    """The named parts of an observation."""
    action_blocks: ClassVar[Blocks] = {}
    """The named parts of an action."""
    symmetry: ClassVar[Symmetry | None] = None
    """The mirror symmetry of the task, if it has one."""

    def __init__(
        self,
        model: mujoco.MjModel,
        frame_skip: int,
        outputs: tuple[str, ...] = (),
        reward: Reward = "sparse",
        terminate_on_success: bool = True,
        **engine: Any,
    ):
        if reward not in get_args(Reward):
            raise Refused(f"{type(self).__name__}: reward must be one of {get_args(Reward)}, got {reward!r}")
        self.reward, self.terminates_at_success = reward, terminate_on_success
        super().__init__(model, frame_skip, outputs, **engine)

    def progress(self, physics: Physics) -> Progress:
        """The progress of the task."""
        raise NotImplementedError

    def score(self, before: Physics, after: Physics, action: jax.Array) -> Score:
        progress = self.progress(after)
        metrics = {"success": progress.success.astype(jnp.float32), "stages": progress.stages, **progress.metrics}
        return Score(reward_of(progress, self.reward), progress.success & self.terminates_at_success, metrics)

    def combine_metric(self, name: str, earlier: jax.Array, later: jax.Array) -> jax.Array:
        """The larger value: metrics tell how far the task has come, and evaluation reports the highest."""
        return jnp.maximum(earlier, later)


def reward_of(progress: Progress, kind: Reward) -> jax.Array:
    """The reward in [-1, 0], of the shape of the progress's leaves."""
    done = {"dense": progress.quality, "staged": progress.stages, "sparse": progress.success.astype(jnp.float32)}[kind]
    # Success is all of it, whatever rounding leaves missing.
    return jnp.where(progress.success, 0.0, jnp.clip(done, 0.0, 1.0) - 1.0)
