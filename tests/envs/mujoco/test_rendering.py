"""Pictures of a small model, and what is said where nothing can draw."""

import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from rljax.envs.mujoco import rendering
from rljax.envs.mujoco.rendering import NoGraphics, Renderer

XML = """
<mujoco>
  <visual><global offwidth="100" offheight="100"/></visual>
  <worldbody>
    <light directional="true" pos="0 0 3"/>
    <geom type="plane" size="40 40 1" rgba="0 0 1 1"/>
    <camera name="above" pos="0 0 5"/>
    <body name="ball" pos="0 0 1">
      <joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 0 1"/>
      <geom size="0.4" rgba="1 0 0 1"/>
    </body>
  </worldbody>
</mujoco>
"""
CODE = f"""
import builtins
import sys
import mujoco
from rljax.envs.mujoco.rendering import Renderer
model = mujoco.MjModel.from_xml_string('''{XML}''')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderers = [Renderer(model), Renderer(model)]
builtins.kept = Renderer(model)  # lives until modules are torn down
print([renderer(data).shape for renderer in renderers], *(m for m in ("egl", "osmesa") if "mujoco." + m in sys.modules))
"""


def python(code, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MUJOCO_GL")}
    environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(XML)


@pytest.fixture
def make(model):
    """Makes renderers, and closes them."""
    made = []

    def make(**arguments):
        try:
            made.append(Renderer(model, **arguments))
        except NoGraphics as error:
            pytest.skip(str(error))
        return made[-1]

    yield make
    for renderer in made:
        renderer.close()


def state(model, x=0.0, z=0.0):
    data = mujoco.MjData(model)
    data.qpos[:] = x, z
    mujoco.mj_forward(model, data)
    return data


def ball(picture):
    """Where the ball is, (row, column), and how many pixels it covers."""
    rows, columns = np.nonzero((picture[..., 0] > 60) & (picture[..., 2] < picture[..., 0] // 2))
    return rows.mean(), columns.mean(), len(rows)


def test_draws_what_is_there_at_the_size_asked_for(model, make):
    renderer = make(width=320, height=240)
    picture = renderer(state(model))
    assert picture.shape == (240, 320, 3)
    assert picture.dtype == np.uint8
    assert ball(picture)[2] > 200
    row, *_ = ball(renderer(state(model, z=0.5)))
    assert row < ball(picture)[0]  # higher up, so the picture is not upside down
    blue = picture[-1].astype(int)
    assert (blue[:, 2] > blue[:, 0]).all()  # the floor
    assert model.vis.global_.offwidth == 100  # whose buffer was too small; only a copy was changed


def test_pictures_are_the_callers_own(model, make):
    renderer = make()
    first = renderer(state(model))
    before = first.copy()
    renderer(state(model, x=1.0))
    np.testing.assert_array_equal(first, before)


def test_a_camera_tracks_along_the_ground_but_not_up_and_down(model, make):
    still = make(camera={"distance": 6.0, "lookat": (0, 0, 1)})
    tracking = make(camera={"trackbodyid": 1, "distance": 6.0})
    for renderer, moves in ((still, True), (tracking, False)):
        row, column, _ = ball(renderer(state(model)))
        later_row, later_column, _ = ball(renderer(state(model, x=1.0, z=0.5)))
        assert (later_column > column + 20) == moves
        assert later_row < row - 10
    assert ball(make(camera={"trackbodyid": 1, "distance": 3.0})(state(model)))[2] > 2 * ball(tracking(state(model)))[2]


def test_a_camera_of_the_model_by_name(model, make):
    picture = make(camera={"name": "above"})(state(model))
    assert ball(picture)[:2] == pytest.approx((239.5, 239.5), abs=1)


def test_bad_cameras_are_refused(model):
    with pytest.raises(ValueError, match=r"no setting distanse; it has trackbodyid, lookat, distance"):
        Renderer(model, camera={"distanse": 3.0})
    with pytest.raises(KeyError, match="below"):
        Renderer(model, camera={"name": "below"})


def test_closed_renderers_say_so(model, make):
    renderer = make()
    renderer.close()
    renderer.close()
    with pytest.raises(RuntimeError, match="this renderer is closed"):
        renderer(state(model))


def test_python_ends_without_a_word_when_renderers_are_left_open(make):
    make()
    done = python(CODE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[(480, 480, 3), (480, 480, 3)]")


def test_the_error_names_the_system_packages(model):
    nothing = "import ctypes.util; ctypes.util.find_library = lambda name: None"
    last = python(nothing + CODE).stderr.splitlines()[-1]
    assert last == (
        "rljax.envs.mujoco.rendering.NoGraphics: cannot render: no working OpenGL (neither libEGL nor libOSMesa is "
        "installed); try: apt-get install libegl1 libgl1 libgl1-mesa-dri (for EGL), or libosmesa6 (for OSMesa)"
    )


def test_an_egl_without_devices_is_an_error_too(make):
    make()
    code = CODE.replace("renderers =", "import os; os.environ['MUJOCO_EGL_DEVICE_ID'] = '99'; renderers =")
    done = python(code, MUJOCO_GL="egl")
    last = done.stderr.splitlines()[-1]
    assert "cannot render with MUJOCO_GL=egl: no working OpenGL" in last
    assert "apt-get install libegl1" in last
    assert "Exception ignored" not in done.stderr


def test_mujoco_gl_off_is_respected(model, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "off")
    with pytest.raises(NoGraphics, match="MUJOCO_GL=off turns it off"):
        Renderer(model)


@pytest.mark.parametrize(
    ("found", "egl_works", "display", "chosen"),
    [
        (("EGL",), True, False, "egl"),
        (("OSMesa",), False, False, "osmesa"),
        (("EGL", "OSMesa"), True, True, "egl"),
        (("EGL", "OSMesa"), False, False, "osmesa"),
        ((), False, True, "glfw"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere mujoco chooses")
def test_choice_of_library(monkeypatch, found, egl_works, display, chosen):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setenv("DISPLAY", ":0") if display else monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: f"lib{name}.so" if name in found else None)
    attempt: subprocess.CompletedProcess[bytes] = subprocess.CompletedProcess([], 0 if egl_works else 1)
    monkeypatch.setattr(rendering.subprocess, "run", lambda *_, **__: attempt)
    assert rendering._backend() == chosen
