"""JAX's compilation cache on disk, so that the second run of an experiment starts in seconds."""

import os
from pathlib import Path

import jax


def enable_compilation_cache() -> None:
    """Turns the cache on unless the user has set one up; `RLJAX_CACHE=off` leaves it off.

    It lies in `$XDG_CACHE_HOME/rljax/xla` (or `~/.cache/rljax/xla`), or where `JAX_COMPILATION_CACHE_DIR` says.
    """
    set_up = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # untyped in jax 0.10
    if set_up is not None or os.environ.get("RLJAX_CACHE") == "off":
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "rljax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
