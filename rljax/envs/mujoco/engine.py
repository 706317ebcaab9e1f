"""The interface of MuJoCo tasks to their simulator, on any of the three engines."""

import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import mujoco
import numpy as np
from flax import struct

from rljax.paths import local
from rljax.types import Refused

ENGINES = ("auto", "native", "mjx", "warp")


class Physics(struct.PyTreeNode):
    """One simulation between two steps, with fields named and shaped as in `mjData`.

    It holds all that the next step depends on, and of derived fields only those that the task asked for, which are read
    as attributes too (`physics.xpos`). After a step these describe the state before the last substep, as in `mjData`
    after `mj_step`; after a reset, the state itself.
    """

    time: jax.Array
    qpos: jax.Array
    qvel: jax.Array
    act: jax.Array
    qacc_warmstart: jax.Array
    ctrl: jax.Array
    eq_active: jax.Array
    mocap_pos: jax.Array
    mocap_quat: jax.Array
    derived: dict[str, jax.Array]

    def __getattr__(self, name: str) -> jax.Array:
        derived = object.__getattribute__(self, "derived")
        if name in derived:
            return derived[name]
        raise AttributeError(f"physics has no {name}; the task asked for {', '.join(derived) or 'nothing derived'}")


STATE_FIELDS = tuple(name for name in Physics.__dataclass_fields__ if name != "derived")


class Engine:
    """Steps one model. Pure functions over `Physics`; batch them with `jax.vmap`.

    Args:
      model: compiled MJCF; the engine works on a copy.
      substeps: physics steps of one control step.
      outputs: derived fields of `mjData` that the task reads, such as "xpos", "site_xpos", "cfrc_ext", "sensordata";
        and "qpos_change", which is not in `mjData`: the movement of `qpos` before rounding to single precision. Far
        from the origin a velocity from two rounded positions is mostly rounding.
    """

    name: str

    def __init__(self, model: mujoco.MjModel, substeps: int, outputs: Sequence[str] = ()):
        if substeps < 1:
            raise Refused(f"engine {self.name}: substeps must be at least 1, got {substeps}")
        data = mujoco.MjData(model)
        derived: dict[str, Any] = {n: data.qpos if n == "qpos_change" else getattr(data, n, None) for n in outputs}
        if unknown := [name for name, value in derived.items() if not isinstance(value, np.ndarray)]:
            raise Refused(f"engine {self.name}: mjData has no array {', '.join(unknown)}")
        self.model, self.substeps, self.outputs = model, substeps, tuple(outputs)
        self.output_shapes = {name: value.shape for name, value in derived.items()}
        self.initial = {name: np.asarray(getattr(data, name), np.float32) for name in STATE_FIELDS}

    def reset(self, qpos: jax.Array, qvel: jax.Array) -> Physics:
        """The model's initial state but for `qpos` [nq] and `qvel` [nv]."""
        raise NotImplementedError

    def step(self, physics: Physics, ctrl: jax.Array) -> Physics:
        """`substeps` steps under constant controls `ctrl` [nu], in the model's units."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends background threads, which start again when needed."""


def make_engine(name: str, model: mujoco.MjModel, substeps: int, outputs: Sequence[str] = (), **options: Any) -> Engine:
    """The engine called `name`; "auto" is native on CPUs and MJX on accelerators.

    Args:
      options: options of the engine: `threads` (native), `iterations` and `ls_iterations` (mjx, warp), `contacts`,
        `constraints` and `worlds` (warp).

    Raises:
      ValueError: an unknown engine or option, a model that the engine cannot run, or Warp is not installed.
    """
    if name not in ENGINES:
        raise Refused(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")
    if name == "auto":
        name = "native" if jax.default_backend() == "cpu" else "mjx"
    # Imported when used, since MJX takes seconds.
    module, kind = {
        "native": ("native", "NativeEngine"),
        "mjx": ("mjx", "MjxEngine"),
        "warp": ("mjx", "WarpEngine"),
    }[name]
    engine = getattr(importlib.import_module(f"rljax.envs.mujoco.{module}"), kind)
    try:
        return engine(model, substeps, outputs, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise Refused(f"engine {name}: {str(error).partition(') ')[2]}") from None


def load_model(path: str | Path) -> mujoco.MjModel:
    """Compiles an MJCF file. MuJoCo's warnings become Python's.

    Raises:
      ValueError: there is no such file, or MuJoCo refuses it.
    """
    path = local(path)
    if not path.is_file():
        raise Refused(f"there is no MJCF file {path}")
    messages: list[str] = []
    # Otherwise they would be printed, and left in a file in the current folder.
    mujoco.set_mju_user_warning(messages.append)
    try:
        model = mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise Refused(f"{path} is not a model that MuJoCo takes: {' '.join(str(error).split())}") from None
    finally:
        mujoco.set_mju_user_warning(None)
    for message in messages:
        if "settotalmass" not in message:  # Gymnasium's half_cheetah.xml; nothing that its user could do
            warnings.warn(message, stacklevel=2)
    return model


def gymnasium_model(file: str) -> mujoco.MjModel:
    """Compiles one of the MJCF files that come with the gymnasium package.

    Raises:
      ValueError: gymnasium is not installed.
    """
    spec = importlib.util.find_spec("gymnasium")
    if spec is None or spec.origin is None:
        raise Refused(f"the model {file} comes with Gymnasium, which is not installed: pip install gymnasium")
    return load_model(Path(spec.origin).parent / "envs" / "mujoco" / "assets" / file)
