"""What the benchmarks share: where results go, and how time and memory are measured."""

import json
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"


def write(name: str, record: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}-{jax.default_backend()}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {path.relative_to(RESULTS.parent.parent)}", flush=True)


def time_of(function: Callable[..., Any], argument: Any, iterations: int) -> float:
    """Seconds of one application, from a compiled loop of them; the best of three."""
    arguments = argument if isinstance(argument, tuple) else (argument,)

    def loop(*carry: Any) -> Any:
        def body(_: Any, carry: tuple) -> tuple:
            out = function(*carry)
            return out if isinstance(argument, tuple) else (out,)

        return jax.lax.fori_loop(0, iterations, body, carry)

    compiled = jax.jit(loop).lower(*arguments).compile()
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append((time.perf_counter() - begin) / iterations)
    return min(times[1:])


def peak_memory_mb() -> float:
    """Of this process; on an accelerator, of its memory."""
    statistics = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)
