"""MuJoCo tasks, written once and run by MJX, MuJoCo Warp or the C library."""

from rljax.envs.mujoco.engine import ENGINES, Engine, Physics, gymnasium_model, load_model, make_engine
from rljax.envs.mujoco.task import MujocoTask

__all__ = ["ENGINES", "Engine", "MujocoTask", "Physics", "gymnasium_model", "load_model", "make_engine"]
