"""Base of all MuJoCo tasks: resets and steps an engine, ends unstable episodes, and draws."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from rljax.envs.environment import Environment, State, initial_state
from rljax.envs.mujoco.engine import Physics, make_engine
from rljax.spaces import Box
from rljax.types import Key

_LARGEST = 1e10  # MuJoCo's own bound for what it calls unstable (mjMAXVAL)


class Score(NamedTuple):
    """The score of a step: reward f32 [], terminated bool [], and the reward's terms and other metrics to plot."""

    reward: jax.Array
    terminated: jax.Array
    metrics: dict[str, jax.Array]


class MujocoTask(Environment):
    """A task on one MuJoCo model. Subclasses define its start, its observations and its score.

    A simulation that goes unstable (NaN or beyond 1e10 in position or velocity) ends its episode with reward 0 and the
    last good observation: terminated where the task's own rule says so, else truncated, so that its value is neither
    lost nor gained. `metrics["unstable"]` is 1 on that step.

    Actions are the model's controls, within their `ctrlrange` where an actuator has one, else without bounds.

    Args:
      model: compiled MJCF.
      frame_skip: physics steps of one control step.
      outputs: derived fields of `mjData` that the task reads (see `Engine`).
      engine: "native" (C library, CPU), "mjx", "warp", or "auto", which picks by backend.
      engine_options: options of the engine (see `make_engine`).
    """

    camera: ClassVar[dict[str, Any]] = {"trackbodyid": 1, "distance": 4.0}
    """Camera of films, as in Gymnasium's default_camera_config."""

    def __init__(
        self,
        model: mujoco.MjModel,
        frame_skip: int,
        outputs: tuple[str, ...] = (),
        engine: str = "auto",
        **engine_options: Any,
    ):
        self.engine = make_engine(engine, model, frame_skip, outputs, **engine_options)
        self.model = self.engine.model
        self.dt = float(model.opt.timestep) * frame_skip
        """Seconds of one control step."""
        self.control_rate = 1.0 / self.dt
        """Control steps per second."""
        self.initial_qpos: Any = self.engine.initial["qpos"]
        self.initial_qvel: Any = self.engine.initial["qvel"]
        limited = model.actuator_ctrllimited.astype(bool)  # else the range, [0, 0] where none was given, means nothing
        self.action_space = Box(*np.where(limited, model.actuator_ctrlrange.T, [[-np.inf], [np.inf]]))
        shape = jax.eval_shape(self.reset, jax.random.key(0)).obs.shape
        self.observation_space = Box(-np.inf, np.inf, shape)
        self._renderer: Any = None

    def initial(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """Draws positions [nq] and velocities [nv] for an episode to start from."""
        raise NotImplementedError

    def observe(self, physics: Physics) -> jax.Array:
        """The observation."""
        raise NotImplementedError

    def score(self, before: Physics, after: Physics, action: jax.Array) -> Score:
        """The score of the step from `before` to `after`."""
        raise NotImplementedError

    def reset(self, key: Key) -> State:
        physics = self.engine.reset(*self.initial(key))
        score = jax.eval_shape(self.score, physics, physics, physics.ctrl)
        metrics = {name: jnp.zeros(value.shape, jnp.float32) for name, value in score.metrics.items()}
        return initial_state(physics, self.observe(physics), **self._flags(physics, jnp.zeros((), bool)), **metrics)

    def step(self, state: State, action: jax.Array) -> State:
        action = jnp.asarray(action, jnp.float32)
        physics = self.engine.step(state.physics, action)
        obs = self.observe(physics)
        score = self.score(state.physics, physics, action)
        stable = (jnp.abs(physics.qpos) < _LARGEST).all() & (jnp.abs(physics.qvel) < _LARGEST).all()
        metrics = {name: jnp.where(stable, value, 0.0).astype(jnp.float32) for name, value in score.metrics.items()}
        return state.replace(
            physics=physics,
            obs=jnp.where(stable, obs, state.obs),
            reward=jnp.where(stable, score.reward, 0.0).astype(jnp.float32),
            terminated=score.terminated,
            truncated=~stable & ~score.terminated,
            metrics=metrics | self._flags(physics, ~stable),
        )

    def render(self, state: State) -> np.ndarray:
        from rljax.envs.mujoco.rendering import Renderer

        if self._renderer is None:
            self._renderer = Renderer(self.model, camera=self.camera)
        data = mujoco.MjData(self.model)
        for name in ("qpos", "qvel", "act", "mocap_pos", "mocap_quat", "eq_active"):
            getattr(data, name)[...] = getattr(state.physics, name)
        mujoco.mj_forward(self.model, data)
        return self._renderer(data)

    def _flags(self, physics: Physics, unstable: jax.Array) -> dict[str, jax.Array]:
        overflow = {"overflow": physics.overflow} if "overflow" in physics.derived else {}
        return {name: flag.astype(jnp.float32) for name, flag in ({"unstable": unstable} | overflow).items()}

    def _uniform_start(self, key: Key, scale: float) -> tuple[jax.Array, jax.Array]:
        """Positions and velocities within `scale` of the model's."""
        position_key, velocity_key = jax.random.split(key)
        qpos = self.initial_qpos + jax.random.uniform(
            position_key, self.initial_qpos.shape, minval=-scale, maxval=scale
        )
        qvel = self.initial_qvel + jax.random.uniform(
            velocity_key, self.initial_qvel.shape, minval=-scale, maxval=scale
        )
        return qpos, qvel

    def _normal_velocity_start(self, key: Key, scale: float) -> tuple[jax.Array, jax.Array]:
        """Positions within `scale` of the model's, velocities normal with deviation `scale`."""
        position_key, velocity_key = jax.random.split(key)
        qpos = self.initial_qpos + jax.random.uniform(
            position_key, self.initial_qpos.shape, minval=-scale, maxval=scale
        )
        qvel = self.initial_qvel + scale * jax.random.normal(velocity_key, self.initial_qvel.shape)
        return qpos, qvel
