"""Writes a run's policy as a file that needs no rljax: `python -m rljax.deploy export --help`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rljax.deploy import export
from rljax.types import Refused


@dataclasses.dataclass(frozen=True)
class Settings:
    """Writes a run's policy as a file that needs no rljax, runs it, and compares it with the policy."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder, such as runs/ppo/ant, or whatever else rljax.load takes."""
    path: Annotated[Path, tyro.conf.Positional]
    """File to write; its suffix chooses the form: .stablehlo (for JAX), .onnx, or .h (C99)."""
    which: Literal["newest", "best"] | int = "newest"
    """Checkpoint whose policy it is: newest, best, or its iteration."""
    member: int = 0
    """Index of the member, of a run with several."""
    deterministic: bool = True
    """Whether the policy acts without noise; else its random draws are inputs."""
    name: str | None = None
    """Name of the function in a C header; the file's name where None."""
    observations: int = 1000
    """Number of observations on which the file is compared with the policy."""


def main(arguments: list[str] | None = None, prog: str = "python -m rljax.deploy export") -> int:
    """Runs the command; 0, or 2 after one line that says what is wrong with the input."""
    settings = tyro.cli(Settings, prog=prog, args=arguments)
    try:
        given = dataclasses.asdict(settings)
        print(export(given.pop("run"), given.pop("path"), progress=True, **given).text)
    except (Refused, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] != ["export"]:
        sys.exit("usage: python -m rljax.deploy export RUN PATH (--help tells the rest)")
    sys.exit(main(sys.argv[2:]))
