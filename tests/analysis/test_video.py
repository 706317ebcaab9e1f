"""Videos of a tiny environment that ends after five steps."""

from types import SimpleNamespace

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from rljax.analysis import video
from rljax.analysis.video import animate, show
from rljax.envs.auto_reset import AutoReset
from rljax.envs.environment import Environment, initial_state
from rljax.envs.wrappers import ActionRepeat, TimeLimit
from rljax.spaces import Box


class Counter(Environment):
    """Counts to `end`; the reward is the action, and frame n is a bar of n columns."""

    name = "counter"
    observation_space = Box(0.0, np.inf, (1,))
    action_space = Box(-1.0, 1.0, (1,))

    def __init__(self, end=5):
        self.end = end

    def reset(self, key):
        return initial_state(jnp.zeros((), jnp.int32), jnp.zeros(1))

    def step(self, state, action):
        count = state.physics + 1
        return state.replace(
            physics=count, obs=count[None].astype(jnp.float32), reward=action[0], terminated=count >= self.end
        )

    def render(self, state):
        image = np.zeros((8, 200, 3), np.uint8)
        image[:, : int(state.physics)] = 255
        return image


def apply(key, obs, memory, deterministic):
    """Remembers how often it acted and returns that, so that memory must be carried."""
    return jnp.where(deterministic, memory[..., None], -1.0), memory + 1.0, ()


POLICY = SimpleNamespace(initial_memory=jnp.zeros(()), apply=apply)


def frames_of(path):
    with Image.open(path) as image:
        assert image.format == "GIF"
        assert image.info["duration"] == 50
        assert image.info["loop"] == 0
        return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(image)]


def test_one_frame_per_state_until_the_episode_ends(tmp_path):
    path = tmp_path / "videos" / "counter.gif"
    assert animate(Counter(), POLICY, jax.random.key(0), path, fps=20) == 0 + 1 + 2 + 3 + 4
    frames = frames_of(path)
    assert [int((frame[0] > 127).sum()) for frame in frames] == [0, 1, 2, 3, 4, 5]


def test_stops_at_max_steps_and_can_sample(tmp_path):
    path = tmp_path / "counter.gif"
    env = TimeLimit(Counter(end=1000), 3)
    assert animate(env, POLICY, jax.random.key(0), path, fps=20) == 0 + 1 + 2
    assert len(frames_of(path)) == 4
    assert animate(env, POLICY, jax.random.key(0), path, max_steps=2, fps=20, deterministic=False) == -2
    assert len(frames_of(path)) == 3


def test_episodes_longer_than_one_compiled_chunk(tmp_path):
    path = tmp_path / "counter.gif"
    assert animate(Counter(end=70), POLICY, jax.random.key(0), path, fps=20) == sum(range(70))
    assert len(frames_of(path)) == 71
    assert animate(Counter(end=200), POLICY, jax.random.key(0), path, max_steps=66, fps=20) == sum(range(66))
    assert len(frames_of(path)) == 67


def test_bad_arguments_are_refused(tmp_path):
    key = jax.random.key(0)
    for arguments, message in [
        ({"path": tmp_path / "a.avi"}, r"writes .mp4 and .gif files, got 'a.avi'"),
        ({"path": tmp_path / "a.gif", "fps": 60}, "fps must be from 1 to 50"),
        ({"path": tmp_path / "a.mp4", "fps": 0}, "fps must be from 1 to 60"),
        ({"path": tmp_path / "a.gif", "max_steps": 0}, "max_steps"),
        ({"path": tmp_path / "a.gif", "env": AutoReset(Counter(), 2)}, "one environment"),
    ]:
        with pytest.raises(ValueError, match=message):
            animate(**({"env": Counter(), "policy": POLICY, "key": key} | arguments))
    assert not list(tmp_path.iterdir())


def movie_of(path):
    """Frames [time, height, width], grey, and frames per second."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        rate = stream.average_rate
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(stream)]), float(rate)


def columns(frames):
    """How many columns are white, which is what `Counter` draws; compression blurs their edge."""
    return (frames.mean(axis=1) > 127).sum(axis=1).tolist()


class Timed(Counter):
    """Has a rate of its own, and a picture whose sides are odd."""

    def __init__(self, control_rate, end=5):
        super().__init__(end)
        self.control_rate = control_rate

    def render(self, state):
        return np.repeat(super().render(state), 20, axis=1)[:7, :401]


def test_mp4_has_one_frame_per_state_and_begins_with_its_index(tmp_path):
    path = tmp_path / "videos" / "counter.mp4"
    assert animate(Counter(), POLICY, jax.random.key(0), path, fps=20) == 0 + 1 + 2 + 3 + 4
    frames, fps = movie_of(path)
    assert fps == 20
    assert frames.shape == (6, 8, 200)
    np.testing.assert_allclose(columns(frames), [0, 1, 2, 3, 4, 5], atol=1)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(
    ("rate", "repeat", "fps", "every"),
    [(20.0, 1, 20, 1), (12.5, 1, 12.5, 1), (1 / 0.008, 1, 125 / 3, 3), (1 / 0.015, 1, 100 / 3, 2), (None, 1, 30, 1)]
    + [(60.0, 1, 60, 1), (100.0, 5, 20, 1)],
)
def test_plays_in_real_time_and_even_sided(tmp_path, rate, repeat, fps, every):
    path = tmp_path / "counter.mp4"
    env = Timed(rate, end=12 * repeat)
    animate(ActionRepeat(env, repeat) if repeat > 1 else env, POLICY, jax.random.key(0), path)
    frames, measured = movie_of(path)
    assert measured == pytest.approx(fps, rel=1e-3)
    assert frames.shape[1:] == (8, 402)
    np.testing.assert_allclose(columns(frames), np.minimum(20 * repeat * np.arange(0, 13, every), 402), atol=3)


class Fast(Counter):
    """Eight milliseconds a step."""

    control_rate = 125.0


def test_gif_keeps_time_though_its_delays_are_hundredths(tmp_path):
    path = tmp_path / "counter.gif"
    env = Fast(end=179)
    animate(env, POLICY, jax.random.key(0), path)
    with Image.open(path) as image:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert set(durations) == {20, 30}
    assert sum(durations) == pytest.approx(180 * 8, abs=10)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
@pytest.mark.parametrize("error", [NotImplementedError, KeyboardInterrupt])
def test_a_film_that_fails_leaves_the_one_before(tmp_path, suffix, error):
    class Failing(Counter):
        def render(self, state):
            if state.physics == 3:
                raise error
            return super().render(state)

    path = tmp_path / f"counter{suffix}"
    with pytest.raises(error):
        animate(Failing(), POLICY, jax.random.key(0), path)
    assert not list(tmp_path.iterdir())
    path.write_text("the film before")
    with pytest.raises(error):
        animate(Failing(), POLICY, jax.random.key(0), path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(path.name, "the film before")]


def test_bar_after_two_seconds_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    animate(Counter(), POLICY, jax.random.key(0), tmp_path / "a.mp4")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(video, "_PATIENCE", 0.0)
    animate(Counter(), POLICY, jax.random.key(0), tmp_path / "a.mp4")
    assert "filming" in capsys.readouterr().err
    animate(Counter(), POLICY, jax.random.key(0), tmp_path / "a.mp4", progress=False)
    assert capsys.readouterr().err == ""


def test_show_embeds_the_file(tmp_path):
    pytest.importorskip("IPython")
    for name, start in (("a.mp4", "data:video/mp4;base64,"), ("a.gif", None)):
        animate(Counter(), POLICY, jax.random.key(0), tmp_path / name)
        shown = show(tmp_path / name)
        if start:
            assert start in shown._repr_html_()
        else:
            assert "image/gif" in shown._repr_mimebundle_()[0]
    with pytest.raises(ValueError, match="show takes"):
        show(tmp_path / "a.png")


class Breaks(Counter):
    """What is seen after two steps is not a number."""

    def step(self, state, action):
        after = super().step(state, action)
        return after.replace(obs=jnp.where(after.physics > 2, jnp.nan, after.obs))


def test_a_film_ends_where_the_simulation_breaks(tmp_path):
    animate(Breaks(), POLICY, jax.random.key(0), tmp_path / "a.gif", fps=20, progress=False)
    assert len(frames_of(tmp_path / "a.gif")) == 4
