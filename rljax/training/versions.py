"""Versions and hardware of a run, for the run folder and the benchmarks."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from rljax.version import __version__

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "chex",
    "orbax-checkpoint",
    "mujoco",
    "mujoco-mjx",
    "brax",
    "gymnasium",
    "numpy",
)


def versions() -> dict[str, Any]:
    """Versions of Python and the packages and, in a checkout, the commit."""
    # That of the code which runs: what is installed may be another checkout.
    found: dict[str, Any] = {"python": platform.python_version(), "rljax": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["commit"] = _commit()
    return found


def command() -> str | None:
    """The command line of this process, as a shell takes it; None in a notebook, whose command starts the kernel."""
    if "ipykernel" in sys.modules or not sys.argv or not sys.argv[0]:
        return None
    program, *arguments = sys.argv
    return " ".join(["python", program, *map(shlex.quote, arguments)][0 if program.endswith(".py") else 1 :])


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and accelerators."""
    import jax

    backend = jax.default_backend()
    accelerators = {} if backend == "cpu" else {"devices": [device.device_kind for device in jax.devices()]}
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(_memory_bytes() / 2**30, 1),
        "platform": platform.platform(),
        "backend": backend,
        **accelerators,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0


def _commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return result.stdout.strip() or None
