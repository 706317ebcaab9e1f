"""Films one episode of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rljax.envs.environment import Environment
    from rljax.types import Key

_CHUNK = 64  # steps per compiled call: bounds the states held on the device, and stops soon after the episode ends
_MOST_FPS = 50  # a GIF's delays are in hundredths of a second, and viewers slow down anything shorter than two


def animate(
    env: Environment,
    policy: Any,
    key: Key,
    path: str | Path,
    max_steps: int | None = None,
    fps: int = 30,
    deterministic: bool = True,
) -> float:
    """Runs one episode, writes it as a looping GIF with one frame per step, and returns the episode's return.

    env: one environment with a `render`, not a batch; `render` is called on the host with each unbatched state.
    policy: has `initial_memory` (a pytree, `()` without memory) and
      `apply(key, obs, memory, deterministic) -> (action, memory)`.
    max_steps: stops there if the episode has not ended; by default the environment's own limit, or 1000.
    Raises ValueError for another suffix than .gif, and `render`'s own NotImplementedError where there is no drawing.
    """
    import jax
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"animate writes .gif files, got {path.name!r}")
    if not 1 <= fps <= _MOST_FPS:
        raise ValueError(f"animate: fps must be from 1 to {_MOST_FPS}, got {fps}")
    if hasattr(env, "num_envs"):
        raise ValueError(f"animate needs one environment, got a batch of {env.num_envs}: pass its `.env`")
    max_steps = env.max_episode_steps or 1000 if max_steps is None else max_steps
    if max_steps < 1:
        raise ValueError(f"animate: max_steps must be at least 1, got {max_steps}")

    @jax.jit
    def chunk(carry: Any) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, Any]:
            state, memory, key = carry
            key, action_key = jax.random.split(key)
            action, memory = policy.apply(action_key, state.obs, memory, deterministic)
            state = env.step(state, action)
            return (state, memory, key), state

        return jax.lax.scan(step, carry, length=min(_CHUNK, max_steps))

    reset_key, key = jax.random.split(key)
    state = jax.jit(env.reset)(reset_key)

    def frame(state: Any) -> Any:  # reduced to 256 colours at once: a third of the memory, and what a GIF holds anyway
        return Image.fromarray(env.render(state)).convert("P", palette=Image.Palette.ADAPTIVE)

    frames = [frame(state)]
    carry = (state, policy.initial_memory, key)
    total, over = 0.0, False
    while not over:
        carry, states = chunk(carry)
        for i in range(len(states.reward)):
            state = jax.tree.map(lambda leaf, i=i: leaf[i], states)
            frames.append(frame(state))
            total += float(state.reward)
            over = bool(state.terminated) or bool(state.truncated) or len(frames) > max_steps
            if over:
                break

    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0)
    return total
