"""Films one episode of a policy."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rljax.paths import local
from rljax.types import Refused

if TYPE_CHECKING:
    import numpy as np

    from rljax.envs.environment import Environment
    from rljax.types import Key

_CHUNK = 64  # steps per compiled call: bounds the states held on the device, and stops soon after the episode ends
_MOST_FPS = {".mp4": 60, ".gif": 50}  # a GIF's delays are whole hundredths of a second, and viewers slow down one of 1
_USUAL_RATE = 30.0  # of environments that have no rate of their own
_PATIENCE = 2.0  # seconds without a progress bar


def animate(
    env: Environment,
    policy: Any,
    key: Key,
    path: str | Path,
    max_steps: int | None = None,
    fps: float | None = None,
    deterministic: bool = True,
    progress: bool = True,
) -> float:
    """Runs one episode, writes it as an MP4 (H.264) or a looping GIF, and returns the episode's return.

    The file appears when it is complete: nothing is left of a film that fails or is interrupted.

    Args:
      env: one environment with a `render`, not a batch; `render` is called on the host with each unbatched state.
      policy: has `initial_memory` (a pytree, `()` without memory) and
        `apply(key, obs, memory, deterministic) -> (action, memory, extras)`.
      path: ends in .mp4 or .gif.
      max_steps: stops there if the episode has not ended; by default the environment's own limit, or 1000.
      fps: pictures per second, one per step, at most 60 (GIF: 50). By default real time, by the environment's
        `control_rate` (Hz; 30 where it has none), of which every k-th step is shown where it is faster than that.
      progress: shows a bar on stderr if it takes more than two seconds.

    Raises:
      ValueError: another suffix.
      NotImplementedError: `render`'s own, where there is no drawing.
    """
    path = local(path)
    most_fps = _MOST_FPS.get(path.suffix.lower())
    if most_fps is None:
        raise Refused(f"animate writes .mp4 and .gif files, got {path.name!r}")
    if fps is not None and not 1 <= fps <= most_fps:
        raise Refused(f"animate: fps must be from 1 to {most_fps}, got {fps}")
    if hasattr(env, "num_envs"):
        raise Refused(f"animate needs one environment, got a batch of {env.num_envs}: pass its `.env`")
    max_steps = env.max_episode_steps or 1000 if max_steps is None else max_steps
    if max_steps < 1:
        raise Refused(f"animate: max_steps must be at least 1, got {max_steps}")
    every = 1
    if fps is None:
        rate = (getattr(env.unwrapped, "control_rate", None) or _USUAL_RATE) / env.steps_per_action
        every = max(1, math.ceil(rate / most_fps - 1e-6))
        fps = rate / every

    total = 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    with _complete_or_nothing(path) as temporary, _Writer(temporary, fps) as writer, _Bar(max_steps, progress) as bar:
        for step, state in enumerate(_episode(env, policy, key, max_steps, deterministic)):
            total += float(state.reward)
            if step % every == 0:
                writer.add(env.render(state))
            bar.update(step)
    return total


def show(path: str | Path) -> Any:
    """Shows an MP4 or GIF in a notebook, as the last line of a cell. The notebook then contains the file itself."""
    path = local(path)
    if path.suffix.lower() not in _MOST_FPS:
        raise Refused(f"show takes .mp4 and .gif files, got {path.name!r}")
    from IPython.display import Image, Video

    if path.suffix.lower() == ".gif":
        return Image(data=path.read_bytes(), format="gif")
    looped = "controls loop autoplay muted"  # browsers play unasked only what is muted
    return Video(data=path.read_bytes(), embed=True, mimetype="video/mp4", html_attributes=looped)


def _episode(env: Environment, policy: Any, key: Key, max_steps: int, deterministic: bool) -> Iterator[Any]:
    """The states of one episode, the first included; where the simulation breaks, it is over."""
    import jax

    from rljax.envs.rollout import advance, begin
    from rljax.envs.wrappers import Guard

    env = Guard.around(env)

    @jax.jit
    def chunk(carry: Any) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, Any]:
            acting, key = carry
            key, action_key = jax.random.split(key)
            acting = advance(env, policy, acting, action_key, deterministic)[0]
            return (acting, key), acting.state

        return jax.lax.scan(step, carry, length=min(_CHUNK, max_steps))

    reset_key, key = jax.random.split(key)
    acting = jax.jit(lambda key: begin(env, policy, key, 1))(reset_key)
    yield jax.tree.map(lambda leaf: leaf[0], acting.state)
    carry, steps = (acting, key), 0
    while True:
        carry, states = chunk(carry)
        states = jax.device_get(states)  # all at once: slicing on the device would be a dispatch per leaf and step
        for i in range(len(states.reward)):
            state = jax.tree.map(lambda leaf, i=i: leaf[i, 0], states)
            yield state
            steps += 1
            if bool(state.terminated) or bool(state.truncated) or steps == max_steps:
                return


@contextmanager
def _complete_or_nothing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place unless an exception passes."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix.lower()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _Writer:
    """Collects frames, uint8 [height, width, 3], into a file."""

    def __init__(self, path: Path, fps: float):
        self._path, self._fps = path, fps
        self._container: Any = None
        self._frames: list[Any] = []

    def __enter__(self) -> _Writer:
        return self

    def add(self, frame: np.ndarray) -> None:
        if self._path.suffix == ".gif":
            from PIL import Image

            # Reduced to 256 colours at once: a third of the memory, and what a GIF holds anyway.
            self._frames.append(Image.fromarray(frame).convert("P", palette=Image.Palette.ADAPTIVE))
            return
        import av
        import numpy as np

        # The format has one colour per 2 × 2 pixels, so sides must be even: the last row or column is shown twice.
        frame = np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], mode="edge")
        if self._container is None:
            # With faststart a browser may begin to play before it has the whole file.
            self._container = av.open(str(self._path), "w", options={"movflags": "faststart"})
            self._stream = self._container.add_stream("libx264", rate=Fraction(self._fps).limit_denominator(1000))
            self._stream.height, self._stream.width = frame.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": "20"}
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self._container is not None:
            if kind is None:
                self._container.mux(self._stream.encode())
            self._container.close()
        elif kind is None:
            first, *others = self._frames
            # In whole hundredths of a second, rounded so that the errors do not add up.
            ends = [10 * round(100 * i / self._fps) for i in range(len(self._frames) + 1)]
            durations = [end - start for start, end in pairwise(ends)]
            first.save(self._path, save_all=True, append_images=others, duration=durations, loop=0)


class _Bar:
    """A rich bar on a terminal, once patience is over; it goes when the film is done."""

    def __init__(self, total: int, enabled: bool):
        self._total, self._enabled = total, enabled
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        self._begin = time.perf_counter()
        return self

    def update(self, done: int) -> None:
        if self._enabled and self._bar is None and time.perf_counter() - self._begin > _PATIENCE:
            from rich.console import Console
            from rich.progress import Progress

            console = Console(file=sys.stderr)
            self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
            self._task = self._bar.add_task("filming", total=self._total)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
