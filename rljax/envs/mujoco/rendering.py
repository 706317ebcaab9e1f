"""Off-screen pictures of MuJoCo models, with EGL or OSMesa where there is no display. Host only."""

import atexit
import copy
import ctypes.util
import importlib
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rljax.types import Refused

if TYPE_CHECKING:
    import mujoco

# libgl1-mesa-dri holds the software renderer that EGL needs on a machine without a GPU.
_INSTALL = "apt-get install libegl1 libgl1 libgl1-mesa-dri (for EGL), or libosmesa6 (for OSMesa)"
_MAX_GEOMS = 10_000
_ELEVATION = -20.0  # degrees; MuJoCo's own -45 shows more floor than robot


class NoGraphics(RuntimeError):
    """No OpenGL to draw with. The message names the system packages that bring one."""


class Renderer:
    """Draws a model: `renderer(data)` is uint8 [height, width, 3].

    Draw, and close, in the thread that made it: an OpenGL context belongs to one thread at a time. It is also closed
    when it is garbage collected and when Python ends.

    Args:
      model: copied if its off-screen buffer is too small for the picture.
      width, height: in pixels.
      camera: as Gymnasium's `default_camera_config`, any of `trackbodyid` (the camera moves along with the centre of
        mass of that body and its children, at constant height; 0, the world, and -1 stay), `lookat` (metres; of a
        camera that tracks, only the height counts), `distance` (metres), `azimuth` and `elevation` (degrees). Or
        `name`, of a camera in the model.

    The environment variable MUJOCO_GL (egl, osmesa, glfw) chooses how to draw. Where it is not set, Linux uses EGL,
    else OSMesa, else the display.

    Raises:
      NoGraphics: no working OpenGL.
      ValueError: a camera setting that does not exist.
    """

    _gl: Any = None
    _context: Any = None

    def __init__(
        self, model: "mujoco.MjModel", *, width: int = 480, height: int = 480, camera: Mapping[str, Any] | None = None
    ):
        backend = _backend()
        try:
            import mujoco

            context_class = importlib.import_module(f"mujoco.{backend}").GLContext if backend else mujoco.GLContext
        except Exception as error:  # whatever a missing library makes of PyOpenGL: ImportError, AttributeError, …
            raise _no_graphics(str(error)) from error
        size = model.vis.global_
        if size.offwidth < width or size.offheight < height:
            model = copy.copy(model)
            model.vis.global_.offwidth = max(size.offwidth, width)
            model.vis.global_.offheight = max(size.offheight, height)
        self._model = model
        self._frame = np.empty((height, width, 3), np.uint8)
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._option = mujoco.MjvOption()
        self._camera, self._tracked = _camera(model, dict(camera or {}))
        try:
            self._gl = context_class(width, height)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        except Exception as error:
            self.close()
            raise _no_graphics(str(error)) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
        # A light that stays behind casts shadows in its own surroundings only, with a ragged edge; half the time, too.
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._tracked is None
        # At Python's end EGL is shut down by an exit handler of its own; this one, registered later, is called earlier.
        close = weakref.WeakMethod(self.close)
        atexit.register(lambda: (alive := close()) and alive())

    def __call__(self, data: "mujoco.MjData") -> np.ndarray:
        """Draws `data`, whose positions must be up to date (`mj_forward`)."""
        import mujoco

        if self._context is None:
            raise RuntimeError("this renderer is closed")
        self._gl.make_current()
        if self._tracked is not None:
            self._camera.lookat[:2] = data.subtree_com[self._tracked, :2]
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(self._frame, None, self._rectangle, self._context)
        return self._frame[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Frees the OpenGL context. May be called twice."""
        gl, context, self._gl, self._context = self._gl, self._context, None, None
        if context is not None:
            gl.make_current()
            context.free()
        if gl is not None:
            gl.free()

    def __del__(self) -> None:
        self.close()


def _backend() -> str | None:
    """The module of mujoco to draw with; None for what mujoco chose."""
    wished = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wished in ("egl", "osmesa", "glfw"):
        return wished
    if wished in ("disable", "disabled", "off", "false", "0"):
        raise NoGraphics(f"cannot render: MUJOCO_GL={wished} turns it off")
    if sys.platform != "linux":
        return None
    # Chosen beforehand: PyOpenGL keeps for good to the first one it is imported with, even if that does not work.
    found = [name for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")) if ctypes.util.find_library(library)]
    if found == ["egl", "osmesa"]:
        attempt = [sys.executable, "-c", "import mujoco.egl; mujoco.egl.GLContext(1, 1)"]
        return "osmesa" if subprocess.run(attempt, capture_output=True).returncode else "egl"
    if not found and "DISPLAY" not in os.environ:
        raise _no_graphics("neither libEGL nor libOSMesa is installed")
    return found[0] if found else "glfw"


def _no_graphics(reason: str) -> NoGraphics:
    wished = os.environ.get("MUJOCO_GL")
    wished = f" with MUJOCO_GL={wished}" if wished else ""
    reason = " ".join(reason.split()).rstrip(".")
    install = f"; try: {_INSTALL}" if sys.platform == "linux" else ""
    return NoGraphics(f"cannot render{wished}: no working OpenGL ({reason}){install}")


def _camera(model: "mujoco.MjModel", settings: dict[str, Any]) -> tuple["mujoco.MjvCamera", int | None]:
    """The camera, and the body that it tracks."""
    import mujoco

    known = ("trackbodyid", "lookat", "distance", "azimuth", "elevation", "name")
    if unknown := sorted(set(settings) - set(known)):
        raise Refused(f"a camera has no setting {', '.join(unknown)}; it has {', '.join(known)}")
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    if "name" in settings:
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = model.camera(settings["name"]).id
        return camera, None
    camera.elevation = settings.get("elevation", _ELEVATION)
    camera.azimuth = settings.get("azimuth", camera.azimuth)
    camera.distance = settings.get("distance", camera.distance)
    tracked = settings.get("trackbodyid", 0)
    if "lookat" in settings:
        camera.lookat[:] = settings["lookat"]
    elif tracked > 0:
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        camera.lookat[:] = data.subtree_com[tracked]
    return camera, tracked if tracked > 0 else None
