"""Classic control: the small tasks of Gymnasium, step for step the same, in pure JAX."""

from rljax.envs.classic.acrobot import Acrobot
from rljax.envs.classic.cartpole import CartPole
from rljax.envs.classic.mountain_car import MountainCar
from rljax.envs.classic.mountain_car_continuous import MountainCarContinuous
from rljax.envs.classic.pendulum import Pendulum

__all__ = ["Acrobot", "CartPole", "MountainCar", "MountainCarContinuous", "Pendulum"]
