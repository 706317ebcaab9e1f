"""Export of a policy to a file that needs no rljax, checked before it gets its name."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Literal

import flax.linen as nn
import jax

from rljax.deploy import c_header, onnx_file, stablehlo
from rljax.deploy.card import Card, card, lines, of_run
from rljax.deploy.source import Run, Source
from rljax.deploy.verify import compare, latency, observe
from rljax.envs import Environment
from rljax.envs.registry import make_recorded
from rljax.paths import local
from rljax.policy import Policy
from rljax.training.folder import write_json
from rljax.training.loading import load, read_description
from rljax.types import Refused

SUFFIXES = (".stablehlo", ".onnx", ".h")
TOLERANCE = 1e-4
"""Largest difference of an action, in units of the largest action."""
TOLERATED_CHOICES = 1e-3
"""Largest share of whole-numbered actions that differ: two values that are equal up to rounding may change places."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was written.

    Fields:
      path: the file; its card is beside it, with ".json" after its name.
      card: what the file is (see docs/deploy.md).
      size: bytes of the file.
      difference: largest difference from the policy's actions, or the share of whole-numbered actions that differ; None
        where it could not be run here.
      X
      text: all this in words.
    """

    path: Path
    card: Card
    size: int
    difference: float | None
    latency_us: float | None
    text: str


def export(
    run: str | Path | Policy,
    path: str | Path,
    *,
    which: Literal["newest", "best"] | int = "newest",
    member: int = 0,
    deterministic: bool = True,
    name: str | None = None,
    observations: int = 1000,
    progress: bool = False,
    env: Environment | None = None,
    network: nn.Module | None = None,
    algorithm: ModuleType | None = None,
) -> Exported:
    """Writes a policy as a file that needs no rljax, and a card beside it.

    It maps what its task observes to actions in the task's own units, as `policy(key, obs)` does: normalisation, memory
    and scaling are inside. The file is run, compared with the policy, and gets its name only where both agree.

    Args:
      run: a run folder, or whatever else `rljax.load` takes; or a policy, with `env`.
      path: its suffix chooses the form: .stablehlo (for JAX), .onnx, or .h (C99).
      which, member: see `rljax.load`.
      deterministic: whether it acts without noise; else its random draws are inputs.
      name: the function's name in a C header; the file's name where None.
      observations: number of observations on which it is compared.
      progress: whether to print on stderr how far the comparison is.
      env, network, algorithm: see `rljax.load`.

    Raises:
      Refused: an unknown suffix, a missing package, a policy with a primitive that the form does not have, a run that
        cannot be loaded, or a file that differs from the policy.
    """
    path = local(path)
    if path.suffix not in SUFFIXES:
        raise Refused(f"{path.name} has the suffix {path.suffix!r}; it must be one of {', '.join(SUFFIXES)}")
    if observations < 1:
        raise Refused(f"observations = {observations} is not allowed; it must be at least 1")
    if path.suffix == ".onnx":
        onnx_file.imported()
    if isinstance(run, Policy):
        if env is None:
            raise Refused("a policy is exported for its environment: pass env=")
        policy, about = run, {}
    else:
        policy = load(run, which=which, member=member, env=env, network=network, algorithm=algorithm)
        description = read_description(run)  # type: ignore[arg-type]
        env = make_recorded(description["env"]) if env is None else env
        about = of_run(run, description, which, member)
    source = Source(jax.device_get(policy), env, deterministic)
    described = card(source, about)
    function = name or "".join(x if x.isascii() and x.isalnum() else "_" for x in path.stem)
    content, reader = _written(source, path.suffix, described, function)
    made = _checked(source, content, reader, observations, progress)
    described |= {"format": path.suffix[1:], "size": len(content), "verified": made}
    if path.suffix == ".h":
        described["function"] = function
    _write(path, content, described)
    difference, microseconds = (made[name] if made else None for name in ("largest_difference", "latency_us"))
    return Exported(path, described, len(content), difference, microseconds, _words(path, len(content), made))


def _written(source: Source, suffix: str, described: Card, name: str) -> tuple[bytes, Callable[[], tuple[Run, str]]]:
    """A file's content, and what reads it: the function that runs it, and the name of what does so."""
    if suffix == ".stablehlo":
        made = stablehlo.write(source)
        return made, lambda: (stablehlo.reader(made, source), f"jax {jax.__version__}")
    if suffix == ".onnx":
        graph = onnx_file.write(source, dict(lines(described)))
        return graph, lambda: onnx_file.reader(graph, source)
    texts = [f"A policy exported by rljax: {described['task']}.", "", *(f"{n}: {x}" for n, x in lines(described))]
    header = c_header.write(source, name, texts)
    return header, lambda: c_header.reader(header, source, name)


def _checked(
    source: Source, content: bytes, reader: Callable[[], tuple[Run, str]], observations: int, progress: bool
) -> Card | None:
    """What came of the comparison with the policy; None where the file cannot be run here.

    Raises:
      Refused: they differ.
    """
    if content[:2] == b"/*" and c_header.compiler() is None:
        return None
    run, by = reader()
    seen = observe(source, observations)
    difference, largest, inputs = compare(source, run, seen, progress)
    choices = source.outputs[0].dtype.kind in "iub"
    bound = TOLERATED_CHOICES if choices else TOLERANCE * largest
    if difference > bound:
        what = "a share of its actions that" if choices else "by more than the actions of the policy:"
        raise Refused(
            f"the exported policy is not the policy, and was not kept: {what} differ, {difference:.3g}, "
            f"where {bound:.3g} is allowed"
        )
    if isinstance(run, c_header.Compiled):
        microseconds = latency(run.repeat(inputs, 100), 100)
    else:
        microseconds = latency(lambda: run(inputs))
    return {
        "by": by,
        "observations": observations,
        "origin": seen.origin,
        "largest_difference": float(difference),
        "largest_action": None if choices else largest,
        "latency_us": round(microseconds, 2),
    }


def _write(path: Path, content: bytes, described: Card) -> None:
    """Writes the file and its card, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    write_json(path.with_name(path.name + ".json"), described)


def _words(path: Path, size: int, made: Card | None) -> str:
    if made is None:
        return f"wrote {path} ({size:,} bytes); not verified: no C compiler"
    gap = made["largest_difference"]
    found = f"{gap:.3g}" if made["largest_action"] is not None else f"{round(gap * made['observations'])} actions"
    return (
        f"wrote {path} ({size:,} bytes); largest difference {found} on {made['observations']:,} observations "
        f"{made['origin']}, by {made['by']}; {made['latency_us']:.3g} µs a call"
    )
