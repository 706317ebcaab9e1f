"""A page in the browser on which policies act: `rljax play`.

MuJoCo's tasks are shown as scenes in three dimensions (mjviser), all others as the pictures that they draw.
"""

import contextlib
import copy
import html
import io
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rljax.analysis.player import Player
from rljax.types import Refused

try:
    import viser
    from mjviser import ViserMujocoScene
    from viser import uplot
except ImportError as error:
    raise Refused(
        f"the viewer needs viser and mjviser, which are not here ({error}): pip install 'rljax[play]'"
    ) from None

_FRAME = 1.0 / 30.0  # seconds between two updates of the page
_NUMBERS = 0.2  # seconds between two updates of the numbers
_KEPT = 400  # steps that the plot shows
_SPEEDS = ("1/4", "1/2", "1", "2", "4")
_DIRECTIONS = {
    "any, level": None,
    "+x": (1.0, 0.0, 0.0),
    "-x": (-1.0, 0.0, 0.0),
    "+y": (0.0, 1.0, 0.0),
    "-y": (0.0, -1.0, 0.0),
    "up": (0.0, 0.0, 1.0),
}


class Viewer:
    """The page. `run` steps the player in real time until `stop` is set, or the process is interrupted.

    Args:
      player: acts.
      title: name of the page, such as that of the run.
      labels: names of the player's members.
      host, port: where the page is served; the next free port where this one is taken.
    """

    def __init__(self, player: Player, title: str, labels: Sequence[str], host: str = "127.0.0.1", port: int = 8080):
        self.player, self.labels = player, list(labels)
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._paused, self._speed, self._shown = False, 1.0, 0
        self._budget, self._achieved = 0.0, 0.0
        self._rewards: deque[float] = deque(maxlen=_KEPT)
        self._plotted = "reward"
        self._random = np.random.default_rng(0)
        with contextlib.redirect_stdout(io.StringIO()):  # its banner
            self.server = viser.ViserServer(host, port, label=title, verbose=False)
        self.address = f"http://{'localhost' if host == '127.0.0.1' else host}:{self.server.get_port()}"
        self._scene: ViserMujocoScene | None = None
        self._picture: Any = None
        self._build(title)
        self._draw()

    def run(self, stop: threading.Event | None = None) -> None:
        """Steps and draws until `stop` is set or Ctrl-C is pressed, and ends the server."""
        stop = threading.Event() if stop is None else stop
        here = threading.current_thread() is threading.main_thread()
        # An exception in the middle of a compiled step would be taken for the simulator's.
        before = signal.signal(signal.SIGINT, lambda *_: stop.set()) if here else None
        last, drawn, counted, numbers = time.perf_counter(), 0.0, 0, time.perf_counter()
        try:
            while not stop.is_set():
                changed = self._serve_requests()
                now = time.perf_counter()
                steps = 0 if self._paused else self._due(now - last)
                last = now
                for _ in range(steps):
                    self._step()
                counted += steps
                if (changed or steps) and now - drawn >= _FRAME:
                    drawn = now
                    self._draw()
                if changed or now - numbers >= _NUMBERS:
                    self._achieved = counted / max(now - numbers, 1e-9) / self.player.rate
                    counted, numbers = 0, now
                    self._write_numbers()
                stop.wait(0.002)
        finally:
            self.server.stop()
            if here:
                signal.signal(signal.SIGINT, before)

    def ask(self, action: Callable[[], None]) -> None:
        """Has the loop call `action` before its next step; the page's buttons do, from threads of their own."""
        self._requests.put(action)

    def _due(self, elapsed: float) -> int:
        """Steps that are due after `elapsed` seconds; what cannot be made up in one frame is dropped."""
        self._budget = min(self._budget + elapsed * self._speed * self.player.rate, 1 + _FRAME * self.player.rate * 4)
        due = int(self._budget)
        self._budget -= due
        return due

    def _serve_requests(self) -> bool:
        served = False
        while True:
            try:
                action = self._requests.get_nowait()
            except queue.Empty:
                return served
            action()
            served = True

    def _step(self) -> None:
        self.player.step()
        values = self.player.metrics(self._shown) | {"reward": float(self.player.states.reward[self._shown])}
        if self.player.lengths[self._shown]:  # else an episode begins, and nothing was measured
            self._rewards.append(values[self._plotted])

    def _draw(self) -> None:
        """Shows the states."""
        if self._scene is not None:
            positions, rotations, mocap_positions, mocap_rotations = self.player.poses()
            offsets = self._apart * (np.arange(self.player.members) - (self.player.members - 1) / 2)
            positions[:, :, 1] += offsets[:, None]
            mocap_positions[:, :, 1] += offsets[:, None]
            self._scene.env_idx = self._shown
            physics = self.player.states.physics
            qpos, qvel, ctrl = (np.asarray(getattr(physics, name)) for name in ("qpos", "qvel", "ctrl"))
            self._scene.update_from_arrays(
                positions, rotations, mocap_positions, mocap_rotations, qpos=qpos, qvel=qvel, ctrl=ctrl
            )
        else:
            self._picture.image = self.player.env.render(self.player.state(self._shown))

    def _write_numbers(self) -> None:
        player, shown = self.player, self._shown
        rows = [
            ("step", f"{player.lengths[shown]:,}"),
            ("time", f"{player.lengths[shown] / player.rate:.1f} s"),
            ("return so far", f"{player.returns[shown]:.4g}"),
            ("last episode", "–" if np.isnan(player.finished[shown]) else f"{player.finished[shown]:.4g}"),
            ("speed", "paused" if self._paused else f"{self._achieved:.2f} × real time"),
            ("reward", f"{float(player.states.reward[shown]):.3g}"),
            *((name, f"{value + 0.0:.3g}") for name, value in player.metrics(shown).items()),
        ]
        cells = "".join(
            f"<tr><th style='text-align:left;font-weight:400;opacity:.75'>{html.escape(name)}</th>"
            f"<td style='text-align:right'>{value}</td></tr>"
            for name, value in rows
        )
        table = "width:100%;font-size:.85em;font-variant-numeric:tabular-nums;border-spacing:0 1px"
        self._numbers.content = f"<div style='padding:0 .9em .5em'><table style='{table}'>{cells}</table></div>"
        self._plot.data = self._curve()

    def _curve(self) -> tuple[np.ndarray, np.ndarray]:
        """The plot's last steps, counted back from the present, and values; there is one point at least."""
        values = np.array(self._rewards or [0.0], np.float64)
        return np.arange(1.0 - len(values), 1.0), values

    def _build(self, title: str) -> None:
        gui, player = self.server.gui, self.player
        # Sharing would send the page through a server of others.
        gui.configure_theme(show_logo=False, show_share_button=False)
        gui.main_panel.dock_right()
        gui.set_panel_label(title)
        tabs = gui.add_tab_group() if player.task is not None else None
        if tabs is None:
            self._build_controls()
            self._build_numbers()
            self._build_picture()
            return
        self._scene = self._build_scene()
        with tabs.add_tab("Policy", icon=viser.Icon.ROBOT):
            self._build_controls()
            self._build_push()
            self._build_numbers()
        with tabs.add_tab("Overlays", icon=viser.Icon.EYE):
            self._scene.create_overlay_gui()
        with tabs.add_tab("Groups", icon=viser.Icon.STACK_2):
            self._scene.create_groups_gui()

    def _build_controls(self) -> None:
        gui, player = self.server.gui, self.player
        run = gui.add_button_group("Episode", ("Pause", "Step", "Reset"), hint="Pause goes on when pressed again")
        run.on_click(lambda _: self.ask({"Pause": self._pause, "Step": self._single, "Reset": self._reset}[run.value]))
        speed = gui.add_button_group("Speed", _SPEEDS, hint="Times real time")
        speed.on_click(lambda _: self.ask(lambda: self._set_speed(speed.value)))
        certain = gui.add_checkbox("Most likely actions", player.deterministic, hint="Else they are sampled")
        certain.on_update(lambda _: self.ask(lambda: setattr(player, "deterministic", bool(certain.value))))
        if player.members > 1:
            shown = gui.add_dropdown("Shown", self.labels, hint="Its numbers are below, and the camera follows it")
            shown.on_update(lambda _: self.ask(lambda: self._show(self.labels.index(shown.value))))
            if (scene := self._scene) is not None:
                alone = gui.add_checkbox("Only this one", scene.show_only_selected, hint="Else all are, side by side")
                alone.on_update(lambda _: self.ask(lambda: setattr(scene, "show_only_selected", bool(alone.value))))

    def _build_numbers(self) -> None:
        gui, player = self.server.gui, self.player
        self._numbers = gui.add_html("")
        names = ["reward", *player.metrics(0)]
        plotted = gui.add_dropdown("Plot", names)
        plotted.on_update(lambda _: self.ask(lambda: self._set_plotted(plotted.value)))
        self._plot = gui.add_uplot(
            self._curve(),
            (uplot.Series(label="step"), uplot.Series(label="value", stroke="#0072B2", width=2)),
            scales={"x": uplot.Scale(time=False), "y": uplot.Scale(auto=True)},
            legend=uplot.Legend(show=False),
            height=150,
            padding=(12, 12, 0, 0),
        )

    def _build_push(self) -> None:
        gui, bodies = self.server.gui, self.player.bodies()
        if not bodies:
            return
        with gui.add_folder("Push"):
            body = gui.add_dropdown("Body", tuple(bodies))
            direction = gui.add_dropdown("Direction", tuple(_DIRECTIONS))
            # What would change the speed of the whole robot by half a metre per second, and up to ten times that.
            usual = 0.5 * float(self.player.task.model.body_subtreemass[0]) if self.player.task else 1.0
            largest = float(f"{10 * usual:.1g}")
            strength = gui.add_slider("Impulse (N·s)", 0.0, largest, largest / 100, round(largest / 10, 6))
            push = gui.add_button("Push", icon=viser.Icon.HAND_FINGER)
        push.on_click(lambda _: self.ask(lambda: self._push(bodies[body.value], direction.value, strength.value)))

    def _build_scene(self) -> ViserMujocoScene:
        task = self.player.task
        assert task is not None
        model = copy.copy(task.model)  # whose colours the scene changes
        self._apart = 1.5 * float(min(model.stat.extent, 4.0))
        scene = ViserMujocoScene(self.server, model, self.player.members)
        follows = "trackbodyid" in task.camera
        scene.camera_tracking_enabled = follows
        distance = float(task.camera.get("distance", 2 * model.stat.extent))
        azimuth, elevation = (
            np.radians(task.camera.get("azimuth", 90.0)),
            np.radians(task.camera.get("elevation", -20.0)),
        )
        forward = np.array(
            [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
        )
        target = np.zeros(3) if follows else np.asarray(task.camera.get("lookat", model.stat.center), float)

        @self.server.on_client_connect
        def _(client: viser.ClientHandle) -> None:
            client.camera.position, client.camera.look_at = target - distance * forward, target

        return scene

    def _build_picture(self) -> None:
        try:
            frame = self.player.env.render(self.player.state(0))
        except (NotImplementedError, RuntimeError, ImportError) as error:
            self.server.stop()
            raise Refused(f"this task cannot be shown: {error}") from error
        height, width = frame.shape[:2]
        size = (4.0, 4.0 * height / width)
        upright = (np.sqrt(0.5), -np.sqrt(0.5), 0.0, 0.0)
        self._picture = self.server.scene.add_image("/task", frame, *size, format="png", wxyz=upright)

        @self.server.on_client_connect
        def _(client: viser.ClientHandle) -> None:
            client.camera.position, client.camera.look_at = (0.0, -3.0, 0.0), np.zeros(3)

    def _pause(self) -> None:
        self._paused = not self._paused

    def _single(self) -> None:
        self._paused = True
        self._step()

    def _reset(self) -> None:
        self.player.reset()
        self._rewards.clear()

    def _set_speed(self, text: str) -> None:
        above, _, below = text.partition("/")
        self._speed, self._budget = float(above) / float(below or 1), 0.0

    def _set_plotted(self, name: str) -> None:
        self._plotted = name
        self._rewards.clear()

    def _show(self, member: int) -> None:
        self._shown = member
        self._rewards.clear()

    def _push(self, body: int, direction: str, strength: float) -> None:
        angle = self._random.uniform(0, 2 * np.pi)
        unit = _DIRECTIONS[direction] or (np.cos(angle), np.sin(angle), 0.0)
        self.player.push(body, strength * np.asarray(unit))
