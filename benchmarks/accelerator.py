"""Measures the accelerator, or the processor, that JAX finds: matrix products and environment steps per second.

    python -m benchmarks.accelerator                 # a minute or two
    python -m benchmarks.accelerator --tasks pendulum --seconds 1

Writes benchmarks/results/accelerator-<backend>.json with the hardware and the versions; `make tables` makes the page.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

import rljax
from benchmarks import campaign
from benchmarks.physics import of_program
from rljax.envs import AutoReset
from rljax.spaces import Box
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the measurements."""

    tasks: tuple[str, ...] = ("pendulum", "inverted_pendulum")
    """Tasks whose environments are stepped with random actions, finished ones reset; on the machine's own engine."""
    num_envs: tuple[int, ...] = ()
    """Numbers of environments; by default 64 and 1024 on a CPU, 4096 and 32768 on an accelerator."""
    sizes: tuple[int, ...] = ()
    """Sizes of the square matrices that are multiplied; by default 256 and 1024 on a CPU, 1024 and 8192 elsewhere."""
    seconds: float = 4.0
    """Seconds for which each environment is stepped."""


def main(settings: Settings) -> None:
    cpu = jax.default_backend() == "cpu"
    rows: list[dict[str, Any]] = []

    def add(what: str, size: int, unit: str, rate: float, compile_seconds: float | None = None) -> None:
        compiled = "–" if compile_seconds is None else f"{compile_seconds:.1f}"
        rows.append({"what": what, "size": size, "unit": unit, "rate": rate, "compile, s": compiled})
        campaign.show(rows[-1])

    for size in settings.sizes or ((256, 1024) if cpu else (1024, 8192)):
        iterations = max(1, round((1e11 if cpu else 1e14) / (32 * size**3)))  # a second or less
        for dtype in (jnp.float32, jnp.bfloat16):
            rate = campaign.matmul_rate(size, size, dtype, iterations)
            add(f"product of matrices, {jnp.dtype(dtype).name}", size, "TFLOP/s", rate / 1e12)
    for task in settings.tasks:
        for num_envs in settings.num_envs or ((64, 1024) if cpu else (4096, 32768)):
            env = AutoReset(rljax.make(task), num_envs)
            if not isinstance(env.action_space, Box):
                raise Refused(f"{task} has no continuous actions")
            size = env.action_space.shape[0]
            rate, compile_seconds = of_program(env.reset, env.step, size, num_envs, settings.seconds)
            add(f"{task}, environments", num_envs, "steps/s", rate, compile_seconds)
    title = f"Accelerator, {jax.default_backend()}: products and environment steps"
    notes = (
        "Products are chained in one compiled program, at the precision that JAX takes by default; actions are random."
    )
    record = campaign.table("accelerator", title, rows, notes, peak_memory_mb=campaign.peak_memory_mb())
    campaign.write(settings, "accelerator", record)


if __name__ == "__main__":
    campaign.main(main, Settings())
