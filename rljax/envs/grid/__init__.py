"""Small worlds of cells."""

from rljax.envs.grid.t_maze import TMaze

__all__ = ["TMaze"]
