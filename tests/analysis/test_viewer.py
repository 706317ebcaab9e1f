"""The page on which policies act. Its buttons are pressed in a browser, where there is one (slow)."""

import contextlib
import threading
import time
import urllib.request

import numpy as np
import pytest

import rljax
from rljax.analysis.player import Player
from rljax.types import Refused
from tests.analysis.test_player import constant
from tests.browser import needs_browser, opened
from tests.toys import Clock, limited

pytest.importorskip("viser")
pytest.importorskip("mjviser")
viewer = pytest.importorskip("rljax.analysis.viewer")


@contextlib.contextmanager
def running(player, labels):
    """A viewer whose loop runs in a thread, until the end of the block."""
    shown = viewer.Viewer(player, "runs/ppo/<b>run</b>", labels, port=8700)
    stop = threading.Event()
    thread = threading.Thread(target=shown.run, args=(stop,))
    thread.start()
    try:
        yield shown
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_robot_acts_and_is_pushed_on_the_page():
    player = Player(rljax.make("inverted_pendulum", engine="native"), [constant([0.0]), constant([0.0])])
    with running(player, ["member 0", "member 1"]) as shown:
        with urllib.request.urlopen(shown.address, timeout=30) as answer:
            assert b"<html" in answer.read()
        until(lambda: player.lengths.max() > 2)
        shown.ask(shown._pause)
        until(lambda: shown._paused)
        speed = float(player.states.physics.qvel[0, 0])
        shown.ask(lambda: shown._push(player.bodies()["cart"], "+x", 5.0))
        until(lambda: float(player.states.physics.qvel[0, 0]) > speed + 0.1)
        shown.ask(shown._reset)
        until(lambda: not player.lengths.any())
        shown.ask(shown._single)
        until(lambda: player.lengths.tolist() == [1, 1])
        shown.ask(lambda: shown._show(1))
        until(lambda: "paused" in shown._numbers.content and shown._shown == 1)


def test_steps_follow_real_time_and_what_cannot_be_made_up_is_dropped():
    player = Player(rljax.make("catch"), [constant([0.0])])
    shown = viewer.Viewer(player, "catch", ["member 0"], port=8720)
    try:
        assert sum(shown._due(0.01) for _ in range(100)) == pytest.approx(player.rate, abs=1)
        shown._set_speed("1/2")
        assert sum(shown._due(0.01) for _ in range(100)) == pytest.approx(player.rate / 2, abs=1)
        assert shown._due(60.0) < 10
        frame = np.array(shown._picture.image)
        assert frame.shape[-1] == 3
    finally:
        shown.server.stop()


def test_a_task_without_a_drawing_is_refused():
    with pytest.raises(Refused, match="cannot be shown"):
        viewer.Viewer(Player(limited(Clock(3, True), 3), [constant(0)]), "clock", ["member 0"], port=8740)


@pytest.mark.slow
@needs_browser
def test_the_buttons_of_the_page_work(tmp_path):
    player = Player(rljax.make("inverted_pendulum", engine="native"), [constant([0.0]), constant([0.0])])
    press = "[...document.querySelectorAll('button')].find(b => b.innerText.trim() == '{}').click()"
    with running(player, ["member 0", "member 1"]) as shown, opened(shown.address, tmp_path) as page:
        page.wait("document.body.innerText.includes('return so far')")
        assert page.evaluate("document.querySelector('canvas') !== null")
        page.evaluate(press.format("Pause"))
        page.wait("document.body.innerText.includes('paused')")
        before = float(player.states.physics.qvel[0, 0])
        page.evaluate(press.format("Push"))
        until(lambda: float(player.states.physics.qvel[0, 0]) != before)
        page.evaluate(press.format("Reset"))
        until(lambda: not player.lengths.any())
        page.evaluate(press.format("Step"))
        until(lambda: player.lengths.tolist() == [1, 1])
