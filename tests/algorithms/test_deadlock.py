"""A deadlock of jaxlib 0.10 on 2 cores.

A vmapped program that holds two batched QR decompositions, as orthogonal initialisation does elsewhere, hangs there for
ever: each takes one of XLA's two threads and waits for the other. Our initialisation has none, so it must finish.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_training_many_seeds_in_one_vmapped_program_never_hangs(times):
    for _ in range(times):
        command = [sys.executable, "-m", "tests.algorithms.vmap_driver"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.split() == ["finished", "True"]
