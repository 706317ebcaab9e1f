"""What holds for every test: the platform, four virtual devices, and a cache of compiled programs.

The hard timeout is pytest's own (`faulthandler_timeout` in pyproject.toml); `test_timeout.py` shows that it works.
"""

import os
from pathlib import Path

# In the environment rather than in jax.config, so that the programs which tests start share them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # on a GPU: JAX_PLATFORMS=cuda,cpu make test
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several test processes share one GPU
os.environ.setdefault("MPLBACKEND", "agg")
# Most of a test's time is compilation, and most programs are the same from run to run and from worker to worker.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Tests run tiny programs once: making them fast costs more than it saves. `make test-slow` trains, and has it off.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax

# Only here, and not for the programs which tests start: those should see the machine as a user's would.
jax.config.update("jax_num_cpu_devices", 4)
jax.devices()  # they stay four: a command line that is the first test of a process, with --devices 1, would have one

pytest_plugins = ["tests.programs"]  # counts what is compiled; imported here, since it imports jax
